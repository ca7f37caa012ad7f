"""Which folders are splits and which are classes, judged by their names and contents."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nat2.data.walk import Contents, Folder
from nat2.errors import DataError
from nat2.wording import counted, shown

_WORDS = {
    "train": ("train", "training", "trn", "trainval"),
    "val": ("val", "valid", "validation", "validate", "validating", "dev", "devel", "development"),
    "test": ("test", "testing", "tst", "eval", "evaluation", "evaluate", "holdout"),
}
_ENDINGS = ("", "s", "set", "sets", "data", "dataset", "images", "imgs", "img", "folder", "dir", "split")
_SPLITS = {word + ending: split for split, words in _WORDS.items() for word in words for ending in _ENDINGS}
_AFFIXES = """
set sets data dataset datasets image images img imgs pic pics picture pictures photo photos split splits folder folders
dir directory file files sample samples subset part the my new final raw all full x seg cls jpg png rgb original orig
aug augmented processed cropped resized labeled labelled cifar mnist imagenet ilsvrc
"""
"""Words that may precede or follow the name of a split."""
_UNLABELLED = "pred preds predict prediction predictions unlabeled unlabelled unsup unsupervised inference submission"
_PARTS = re.compile(r"(fold|split|part|set|subset|batch|chunk|group|session|run)[ _-]?(\d*|[a-z])", re.IGNORECASE)
_Found = dict[str, tuple[Folder, list[Folder]]]
"""By split, its folder and the class folders in it."""


@dataclass(frozen=True)
class Layout:
    """Where the images of each split and class are."""

    splits: dict[str, list[tuple[str, Folder]]]
    """By split (``all`` if there are none), the name of each class and a folder of it, sorted by folder."""
    notes: tuple[str, ...] = ()


def splits_of(names: Iterable[str], *, within: str = "") -> dict[str, str]:
    """The split (``train``, ``val`` or ``test``) of each of some names that spells one.

    ``Training``, ``seg_train``, ``test-set``, ``cifar_val`` and ``train2017`` do; ``train station`` and ``class_train``
    do not. Splits may share any word, as in ``leaf_train`` and ``leaf_test``.

    Args:
        names: Of sibling folders, or of the parts of a data set.
        within: Name of the parent folder, whose words they may repeat.
    """
    parsed = {name: _parsed(name) for name in names}
    lower = {name.lower() for name in parsed}
    known = set(_AFFIXES.split()) | set(_tokens(within))
    found = {}
    for name, (split, rest) in parsed.items():
        if split is None or f"in{name.lower()}" in lower:  # valid and invalid are classes
            continue
        words = {word for word in rest if not word.isdigit()}
        related = {other for other, remainder in parsed.values() if other and remainder == rest} - {split}
        if words <= known or (related and "class" not in words):
            found[name] = split
    tests = [name for name, split in found.items() if split == "test"]
    if len(tests) == 2 and "val" not in found.values():  # beside a test split, evaluation means validation
        evaluated = [name for name in tests if any(word.startswith("eval") for word in _tokens(name))]
        if len(evaluated) == 1:
            found[evaluated[0]] = "val"
    return found


def _tokens(name: str) -> list[str]:
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+|[^\W\d_a-zA-Z]+", name)
    return [word.lower() for word in words]


def _parsed(name: str) -> tuple[str | None, list[str]]:
    """The split that a name mentions, and the other words of the name."""
    words = _tokens(name)
    if words[:2] == ["train", "val"]:
        words[:2] = ["trainval"]
    found = [word for word in words if word in _SPLITS]
    if len(found) != 1:
        return None, words
    words.remove(found[0])
    return _SPLITS[found[0]], words


def lay_out(root: Folder) -> Layout:
    """Find the splits and classes below a folder.

    Raises:
        DataError: the layout is ambiguous; the message says what to change.
    """
    base = _unwrapped(root, keep_splits=True)
    notes = [] if base is root else [f"the class folders are those in {_relative(base, root)}/"]
    named = splits_of((child.name for child in base.inner), within=base.name)
    others = [child for child in base.inner if child.name not in named]
    found = _with_splits(base, _by_split(base, named, others), others) if named else _without_splits(base, others)
    return Layout(found.splits, (*notes, *found.notes, *_beside(root, found)))


def _unwrapped(folder: Folder, *, keep_splits: bool = False) -> Folder:
    """The folder with the class folders: archives often wrap them in a folder named like the archive."""
    inner = folder.inner
    while len(inner) == 1 and not folder.own.pictures:
        (only,) = inner
        if only.own.pictures or not only.inner or (keep_splits and splits_of([only.name], within=folder.name)):
            break
        folder, inner = only, only.inner
    return folder


def _by_split(base: Folder, named: Mapping[str, str], others: Sequence[Folder]) -> _Found:
    """By split, its folder and the class folders in it; none if its images lie in no class folders."""
    found: _Found = {}
    for folder in base.inner:
        if folder.name not in named:
            continue
        split = named[folder.name]
        if split in found:
            raise _split_twice(base, found[split][0], folder)
        loose = folder.own.pictures and (others or len(folder.inner) < 2)
        found[split] = (folder, [] if loose else _unwrapped(folder).inner)
    known = {each.label for each in found["train"][1]} if "train" in found else set()
    for split, (folder, inner) in found.items():
        if len(inner) == 1 < len(known) and inner[0].label not in known:
            found[split] = (folder, [])  # test/test/1.jpg and test/unknown/1.jpg: a folder, but no class
    return found


def _split_twice(base: Folder, first: Folder, second: Folder) -> DataError:
    problem = f"{base.path} holds a split twice ({first.name}, {second.name})"
    if first.own.pictures and second.own.pictures:
        rest = [" ".join(_parsed(each.name)[1]) or each.name for each in (first, second)]
        split = _parsed(first.name)[0]
        return DataError(
            f"{problem}; if these are classes of the split, move them into one folder ({split}/{rest[0]}/, "
            f"{split}/{rest[1]}/), and the other splits likewise"
        )
    return DataError(f"{problem}; keep one folder of each split, or move the images of one into the other")


def _with_splits(base: Folder, found: _Found, others: list[Folder]) -> Layout:
    """The layout if some folders are named like splits."""
    train, train_classes = found.get("train", (None, []))
    if train is not None and train_classes:
        return _of_training(base, found, others)
    if not others:
        _refuse_without_training(base, found)
    classes = sorted([*others, *([train] if train is not None else [])], key=lambda each: each.name)
    names = {each.label for each in classes}
    given = {split: inner for split, (_, inner) in found.items() if split != "train"}
    if given and all(inner and {each.label for each in inner} <= names for inner in given.values()):
        listed = {"train": _named(classes), **{split: _named(inner) for split, inner in given.items()}}
        beside = " and ".join(f"{found[split][0].name}/" for split in given)
        return Layout(listed, (f"the class folders beside {beside} are read as the training images",))
    for split, (folder, inner) in found.items():
        if split != "train":
            _refuse_beside_classes(base, folder, split, bool(inner), [each.name for each in classes])
    assert train is not None
    note = (
        f"{train.name}/ is read as a class because it holds images and no class folders; if it is the training split, "
        f"put class folders into it ({train.name}/{others[0].name}/, ...)"
    )
    checked = _without_splits(base, classes)
    return Layout(checked.splits, (note, *checked.notes))


def _of_training(base: Folder, found: _Found, others: list[Folder]) -> Layout:
    """The layout if the training split holds class folders."""
    train, classes = found["train"]
    notes = []
    strays = []
    for other in others:
        named = set(_tokens(other.name)) & {*_UNLABELLED.split(), *_SPLITS}
        if (named and not other.inner) or not other.contents.images:
            notes.append(_left_out(other))
        else:
            strays.append(other.name)
    if strays:
        raise DataError(
            f"{base.path} holds {train.name}/ with the folders {shown(each.name for each in classes)} in it, and also "
            f"{shown(strays)}: if {train.name}/ is the training split, move {shown(strays)} into it or out of "
            f"{base.name}; if {train.name} is a class, rename its folder, for example to class_{train.name}"
        )
    splits = {"train": _named(classes)}
    for split in ("val", "test"):
        folder, inner = found.get(split, (None, []))
        if folder is None:
            continue
        if inner:
            splits[split] = _named(inner)
        elif split == "val":
            raise DataError(
                f"{folder.path} holds {_count(folder.contents)} in no class folder; sort them into class folders as in "
                f"{train.name}/ ({folder.name}/{classes[0].name}/, ...), or move {folder.name}/ out of {base.name} to "
                f"have validation images cut from {train.name}/"
            )
        else:
            notes.append(f"{_left_out(folder)}; test images are cut from {train.name}/")
    wrapped = [
        f"{found[split][0].name}/{_relative(_unwrapped(found[split][0]), found[split][0])}/"
        for split in splits
        if _unwrapped(found[split][0]) is not found[split][0]
    ]
    if wrapped:
        notes.append(f"the class folders are those in {', '.join(wrapped)}")
    return Layout(splits, tuple(notes))


def _refuse_without_training(base: Folder, found: _Found) -> None:
    if "train" not in found:
        held = shown(f"{folder.name}/" for folder, _ in found.values())
        raise DataError(
            f"{base.path} holds {held} but no train/; add the training images, or give one of these folders to have "
            "training, validation and test images cut from it"
        )
    train, _ = found["train"]
    raise DataError(
        f"no images found in class folders: {train.path} holds {_count(train.contents)} but no class folders; make a "
        f"folder for each class and sort the images into them ({train.name}/cat/, {train.name}/dog/, ...), "
        "with a script if the classes are in a table or in the files' names"
    )


def _refuse_beside_classes(base: Folder, folder: Folder, split: str, labelled: bool, classes: Sequence[str]) -> None:
    others = [name for name in classes if name != folder.name]
    if labelled:
        held = f"with the folders {shown(each.name for each in folder.inner)} in it"
        ways = f"if it is the {_told(split)} split, move the other folders into a folder train/ beside it"
    else:
        held = f"with {_count(folder.contents)} in no class folder"
        ways = (
            f"if these are unlabelled, move {folder.name}/ out of {base.name}; if they are the {_told(split)} split, "
            f"sort them into {folder.name}/{others[0]}/, ... and move the other folders into a folder train/"
        )
    raise DataError(
        f"{base.path} holds the folders {shown(others)} and also {folder.name}/ {held}: {ways}; if {folder.name} is a "
        f"class, rename its folder, for example to class_{folder.name}"
    )


def _without_splits(base: Folder, classes: list[Folder]) -> Layout:
    """The layout if no folder is named like a split."""
    inner = {each.name: [below.name for below in each.inner] for each in classes}
    only_folders = bool(classes) and not any(each.own.pictures for each in classes)
    if only_folders and all(splits_of(names).keys() == set(names) for names in inner.values()):
        return _by_class(classes)
    _refuse_splits_in_some(base, classes, inner)
    grouped = [f"{each.name}/ ({shown(inner[each.name], 3)})" for each in classes if _is_group(each)]
    if grouped and not only_folders:
        return Layout({"all": _named(classes)}, (_told_groups(grouped),))
    if len(classes) < 2 or not only_folders:
        return Layout({"all": _named(classes)})
    names = [each.name for each in classes]
    same = next(iter(inner.values()))
    if len(same) > 1 and all(below == same for below in inner.values()):
        if all(_PARTS.fullmatch(name) or set(_tokens(name)) & _SPLITS.keys() for name in names):
            raise DataError(
                f"{base.path} holds {shown(names)}, which look like parts of a data set and not like classes: each "
                f"holds the same folders ({shown(same)}). If these are the classes, rename the parts to train, val "
                f"and test or merge them; if {shown(names)} are the classes, move their images out of {shown(same)}"
            )
        note = (
            f"every class folder holds the same folders ({shown(same)}): {shown(names)} are read as the classes; if "
            f"{shown(same)} are the classes, rename {shown(names)} to train, val and test, or merge them"
        )
        return Layout({"all": _named(classes)}, (note,))
    return Layout({"all": _named(classes)}, (_told_groups(grouped),) if len(grouped) == len(classes) else ())


def _is_group(folder: Folder) -> bool:
    """Whether a folder holds several folders with pictures and none itself: a group of classes, or a class in parts."""
    return not folder.own.pictures and len(folder.inner) > 1


def _told_groups(grouped: Sequence[str]) -> str:
    return (
        f"class folders hold only further folders, which are read as parts of the class: {shown(grouped, 3)}; if the "
        "classes are those within, move them up"
    )


def _refuse_splits_in_some(base: Folder, classes: list[Folder], inner: Mapping[str, list[str]]) -> None:
    """Refuse sibling folders of which only some hold splits."""
    divided = [
        each
        for each in classes
        if _is_group(each)
        and splits_of(inner[each.name], within=each.name).keys() == set(inner[each.name])
        and "train" in splits_of(inner[each.name], within=each.name).values()
    ]
    if not divided or len(divided) == len(classes):
        return
    first, others = divided[0], [each.name for each in classes if each not in divided]
    raise DataError(
        f"{base.path} holds {first.name}/ with the splits {shown(inner[first.name])} in it, and also {shown(others)} "
        f"without splits: if {first.name}/ is the data set, give {first.path} or move {shown(others)} out of "
        f"{base.name}; if all are classes, put the same splits into each of them"
    )


def _by_class(classes: list[Folder]) -> Layout:
    """Splits within each class folder."""
    splits: dict[str, list[tuple[str, Folder]]] = {}
    for each in classes:
        seen: dict[str, Folder] = {}
        named = splits_of(folder.name for folder in each.inner)
        for folder in each.inner:
            split = named[folder.name]
            if split in seen:
                raise _split_twice(each, seen[split], folder)
            seen[split] = folder
            splits.setdefault(split, []).append((each.label, folder))
    names = sorted({folder.name for each in classes for folder in each.inner})
    if "train" not in splits:
        raise DataError(
            f"the class folders of {classes[0].path.parent} hold {shown(names)} but no train/; add the training images"
        )
    return Layout(splits, (f"the folders {shown(names)} in each class folder are read as splits",))


def _beside(root: Folder, layout: Layout) -> list[str]:
    """Notes on images beside class folders, and on folders without images."""
    used = {folder.path for each in layout.splits.values() for _, folder in each}
    above = {path for folder in used for path in folder.parents}
    notes, empty, waiting = [], [], [root]
    while waiting:
        folder = waiting.pop(0)
        if folder.path in used:
            continue
        if folder.path in above:
            if folder.own.images:
                notes.append(f"{_count(folder.own)} beside the folders in {folder.name}/ have no class: left out")
            waiting += folder.folders
        elif not folder.contents.pictures:
            others = folder.contents.others
            empty.append(f"{_relative(folder, root)}/{f' ({by_kind(others, 3)})' if others else ''}")
    if empty:
        notes.append(f"folders without images are not classes: {shown(empty, 10)}")
    return notes


def _named(folders: Iterable[Folder]) -> list[tuple[str, Folder]]:
    return [(folder.label, folder) for folder in folders]


def _left_out(folder: Folder) -> str:
    return f"{folder.name}/ is left out: it holds {_count(folder.contents)} in no class folder"


def _count(contents: Contents) -> str:
    return counted(contents.pictures, "image")


def _told(split: str) -> str:
    return {"train": "training", "val": "validation", "test": "test"}[split]


def _relative(folder: Folder, root: Folder) -> Path:
    return folder.path.relative_to(root.path)


def by_kind(counts: Counter[str], most: int = 8) -> str:
    """Counts by kind, most first: ``3 .txt, 1 .csv``."""
    return shown((f"{count:,} {kind or 'without extension'}" for kind, count in counts.most_common()), most)
