"""Any data set of the Hugging Face hub by name, through the library `datasets` (extra ``hub``)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Protocol, TypedDict

from nat2.data.known import known_as
from nat2.data.layout import splits_of
from nat2.data.listing import Listing
from nat2.errors import ConfigError, DataError
from nat2.wording import counted


def list_hub(name: str) -> Listing:
    """The images of a data set: its first column of images, classified by its first column of class labels.

    Args:
        name: ``owner/name`` or ``name``, with ``:configuration`` appended if it has several; or a local folder.

    Raises:
        ConfigError: the extra is not installed.
        DataError: there is no such data set, or it has no column of images or of labels, or no training images.
    """
    try:
        import datasets
    except ImportError as error:
        raise ConfigError("--data hub:NAME needs the library `datasets`: pip install 'nat2[hub]'") from error
    repository, _, configuration = name.partition(":")
    try:
        datasets.disable_progress_bars()
        found = datasets.load_dataset(repository, configuration or None)
    except Exception as error:  # the library may raise anything; its message says what is wrong
        raise DataError(f"the data set {name} cannot be loaded from the hub: {error}") from error
    named = splits_of(found)
    splits = {named[name]: part for name, part in found.items() if name in named}
    if len(splits) < len(named):
        raise DataError(f"{name} holds a split twice, by two names: {', '.join(found)}")
    if "train" not in splits:
        raise DataError(f"{name} has no split called train; it has {', '.join(found)}")
    features = splits["train"].features
    image = next((key for key, kind in features.items() if isinstance(kind, datasets.Image)), None)
    label = next((key for key, kind in features.items() if isinstance(kind, datasets.ClassLabel)), None)
    if image is None or label is None:
        raise DataError(
            f"{name} must have a column of images and one of class labels; it has "
            + ", ".join(f"{key} ({type(kind).__name__})" for key, kind in features.items())
        )
    items, names = {}, {}
    unused = [part for part in found if part not in named]
    notes = [f"unused parts of the data set: {', '.join(unused)}"] if unused else []
    for split, part in splits.items():
        labels = part[label]
        labelled = [number for number, each in enumerate(labels) if each is not None and each >= 0]
        if len(labelled) < len(part):
            notes.append(f"left out in {split}, without a label: {counted(len(part) - len(labelled), 'image')}")
        encoded = part.cast_column(image, datasets.Image(decode=False))
        if labelled:
            items[split] = [(partial(_content, encoded, image, number), int(labels[number])) for number in labelled]
            names[split] = [f"{split}[{number}]" for number in labelled]
    return Listing(
        items=items,
        names=names,
        classes=tuple(features[label].names),
        notes=tuple(notes),
        known=known_as(repository),
        origin=f"hub:{name}",
        versions={split: part._fingerprint for split, part in splits.items()},  # there is no public name for it
    )


class _Stored(TypedDict):
    """An encoded image."""

    bytes: bytes | None
    path: str


class _Rows(Protocol):
    """A split of a data set."""

    def __getitem__(self, number: int, /) -> Mapping[str, _Stored]: ...


def _content(part: _Rows, column: str, number: int) -> bytes:
    stored = part[number][column]
    return stored["bytes"] if stored["bytes"] is not None else Path(stored["path"]).read_bytes()
