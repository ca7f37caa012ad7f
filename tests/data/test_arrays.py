"""Arrays: .npz files and the binary version of CIFAR."""

from __future__ import annotations

import io
import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from nat2.data.arrays import open_cifar, open_npz
from nat2.data.dataset import name_of, open_source, read_dataset
from nat2.errors import DataError

GENERATOR = np.random.default_rng(0)


def pixels(*shape: int) -> np.ndarray:
    return GENERATOR.integers(0, 256, shape, dtype=np.uint8)


def write(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


def test_images_and_labels_without_splits(tmp_path: Path) -> None:
    images, labels = pixels(12, 8, 8, 3), np.array([3, 7, 9] * 4)
    source = open_npz(write(tmp_path / "all.npz", images=images, labels=labels)).read(8)
    np.testing.assert_array_equal(source.pixels["all"], images)
    assert source.classes == ("3", "7", "9")
    np.testing.assert_array_equal(source.labels["all"], [0, 1, 2] * 4)


def test_splits_as_keras_names_them(tmp_path: Path) -> None:
    path = write(
        tmp_path / "my.set.npz", x_train=pixels(8, 20, 10), y_train=np.array([0, 1] * 4), x_test=pixels(4, 20, 10),
        y_test=np.array([1, 0, 1, 0]), classes=np.array(["a", "b", "never seen"]),
    )  # fmt: skip
    source = open_npz(path).read(6)
    assert {split: part.shape for split, part in source.pixels.items()} == {"train": (8, 6, 6, 1), "test": (4, 6, 6, 1)}
    assert source.classes == ("a", "b", "never seen")
    assert open_source(str(path)).side == 10
    assert name_of(str(path)) == "my"


def test_two_unicode_forms_of_a_name_are_one_class(tmp_path: Path) -> None:
    names = np.array(["caf\N{LATIN SMALL LETTER E WITH ACUTE}", "cafe\N{COMBINING ACUTE ACCENT}", "bar"] * 4)
    path = write(tmp_path / "a.npz", images=pixels(12, 8, 8), labels=names)
    source = open_npz(path).read(8)
    assert source.classes == ("bar", names[0])
    assert source.labels["all"].tolist() == [1, 1, 0] * 4


def test_names_are_labels_too(tmp_path: Path) -> None:
    path = write(tmp_path / "n.npz", images=pixels(4, 5, 5), labels=np.array(["dog", "cat", "dog", "cat"]))
    source = open_npz(path).read(5)
    assert source.classes == ("cat", "dog")
    np.testing.assert_array_equal(source.labels["all"], [1, 0, 1, 0])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "it holds nothing"),
        ({"data": pixels(4, 5, 5)}, "must hold `images` and `labels`, or `x_train` and `y_train`; it holds data"),
        ({"images": pixels(4, 5, 5)}, "no labels for them; add `labels`"),
        ({"images": pixels(4, 5, 5) * 1j, "labels": np.arange(4)}, "must hold numbers, .* got complex128"),
        ({"images": pixels(4, 3, 5, 5), "labels": np.arange(4)}, r"got \(4, 3, 5, 5\)"),
        ({"images": pixels(4, 5, 5), "labels": np.arange(3)}, "for each image of `images`; got 3 labels for 4 images"),
        ({"images": pixels(4, 5, 5), "labels": np.arange(4) / 2}, "whole numbers or names; got float64"),
        ({"images": pixels(4, 5, 5), "labels": np.arange(4), "classes": np.array(["a", "b"])}, "lie in 0..1"),
        ({"images": pixels(4, 5, 5), "labels": np.zeros(4, int)}, "at least 2 classes"),
    ],
)
def test_unusable_arrays_are_refused(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_npz(write(tmp_path / "bad.npz", **arrays)).read(5)


def test_objects_and_damaged_files_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "objects.npz", images=np.array([{"a": 1}], dtype=object), labels=np.arange(1))
    (tmp_path / "text.npz").write_text("not an archive")
    for name in ("objects.npz", "text.npz", "absent.npz"):
        with pytest.raises(DataError, match=f"{name} cannot be read"):
            open_npz(tmp_path / name).read(5)


