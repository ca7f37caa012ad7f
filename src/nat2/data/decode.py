"""Image files to squares of pixels: upright, opaque, grey or colour, at one side."""

from __future__ import annotations

import io
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps
from PIL.TiffImagePlugin import TiffImageFile

from nat2.data.depth import DeepImage, Pixels, sketch

DECODER = 1
"""Raise this number whenever the pixels that `read_square` makes of a file change: caches hold them."""
JPEG_GAP = 3
"""A JPEG is decoded at a half, a quarter or an eighth of its size if at least this many times the side is left."""
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # as Pillow makes colours grey
_NO_RANGE = "floating-point values have no fixed range, and no training image had any; save it in 8 bits"
_UNKNOWN = 1e30  # anything beyond marks a missing value
_FOREIGN = "B" if sys.byteorder == "little" else "L"
_LOWER_BYTES = {
    f"{bands};16{order}": f"{bands};16{other}"
    for bands in ("RGB", "RGBX", "RGBA")
    for order, other in (("B", "L"), ("L", "B"), ("N", _FOREIGN))
}
"""Pillow keeps the upper byte of 16-bit colours; read in the other byte order, that is the lower one."""
_SAMPLE_FORMAT, _UNSIGNED, _BITS, _EXTRA_SAMPLES, _NO_DATA = 339, 1, 258, 338, 42113  # TIFF tags; the last is GDAL's
_ALPHA = (1, 2)  # among the extra samples


def read_square(
    source: Path | bytes,
    side: int,
    *,
    grey: bool | None = None,
    deep: bool = True,
    floats: bool = True,
    jpeg_gap: int = JPEG_GAP,
) -> Pixels | DeepImage:
    """The centre square of an image file at `side` pixels, shape (side, side, channels).

    Args:
        source: The file, or its content.
        side: Of the result, in pixels.
        grey: Whether there is 1 channel or 3; by default 1 if the image is grey.
        deep: Keep images deeper than 8 bits as they are; otherwise 65535 becomes white.
        floats: Accept floating-point values.
        jpeg_gap: See `JPEG_GAP`; 0 decodes JPEGs at full size.

    Raises:
        ValueError: the values are floating-point numbers and `floats` is false, or none of them is finite.
        Exception: whatever Pillow raises on damaged files.
    """
    with warnings.catch_warnings():
        # Worker threads share the filters; a warning about a file's metadata is no reason to stop.
        warnings.simplefilter("ignore")
        with _opened(source) as image:
            if image.mode == "F" and not floats:
                raise ValueError(_NO_RANGE)
            if deep and _is_deep(image):
                return _deep_square(source, image, side, grey)
            if jpeg_gap:
                image.draft(None, (jpeg_gap * side, jpeg_gap * side))
            return decode(image, side, grey=grey)


def decode(image: Image.Image, side: int, *, grey: bool | None = None) -> Pixels:
    """The centre square of an image at `side` pixels in 8 bits, shape (side, side, channels).

    It has 1 channel if the image is grey, else 3, unless `grey` says otherwise.

    Raises:
        ValueError: the image's mode has no fixed range (32-bit floats).
    """
    upright: Image.Image = ImageOps.exif_transpose(image)
    if upright.mode == "F":
        raise ValueError(_NO_RANGE)
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


def square_of(values: NDArray[np.generic], side: int, *, opacity: NDArray[np.float32] | None = None) -> DeepImage:
    """The centre square of an image of any range at `side` pixels.

    Values that are not numbers or lie beyond 10^30 are missing: they become the smallest other value of the image,
    or, if positive, the largest.

    Args:
        values: Shape (height, width, 1 or 3).
        side: Of the result, in pixels.
        opacity: 0..1, shape (height, width, 1).

    Raises:
        ValueError: no value is a finite number.
    """
    given = values.astype(np.float32)
    seen = (np.abs(given) < _UNKNOWN) & (True if opacity is None else opacity > 0)
    if not seen.any():
        if opacity is None or not np.isfinite(given).all():
            raise ValueError("no value in it is a finite number")
        return DeepImage(np.zeros((side, side, given.shape[2]), np.float32), None, np.ones((side, side, 1), np.float32))
    low, high = float(given.min(where=seen, initial=np.inf)), float(given.max(where=seen, initial=-np.inf))
    known = np.where(np.abs(given) < _UNKNOWN, given, np.where(given > 0, np.float32(high), np.float32(low)))
    if opacity is None:
        resized = _fitted(known, side)
        return DeepImage(resized, sketch(resized, low, high))
    resized, clear = _fitted(known * opacity, side), _fitted(1 - opacity, side)
    opaque = resized[clear[..., 0] <= 0]
    return DeepImage(resized, sketch(opaque if opaque.size else given[seen], low, high), clear)


