"""Images that come as arrays: ``.npz`` files, and CIFAR-10 and CIFAR-100 as downloaded, in either version.

Nothing here runs code that a file brings: the python version's pickles may hold arrays, numbers, text and containers.
"""

from __future__ import annotations

import functools
import io
import pickle
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nat2.data.decode import decode, square_of
from nat2.data.depth import DeepImage, Pixels, channels_of, joined
from nat2.data.sources import Opened, Source, fits, numbered
from nat2.environment import available_cores
from nat2.errors import DataError
from nat2.progress import Reporter
from nat2.wording import counted

_SPLITS = ("train", "val", "test")
_CIFAR = {
    # training files, test files, label bytes, file with the class names
    "cifar-10": ([f"data_batch_{n}.bin" for n in range(1, 6)], ["test_batch.bin"], 1, "batches.meta.txt"),
    "cifar-100": (["train.bin"], ["test.bin"], 2, "fine_label_names.txt"),
}
_CIFAR_PYTHON = {
    # the python version: training files, test files, key of the labels, file and key of the class names
    "cifar-10": ([f"data_batch_{n}" for n in range(1, 6)], ["test_batch"], "labels", "batches.meta", "label_names"),
    "cifar-100": (["train"], ["test"], "fine_labels", "meta", "fine_label_names"),
}
_CIFAR_FOLDERS = ("cifar-10-batches-bin", "cifar-100-binary", "cifar-10-batches-py", "cifar-100-python")
_CIFAR_FILES = {
    name
    for train, test, *_, meta in (*_CIFAR.values(), *(parts[:4] for parts in _CIFAR_PYTHON.values()))
    for name in (*train, *test, meta)
}
_CIFAR_SIDE = 32


