"""What folders mean: splits, classes, what is left behind, what a file holds, and when it cannot be told."""

from __future__ import annotations

import base64
import io
import os
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from nat2.data import formats
from nat2.data.layout import splits_of
from nat2.data.listing import Listing, list_folder
from nat2.data.sources import folder
from nat2.errors import DataError


def encoded(kind: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (16, 16), (200, 10, 10)).save(file, kind)  # Pillow before 13 writes no smaller icons
    return file.getvalue()


PNG = encoded("PNG")
HEIC = base64.b64decode("AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZg==")  # the head of a photograph of a telephone
OTHERS = {".heic": HEIC, ".txt": b"no image", ".xml": b"<a/>", ".pdf": b"%PDF-1.7", ".zip": b"PK", ".npz": b"PK"}


def tree(root: Path, *paths: str) -> Path:
    """Files: images, unless their name says otherwise; those that end in a slash are empty folders."""
    for path in paths:
        place = root / path
        (place if path.endswith("/") else place.parent).mkdir(parents=True, exist_ok=True)
        if not path.endswith("/"):
            place.write_bytes(OTHERS.get(place.suffix.lower(), PNG))
    return root


def many(folders: str, count: int = 1) -> list[str]:
    """Paths of images in folders, named one behind the other."""
    return [f"{each}/{number}.png" for each in folders.split() for number in range(count)]


def counted(listing: Listing) -> dict[str, dict[str, int]]:
    """Images by split and class."""
    found: dict[str, dict[str, int]] = {}
    for split, items in listing.items.items():
        for _, label in items:
            held = found.setdefault(split, {})
            held[listing.classes[label]] = held.get(listing.classes[label], 0) + 1
    return found


ONE = {"cat": 1, "dog": 1}
PETS = "{0}/cat {0}/dog"


def pets(*splits: str) -> list[str]:
    return [path for split in splits for path in many(PETS.format(split))]