def _opened(source: Path | bytes) -> Image.Image:
    return Image.open(source if isinstance(source, Path) else io.BytesIO(source))


def _is_deep(image: Image.Image) -> bool:
    return image.mode == "F" or image.mode.startswith("I") or _raw_mode(image) in (*_LOWER_BYTES, "LA;16B")


def _raw_mode(image: Image.Image) -> str:
    """How the file stores its pixels, in Pillow's terms; empty if that is unknown."""
    arguments = image.tile[0].args if isinstance(image, ImageFile.ImageFile) and image.tile else ""
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""


def _deep_square(source: Path | bytes, image: Image.Image, side: int, grey: bool | None) -> DeepImage:
    values = _stored(source, image)
    opacity, transparent = None, image.info.get("transparency")
    if isinstance(image, TiffImageFile):
        values = _without_missing(values, image.tag_v2.get(_NO_DATA))
        if values.shape[2] == 4 and image.tag_v2.get(_EXTRA_SAMPLES, (0,))[0] not in _ALPHA:  # infrared, for example
            values = values[..., :3]
    if values.shape[2] in (2, 4):
        values, opacity = values[..., :-1], (values[..., -1:] / 65535).astype(np.float32)
    elif transparent is not None and values.shape[2] == np.size(transparent):
        opacity = (values != np.array(transparent)).any(axis=2, keepdims=True).astype(np.float32)
    if grey and values.shape[2] == 3:
        values = (values @ _LUMA)[..., None]
    return square_of(values, side, opacity=opacity)


def _without_missing(values: NDArray[Any], marker: object) -> NDArray[Any]:
    """The values, with NaN for those that the file declares missing."""
    try:
        missing = values == float(str(marker).strip(" \0"))
    except ValueError:  # no marker, or none that is a number
        return values
    return np.where(missing, np.float32(np.nan), values) if missing.any() else values


def _stored(source: Path | bytes, image: Image.Image) -> NDArray[Any]:
    """The values of an upright image as they are in the file, shape (height, width, bands)."""
    raw = _raw_mode(image)
    if raw in _LOWER_BYTES:
        with _opened(source) as again:
            _store_as(again, _LOWER_BYTES[raw])
            lower = _upright(again)
        return np.asarray(np.float32(256) * _upright(image) + lower)
    if raw == "LA;16B":
        _store_as(image, "RGBA")  # four bytes a pixel: two of grey, two of opacity
        parts = _upright(image)
        return np.asarray(np.float32(256) * parts[..., ::2] + parts[..., 1::2])
    values = _upright(image)[..., None]
    if isinstance(image, TiffImageFile) and image.mode == "I" and image.tag_v2.get(_BITS) == (32,):
        unsigned = image.tag_v2.get(_SAMPLE_FORMAT, (_UNSIGNED,)) == (_UNSIGNED,)
        return values.view(np.uint32) if unsigned else values
    return values


def _store_as(image: Image.Image, raw: str) -> None:
    """Make Pillow read the pixels as if the file stored them in another raw mode."""
    assert isinstance(image, ImageFile.ImageFile)
    image.tile = [
        tile._replace(args=(raw, *tile.args[1:]) if isinstance(tile.args, tuple) else raw) for tile in image.tile
    ]


def _upright(image: Image.Image) -> NDArray[Any]:
    return np.asarray(ImageOps.exif_transpose(image))


def _fitted(values: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """The centre square of an array (height, width, channels), resized as images are."""
    bands = [Image.fromarray(np.ascontiguousarray(values[..., band])) for band in range(values.shape[2])]
    return np.stack([np.asarray(ImageOps.fit(b, (side, side), Image.Resampling.BICUBIC)) for b in bands], axis=2)
