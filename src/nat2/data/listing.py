"""The image files of a folder, with their classes and splits, before they are read."""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nat2.data.formats import way_out
from nat2.data.layout import Layout, by_kind, lay_out
from nat2.data.walk import Contents, Folder, Skipped, together
from nat2.errors import DataError
from nat2.wording import counted, shown

Item = Path | Callable[[], bytes]
"""An image file, or how to get its content."""


@dataclass(frozen=True)
class Listing:
    """Image files, before they are read."""

    items: Mapping[str, Sequence[tuple[Item, int]]]
    """By split name (``all`` if there are no splits), each image and the index of its class."""
    names: Mapping[str, Sequence[str]]
    """By split name, the name of each image."""
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()
    known: str = ""
    origin: str = ""
    """Where the images are from: a folder, or a name on the hub."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """By split, the version of images that are not files."""

    @property
    def count(self) -> int:
        """Number of images."""
        return sum(map(len, self.items.values()))


def list_folder(root: Path) -> Listing:
    """The images of a folder of class folders, also within splits.

    Files without an image extension are recognised by their content. Links to folders are followed. Files that systems
    and tools leave behind are skipped; the notes list them.

    Raises:
        DataError: there is no such folder, it holds no images or one class, its layout is ambiguous, its splits
            have different classes, or a class would be lost because none of its files can be read.
    """
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise DataError(f"--data must name a folder of class folders; {root} {what}")
    if root.resolve().parts[1:2] in (("proc",), ("sys",)):  # reading some of their files never returns
        raise DataError(f"--data must name a folder of class folders; {root} belongs to the operating system")
    folder = Folder.at(root)
    layout = lay_out(folder)
    found = {split: _by_class(folders) for split, folders in layout.splits.items()}
    _check_lost(root, found)
    classes = _classes(folder, found)
    index = {name: label for label, name in enumerate(classes)}
    items = {
        split: [(path, index[name]) for name, contents in held.items() for path in contents.images]
        for split, held in found.items()
    }
    start = len(str(root / "_")) - 1  # of the part within root; `relative_to` takes as long as everything else together
    return Listing(
        items=items,
        names={split: [str(path)[start:] for path, _ in files] for split, files in items.items()},
        classes=classes,
        notes=(*layout.notes, *_spelling(layout), *_lost(found), *_skipped(root, folder.skipped, found)),
        origin=str(root.resolve()),
    )


def list_tiny_imagenet(root: Path) -> Listing | None:
    """The images of Tiny ImageNet as downloaded; None if it is something else. Its validation images are the test.

    The unlabelled images under ``test/`` are left out. Classes get their first English name, if it is unique.

    Raises:
        DataError: one of its files or folders is missing or damaged.
    """
    if not (root / "wnids.txt").is_file():
        return None
    try:
        numbers = (root / "wnids.txt").read_text().split()
        rows = [line.split("\t") for line in (root / "words.txt").read_text().splitlines()]
        words = {row[0]: row[1].split(",")[0] for row in rows if len(row) == 2}
        marks = [line.split("\t") for line in (root / "val" / "val_annotations.txt").read_text().splitlines()]
        label = {number: place for place, number in enumerate(numbers)}
        train = [
            (path, label[number])
            for number in numbers
            for path in Folder.at(root / "train" / number / "images").own.images
        ]
        test = [(root / "val" / "images" / row[0], label[row[1]]) for row in marks]
    except (OSError, KeyError, IndexError, ValueError) as error:
        raise DataError(
            f"{root} is Tiny ImageNet but not whole ({type(error).__name__}: {error}); extract or download it again"
        ) from error
    names = [words.get(number, number) for number in numbers]
    classes = tuple(
        name if names.count(name) == 1 else f"{name} ({number})" for name, number in zip(names, numbers, strict=True)
    )
    items = {"train": train, "test": test}
    return Listing(
        items=items,
        names={split: [str(path.relative_to(root)) for path, _ in files] for split, files in items.items()},
        classes=classes,
        known="tiny-imagenet",
        origin=str(root.resolve()),
    )


_Found = Mapping[str, Mapping[str, Contents]]
"""Files by split and class."""


def _by_class(folders: Iterable[tuple[str, Folder]]) -> dict[str, Contents]:
    """The files of each class; a name spelled in two Unicode forms has two folders."""
    merged: dict[str, list[Contents]] = defaultdict(list)
    for name, folder in folders:
        merged[name].append(folder.contents)
    return {name: together(parts) for name, parts in merged.items()}


def _check_lost(root: Path, found: _Found) -> None:
    """Refuse to lose a whole class, in one split or in all."""
    lost: Counter[str] = Counter()
    descriptions = []
    for split, held in found.items():
        for name, contents in held.items():
            if not contents.images:
                lost += contents.lost
                where = f"{name} in {split}/" if split != "all" else name
                descriptions.append(f"{where} ({_formats(contents.lost)})")
    if descriptions:
        raise DataError(
            f"{root}: none of the files of a class can be read, and it would be lost: {shown(descriptions)}; "
            f"{way_out(lost)}, or move the folder out of {root.name} if it is no class"
        )


def _classes(root: Folder, found: _Found) -> tuple[str, ...]:
    first = "train" if "train" in found else "all"
    classes = tuple(sorted(found[first]))
    if not classes:
        raise DataError(_nothing(root))
    if len(classes) == 1:
        raise DataError(
            f"a classifier needs at least 2 classes; {root.path} has one class folder with images, {classes[0]!r}"
        )
    for split, held in found.items():
        different = sorted(set(held) ^ set(classes))
        if different:
            raise DataError(_different(split, first, different, set(held), set(classes)))
    return classes


def _nothing(root: Folder) -> str:
    """Why no class was found."""
    name, contents = root.path.resolve().name, root.contents
    if contents.pictures:
        others = f"; if each folder in {root.path.resolve().parent} is a class, give that" if root.own.images else ""
        return (
            f"no images found in class folders: {root.path} holds {contents.pictures:,} images but no class folders. "
            f"Put each class's images in a folder of its own ({name}/cat/1.jpg, {name}/dog/1.jpg){others}"
        )
    held = f"; it holds other files ({by_kind(contents.others)})" if contents.others else ""
    if ".npz" in contents.others:
        return f"no images found in {root.path}{held}. To read a .npz file, name the file itself with --data"
    return (
        f"no images found in {root.path}{held}. Put each class's images in a folder of its own ({name}/cat/1.jpg, "
        f"{name}/dog/1.jpg), and extract archives"
    )


def _different(split: str, first: str, different: Sequence[str], held: set[str], classes: set[str]) -> str:
    alike = [each for each in _alike(different) if len(each) > 1]
    if alike:
        fix = f"{' and '.join(map(repr, alike[0]))} differ only in case, spaces or underscores: give them the same name"
    elif held > classes:
        fix = f"add training images of {shown(different)}, or delete the folder from {split}/"
    elif held < classes:
        fix = (
            f"add images of {shown(different)} to {split}/, delete the class from {first}/, or move {split}/ away to "
            f"have these images cut from {first}/"
        )
    else:
        fix = "give folders of the same class the same name"
    return (
        f"every split must have images of the same classes; {split}/ and {first}/ differ in {shown(different, 10)}; "
        f"{fix}"
    )


def _alike(names: Iterable[str]) -> list[list[str]]:
    """Names grouped by how they look: ignoring case, spaces, underscores and invisible characters."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in names:
        plain = unicodedata.normalize("NFKC", name).casefold()
        seen = (letter for letter in plain if letter != "_" and unicodedata.category(letter)[0] not in "CZ")
        groups["".join(seen)].append(name)
    return list(groups.values())


