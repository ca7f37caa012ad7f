"""Folders as users think of them: without files left by systems and tools, following links, detecting loops."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from nat2.data.formats import is_image, unreadable_format
from nat2.errors import DataError

_SYSTEM_FOLDERS = frozenset(
    [
        # NAS boxes: Synology, QNAP, NetApp
        "@eadir", "@tmp", "@recycle", "@recently-snapshot", "@sharebin", "@__thumb", "#recycle", "#snapshot",
        "~snapshot", "@synoresource", "@synoeastream", "@appstore", "@appdata", "@apptemp", "@database", "@sharesnap",
        # Windows and macOS
        "$recycle.bin", "recycler", "system volume information", "$windows.~bt", "$windows.~ws", "dfsrprivate",
        "__macosx", "network trash folder", "temporary items", "thevolumesettingsfolder", "ipod photo cache",
        # Linux and tools
        "lost+found", "__pycache__", "node_modules", "_vti_cnf", "_gsdata_",
    ]
)  # fmt: skip
_SYSTEM_FILES = frozenset(["thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "picasa.ini", "icon\r"])
_SALVAGED = re.compile(r"found\.\d{3}", re.IGNORECASE)  # what Windows' chkdsk saves


def is_system(name: str, *, folder: bool) -> bool:
    """Whether a file or folder is hidden, or one that a file system, a NAS or a tool leaves behind.

    Names that may well be a class (``trash``, ``recycle``, ``cache``, ``thumbs``) do not count.
    """
    if name.startswith("."):
        return folder or not name.lower().endswith(".icloud")  # which stands for a file that is not on this machine
    if folder:
        return name.lower() in _SYSTEM_FOLDERS or _SALVAGED.fullmatch(name) is not None
    return name.lower() in _SYSTEM_FILES


@dataclass
class Skipped:
    """What was left out while a folder was walked."""

    system: Counter[str] = field(default_factory=Counter)
    """Hidden and system files and folders, by name; ``._*`` for the files that macOS adds."""
    broken: list[Path] = field(default_factory=list)
    """Broken links."""
    loops: set[Path] = field(default_factory=set)
    """Links back to a folder on the path that is being walked."""


@dataclass(frozen=True)
class Contents:
    """The files of a folder and of all folders within."""

    images: list[Path]
    lost: Counter[str]
    """Pictures that cannot be read, by format; broken links count as ``broken link``."""
    others: Counter[str]
    """All other files, by extension."""

    @property
    def pictures(self) -> int:
        """Number of images, including those in formats that cannot be read."""
        return len(self.images) + self.lost.total()


_Identity = tuple[int, int]


class Folder:
    """A folder that is listed lazily, once."""

    def __init__(self, path: Path, *, above: frozenset[_Identity], skipped: Skipped) -> None:
        """Remember the folder; nothing is listed yet.

        Args:
            path: Where it is.
            above: Identities of its parent folders.
            skipped: Collects everything that is left out.
        """
        status = path.stat()
        self.path = path
        self.skipped = skipped
        self.identity: _Identity = (status.st_dev, status.st_ino)
        self._above = above | {self.identity}

    @staticmethod
    def at(path: Path) -> Folder:
        """The root of a walk."""
        parents = (parent.stat() for parent in path.resolve().parents)
        return Folder(path, above=frozenset((each.st_dev, each.st_ino) for each in parents), skipped=Skipped())

    @property
    def name(self) -> str:
        """Its name, without the path."""
        return self.path.name

    @property
    def label(self) -> str:
        """Its name as a class name: file systems spell accented letters in two ways."""
        return unicodedata.normalize("NFC", self.name)

    @cached_property
    def _entries(self) -> tuple[list[Folder], list[Path], list[Path], list[Path]]:
        """Folders, files, broken links, and pipes and devices, each sorted by name."""
        folders: list[Folder] = []
        files: list[Path] = []
        broken: list[Path] = []
        special: list[Path] = []
        try:
            with os.scandir(self.path) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
            for entry in found:
                path = self.path / entry.name
                link = entry.is_symlink()
                directory = path.is_dir() if link else entry.is_dir()
                if is_system(entry.name, folder=directory):
                    self.skipped.system["._*" if entry.name.startswith("._") else entry.name] += 1
                elif directory:
                    below = Folder(path, above=self._above, skipped=self.skipped)
                    if below.identity in self._above:
                        self.skipped.loops.add(path)
                    else:
                        folders.append(below)
                elif link and not path.exists():
                    broken.append(path)
                else:
                    (files if (path.is_file() if link else entry.is_file()) else special).append(path)
        except OSError as error:
            raise DataError(
                f"{self.path} cannot be listed ({error.strerror}); make it readable, or move it out of the images"
            ) from error
        self.skipped.broken += broken
        return folders, files, broken, special

    @property
    def folders(self) -> list[Folder]:
        """Those directly in it."""
        return self._entries[0]

    @cached_property
    def own(self) -> Contents:
        """The files directly in it."""
        _, files, broken, special = self._entries
        lost = Counter({"broken link": len(broken)} if broken else {})
        others = Counter(path.suffix.lower() for path in special)
        images = []
        for path in files:
            if is_image(path):
                images.append(path)
            elif unreadable := unreadable_format(path):
                lost[unreadable] += 1
            else:
                others[path.suffix.lower()] += 1
        return Contents(images, lost, others)

    @cached_property
    def contents(self) -> Contents:
        """The files in it and in all folders within."""
        return together(folder.own for folder in self._all())

    def _all(self) -> Iterator[Folder]:
        """This folder and all within, each once, even if several links lead to it."""
        seen: set[_Identity] = set()
        waiting = [self]
        while waiting:
            folder = waiting.pop()
            if folder.identity in seen:
                self.skipped.loops.add(folder.path)
                continue
            seen.add(folder.identity)
            yield folder
            waiting += reversed(folder.folders)

    @property
    def inner(self) -> list[Folder]:
        """The folders directly in it that hold pictures."""
        return [folder for folder in self.folders if folder.contents.pictures]


def together(parts: Iterable[Contents]) -> Contents:
    """The files of several, images sorted by path."""
    images: list[Path] = []
    lost, others = Counter[str](), Counter[str]()
    for part in parts:
        images += part.images
        lost += part.lost
        others += part.others
    return Contents(sorted(images), lost, others)
