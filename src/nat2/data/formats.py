"""What a file contains: an image, a picture or video in a format that cannot be read, or something else."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from PIL import Image, UnidentifiedImageError, features


def _register_heif() -> bool:
    """Register HEIC with Pillow, if the extra is installed."""
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
"""Extensions that mark a file as an image without opening it; one that cannot be decoded is reported as bad."""
_READABLE = (
    "PNG", "JPEG", "GIF", "BMP", "DIB", "TIFF", "WEBP", "PPM", "JPEG2000", "AVIF", "HEIF", "ICO", "ICNS", "PCX",
    "SGI", "SUN", "QOI", "DDS", "PSD", "FITS",
)  # fmt: skip
"""Pillow's names of the formats that it decodes by itself: no PostScript, no videos, nothing header-only.

TGA is missing because it has no signature."""

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
    "JPEG XR": ".jxr .wdp .hdp",
    "Windows metafile": ".wmf .emf",
    "medical volume": ".nii .nii.gz .nrrd .mha .mhd",
    "microscope image": ".czi .lif .nd2 .oib .oif .vsi",
    "NumPy array": ".npy",
    "iCloud placeholder": ".icloud",
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
    (b"version https://git-lfs", "Git LFS pointer"),
)
_HEAD = 132  # bytes; the signature of DICOM starts at 128


def is_image(path: Path) -> bool:
    """Whether a file is an image that can be read, judged by its extension or else its content."""
    suffix = _suffix(path)
    if suffix in EXTENSIONS:
        return True
    if suffix in _UNREADABLE_EXTENSIONS:  # Pillow would mistake the small preview in a RAW file for the image
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
    except Exception:  # a format's reader may raise anything on another kind of file
        return False


@cache
def _readable() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in _READABLE if name in Image.OPEN)


def unreadable_format(path: Path) -> str:
    """The format of a picture or video that cannot be read, such as ``HEIC``; empty if it is something else."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError:
        head = b""
    return _format_of(head) or _UNREADABLE_EXTENSIONS.get(_suffix(path), "")


def _suffix(path: Path) -> str:
    return ".nii.gz" if path.name.lower().endswith(".nii.gz") else path.suffix.lower()


def why_unreadable(path: Path | None, error: Exception) -> str:
    """Why an image cannot be read, without its name.

    Args:
        path: The file; None if the image comes from elsewhere.
        error: What reading it raised.
    """
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if path is not None and (unreadable := unreadable_format(path)):
        article = {True: "an ", False: "a "}[unreadable[0].lower() in "aeiou"] if unreadable[-1].islower() else ""
        return f"its content is {article}{unreadable}; {way_out([unreadable])}"
    if isinstance(error, UnidentifiedImageError):
        return "its content is no image in a known format" if path is None else _not_an_image(path)
    return (str(error) or type(error).__name__).splitlines()[0]


def _not_an_image(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(_HEAD).lstrip().lower()
    if not head:
        return "the file is empty"
    if head.startswith((b"<!doctype html", b"<html")):
        return "its content is a web page; download the image again"
    if head.startswith((b"ii*\0", b"mm\0*", b"ii+\0", b"mm\0+")):
        return (
            "Pillow does not read this kind of TIFF; convert it to TIFF with 1 band of at most 32 bits, or with 3 of 8 "
            "or 16 bits"
        )
    return "its content is no image in a known format"


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


_OTHER_WAYS = {
    "video": "save frames of the videos as images",
    "Git LFS pointer": "fetch the files that the pointers stand for (git lfs pull)",
    "iCloud placeholder": "download the files from iCloud (in the Finder: Download Now)",
    "broken link": "repair or delete the links",
}


def way_out(formats: Iterable[str]) -> str:
    """How to make files in unreadable formats usable."""
    found = set(formats)
    ways = ["install the extra for HEIC (pip install 'nat2[heic]')"] if "HEIC" in found else []
    ways += ["install a newer Pillow for AVIF (pip install -U Pillow)"] if "AVIF" in found else []
    ways += [way for kind, way in _OTHER_WAYS.items() if kind in found]
    if found - {"HEIC", "AVIF", *_OTHER_WAYS}:
        ways.append("convert the files to PNG or JPEG")
    elif ways and not found & _OTHER_WAYS.keys():
        ways[-1] += " or convert the files to JPEG"
    return ", ".join(ways)