READ = {
    "classes": (many("cat dog"), {"all": ONE}, ""),
    "capitals": (pets("Training", "Testing"), {"train": ONE, "test": ONE}, ""),
    "all three": (pets("TRAIN", "Valid", "eval"), {"train": ONE, "val": ONE, "test": ONE}, ""),
    "development": (pets("train", "dev", "test"), {"train": ONE, "val": ONE, "test": ONE}, ""),
    "evaluation beside a test": (pets("train", "eval", "test"), {"train": ONE, "val": ONE, "test": ONE}, ""),
    "prefixes": (pets("seg_train/seg_train", "seg_test/seg_test"), {"train": ONE, "test": ONE}, "seg_train/seg_train/"),
    "suffixes": (pets("training_set", "test_set"), {"train": ONE, "test": ONE}, ""),
    "words in one": (pets("trainset", "ValidationSet", "testImages"), {"train": ONE, "val": ONE, "test": ONE}, ""),
    "years": (pets("train2017", "val2017"), {"train": ONE, "val": ONE}, ""),
    "a word in common": (pets("leaf-train", "leaf-test"), {"train": ONE, "test": ONE}, ""),
    "the data set's name": (pets("birds/birds_train", "birds/birds_test"), {"train": ONE, "test": ONE}, "in birds/"),
    "wrapped": (pets("photos_root/photos"), {"all": ONE}, "the class folders are those in photos_root/photos/"),
    "wrapped, with tables": ([*pets("images"), "labels/a.txt", "readme.txt"], {"all": ONE}, "images/"),
    "wrapped splits": (pets("archive/data/train", "archive/data/test"), {"train": ONE, "test": ONE}, "archive/data/"),
    "an archive of a Mac": ([*pets("train"), "__MACOSX/train/cat/._0.png"], {"train": ONE}, "1 __MACOSX"),
    "unlabelled test": ([*pets("train"), *many("test", 3)], {"train": ONE}, "test/ is left out: it holds 3 images"),
    "unlabelled test in a folder": ([*pets("train"), *many("test/test", 3)], {"train": ONE}, "test/ is left out"),
    "unlabelled predictions": (
        [*pets("seg_train", "seg_test"), *many("seg_pred", 2)], {"train": ONE, "test": ONE}, "seg_pred/ is left out",
    ),
    "annotations beside splits": ([*pets("train"), "annotations/cat/1.xml"], {"train": ONE}, "annotations/"),
    "papers beside splits": ([*pets("train"), "papers/1.pdf"], {"train": ONE}, "papers/ is left out"),
    "splits in classes": (
        many("cat/train dog/train cat/test dog/test"), {"train": ONE, "test": ONE}, "test, train in each class folder",
    ),
    "a class called train": (many("bus car train"), {"all": {"bus": 1, "car": 1, "train": 1}}, "train/ is read as a"),
    "a class called trains": (many("cars trains"), {"all": {"cars": 1, "trains": 1}}, "trains/ is read as a class"),
    "a class called train with folders": (
        many("bus train train/old train/new"), {"all": {"bus": 1, "train": 3}}, "train/ is read as a class",
    ),
    "classes that only sound like splits": (
        many("test_tube train_station class_test"), {"all": {"class_test": 1, "test_tube": 1, "train_station": 1}}, "",
    ),
    "valid and invalid": (many("valid invalid"), {"all": {"invalid": 1, "valid": 1}}, ""),
    "class folders beside a test split": (
        [*many("cat dog"), *pets("test")], {"train": ONE, "test": ONE}, "beside test/ are read as the training images",
    ),
    "a train among the classes and a test split": (
        many("bus train test/bus test/train"), {"train": {"bus": 1, "train": 1}, "test": {"bus": 1, "train": 1}},
        "beside test/ are read as the training images",
    ),
    "folders within classes": (many("cat/a dog/b dog/c/d"), {"all": {"cat": 1, "dog": 2}}, ""),
    "equal folders within classes": (
        many("cat/day cat/night dog/day dog/night"), {"all": {"cat": 2, "dog": 2}},
        "every class folder holds the same folders (day, night): cat, dog are read as the classes; if day, night are",
    ),
    "classes in groups": (
        many("pet/cat pet/dog wild/owl wild/fox"), {"all": {"pet": 2, "wild": 2}}, "hold only further folders",
    ),
    "an images folder in each class": (many("cat/images dog/images"), {"all": ONE}, ""),
    "images beside the classes": ([*many("cat dog"), "1.png", "2.png"], {"all": ONE}, "2 images beside the folders in"),
    "images beside the classes of a split": ([*pets("train"), "train/1.png"], {"train": ONE}, "1 image beside the"),
    "a folder of other files": ([*many("cat dog"), "bird/all.zip"], {"all": ONE}, "not classes: bird/ (1 .zip)"),
    "a group beside a class": (
        many("pet/cat pet/dog owl"), {"all": {"owl": 1, "pet": 2}}, "hold only further folders, which are read as part",
    ),
    "an empty folder": ([*many("cat dog"), "bird/", "fish/deep/"], {"all": ONE}, "not classes: bird/, fish/"),
    "an empty class in every split": (
        [*pets("train", "test"), "train/owl/", "test/owl/"], {"train": ONE, "test": ONE}, "not classes: test/owl/, ",
    ),
    "an empty split": ([*pets("train"), "val/", "test/cat/"], {"train": ONE}, "not classes: test/, val/"),
    "an empty second split": ([*pets("train", "val"), "valid/"], {"train": ONE, "val": ONE}, "valid/"),
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_folders_are_read_as_they_are_meant(name: str, tmp_path: Path) -> None:
    paths, expected, note = READ[name]
    listing = list_folder(tree(tmp_path / "data", *paths))
    assert counted(listing) == expected
    assert note in " | ".join(listing.notes)
    if not note:
        assert listing.notes == ()


REFUSED = {
    "images beside class folders": (
        many("ne nw test", 2),
        r"holds the folders ne, nw and also test/ with 2 images in no class folder: if these are unlabelled, move "
        r"test/ out of data; .* sort them into test/ne/.*if test is a class, rename its folder, .* class_test",
    ),
    "a test among classes and a train": (many("bus train test"), "also test/ with 1 image in no class folder"),
    "a test split with other classes": (many("cat dog test/cat test/owl"), r"also test/ with the folders cat, owl in"),
    "a stray class": ([*pets("train"), *many("owl")], "if train/ is the training split, move owl into it or out"),
    "classes with parts": (many("bus/a train/a train/b"), "if train is a class, rename its folder.*class_train"),
    "two copies": (pets("train", "data/train"), "and also data"),
    "images without classes": (many("train test", 3), "train holds 3 images but no class folders; make a folder"),
    "images only": (["1.png", "2.png"], r"holds 2 images but no class folders.*if each folder in .* is a class, give"),
    "flat validation": ([*pets("train"), *many("val")], r"val holds 1 image in no class folder; sort them.*val/cat/"),
    "no train": (pets("val", "test"), "but no train/"),
    "no train in classes": (many("cat/test dog/test cat/val dog/val"), "hold test, val but no train/"),
    "two spellings": (pets("train", "training"), r"a split twice \(train, training\)"),
    "two spellings in a class": (many("cat/train cat/val cat/valid dog/train"), r"a split twice \(val, valid\)"),
    "folds": (pets("fold1", "fold2"), r"fold1, fold2, which look like parts.*If these are the classes, rename"),
    "named and unnamed splits": (pets("old_train", "some_test"), "look like parts of a data set"),
    "a class missing in test": ([*pets("train", "test"), *many("train/owl")], "differ in owl; add images of owl to"),
    "a class empty in test": (
        [*pets("train", "test"), *many("train/owl"), "test/owl/"], "differ in owl; add images of owl to test/",
    ),
    "a class empty in train": (
        [*pets("train", "test"), *many("test/owl"), "train/owl/"], "differ in owl; add training images of owl",
    ),
    "capitals": ([*pets("train"), *many("test/Cat test/dog")], r"differ in Cat, cat; 'Cat' and 'cat' differ only in"),
    "a space": ([*pets("train"), *many("test/dog"), "test/cat /1.png"], r"'cat' and 'cat ' differ only in case, "),
    "an underscore": (
        [*many("train/hot_dog train/owl test/owl"), "test/hot dog/1.png"], "'hot dog' and 'hot_dog' differ only in",
    ),
    "archives only": (["cat.zip.txt", "dog.txt"], r"no images found in .*; it holds other files \(2 .txt\)\."),
    "arrays": (["digits.npz"], r"it holds other files \(1 .npz\)\. To read a .npz file, name the file itself"),
    "splits in one of two folders": (
        [*pets("images/train", "images/val"), *many("masks")],
        r"holds images/ with the splits train, val in it, and also masks without splits: if images/ is the data set, "
        r"give .*data/images or move masks out of data; if all are classes, put the same splits into each",
    ),
    "splits in some classes": (many("cat/train cat/test dog"), "cat/ with the splits test, train in it, and also dog"),
    "classes with a split each": (
        many("cat_train cat_test dog_train dog_test"),
        r"a split twice \(cat_test, dog_test\); if these are classes of the split, move them into one folder "
        r"\(test/cat/, test/dog/\), and the other splits likewise",
    ),
    "a class of telephones": (
        [*many("cat dog", 2), "bird/1.HEIC", "bird/2.heic"], r"bird \(2 HEIC\); install the extra for HEIC.*nat2\[heic",
    ),
    "a class of telephones in one split": (
        [*pets("train", "test"), "train/owl/1.png", "test/owl/1.heic"], r"would be lost: owl in test/ \(1 HEIC\)",
    ),
    "a class on another machine": (
        [*many("cat dog"), "owl/.1.jpg.icloud", "owl/.2.jpg.icloud"],
        r"owl \(2 iCloud placeholders\); download the files from iCloud .*, or move the folder out",
    ),
    "a class of documents": ([*many("cat dog"), "bird/1.pdf"], r"bird \(1 PDF\); convert.* or move the folder out of"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_could_be_meant_in_two_ways_is_refused_with_what_to_change(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_heic(monkeypatch)
    paths, message = REFUSED[name]
    with pytest.raises(DataError, match=rf"(?s){message}"):
        list_folder(tree(tmp_path / "data", *paths))


def without_heic(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the extra were not installed."""
    monkeypatch.setattr(formats, "HEIC", False)
    monkeypatch.setattr(formats, "EXTENSIONS", formats.EXTENSIONS - {".heic", ".heif", ".hif"})


@pytest.mark.parametrize("advised", ["class_test", "class_train", "class_val"])
def test_the_advised_name_of_a_class_is_read_as_one(advised: str, tmp_path: Path) -> None:
    listing = list_folder(tree(tmp_path / "data", *many(f"ne nw {advised}")))
    assert set(listing.classes) == {"ne", "nw", advised}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["train", "validation", "test", "extra"], {"train": "train", "validation": "val", "test": "test"}),
        (["01_train", "02-Valid", "03 Test"], {"01_train": "train", "02-Valid": "val", "03 Test": "test"}),
        (["train_images", "cifar_test"], {"train_images": "train", "cifar_test": "test"}),
        (["trainval", "test"], {"trainval": "train", "test": "test"}),
        (["train-val", "holdout"], {"train-val": "train", "holdout": "test"}),
        (["train_test_split", "protest", "strain", "contest", "tested", "latest", "rest"], {}),
        (["training shoes", "test tube", "toy train", "evaluation board", "development aid"], {}),
        (["ILSVRC2012_train", "ILSVRC2012_val"], {"ILSVRC2012_train": "train", "ILSVRC2012_val": "val"}),
        (["rock_train", "soul_train"], {}),
    ],
)  # fmt: skip
def test_names_of_splits(names: list[str], expected: dict[str, str]) -> None:
    assert splits_of(names) == expected


# -- what systems and tools leave behind

LEFT_FOLDERS = (
    "@eaDir", "#recycle", "@Recycle", "@tmp", "@Recently-Snapshot", ".thumbnails", ".@__thumb", "__MACOSX",
    "lost+found", "_gsdata_", "@SynoEAStream",
    "$RECYCLE.BIN", "$Recycle.Bin", "System Volume Information", ".ipynb_checkpoints", "__pycache__", ".git",
    ".AppleDouble", ".Trash-1000", ".Trashes", ".Spotlight-V100", "#snapshot", "~snapshot", "FOUND.000", "RECYCLER",
)  # fmt: skip


@pytest.mark.parametrize("name", LEFT_FOLDERS)
def test_folders_left_behind_are_skipped_at_every_depth(name: str, tmp_path: Path) -> None:
    places = ["", "train/", "train/cat/", "train/cat/deep/"]
    left = [f"{place}{name}/{number}.png/thumb.png" for place in places for number in range(3)]
    listing = list_folder(tree(tmp_path, *pets("train", "test"), "train/cat/deep/1.png", *left))
    assert counted(listing) == {"train": {"cat": 2, "dog": 1}, "test": ONE}
    assert listing.notes == (f"hidden and system files and folders are skipped: 4 {name}",)


@pytest.mark.parametrize(
    "name", ["._0.png", ".DS_Store", "Thumbs.db", "desktop.ini", "Icon\r", ".nomedia", ".hidden.png"]
)
def test_files_left_behind_are_skipped(name: str, tmp_path: Path) -> None:
    listing = list_folder(tree(tmp_path, *many("cat dog"), name, f"cat/{name}", f"cat/deep/{name}", "cat/deep/1.png"))
    assert counted(listing) == {"all": {"cat": 2, "dog": 1}}
    (note,) = listing.notes
    assert note.startswith("hidden and system files and folders are skipped: 3 ")


@pytest.mark.parametrize(
    "name",
    ["trash", "Recycle", "thumbs", "cache", "tmp", "temp", "git", "@home", "#1", "$100", "originals", "snapshot"],
)
def test_a_class_may_have_almost_any_name(name: str, tmp_path: Path) -> None:
    listing = list_folder(tree(tmp_path, *many(f"cat {name}")))
    assert set(listing.classes) == {"cat", name}
    assert listing.notes == ()


# -- links


def test_links_to_folders_are_followed(tmp_path: Path) -> None:
    tree(tmp_path, *many("elsewhere/more elsewhere/more/deep data/cat data/dog"))
    (tmp_path / "data" / "cat" / "more").symlink_to(tmp_path / "elsewhere" / "more")
    (tmp_path / "data" / "owl").symlink_to("../elsewhere")
    (tmp_path / "data" / "owl.png").symlink_to(tmp_path / "data" / "cat" / "0.png")
    listing = list_folder(tmp_path / "data")
    assert counted(listing) == {"all": {"cat": 3, "dog": 1, "owl": 2}}
    assert "cat/more/deep/0.png" in listing.names["all"]


def test_the_same_folder_may_be_two_splits(tmp_path: Path) -> None:
    tree(tmp_path, *pets("train", "test"))
    (tmp_path / "val").symlink_to("test")
    assert counted(list_folder(tmp_path)) == {"train": ONE, "val": ONE, "test": ONE}


def test_loops_are_noticed_and_no_folder_is_read_twice(tmp_path: Path) -> None:
    tree(tmp_path / "data", *many("cat dog cat/deep"))
    (tmp_path / "data" / "cat" / "above").symlink_to(tmp_path)
    (tmp_path / "data" / "cat" / "root").symlink_to(tmp_path / "data")
    (tmp_path / "data" / "cat" / "deep" / "round").symlink_to(tmp_path / "data" / "cat")
    (tmp_path / "data" / "cat" / "elsewhere").symlink_to("deep")
    (tmp_path / "data" / "top").symlink_to("/")
    listing = list_folder(tmp_path / "data")
    assert counted(listing) == {"all": {"cat": 2, "dog": 1}}
    (note,) = listing.notes
    assert note.startswith("links to folders that are read already are not followed: cat/above, cat/deep/round, ")


def test_many_links_to_each_other_are_followed_once(tmp_path: Path) -> None:
    """Of 20 folders that link to the next in two ways, there are a million paths to the last."""
    tree(tmp_path, *many("data/cat data/dog"), *many(" ".join(f"chain/{number}" for number in range(20))))
    for number in range(19):
        for name in ("a", "b"):
            (tmp_path / "chain" / str(number) / name).symlink_to(tmp_path / "chain" / str(number + 1))
    (tmp_path / "data" / "cat" / "chain").symlink_to(tmp_path / "chain" / "0")
    assert counted(list_folder(tmp_path / "data")) == {"all": {"cat": 21, "dog": 1}}


def test_links_that_lead_nowhere_are_told_and_lose_no_class(tmp_path: Path) -> None:
    tree(tmp_path, *many("cat dog"))
    (tmp_path / "cat" / "gone.png").symlink_to("/no/such/image.png")
    (tmp_path / "loop").symlink_to("loop")
    listing = list_folder(tmp_path)
    assert counted(listing) == {"all": ONE}
    assert "by class: cat 1 of 2 (1 broken link)" in listing.notes[0]
    assert "broken links are left out: cat/gone.png, loop" in listing.notes
    (tmp_path / "owl").mkdir()
    (tmp_path / "owl" / "gone.png").symlink_to("/no/such/image.png")
    with pytest.raises(DataError, match=r"would be lost: owl \(1 broken link\)"):
        list_folder(tmp_path)


def test_a_folder_that_cannot_be_listed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is kept out where the tests run as root."""
    tree(tmp_path, *many("cat dog owl"))

    def scandir(path: Path) -> object:
        if Path(path).name == "owl":
            raise PermissionError(13, "Permission denied")
        return os_scandir(path)

    os_scandir = os.scandir
    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(DataError, match=r"owl cannot be listed \(Permission denied\); make it readable"):
        list_folder(tmp_path)


# -- what files hold


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "JPEG2000", "PCX", "ICO", "TGA"])
def test_images_are_recognised_by_content(kind: str, tmp_path: Path) -> None:
    tree(tmp_path, *many("cat dog"))
    names = ["image.tga"] if kind == "TGA" else ["image", "image.dat", "image.txt", "photo 12.30"]
    for name in names:
        (tmp_path / "cat" / name).write_bytes(encoded(kind))
    assert len(folder(tmp_path, side=4).labels["all"]) == 2 + len(names)


@pytest.mark.parametrize(
    "content",
    [b"", b"P3 is the third participant\n", b"P6\n", b"BM is a name", b"#define x_width 3\n", b"GIF", bytes(1000),
     b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"PK\x03\x04", b"\n\x05\x01\x08", b"FITS"],
)  # fmt: skip
def test_other_files_are_no_images(content: bytes, tmp_path: Path) -> None:
    tree(tmp_path, *many("cat dog"))
    for name in ("notes", "notes.md", "notes.h"):
        (tmp_path / "cat" / name).write_bytes(content)
    listing = list_folder(tmp_path)
    assert counted(listing) == {"all": ONE}
    assert "left out" in listing.notes[0]


def test_an_image_extension_without_an_image_is_a_bad_image(tmp_path: Path) -> None:
    tree(tmp_path, *many("cat dog"))
    (tmp_path / "cat" / "page.jpg").write_bytes(b"<!DOCTYPE html>")
    with pytest.raises(DataError, match=r"(?s)1 image cannot be read.*cat/page\.jpg"):
        folder(tmp_path, side=4)


@pytest.mark.parametrize(("paths", "lost"), [(many("cat dog"), "cat"), (pets("train", "test"), "cat in test")])
def test_leaving_bad_images_out_loses_no_class(paths: list[str], lost: str, tmp_path: Path) -> None:
    tree(tmp_path, *paths)
    for path in tmp_path.glob("cat/*.png" if lost == "cat" else "test/cat/*.png"):
        path.write_bytes(b"no image")
    with pytest.raises(DataError, match=f"no image can be read of {lost}, and the class would be lost"):
        folder(tmp_path, side=4, skip_bad_images=True)


def test_a_telephone_s_photograph_with_another_name_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_heic(monkeypatch)
    tree(tmp_path, *many("cat dog"))
    (tmp_path / "cat" / "IMG_1.jpg").write_bytes(HEIC)
    with pytest.raises(DataError, match=r"cat/IMG_1\.jpg: its content is HEIC; install .*pip install 'nat2\[heic\]'"):
        folder(tmp_path, side=4)


UNREADABLE = {
    "empty.jpg": (b"", "the file is empty"),
    "page.jpg": (b"\n<!DOCTYPE HTML><html>404</html>", "its content is a web page; download the image again"),
    "noise.png": (b"noise", "its content is no image in a known format"),
    "cut.png": (PNG[:50], "image file is truncated"),
    "bands.tif": (b"II*\0" + bytes(40), "Pillow does not read this kind of TIFF; convert it to TIFF with 1 band"),
    "pointer.jpg": (b"version https://git-lfs.github.com/spec/v1\n", "fetch the files that the pointers stand for"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_why_an_image_cannot_be_read_is_said_in_words(name: str, tmp_path: Path) -> None:
    content, reason = UNREADABLE[name]
    tree(tmp_path, *many("cat dog"))
    (tmp_path / "cat" / name).write_bytes(content)
    with pytest.raises(DataError) as told:
        folder(tmp_path, side=4)
    (line,) = [line for line in str(told.value).splitlines() if name in line]
    assert line.startswith(f"  cat/{name}: ")
    assert reason in line
    assert "Error" not in line


def test_broken_links_are_counted_with_a_way_out(tmp_path: Path) -> None:
    tree(tmp_path, *many("cat dog"), "owl/")
    for number in range(2):
        (tmp_path / "owl" / f"{number}.png").symlink_to("nowhere")
    with pytest.raises(DataError, match=r"lost: owl \(2 broken links\); repair or delete the links, or move"):
        list_folder(tmp_path)


LOST = {
    "IMG_1.HEIC": (HEIC, "HEIC"),
    "IMG_2": (HEIC, "HEIC"),
    "IMG_3.CR2": (encoded("TIFF"), "camera RAW"),
    "IMG_4.dng": (encoded("TIFF"), "camera RAW"),
    "IMG_5.cr3": (b"\0\0\0\x18ftypcrx ", "camera RAW"),
    "a.mp4": (b"\0\0\0\x18ftypisom", "video"),
    "b.MOV": (b"\0\0\0\x18ftypqt  ", "video"),
    "c.avi": (b"RIFF\0\0\0\0AVI LIST", "video"),
    "d": (b"\x1aE\xdf\xa3", "video"),
    "e.pdf": (b"%PDF-1.7", "PDF"),
    "f.svg": (b"<?xml version='1.0'?><svg/>", "SVG"),
    "g.eps": (b"%!PS-Adobe-3.0 EPSF-3.0", "PostScript"),
    "h": (bytes(128) + b"DICM", "DICOM"),
    "i.jxl": (b"\xff\x0a", "JPEG XL"),
    "j.npy": (b"\x93NUMPY", "NumPy array"),
    "k.nii.gz": (b"\x1f\x8b", "medical volume"),
    "l": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 1\n", "Git LFS pointer"),
}


@pytest.mark.parametrize("name", LOST)
def test_a_class_that_loses_files_is_named_with_formats_and_a_way_out(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_heic(monkeypatch)
    tree(tmp_path, *many("cat dog", 2))
    content, kind = LOST[name]
    (tmp_path / "cat" / name).write_bytes(content)
    (note,) = list_folder(tmp_path).notes
    assert note.startswith(f"files that cannot be read are left out, by class: cat 1 of 3 (1 {kind}); ")
    assert ("nat2[heic]" in note) == (kind == "HEIC")


def test_photographs_of_telephones_are_read_if_the_extra_is_installed(tmp_path: Path) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    tree(tmp_path, *many("cat dog", 2))
    pillow_heif.from_pillow(Image.new("RGB", (64, 48), (200, 10, 10))).save(tmp_path / "cat" / "1.HEIC")
    (tmp_path / "cat" / "2.jpg").write_bytes((tmp_path / "cat" / "1.HEIC").read_bytes())
    source = folder(tmp_path, side=16)
    assert len(source.labels["all"]) == 6
    assert source.notes == ()
    (tmp_path / "cat" / "3.HEIC").write_bytes(HEIC)
    with pytest.raises(
        DataError, match=r"1 image cannot be read; replace or delete it, or leave it out.*\n.*cat/3\.HEIC"
    ):
        folder(tmp_path, side=16)


# -- names of classes

NFC, NFD = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


def test_two_unicode_forms_of_a_name_are_one_class(tmp_path: Path) -> None:
    listing = list_folder(tree(tmp_path, *many(f"{NFC} {NFD} bar", 2)))
    assert counted(listing) == {"all": {"bar": 2, NFC: 4}}
    assert listing.notes == (
        "folders whose names differ only in Unicode normalisation (NFC, NFD) are read as one class: café",
    )


@pytest.mark.parametrize("path", ["train/{} test/{} train/bar test/bar", "{}/train {}/test bar/train bar/test"])
def test_splits_may_spell_a_class_in_two_unicode_forms(path: str, tmp_path: Path) -> None:
    listing = list_folder(tree(tmp_path, *many(path.format(NFC, NFD))))
    assert counted(listing) == {"train": {"bar": 1, NFC: 1}, "test": {"bar": 1, NFC: 1}}
    assert "read as one class: café" in listing.notes[-1]


@pytest.mark.parametrize(
    "pair",
    [("Cat", "cat"), ("cat", "cat "), ("polar bear", "polar_bear"), ("hot dog", "hot  dog"), ("cat", "cat\u200b")],
)
def test_names_that_look_the_same_are_told(pair: tuple[str, str], tmp_path: Path) -> None:
    listing = list_folder(tree(tmp_path, *(f"{name}/1.png" for name in (*pair, "owl"))))
    assert set(listing.classes) == {*pair, "owl"}
    assert "differ only in case, spaces or underscores are read as different classes" in listing.notes[0]
    assert repr(pair[1]) in listing.notes[0]
