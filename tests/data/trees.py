"""Folders of tiny images, and what a listing found in them."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import pytest
from PIL import Image

from nat2.data import formats
from nat2.data.listing import Listing


def encoded(kind: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (16, 16), (200, 10, 10)).save(file, kind)  # Pillow before 13 writes no smaller icons
    return file.getvalue()


PNG = encoded("PNG")
HEIC = base64.b64decode("AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZg==")  # the head of a photograph of a telephone
OTHERS = {".heic": HEIC, ".txt": b"no image", ".xml": b"<a/>", ".pdf": b"%PDF-1.7", ".zip": b"PK", ".npz": b"PK"}


def tree(root: Path, *paths: str) -> Path:
    """Files: images, unless their name says otherwise; those that end in a slash are empty folders."""
    for path in paths:
        place = root / path
        (place if path.endswith("/") else place.parent).mkdir(parents=True, exist_ok=True)
        if not path.endswith("/"):
            place.write_bytes(OTHERS.get(place.suffix.lower(), PNG))
    return root


def many(folders: str, count: int = 1) -> list[str]:
    """Paths of images in folders, named one behind the other."""
    return [f"{each}/{number}.png" for each in folders.split() for number in range(count)]


def counted(listing: Listing) -> dict[str, dict[str, int]]:
    """Images by split and class."""
    found: dict[str, dict[str, int]] = {}
    for split, items in listing.items.items():
        for _, label in items:
            held = found.setdefault(split, {})
            held[listing.classes[label]] = held.get(listing.classes[label], 0) + 1
    return found


ONE = {"cat": 1, "dog": 1}
PETS = "{0}/cat {0}/dog"


def pets(*splits: str) -> list[str]:
    return [path for split in splits for path in many(PETS.format(split))]


def without_heic(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the extra were not installed."""
    monkeypatch.setattr(formats, "HEIC", False)
    monkeypatch.setattr(formats, "EXTENSIONS", formats.EXTENSIONS - {".heic", ".heif", ".hif"})
