"""Which folders are read as splits and classes, and what is refused as ambiguous."""

from __future__ import annotations

from pathlib import Path

import pytest

from nat2.data.layout import splits_of
from nat2.data.listing import list_folder
from nat2.errors import DataError
from tests.data.trees import ONE, counted, many, pets, tree, without_heic

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
