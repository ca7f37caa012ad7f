"""What a file holds, by its content: an image, a picture or video that cannot be read, or something else."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from PIL import Image, features


def _register_heif() -> bool:
    """Teach Pillow to read HEIC, if the extra is installed."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return False
    register_heif_opener()
    return True


HEIC = _register_heif()
"""Whether HEIC files can be read."""
_DECODED = ".png .apng .jpg .jpeg .jpe .jfif .mpo .bmp .dib .gif .tif .tiff .webp .ppm .pgm .pbm .pnm .jp2 .j2k .tga"
_AVIF = bool(features.check("avif"))
EXTENSIONS = frozenset(_DECODED.split() + [".avif"] * _AVIF + [".heic", ".heif", ".hif"] * HEIC)
"""Of files that are images without a look into them: one that cannot be decoded is reported as a bad image."""
_READABLE = (
    "PNG", "JPEG", "GIF", "BMP", "DIB", "TIFF", "WEBP", "PPM", "JPEG2000", "AVIF", "HEIF", "ICO", "ICNS", "PCX",
    "SGI", "SUN", "QOI", "DDS", "PSD", "FITS",
)  # fmt: skip
"""Pillow's names of what it decodes by itself: no PostScript, no videos, no formats of which it knows the header only.

TGA is missing because its files have no signature."""

_UNREADABLE = {
    "HEIC": ".heic .heif .hif",
    "AVIF": ".avif",
    "JPEG XL": ".jxl",
    "camera RAW": ".cr2 .cr3 .crw .nef .nrw .arw .sr2 .srf .dng .orf .rw2 .raf .raw .pef .srw .x3f .3fr .iiq .erf .kdc "
    ".mrw .rwl",
    "PDF": ".pdf",
    "SVG": ".svg .svgz",
    "PostScript": ".eps .ps .ai",
    "video": ".mp4 .m4v .mov .avi .mkv .webm .wmv .mpg .mpeg .3gp .mts .m2ts .flv .ogv",
    "DICOM": ".dcm .dicom",
    "OpenEXR": ".exr",
    "Radiance HDR": ".hdr",
    "XCF": ".xcf",
    "NumPy array": ".npy",
}
_UNREADABLE_EXTENSIONS = {suffix: name for name, suffixes in _UNREADABLE.items() for suffix in suffixes.split()}
_HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")
_SIGNATURES = (
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"%PDF-", "PDF"),
    (b"%!PS", "PostScript"),
    (b"<svg", "SVG"),
    (b"\x1aE\xdf\xa3", "video"),
    (b"\0\0\x01\xba", "video"),
    (b"\0\0\x01\xb3", "video"),
    (b"FLV\x01", "video"),
    (b"v/1\x01", "OpenEXR"),
    (b"#?RADIANCE", "Radiance HDR"),
    (b"gimp xcf", "XCF"),
    (b"\x93NUMPY", "NumPy array"),
)
_HEAD = 132  # bytes; DICOM has its signature behind 128


def is_image(path: Path) -> bool:
    """Whether a file is an image that can be read, by its extension or else by its content."""
    suffix = path.suffix.lower()
    if suffix in EXTENSIONS:
        return True
    if suffix in _UNREADABLE_EXTENSIONS:  # Pillow would take the small preview of a RAW file for the image
        return False
    try:
        if not path.stat().st_size:
            return False
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=_readable()):
                return True
    except Image.DecompressionBombError:
        return True
    except Exception:  # what a format's reader raises on another kind of file
        return False


@cache
def _readable() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in _READABLE if name in Image.OPEN)


def unreadable_format(path: Path) -> str:
    """The format of a picture or video that cannot be read, such as ``HEIC``; empty if the file is something else."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError:
        head = b""
    return _format_of(head) or _UNREADABLE_EXTENSIONS.get(path.suffix.lower(), "")


def _format_of(head: bytes) -> str:
    if head[4:8] == b"ftyp":
        if head[8:12] in (b"avif", b"avis"):
            return "" if _AVIF else "AVIF"
        if head[8:12] in _HEIC_BRANDS:
            return "" if HEIC else "HEIC"
        return "camera RAW" if head[8:12] == b"crx " else "video"
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "video"
    if head[128:132] == b"DICM":
        return "DICOM"
    return next((name for signature, name in _SIGNATURES if head.startswith(signature)), "")


def way_out(formats: Iterable[str]) -> str:
    """How files in formats that cannot be read become usable."""
    found = set(formats)
    ways = ["install the extra for HEIC (pip install 'nat2[heic]')"] if "HEIC" in found else []
    ways += ["install a newer Pillow for AVIF (pip install -U Pillow)"] if "AVIF" in found else []
    ways += ["save frames of the videos as images"] if "video" in found else []
    if found - {"HEIC", "AVIF", "video"}:
        ways.append("convert the files to PNG or JPEG")
    elif ways and "video" not in found:
        ways[-1] += " or convert the files to JPEG"
    return ", ".join(ways)
