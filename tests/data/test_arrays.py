"""Arrays: .npz files and the binary version of CIFAR."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

from nat2.data.arrays import cifar, npz, side_of_arrays
from nat2.data.dataset import name_of, native_side, read_dataset
from nat2.errors import DataError

GENERATOR = np.random.default_rng(0)


def pixels(*shape: int) -> np.ndarray:
    return GENERATOR.integers(0, 256, shape, dtype=np.uint8)


def write(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


def test_images_and_labels_without_splits(tmp_path: Path) -> None:
    images, labels = pixels(12, 8, 8, 3), np.array([3, 7, 9] * 4)
    source = npz(write(tmp_path / "all.npz", images=images, labels=labels), side=8)
    np.testing.assert_array_equal(source.pixels["all"], images)
    assert source.classes == ("3", "7", "9")
    np.testing.assert_array_equal(source.labels["all"], [0, 1, 2] * 4)


def test_splits_as_keras_names_them(tmp_path: Path) -> None:
    path = write(
        tmp_path / "my.set.npz", x_train=pixels(8, 20, 10), y_train=np.array([0, 1] * 4), x_test=pixels(4, 20, 10),
        y_test=np.array([1, 0, 1, 0]), classes=np.array(["a", "b", "never seen"]),
    )  # fmt: skip
    source = npz(path, side=6)
    assert {split: part.shape for split, part in source.pixels.items()} == {"train": (8, 6, 6, 1), "test": (4, 6, 6, 1)}
    assert source.classes == ("a", "b", "never seen")
    assert native_side(str(path)) == 10
    assert name_of(str(path)) == "my"


def test_names_are_labels_too(tmp_path: Path) -> None:
    path = write(tmp_path / "n.npz", images=pixels(4, 5, 5), labels=np.array(["dog", "cat", "dog", "cat"]))
    source = npz(path, side=5)
    assert source.classes == ("cat", "dog")
    np.testing.assert_array_equal(source.labels["all"], [1, 0, 1, 0])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "it holds nothing"),
        ({"data": pixels(4, 5, 5)}, "must hold `images` and `labels`, or `x_train` and `y_train`; it holds data"),
        ({"images": pixels(4, 5, 5)}, "no labels for them; add `labels`"),
        ({"images": pixels(4, 5, 5) / 255, "labels": np.arange(4)}, "8-bit values 0..255 .uint8.; got float64"),
        ({"images": pixels(4, 3, 5, 5), "labels": np.arange(4)}, r"got \(4, 3, 5, 5\)"),
        ({"images": pixels(4, 5, 5), "labels": np.arange(3)}, "4 images in `images`, 3 labels in `labels`"),
        ({"images": pixels(4, 5, 5), "labels": np.arange(4) / 2}, "whole numbers or names; got float64"),
        ({"images": pixels(4, 5, 5), "labels": np.arange(4), "classes": np.array(["a", "b"])}, "lie in 0..1"),
        ({"images": pixels(4, 5, 5), "labels": np.zeros(4, int)}, "at least 2 classes"),
    ],
)
def test_unusable_arrays_are_refused(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(DataError, match=message):
        npz(write(tmp_path / "bad.npz", **arrays), side=5)


def test_objects_and_damaged_files_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "objects.npz", images=np.array([{"a": 1}], dtype=object), labels=np.arange(1))
    (tmp_path / "text.npz").write_text("not an archive")
    for name in ("objects.npz", "text.npz", "absent.npz"):
        with pytest.raises(DataError, match=f"{name} cannot be read"):
            npz(tmp_path / name, side=5)


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
    source = cifar(path, side=32)
    assert source is not None
    assert source.classes == ("cat", "dog", "ship")
    np.testing.assert_array_equal(source.pixels["train"], images[:25])
    np.testing.assert_array_equal(source.labels["test"], labels[25:])
    assert side_of_arrays(path) == 32
    dataset = read_dataset(str(path), side=16)
    assert (len(dataset.test), len(dataset.train) + len(dataset.val)) == (5, 25)


def test_missing_and_cut_files_of_cifar_are_named(tmp_path: Path) -> None:
    files, *_ = cifar_files(1)
    for number, (name, change) in enumerate({"data_batch_3.bin": None, "test_batch.bin": b"cut"}.items()):
        changed = {key: value for key, value in (files | {name: change}).items() if value is not None}
        with pytest.raises(DataError, match=f"{name} is {'cut off' if change else 'missing'}"):
            cifar(as_folder(tmp_path / str(number), changed), side=32)


def test_other_folders_and_files_are_left_to_others(tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("hello")
    assert cifar(tmp_path, side=32) is None
    assert cifar(tmp_path / "note.txt", side=32) is None
    assert side_of_arrays(tmp_path) is None


def test_a_damaged_archive_is_refused(tmp_path: Path) -> None:
    path = as_archive(tmp_path / "cifar.tar.gz", cifar_files(1)[0])
    path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(DataError, match="is damaged"):
        cifar(path, side=32)


@pytest.mark.real_data
def test_real_arrays_are_read(shared_data: Path) -> None:
    path = shared_data / "fashion_mnist_subset" / "fashion_mnist_subset.npz"
    source = npz(path, side=28)
    with np.load(path) as file:
        np.testing.assert_array_equal(source.pixels["train"][..., 0], file["x_train"])
        np.testing.assert_array_equal(source.labels["test"], file["y_test"])
        assert source.classes == tuple(file["classes"])
