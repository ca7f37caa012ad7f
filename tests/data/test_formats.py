"""Which files are images, and what is said of those that are not or cannot be read."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from nat2.data.listing import list_folder
from nat2.data.settings import Reading
from nat2.data.sources import folder
from nat2.errors import DataError
from tests.data.trees import HEIC, ONE, PNG, counted, encoded, many, pets, tree, without_heic


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
        folder(tmp_path, side=4, reading=Reading(skip_bad_images=True))


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