def _spelling(layout: Layout) -> list[str]:
    """Notes on names that look the same."""
    forms: dict[str, set[str]] = defaultdict(set)
    for folders in layout.splits.values():
        for label, folder in folders:
            written = folder.name if folder.label == label else folder.path.parent.name
            forms[label].add(written)
    twice = [label for label, names in forms.items() if len(names) > 1]
    notes = []
    if twice:
        notes.append(
            f"folders whose names differ only in Unicode normalisation (NFC, NFD) are read as one class: {shown(twice)}"
        )
    alike = [" and ".join(map(repr, names)) for names in _alike(forms) if len(names) > 1]
    if alike:
        notes.append(
            "classes whose names differ only in case, spaces or underscores are read as different classes: "
            f"{shown(alike)}; merge their folders if they are the same"
        )
    return notes


def _lost(found: _Found) -> list[str]:
    """Notes on classes that lose some of their files."""
    lost: dict[str, Counter[str]] = defaultdict(Counter)
    pictures: Counter[str] = Counter()
    for held in found.values():
        for name, contents in held.items():
            lost[name] += contents.lost
            pictures[name] += contents.pictures
    descriptions = [
        f"{name} {each.total()} of {pictures[name]} ({_formats(each)})" for name, each in lost.items() if each
    ]
    if not descriptions:
        return []
    formats = {kind for each in lost.values() for kind in each}
    return [f"files that cannot be read are left out, by class: {shown(descriptions, 10)}; {way_out(formats)}"]


def _skipped(root: Path, skipped: Skipped, found: _Found) -> list[str]:
    """Notes on everything else that was left out."""
    notes = []
    if skipped.system:
        notes.append(f"hidden and system files and folders are skipped: {by_kind(skipped.system)}")
    if skipped.loops:
        paths = sorted(str(path.relative_to(root)) for path in skipped.loops)
        notes.append(f"links to folders that are read already are not followed: {shown(paths)}")
    if skipped.broken:
        paths = sorted(str(path.relative_to(root)) for path in skipped.broken)
        notes.append(f"broken links are left out: {shown(paths)}")
    others: Counter[str] = Counter()
    for held in found.values():
        for contents in held.values():
            others += contents.others
    if others:
        notes.append(f"files that are not images are left out: {by_kind(others)}")
    return notes


def _formats(lost: Counter[str]) -> str:
    """What is lost, by format: ``3 HEIC, 2 videos``."""
    kinds = ((count, kind) for kind, count in lost.most_common())
    return shown((counted(count, kind) if kind[-1].islower() else f"{count:,} {kind}" for count, kind in kinds), 8)
