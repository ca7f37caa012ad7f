"""Where images come from: the bundled digits, or a folder of class folders."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from nat2.errors import DataError

Pixels = NDArray[np.uint8]

EXTENSIONS = frozenset(
    [
        ".png",
        ".jpg",
        ".jpeg",
        ".jfif",
        ".bmp",
        ".gif",
        ".tif",
        ".tiff",
        ".webp",
        ".ppm",
        ".pgm",
        ".pbm",
        ".pnm",
        ".jp2",
        ".avif",
    ]
)
_SPLIT_NAMES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


@dataclass(frozen=True)
class Source:
    """Images as read, before they are split: everything, or by the split that they came in."""

    classes: tuple[str, ...]
    pixels: Mapping[str, Pixels]
    """By split name (``all`` if the source has no splits), shape (n, side, side, channels)."""
    labels: Mapping[str, NDArray[np.int64]]
    """By split name, shape (n,)."""
    notes: tuple[str, ...] = ()
    """What a user should know about how the images were read."""
    flip: bool = True
    """Whether a mirrored image is as good as the original."""


def digits(side: int) -> Source:
    """The 1,797 real 8x8 digits that scikit-learn bundles, enlarged to `side`."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = (bunch.images * (255 / 16)).round().astype(np.uint8)
    enlarged = [np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC)) for image in images]
    return Source(
        classes=tuple(map(str, bunch.target_names)),
        pixels={"all": np.stack(enlarged)[..., None]},
        labels={"all": bunch.target.astype(np.int64)},
        flip=False,
    )


def folder(root: Path, *, side: int, skip_bad_images: bool = False) -> Source:
    """A folder of class folders, optionally under ``train/``, ``val/`` and ``test/``.

    Every image is turned upright, reduced or enlarged to `side` along its shorter side and cropped to its centre
    square. Grey images stay grey if all are; palettes are resolved, transparency is laid on white, 16 bits become 8.

    Raises:
        DataError: the folder is missing or empty, has one class only, its splits have different classes, or images
            cannot be read and `skip_bad_images` is not set (all of them are named).
    """
    paths, classes, ignored = list_images(root)
    check_memory(sum(map(len, paths.values())), side)
    notes = [f"{ignored} files are not images by their extension and are left out"] if ignored else []
    decoded: dict[str, Pixels] = {}
    labels: dict[str, NDArray[np.int64]] = {}
    bad: list[str] = []
    read: dict[str, list[tuple[Pixels, int]]] = {}
    for split, files in paths.items():
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            results = pool.map(lambda item: _try_decode(item[0], side), files)
            read[split] = []
            for (path, label), result in zip(files, results, strict=True):
                if isinstance(result, str):
                    bad.append(f"{path.relative_to(root)}: {result}")
                else:
                    read[split].append((result, label))
    if bad and not skip_bad_images:
        raise DataError(
            f"{len(bad)} images cannot be read; mend or delete them, or leave them out with --skip-bad-images:\n  "
            + "\n  ".join(bad)
        )
    if bad:
        notes.append(
            f"{len(bad)} images cannot be read and are left out: {', '.join(bad[:5])}" + "..." * (len(bad) > 5)
        )
    grey = all(pixels.shape[2] == 1 for rows in read.values() for pixels, _ in rows)
    for split, rows in read.items():
        if rows:
            arrays = [pixels if grey else np.broadcast_to(pixels, (side, side, 3)) for pixels, _ in rows]
            decoded[split] = np.stack(arrays)
            labels[split] = np.array([label for _, label in rows], dtype=np.int64)
    return Source(classes=classes, pixels=decoded, labels=labels, notes=tuple(notes))


def list_images(root: Path) -> tuple[dict[str, list[tuple[Path, int]]], tuple[str, ...], int]:
    """Image files with their class, by split, the classes, and how many other files there are.

    Raises:
        DataError: there is no such folder, it holds no images or one class, or its splits have different classes.
    """
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise DataError(f"--data must name a folder of class folders; {root} {what}")
    roots = {"all": root}
    splits = [p for p in _folders(root) if p.name.lower() in _SPLIT_NAMES]
    found = {_SPLIT_NAMES[p.name.lower()]: p for p in splits}
    if len(found) < len(splits):
        raise DataError(f"{root} holds a split twice ({', '.join(p.name for p in splits)}); keep one folder of each")
    others = [p.name for p in _folders(root) if p not in splits]
    if "train" in found:
        if others:
            raise DataError(
                f"{root} holds train/ and also {', '.join(others[:5])}; either put every class under train/ "
                "(and val/, test/), or have class folders only"
            )
        roots = found
    elif splits and not others:
        raise DataError(
            f"{root} holds {', '.join(p.name + '/' for p in splits)} but no train/; add the training images"
        )
    listed: dict[str, list[tuple[Path, str]]] = {}
    ignored = 0
    for split, base in roots.items():
        listed[split] = []
        for class_folder in _folders(base):
            files = sorted(
                p for p in class_folder.rglob("*") if p.is_file() and not _hidden(p.relative_to(class_folder))
            )
            images = [p for p in files if p.suffix.lower() in EXTENSIONS]
            ignored += len(files) - len(images)
            listed[split] += [(p, class_folder.name) for p in images]
    first = "train" if "train" in listed else "all"
    classes = tuple(sorted({name for _, name in listed[first]}))
    _check_classes(root, listed, classes, first)
    index = {name: label for label, name in enumerate(classes)}
    return (
        {split: [(path, index[name]) for path, name in files] for split, files in listed.items() if files},
        classes,
        ignored,
    )


