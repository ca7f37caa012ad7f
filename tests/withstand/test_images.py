"""Images that are cut short, changed by a bit, too large, or no images at all."""

from __future__ import annotations

import io
import os
import random
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nat2.data.dataset import Dataset, read_dataset
from nat2.data.settings import Reading
from nat2.errors import Nat2Error
from tests.withstand.attack import BegunError, RecordProperty, flipped, nothing_begins, refused

FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")
SUFFIX = {"JPEG": "jpg", "TIFF": "tif"}


def picture(kind: str, seed: int = 0, side: int = 24) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def bomb(side: int) -> bytes:
    """A PNG of a few bytes that says it has side x side pixels."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    body = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def swollen_text() -> bytes:
    """A PNG whose text unpacks to 100 MB."""
    whole = picture("PNG")
    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(100_000_000), 9))
    return whole[:33] + text + whole[33:]


@pytest.fixture(autouse=True)
def _nothing_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing_begins(monkeypatch)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of five good images."""
    for number in range(10):
        path = tmp_path / "data" / f"class {number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture("PNG", number))
    return tmp_path / "data"


def small_run(data: Path, *more: str) -> tuple[str, ...]:
    options = ("--width", "0.1", "--resolutions", "12,16", "--memory", "1")
    return ("run", f"--data={data}", "--out", str(data.parent / "out"), *options, *more)


def attempt(data: Path, **options: Any) -> Dataset | Nat2Error:
    """What comes of reading data: a data set that is whole, or a refusal in words that names the data."""
    try:
        dataset = read_dataset(str(data), side=16, reading=Reading(memory=1.0, **options))
    except Nat2Error as error:
        return error
    for split in (dataset.train, dataset.val, dataset.test):
        assert len(split.pixels) == len(split.labels) == len(split.names) > 0
        assert int(split.labels.max()) < len(dataset.classes)
    assert all(np.isfinite([*dataset.mean, *dataset.std]))
    return dataset


CUT = [(kind, share) for kind in FORMATS for share in (0.0, 0.1, 0.5, 0.9)]
ODD = {
    "bomb": bomb(60_000),
    "small bomb": bomb(12_000),
    "header only": bomb(16)[:33],
    "no pixels": b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 0, 0, 8, 2, 0, 0, 0)),
    "text": b"this is a cat",
    "html": b"<!DOCTYPE html><title>404</title>",
    "zeros": bytes(10_000),
    "swollen text": swollen_text(),
    "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(exploded) (w) file closefile\n",
    "zip": b"PK\x05\x06" + bytes(18),
    "two formats": b"GIF89a" + picture("PNG"),
}


