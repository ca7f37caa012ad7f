"""Any data set of the Hugging Face hub by name, through the library `datasets` (extra ``hub``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol, TypedDict, TypeGuard

from nat2.data.known import known_as
from nat2.data.layout import splits_of
from nat2.data.listing import Listing
from nat2.errors import ConfigError, DataError
from nat2.wording import counted

Label = int | str
"""What a column of labels holds."""


def list_hub(name: str) -> Listing:
    """The images of a data set: its first column of images, classified by its first column of class labels.

    Without class labels, as in WebDataset shards, a column of whole numbers or text that is called ``cls``, ``label``,
    ``class`` or ``target`` has them.

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
    label = label or next((key for key in _LABELS if _is_plain(features.get(key))), None)
    if image is None or label is None:
        raise DataError(
            f"{name} must have a column of images and one of class labels; it has "
            + ", ".join(f"{key} ({type(kind).__name__})" for key, kind in features.items())
        )
    given = {split: part[label][:] for split, part in splits.items()}
    classes, index = _classes(name, features[label], given)
    items, names = {}, {}
    unused = [part for part in found if part not in named]
    notes = [f"unused parts of the data set: {', '.join(unused)}"] if unused else []
    for split, part in splits.items():
        labels = given[split]
        labelled = [number for number, each in enumerate(labels) if _is_class(each)]
        if len(labelled) < len(part):
            notes.append(f"left out in {split}, without a label: {counted(len(part) - len(labelled), 'image')}")
        encoded = part.cast_column(image, datasets.Image(decode=False))
        if labelled:
            items[split] = [(partial(_content, encoded, image, number), index[labels[number]]) for number in labelled]
            names[split] = [f"{split}[{number}]" for number in labelled]
    return Listing(
        items=items,
        names=names,
        classes=classes,
        notes=tuple(notes),
        known=known_as(repository),
        origin=f"hub:{name}",
        versions={split: part._fingerprint for split, part in splits.items()},  # there is no public name for it
    )


def _classes(
    name: str, column: object, given: Mapping[str, Sequence[Label | None]]
) -> tuple[tuple[str, ...], dict[Label, int]]:
    """Names of the classes, and the number of each value of a column; by split, its values are `given`."""
    declared: Sequence[str] | None = getattr(column, "names", None)
    if declared:
        return tuple(declared), {number: number for number in range(len(declared))}
    values: list[Label] = sorted(each for each in set(given["train"]) if _is_class(each))
    if len(values) < 2:
        raise DataError(f"a classifier needs at least 2 classes; {name} has {', '.join(map(str, values)) or 'none'}")
    for split, labels in given.items():
        strange = next((each for each in labels if _is_class(each) and each not in values), None)
        if strange is not None:
            raise DataError(f"{name}: {split} holds images of the class {strange!r}, and train does not")
    return tuple(map(str, values)), {value: number for number, value in enumerate(values)}


_LABELS = ("cls", "label", "class", "target")
"""Columns that hold classes if none is declared to."""


def _is_plain(kind: object) -> bool:
    """Whether a column holds whole numbers or text."""
    return str(getattr(kind, "dtype", "")).startswith(("int", "uint", "string", "large_string"))


def _is_class(value: Label | None) -> TypeGuard[Label]:
    """Whether a row has a label: none and negative numbers mean that it has not."""
    return value is not None and not (isinstance(value, int) and value < 0)


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
