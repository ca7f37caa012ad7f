"""Images that come as arrays: ``.npz`` files, and the binary version of CIFAR-10 and CIFAR-100 as downloaded.

Nothing here unpickles.
"""

from __future__ import annotations

import os
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nat2.data.sources import Pixels, Source, check_memory, decode
from nat2.errors import DataError

_SPLITS = ("train", "val", "test")
_CIFAR = {
    # files of the training set, of the test set, label bytes, names of the classes
    "cifar-10": ([f"data_batch_{n}.bin" for n in range(1, 6)], ["test_batch.bin"], 1, "batches.meta.txt"),
    "cifar-100": (["train.bin"], ["test.bin"], 2, "fine_label_names.txt"),
}
_CIFAR_SIDE = 32


def npz(path: Path, *, side: int) -> Source:
    """A ``.npz`` file with ``images`` and ``labels``, or by split ``x_train``, ``y_train``, ``x_val``, ..., ``y_test``.

    Images are 8-bit, of shape (n, height, width) or (n, height, width, 1 or 3); labels whole numbers from 0, or names;
    ``classes`` may give the names of numbers. Images are reduced or enlarged to `side` along their shorter side and
    cropped to the centre square.

    Raises:
        DataError: the file cannot be read without running code, an array is missing, or of another type or shape.
    """
    arrays = _load(path)
    names = {"all": ("images", "labels")} if "images" in arrays else {s: (f"x_{s}", f"y_{s}") for s in _SPLITS}
    given = {split: pair for split, pair in names.items() if pair[0] in arrays}
    if "all" not in given and "train" not in given:
        held = ", ".join(arrays) or "nothing"
        raise DataError(f"{path} must hold `images` and `labels`, or `x_train` and `y_train`; it holds {held}")
    images, labels = {}, {}
    for split, (x, y) in given.items():
        if y not in arrays:
            raise DataError(f"{path} holds `{x}` but no labels for them; add `{y}`")
        images[split] = _checked_images(path, x, arrays[x])
        labels[split] = arrays[y].reshape(-1)
        if len(images[split]) != len(labels[split]):
            raise DataError(f"{path}: {len(images[split])} images in `{x}`, {len(labels[split])} labels in `{y}`")
    numbers, classes = _numbered(path, labels, arrays.get("classes"))
    return _source(images, numbers, classes, side)


def cifar(path: Path, *, side: int) -> Source | None:
    """The binary version of CIFAR-10 or CIFAR-100, the archive or the folder in it; None if it is something else.

    Raises:
        DataError: it is one of them, but a file is missing or cut off, or it is a damaged archive.
    """
    read = _reader(path)
    if read is None:
        return None
    for name, (train, test, label_bytes, meta) in _CIFAR.items():
        if read(train[0]) is None:
            continue
        classes = tuple((read(meta) or b"").decode().split())
        if not classes:
            raise DataError(f"{path} is {name} but lacks {meta}; extract or download it again")
        images, labels = {}, {}
        for split, files in (("train", train), ("test", test)):
            parts = [_records(path, file, read(file), label_bytes) for file in files]
            labels[split] = np.concatenate([part[:, label_bytes - 1] for part in parts]).astype(np.int64)
            flat = np.concatenate([part[:, label_bytes:] for part in parts])
            images[split] = flat.reshape(-1, 3, _CIFAR_SIDE, _CIFAR_SIDE).transpose(0, 2, 3, 1)
        return _source(images, labels, classes, side)
    return None


def side_of_arrays(path: Path) -> int | None:
    """The shorter side of the images of a file or archive that this module reads; None for others.

    Raises:
        DataError: it is a ``.npz`` file that cannot be used.
    """
    if path.suffix == ".npz":
        arrays = _load(path)
        name = next((name for name in ("images", "x_train") if name in arrays), None)
        return min(_checked_images(path, name, arrays[name]).shape[1:3]) if name else None
    read = _reader(path)
    known = read is not None and any(read(train[0]) is not None for train, *_ in _CIFAR.values())
    return _CIFAR_SIDE if known else None


def _load(path: Path) -> dict[str, NDArray[np.generic]]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise DataError(
            f"{path} cannot be read ({error}); write it with numpy.savez from arrays of numbers or text"
        ) from error


def _checked_images(path: Path, name: str, images: NDArray[np.generic]) -> Pixels:
    if images.dtype != np.uint8:
        raise DataError(f"{path}: `{name}` must hold 8-bit values 0..255 (uint8); got {images.dtype}")
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[3] not in (1, 3) or 0 in images.shape:
        raise DataError(
            f"{path}: `{name}` must have shape (n, height, width) or (n, height, width, 1 or 3); got {images.shape}"
        )
    return images.astype(np.uint8, copy=False)


def _numbered(
    path: Path, labels: Mapping[str, NDArray[np.generic]], names: NDArray[np.generic] | None
) -> tuple[dict[str, NDArray[np.int64]], tuple[str, ...]]:
    """Labels as numbers from 0, and the classes' names."""
    every = np.unique(np.concatenate(list(labels.values())))
    if every.dtype.kind in "US":
        classes = tuple(map(str, every))
        return {split: np.searchsorted(every, values) for split, values in labels.items()}, classes
    if every.dtype.kind not in "iu":
        raise DataError(f"{path}: labels must be whole numbers or names; got {every.dtype}")
    classes = tuple(map(str, every if names is None else names.reshape(-1)))
    if names is None:
        return {split: np.searchsorted(every, values) for split, values in labels.items()}, classes
    if every[0] < 0 or every[-1] >= len(classes):
        raise DataError(f"{path}: labels must lie in 0..{len(classes) - 1}, the number of `classes`; got {every[-1]}")
    return {split: values.astype(np.int64) for split, values in labels.items()}, classes


def _source(
    images: Mapping[str, Pixels], labels: Mapping[str, NDArray[np.int64]], classes: tuple[str, ...], side: int
) -> Source:
    if len(classes) < 2:
        raise DataError(f"a classifier needs at least 2 classes; got {', '.join(classes)}")
    check_memory(sum(map(len, images.values())), side)

    def fitted(image: Pixels) -> Pixels:
        return decode(Image.fromarray(image[..., 0] if image.shape[2] == 1 else image), side)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        pixels = {split: np.stack(list(pool.map(fitted, part))) for split, part in images.items()}
    return Source(classes=classes, pixels=pixels, labels=dict(labels))


def _reader(path: Path) -> Callable[[str], bytes | None] | None:
    """A function from a file's name to its content, for a folder or a tar archive; None for neither."""
    if path.is_dir():
        roots = [path, *(path / f"cifar-{n}" for n in ("10-batches-bin", "100-binary"))]
        return lambda name: next((f.read_bytes() for f in (root / name for root in roots) if f.is_file()), None)
    if not path.is_file() or not tarfile.is_tarfile(path):
        return None

    members: dict[str, bytes] = {}
    try:
        with tarfile.open(path) as archive:
            for entry in archive:
                file = archive.extractfile(entry)
                if file is not None:
                    members[entry.name.rpartition("/")[2]] = file.read()
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise DataError(f"{path} is damaged ({error}); download it again") from error
    return members.get


def _records(path: Path, name: str, content: bytes | None, label_bytes: int) -> Pixels:
    size = label_bytes + 3 * _CIFAR_SIDE**2
    if not content or len(content) % size:
        raise DataError(f"{path}: {name} is {'cut off' if content else 'missing'}; extract or download it again")
    return np.frombuffer(content, dtype=np.uint8).reshape(-1, size)