@pytest.mark.parametrize(("kind", "share"), CUT)
def test_a_cut_off_image_is_named_or_left_out(
    kind: str, share: float, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = picture(kind)
    path = folder / "class 0" / f"cut off.{SUFFIX.get(kind, kind.lower())}"
    path.write_bytes(whole[: int(share * len(whole))])
    check_bad(path, folder, capsys)


@pytest.mark.parametrize("name", ODD)
def test_what_is_no_image_is_named_or_left_out(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "class 1" / f"{name}.png"
    path.write_bytes(ODD[name])
    check_bad(path, folder, capsys)


def check_bad(path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert path.name in refused(capsys, *small_run(folder))
    assert not (folder.parent / "out").exists()
    dataset = attempt(folder, skip_bad_images=True)
    assert isinstance(dataset, Dataset)
    assert path.name in " ".join(dataset.notes)
    assert sum(map(len, (dataset.train, dataset.val, dataset.test))) == 10


def test_a_flipped_bit_is_noticed_or_harmless(folder: Path, record_property: RecordProperty) -> None:
    """Whatever bit is wrong, the image is named, or read as an image of the right size."""
    lot, cases, bad = random.Random(2), 200, 0
    for number in range(cases):
        kind = FORMATS[number % len(FORMATS)]
        positions = [lot.randrange(64) if number % 2 else lot.randrange(10_000) for _ in range(1 + number % 4)]
        path = folder / "class 0" / f"flipped.{SUFFIX.get(kind, kind.lower())}"
        path.write_bytes(flipped(picture(kind), iter(positions), iter(lambda: lot.randrange(8), -1)))
        given = attempt(folder)
        bad += isinstance(given, Nat2Error)
        assert isinstance(given, Dataset) or path.name in str(given)
        path.unlink()
    record_property("cases", cases)
    assert bad > cases / 5


def test_odd_entries_of_a_folder(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Pipes, links to nowhere and to above are no images, do not stop anything, and are told."""
    os.mkfifo(folder / "class 0" / "pipe.png")
    (folder / "class 0" / "nowhere.png").symlink_to("/no/such/image.png")
    (folder / "class 0" / "round").symlink_to(folder)
    (folder / "class 0" / "itself.png").symlink_to(folder / "class 0" / "itself.png")
    (folder / "class 0" / "folder.png").mkdir()
    (folder / "file beside the classes.txt").write_text("hello")
    (folder / "loop").symlink_to(folder / "loop")
    (folder / "empty class").mkdir()
    dataset = attempt(folder)
    assert isinstance(dataset, Dataset)
    assert dataset.classes == ("class 0", "class 1")
    notes = " | ".join(dataset.notes)
    assert "links to folders that are read already are not followed: class 0/round" in notes
    assert "broken links are left out: class 0/itself.png, class 0/nowhere.png, loop" in notes
    assert "folders without images are not classes: empty class/" in notes
    with pytest.raises(BegunError):
        refused(capsys, *small_run(folder))


@pytest.mark.parametrize(
    "data", ["/dev/zero", "/dev/null", "/proc/self/status", "/proc", "pipe", "pipe.npz", "/dev/zero.npz"]
)
def test_data_that_is_no_data(data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("pipe", "pipe.npz"):
        os.mkfifo(tmp_path / name)
    refused(capsys, *small_run(tmp_path / data))


# -- arrays


def npz(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def numbers(count: int = 12, side: int = 8) -> dict[str, np.ndarray[Any, Any]]:
    pixels = np.random.default_rng(0).integers(0, 256, (count, side, side), dtype=np.uint8)
    return {"images": pixels, "labels": np.arange(count) % 2}


def array_bomb() -> bytes:
    """A .npz of a kilobyte whose array says that it has 10^15 images."""
    head = "{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000000, 1, 1), }".ljust(117) + "\n"
    array = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head.encode()
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("images.npy", array)
        archive.writestr("labels.npy", array)
    return file.getvalue()


ARRAYS = {
    "empty": b"",
    "no zip": b"hello" * 100,
    "one array": b"\x93NUMPY\x01\x00v\x00",
    "nothing within": npz(),
    "bomb": array_bomb(),
    "no labels": npz(images=numbers()["images"]),
    "fewer labels": npz(images=numbers()["images"], labels=np.arange(3)),
    "labels that are no numbers": npz(images=numbers()["images"], labels=np.full(12, np.nan)),
    "labels of another shape": npz(images=numbers()["images"], labels=np.zeros((12, 12), np.int64)),
    "one class": npz(images=numbers()["images"], labels=np.zeros(12, np.int64)),
    "a class an image": npz(images=numbers()["images"], labels=np.arange(12)),
    "no images": npz(images=np.zeros((0, 8, 8), np.uint8), labels=np.zeros(0, np.int64)),
    "images without pixels": npz(images=np.zeros((12, 0, 8), np.uint8), labels=np.arange(12) % 2),
    "floats of no value": npz(images=numbers()["images"] * np.nan, labels=np.arange(12) % 2),
    "complex numbers": npz(images=numbers()["images"] * 1j, labels=np.arange(12) % 2),
    "five dimensions": npz(images=np.zeros((12, 8, 8, 3, 1), np.uint8), labels=np.arange(12) % 2),
    "seven channels": npz(images=np.zeros((12, 8, 8, 7), np.uint8), labels=np.arange(12) % 2),
    "a number": npz(images=np.uint8(3), labels=np.int64(0)),
    "texts": npz(images=np.array(["a"] * 12), labels=np.arange(12) % 2),
    "records": npz(images=np.zeros(12, [("a", "u1")]), labels=np.arange(12) % 2),
    "complex labels": npz(images=numbers()["images"], labels=np.arange(12) * 1j),
    "labels beyond the classes": npz(**numbers(), classes=np.array(["a"])),
    "classes that are no names": npz(**numbers(), classes=np.zeros((2, 2, 2))),
    "huge labels": npz(
        images=numbers()["images"], labels=np.array([0, 2**64 - 1] * 6, dtype=np.uint64), classes=np.arange(2)
    ),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_that_are_no_data(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "data.npz").write_bytes(ARRAYS[name])
    refused(capsys, *small_run(tmp_path / "data.npz"))


def test_names_of_classes_in_bytes(tmp_path: Path) -> None:
    (tmp_path / "data.npz").write_bytes(npz(images=numbers()["images"], labels=np.array([b"cat", b"\xff"] * 6)))
    dataset = attempt(tmp_path / "data.npz")
    assert isinstance(dataset, Dataset)
    assert dataset.classes == ("cat", "\\xff")


def cifar(root: Path) -> Path:
    """CIFAR-10 as downloaded, binary version, four images a batch."""
    lot = np.random.default_rng(0)
    with tarfile.open(root / "cifar.tar.gz", "w:gz") as archive:
        files = {f"data_batch_{n}.bin": 20 for n in range(1, 6)} | {"test_batch.bin": 20}
        for name, count in files.items():
            records = lot.integers(0, 256, (count, 3073), dtype=np.uint8)
            records[:, 0] = np.arange(count) % 10
            add(archive, f"cifar-10-batches-bin/{name}", records.tobytes())
        add(archive, "cifar-10-batches-bin/batches.meta.txt", "\n".join("abcdefghij").encode())
    return root / "cifar.tar.gz"


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


@pytest.mark.parametrize("kind", ["npz", "cifar.tar.gz"])
def test_archives_that_are_cut_off_or_changed(kind: str, tmp_path: Path, record_property: RecordProperty) -> None:
    """A compressed archive has sums: whatever is changed is noticed, or is in what nobody reads."""
    path = cifar(tmp_path) if kind != "npz" else tmp_path / "data.npz"
    if kind == "npz":
        path.write_bytes(npz(**numbers()))
    whole, lot = path.read_bytes(), random.Random(3)
    assert isinstance(expected := attempt(path), Dataset)
    cuts = [whole[: int(share * len(whole))] for share in (0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99)]
    assert sum(isinstance(cut_off(path, content), Nat2Error) for content in cuts) >= 6  # the last is perhaps padding
    changed = [flipped(whole, iter([lot.randrange(len(whole))]), iter([lot.randrange(8)])) for _ in range(60)]
    outcomes = [cut_off(path, content) for content in cuts + changed]
    assert all(isinstance(each, Nat2Error) or each.fingerprint == expected.fingerprint for each in outcomes)
    record_property("cases", len(cuts) + len(changed))


def cut_off(path: Path, content: bytes) -> Dataset | Nat2Error:
    path.write_bytes(content)
    return attempt(path)