def cifar_files(label_bytes: int) -> tuple[dict[str, bytes], np.ndarray, np.ndarray]:
    """Five records a file, as published: labels, then the red, green and blue plane."""
    images, labels = pixels(30, 32, 32, 3), np.arange(30) % 3
    coarse = np.full((30, label_bytes - 1), 9)  # CIFAR-100 has a coarse label in front of the fine one
    planes = images.transpose(0, 3, 1, 2).reshape(30, -1)
    records = np.concatenate([coarse, labels[:, None], planes], axis=1).astype(np.uint8)
    chunks = [records[start : start + 5].tobytes() for start in range(0, 30, 5)]
    if label_bytes == 1:
        names = [*(f"data_batch_{n}.bin" for n in range(1, 6)), "test_batch.bin"]
        return dict(zip(names, chunks, strict=True)) | {"batches.meta.txt": b"cat\ndog\nship\n"}, images, labels
    files = {"train.bin": b"".join(chunks[:5]), "test.bin": chunks[5]}
    return files | {"fine_label_names.txt": b"cat\ndog\nship\n"}, images, labels


def as_folder(root: Path, files: dict[str, bytes]) -> Path:
    root.mkdir(parents=True)
    for name, content in files.items():
        (root / name).write_bytes(content)
    return root


def as_archive(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


@pytest.mark.parametrize("label_bytes", [1, 2])
@pytest.mark.parametrize("form", ["folder", "inner folder", "archive"])
def test_cifar_is_read_as_published(tmp_path: Path, label_bytes: int, form: str) -> None:
    files, images, labels = cifar_files(label_bytes)
    if form == "archive":
        path = as_archive(tmp_path / "cifar-10-binary.tar.gz", files)
    else:
        path = tmp_path / "cifar"
        as_folder(path if form == "folder" else path / "cifar-10-batches-bin", files)
    opened = open_cifar(path)
    assert opened is not None
    source = opened.read(32)
    assert source.classes == ("cat", "dog", "ship")
    np.testing.assert_array_equal(source.pixels["train"], images[:25])
    np.testing.assert_array_equal(source.labels["test"], labels[25:])
    assert opened.side == 32
    assert source.known == ("cifar-10" if label_bytes == 1 else "cifar-100")
    dataset = read_dataset(str(path), side=16)
    assert (len(dataset.test), len(dataset.train) + len(dataset.val)) == (5, 25)


def test_missing_and_cut_files_of_cifar_are_named(tmp_path: Path) -> None:
    files, *_ = cifar_files(1)
    for number, (name, change) in enumerate({"data_batch_3.bin": None, "test_batch.bin": b"cut"}.items()):
        changed = {key: value for key, value in (files | {name: change}).items() if value is not None}
        with pytest.raises(DataError, match=f"{name} is {'truncated' if change else 'missing'}"):
            read_dataset(str(as_folder(tmp_path / str(number), changed)), side=32)


def test_other_folders_and_files_are_left_to_others(tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("hello")
    assert open_cifar(tmp_path) is None
    assert open_cifar(tmp_path / "note.txt") is None


def test_a_damaged_archive_is_refused(tmp_path: Path) -> None:
    path = as_archive(tmp_path / "cifar.tar.gz", cifar_files(1)[0])
    path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(DataError, match="is damaged"):
        open_cifar(path)


@pytest.mark.real_data
def test_real_arrays_are_read(shared_data: Path) -> None:
    path = shared_data / "fashion_mnist_subset" / "fashion_mnist_subset.npz"
    source = open_npz(path).read(28)
    pixels = source.pixels["train"]
    assert isinstance(pixels, np.ndarray)
    with np.load(path) as file:
        np.testing.assert_array_equal(pixels[..., 0], file["x_train"])
        np.testing.assert_array_equal(source.labels["test"], file["y_test"])
        assert source.classes == tuple(file["classes"])


def test_files_that_only_look_like_arrays_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", pixels(4, 5, 5))
    (tmp_path / "a.npy").rename(tmp_path / "renamed.npz")
    np.savez_compressed(tmp_path / "flipped.npz", images=pixels(40, 5, 5), labels=np.arange(40))
    content = bytearray((tmp_path / "flipped.npz").read_bytes())
    content[200:240] = bytes(40)
    (tmp_path / "flipped.npz").write_bytes(bytes(content))
    for name in ("renamed.npz", "flipped.npz"):
        with pytest.raises(DataError, match=f"{name} cannot be read"):
            open_npz(tmp_path / name)
    archive = as_archive(tmp_path / "cut.tar.gz", cifar_files(1)[0])
    for size in (5, 100, 3000):
        (tmp_path / f"{size}.tar.gz").write_bytes(archive.read_bytes()[:size])
        with pytest.raises(DataError):
            read_dataset(str(tmp_path / f"{size}.tar.gz"), side=8)


def test_labels_beyond_the_classes_of_cifar_are_refused(tmp_path: Path) -> None:
    files, *_ = cifar_files(1)
    folder = as_folder(tmp_path / "cifar", files | {"batches.meta.txt": b"cat\ndog\n"})
    with pytest.raises(DataError, match="label 2 of 2 classes"):
        read_dataset(str(folder), side=8)


def test_grey_and_coloured_splits_become_coloured(tmp_path: Path) -> None:
    path = write(
        tmp_path / "m.npz", x_train=pixels(40, 8, 8), y_train=np.arange(40) % 2, x_test=pixels(6, 8, 8, 3),
        y_test=np.arange(6) % 2,
    )  # fmt: skip
    dataset = read_dataset(str(path), side=8)
    assert {each.pixels.shape[1] for each in (dataset.train, dataset.val, dataset.test)} == {3}


def cifar_pickles(name: str) -> tuple[dict[str, bytes], np.ndarray]:
    """The python version, keys and protocol as published."""
    images, labels = pixels(30, 32, 32, 3), (np.arange(30) % 3).tolist()
    flat = images.transpose(0, 3, 1, 2).reshape(30, -1)
    key, meta = ("labels", "label_names") if name == "cifar-10" else ("fine_labels", "fine_label_names")

    def pickled(first: int, last: int) -> bytes:
        content = {b"batch_label": b"x", key.encode(): labels[first:last], b"data": flat[first:last]}
        return pickle.dumps(content, protocol=2)

    classes = pickle.dumps({meta.encode(): [b"cat", b"dog", b"ship"]}, protocol=2)
    if name == "cifar-100":
        return {"train": pickled(0, 25), "test": pickled(25, 30), "meta": classes}, images
    files = {f"data_batch_{n}": pickled(5 * n - 5, 5 * n) for n in range(1, 6)}
    return files | {"test_batch": pickled(25, 30), "batches.meta": classes}, images


@pytest.mark.parametrize("name", ["cifar-10", "cifar-100"])
def test_the_python_version_is_read_without_running_code(tmp_path: Path, name: str) -> None:
    files, images = cifar_pickles(name)
    opened = open_cifar(as_folder(tmp_path / "cifar", files))
    assert opened is not None
    source = opened.read(32)
    assert (source.known, source.classes) == (name, ("cat", "dog", "ship"))
    np.testing.assert_array_equal(source.pixels["train"], images[:25])
    np.testing.assert_array_equal(source.labels["test"], np.arange(25, 30) % 3)


class Bomb:
    """Runs code when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return os.system, (f"touch {self.mark}",)


class Forged:
    """An array of objects whose addresses are the file's bytes."""

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return np.ndarray, ((4,), np.dtype("O"), b"A" * 32)


@pytest.mark.parametrize(
    "content",
    [
        lambda mark: pickle.dumps({b"data": Bomb(mark)}),
        lambda mark: pickle.dumps({b"labels": [0] * 4, b"data": Forged()}),
        lambda mark: pickle.dumps({b"labels": [0, 1], b"data": np.zeros((2, 3072))}),
        lambda mark: pickle.dumps(np.array([Bomb(mark)], dtype=object)),
        lambda mark: b"not a pickle",
        lambda mark: pickle.dumps([1, 2]),
        lambda mark: pickle.dumps({b"labels": [0, 1], b"data": np.zeros((3, 3072), np.uint8)}),
        lambda mark: pickle.dumps({b"labels": [0, 9], b"data": np.zeros((2, 3072), np.uint8)}),
        lambda mark: pickle.dumps({b"labels": [0], b"data": np.zeros((1, 7), np.uint8)}),
    ],
)
def test_hostile_and_damaged_pickles_are_refused(tmp_path: Path, content: Callable[[Path], bytes]) -> None:
    files, _ = cifar_pickles("cifar-10")
    mark = tmp_path / "executed"
    folder = as_folder(tmp_path / "cifar", files | {"data_batch_2": content(mark)})
    with pytest.raises(DataError, match=r"(not a CIFAR file|damaged)"):
        read_dataset(str(folder), side=32)
    assert not mark.exists()