def open_npz(path: Path, *, memory: float | None = None) -> Opened:
    """A ``.npz`` file with ``images`` and ``labels``, or by split ``x_train``, ``y_train``, ``x_val``, ..., ``y_test``.

    Images are numbers of any dtype, the same in all splits, of shape (n, height, width) or (n, height, width, 1 or 3);
    8-bit images are used as they are, all others are scaled by the range of the training images. Labels are whole
    numbers from 0, or names; ``classes`` may give names to the numbers. Images are resized to `side` along their
    shorter side and cropped to the centre square.

    Raises:
        DataError: the file cannot be read without running code, or an array is missing or has the wrong type or shape;
            when reading, the images do not fit into `memory` GiB.
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
            raise DataError(
                f"{path}: `{y}` must hold a label for each image of `{x}`; got {counted(len(labels[split]), 'label')} "
                f"for {counted(len(images[split]), 'image')}"
            )
    numbers, classes = _numbered(path, labels, arrays.get("classes"))
    first = next(iter(images.values()))
    if len({part.dtype for part in images.values()}) > 1:
        types = ", ".join(f"{part.dtype} in {split}" for split, part in images.items())
        raise DataError(f"{path}: the images of all splits must be of the same type; got {types}")

    def read(side: int, progress: Reporter) -> Source:
        return _source(images, numbers, classes, side, path=path, memory=memory, progress=progress)

    return Opened(min(first.shape[1:3]), read, sum(map(len, images.values())))


def open_cifar(path: Path, *, memory: float | None = None) -> Opened | None:
    """CIFAR-10 or CIFAR-100, binary or python version, the archive or the folder in it; None if it is something else.

    Raises:
        DataError: the archive is damaged; when reading, a file is missing, truncated or not a CIFAR file.
    """
    read = _reader(path)
    if read is None:
        return None
    first = [train[0] for train, *_ in _CIFAR.values()] + [train[0] for train, *_ in _CIFAR_PYTHON.values()]
    if not any(read(name) is not None for name in first):
        return None

    def cifar(side: int, progress: Reporter) -> Source:
        name, images, labels, classes = _binary(path, read) or _python(path, read)
        for label in np.unique(np.concatenate(list(labels.values()))):
            if not 0 <= label < len(classes):
                raise DataError(
                    f"{path} is {name} but damaged (label {label} of {len(classes)} classes); extract or download "
                    "it again"
                )
        return _source(images, labels, classes, side, path=path, memory=memory, progress=progress, known=name)

    return Opened(_CIFAR_SIDE, cifar, 60_000)


_Parts = tuple[str, dict[str, Pixels], dict[str, NDArray[np.int64]], tuple[str, ...]]
"""Name of the data set, images and labels by split, and classes."""


def _binary(path: Path, read: Callable[[str], bytes | None]) -> _Parts | None:
    for name, (train, test, label_bytes, meta) in _CIFAR.items():
        if read(train[0]) is None:
            continue
        classes = tuple((read(meta) or b"").decode(errors="replace").split())
        if not classes:
            raise DataError(f"{path} is {name} but lacks {meta}; extract or download it again")
        images, labels = {}, {}
        for split, files in (("train", train), ("test", test)):
            parts = [_records(path, file, read(file), label_bytes) for file in files]
            labels[split] = np.concatenate([part[:, label_bytes - 1] for part in parts]).astype(np.int64)
            images[split] = _as_images(np.concatenate([part[:, label_bytes:] for part in parts]))
        return name, images, labels, classes
    return None


def _python(path: Path, read: Callable[[str], bytes | None]) -> _Parts:
    name = "cifar-10" if read(_CIFAR_PYTHON["cifar-10"][0][0]) is not None else "cifar-100"
    train, test, key, meta, names = _CIFAR_PYTHON[name]
    images, labels = {}, {}
    try:
        classes = tuple(map(_text, _unpickled(path, meta, read(meta))[names]))
        for split, files in (("train", train), ("test", test)):
            parts = [_unpickled(path, file, read(file)) for file in files]
            labels[split] = np.concatenate([np.asarray(part[key], dtype=np.int64) for part in parts])
            images[split] = _as_images(np.concatenate([_pixels_of(part["data"]) for part in parts]))
            if len(labels[split]) != len(images[split]):
                raise ValueError(
                    f"{counted(len(images[split]), 'image')} and {counted(len(labels[split]), 'label')} in {split} "
                    "do not fit"
                )
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} is {name} but damaged ({error}); extract or download it again") from error
    return name, images, labels, classes


def _as_images(flat: Pixels) -> Pixels:
    return flat.reshape(-1, 3, _CIFAR_SIDE, _CIFAR_SIDE).transpose(0, 2, 3, 1)


class _Inert:
    """A placeholder for an array or its dtype in a pickle: keeps its arguments and does nothing."""

    def __init__(self, *arguments: object) -> None:
        self.given: tuple[object, ...] = arguments

    def __setstate__(self, state: tuple[object, ...]) -> None:
        self.given = (*self.given, *state)


class _PlainUnpickler(pickle.Unpickler):
    """Reads pickles of arrays of bytes, numbers, text and containers, and refuses everything else.

    No class named by a pickle is used, not even NumPy's own, which would accept forged memory.
    """

    def find_class(self, module_name: str, global_name: str) -> object:
        """The placeholder for a class, which does nothing."""
        if (module_name, global_name) == ("_codecs", "encode"):
            return lambda text, encoding: text.encode("latin1")
        if (module_name, global_name) not in _ARRAYS:
            raise pickle.UnpicklingError(f"it names {module_name}.{global_name}, which no data set needs")
        return _Inert


_ARRAYS = {
    ("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct"), ("numpy", "ndarray"),
    ("numpy", "dtype"),
}  # fmt: skip
"""What pickled arrays refer to."""


def _pixels_of(value: object) -> Pixels:
    """The array of bytes behind an `_Inert`.

    Raises:
        ValueError: it is something else.
    """
    try:
        _, _, _, _, shape, kind, by_column, content = value.given  # type: ignore[attr-defined]
        if by_column or kind.given[0] not in ("u1", b"u1"):
            raise ValueError("an array is not one of bytes in row order")
        return np.frombuffer(content, dtype=np.uint8).reshape(shape)
    except (AttributeError, TypeError) as error:
        raise ValueError("there is no array of pixels") from error


def _unpickled(path: Path, name: str, content: bytes | None) -> dict[str, Any]:
    if content is None:
        raise DataError(f"{path}: {name} is missing; extract or download it again")
    try:
        values = _PlainUnpickler(io.BytesIO(content), encoding="bytes").load()
        return {_text(key): value for key, value in values.items()}
    except Exception as error:  # a damaged pickle raises almost anything
        raise DataError(f"{path}: {name} is not a CIFAR file ({error}); extract or download it again") from error


def _text(value: object) -> str:
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value)


def _load(path: Path) -> dict[str, NDArray[np.generic]]:
    if path.exists() and not path.is_file():  # opening a pipe would block
        raise DataError(f"{path} cannot be read as arrays: it is a folder or a device")
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (
        OSError,
        MemoryError,
        NotImplementedError,
        RuntimeError,
        ValueError,
        TypeError,
        AttributeError,
        EOFError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise DataError(
            f"{path} cannot be read ({error}); write it with numpy.savez from arrays of numbers or text"
        ) from error


def _checked_images(path: Path, name: str, images: NDArray[np.generic]) -> NDArray[np.generic]:
    if images.dtype.kind not in "buif":
        raise DataError(f"{path}: `{name}` must hold numbers, best 8-bit values 0..255 (uint8); got {images.dtype}")
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[3] not in (1, 3) or 0 in images.shape:
        raise DataError(
            f"{path}: `{name}` must have shape (n, height, width) or (n, height, width, 1 or 3); got {images.shape}"
        )
    return images


def _numbered(
    path: Path, labels: Mapping[str, NDArray[np.generic]], names: NDArray[np.generic] | None
) -> tuple[dict[str, NDArray[np.int64]], tuple[str, ...]]:
    """Labels as numbers from 0, and the class names."""
    every = np.unique(np.concatenate(list(labels.values())))
    if every.dtype.kind in "US":
        spelled = [unicodedata.normalize("NFC", _text(name)) for name in every]
        classes = tuple(dict.fromkeys(spelled))
        number = np.array([classes.index(name) for name in spelled])  # two Unicode forms of a name are one class
        return {split: number[np.searchsorted(every, values)] for split, values in labels.items()}, classes
    if every.dtype.kind not in "iu":
        raise DataError(f"{path}: labels must be whole numbers or names; got {every.dtype}")
    classes = tuple(map(_text, every if names is None else names.reshape(-1)))
    if names is None:
        return {split: np.searchsorted(every, values) for split, values in labels.items()}, classes
    if every[0] < 0 or every[-1] >= len(classes):
        raise DataError(f"{path}: labels must lie in 0..{len(classes) - 1}, the number of `classes`; got {every[-1]}")
    return {split: values.astype(np.int64) for split, values in labels.items()}, classes


def _source(
    images: Mapping[str, NDArray[np.generic]],
    labels: Mapping[str, NDArray[np.int64]],
    classes: tuple[str, ...],
    side: int,
    *,
    path: Path,
    memory: float | None,
    progress: Reporter,
    known: str = "",
) -> Source:
    if len(classes) < 2:
        raise DataError(f"a classifier needs at least 2 classes; got {', '.join(classes)}")
    count = sum(map(len, images.values()))
    if not fits(count, side, memory):
        raise DataError(
            f"{count:,} images of {side} x {side} pixels from {path} do not fit into --memory; use smaller "
            "--resolutions, or a folder of image files, which need not fit"
        )

    squares: dict[str, list[Pixels | DeepImage]] = {split: [] for split in images}
    with ThreadPoolExecutor(available_cores()) as pool:
        for split, part in images.items():
            try:
                for square in pool.map(partial(_square, side=side), part):
                    squares[split].append(square)
                    progress.step()
            except ValueError as error:
                raise DataError(f"{path}: image {len(squares[split])} of {split} cannot be used: {error}") from error
    channels = max(channels_of(image) for part in squares.values() for image in part[:1])
    pixels = {split: joined(part, side, channels) for split, part in squares.items()}
    names = {split: numbered(len(part)) for split, part in images.items()}
    return Source(classes=classes, pixels=pixels, labels=dict(labels), names=names, known=known)


def _square(image: NDArray[np.generic], side: int) -> Pixels | DeepImage:
    if image.dtype != np.uint8:
        return square_of(image, side)
    return decode(Image.fromarray(image[..., 0] if image.shape[2] == 1 else image), side)


def _reader(path: Path) -> Callable[[str], bytes | None] | None:
    """A function from a file's name to its content, for a folder or a tar archive; None for neither."""
    if path.is_dir():
        roots = [path, *(path / name for name in _CIFAR_FOLDERS)]

        @functools.cache
        def read(name: str) -> bytes | None:
            return next((f.read_bytes() for f in (root / name for root in roots) if f.is_file()), None)

        return read
    members: dict[str, bytes] = {}
    try:
        if not path.is_file() or not tarfile.is_tarfile(path):
            return None
        with tarfile.open(path) as archive:
            for entry in archive:
                name = entry.name.rpartition("/")[2]
                file = archive.extractfile(entry) if entry.isfile() and name in _CIFAR_FILES else None
                if file is not None:
                    members[name] = file.read()
            while archive.fileobj is not None and archive.fileobj.read(2**20):
                pass  # read on to the checksum at the end of the compressed data
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise DataError(f"{path} is damaged ({error}); download it again") from error
    return members.get


def _records(path: Path, name: str, content: bytes | None, label_bytes: int) -> Pixels:
    size = label_bytes + 3 * _CIFAR_SIDE**2
    if not content or len(content) % size:
        raise DataError(f"{path}: {name} is {'truncated' if content else 'missing'}; extract or download it again")
    return np.frombuffer(content, dtype=np.uint8).reshape(-1, size)