def check_memory(count: int, side: int) -> None:
    """Refuse what does not fit.

    Raises:
        DataError: the images at this side would take more than half of the machine's memory.
    """
    needed = count * side**2 * 3
    available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > available / 2:
        raise DataError(
            f"{count:,} images of {side} x {side} pixels take {needed / 2**30:.1f} GiB, more than half of the "
            f"{available / 2**30:.1f} GiB of memory; use smaller --resolutions"
        )


def _check_classes(
    root: Path, listed: Mapping[str, Sequence[tuple[Path, str]]], classes: tuple[str, ...], first: str
) -> None:
    if not classes:
        raise DataError(
            f"no images found in {root}: put each class's images in a folder of its own "
            f"({root.name}/cat/1.jpg, {root.name}/dog/1.jpg); known are {', '.join(sorted(EXTENSIONS))}"
        )
    if len(classes) == 1:
        raise DataError(
            f"a classifier needs at least 2 classes; {root} has one class folder with images, {classes[0]!r}"
        )
    for split, files in listed.items():
        names = {name for _, name in files}
        if split != first and names and names != set(classes):
            different = sorted(names ^ set(classes))
            raise DataError(
                f"every split must have the same classes; {split}/ and {first}/ differ in {', '.join(different[:10])}"
            )


def _hidden(path: Path) -> bool:
    """Whether a file, or a folder that it is in, has a name like ``.thumbnails``: such are copies, not data."""
    return any(part.startswith(".") for part in path.parts)


def _folders(root: Path) -> list[Path]:
    return sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))


def _try_decode(path: Path, side: int) -> Pixels | str:
    """The decoded image, or why it cannot be read."""
    try:
        with warnings.catch_warnings():
            # Worker threads share the filters; a warning about a file's metadata is no reason to stop.
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                return decode(image, side)
    except Exception as error:  # PIL raises almost anything on damaged files
        return f"{type(error).__name__}: {error}".removeprefix("UnidentifiedImageError: ").splitlines()[0]


def decode(image: Image.Image, side: int, *, grey: bool | None = None) -> Pixels:
    """The centre square of an image at `side` pixels, shape (side, side, channels).

    There is 1 channel if the image is grey, else 3; `grey` decides it otherwise.

    Raises:
        ValueError: the image's mode has no fixed range (32-bit floats).
    """
    upright: Image.Image = ImageOps.exif_transpose(image)
    if upright.mode == "F":
        raise ValueError("32-bit floating-point images have no fixed range; save them as 8 or 16 bits")
    if upright.mode.startswith("I"):
        wide = np.asarray(upright).astype(np.int64)
        upright = Image.fromarray((wide.clip(0, 65535) // 257).astype(np.uint8))
    if upright.mode == "P" or "A" in upright.getbands() or "transparency" in upright.info:
        coloured = upright.convert("RGBA")
        white = Image.new("RGBA", coloured.size, "white")
        flat = Image.alpha_composite(white, coloured).convert("RGB")
        upright = flat.convert("L") if upright.mode == "LA" else flat
    elif upright.mode == "1":
        upright = upright.convert("L")
    elif upright.mode not in ("L", "RGB"):
        upright = upright.convert("RGB")
    if grey is not None:
        upright = upright.convert("L" if grey else "RGB")
    square = ImageOps.fit(upright, (side, side), Image.Resampling.BICUBIC)
    pixels: Pixels = np.asarray(square)
    return np.expand_dims(pixels, 2) if pixels.ndim == 2 else pixels


def side_of_files(root: Path) -> int:
    """Median length of the images' shorter sides, in pixels, from the headers of at most a thousand files.

    Raises:
        DataError: the folder cannot be used.
    """
    files = [path for paths in list_images(root)[0].values() for path, _ in paths]
    sides = []
    for path in files[:: max(1, len(files) // 1000)]:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with Image.open(path) as image:
                    sides.append(min(image.size))
        except Exception:  # told when the image is decoded
            continue
    return int(np.median(sides)) if sides else 64
