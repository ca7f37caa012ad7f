"""What a walk through a folder skips and follows: files left by systems and tools, links, loops."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nat2.data.listing import list_folder
from nat2.errors import DataError
from tests.data.trees import ONE, counted, many, pets, tree

LEFT_FOLDERS = (
    "@eaDir", "#recycle", "@Recycle", "@tmp", "@Recently-Snapshot", ".thumbnails", ".@__thumb", "__MACOSX",
    "lost+found", "_gsdata_", "@SynoEAStream",
    "$RECYCLE.BIN", "$Recycle.Bin", "System Volume Information", ".ipynb_checkpoints", "__pycache__", ".git",
    ".AppleDouble", ".Trash-1000", ".Trashes", ".Spotlight-V100", "#snapshot", "~snapshot", "FOUND.000", "RECYCLER",
)  # fmt: skip


@pytest.mark.parametrize("name", LEFT_FOLDERS)
def test_folders_left_behind_are_skipped_at_every_depth(name: str, tmp_path: Path) -> None:
    places = ["", "train/", "train/cat/", "train/cat/deep/"]
    left = [f"{place}{name}/{number}.png/thumb.png" for place in places for number in range(3)]
    listing = list_folder(tree(tmp_path, *pets("train", "test"), "train/cat/deep/1.png", *left))
    assert counted(listing) == {"train": {"cat": 2, "dog": 1}, "test": ONE}
    assert listing.notes == (f"hidden and system files and folders are skipped: 4 {name}",)


@pytest.mark.parametrize(
    "name", ["._0.png", ".DS_Store", "Thumbs.db", "desktop.ini", "Icon\r", ".nomedia", ".hidden.png"]
)
def test_files_left_behind_are_skipped(name: str, tmp_path: Path) -> None:
    listing = list_folder(tree(tmp_path, *many("cat dog"), name, f"cat/{name}", f"cat/deep/{name}", "cat/deep/1.png"))
    assert counted(listing) == {"all": {"cat": 2, "dog": 1}}
    (note,) = listing.notes
    assert note.startswith("hidden and system files and folders are skipped: 3 ")


@pytest.mark.parametrize(
    "name",
    ["trash", "Recycle", "thumbs", "cache", "tmp", "temp", "git", "@home", "#1", "$100", "originals", "snapshot"],
)
def test_a_class_may_have_almost_any_name(name: str, tmp_path: Path) -> None:
    listing = list_folder(tree(tmp_path, *many(f"cat {name}")))
    assert set(listing.classes) == {"cat", name}
    assert listing.notes == ()


# -- links


def test_links_to_folders_are_followed(tmp_path: Path) -> None:
    tree(tmp_path, *many("elsewhere/more elsewhere/more/deep data/cat data/dog"))
    (tmp_path / "data" / "cat" / "more").symlink_to(tmp_path / "elsewhere" / "more")
    (tmp_path / "data" / "owl").symlink_to("../elsewhere")
    (tmp_path / "data" / "owl.png").symlink_to(tmp_path / "data" / "cat" / "0.png")
    listing = list_folder(tmp_path / "data")
    assert counted(listing) == {"all": {"cat": 3, "dog": 1, "owl": 2}}
    assert "cat/more/deep/0.png" in listing.names["all"]


def test_the_same_folder_may_be_two_splits(tmp_path: Path) -> None:
    tree(tmp_path, *pets("train", "test"))
    (tmp_path / "val").symlink_to("test")
    assert counted(list_folder(tmp_path)) == {"train": ONE, "val": ONE, "test": ONE}


def test_loops_are_noticed_and_no_folder_is_read_twice(tmp_path: Path) -> None:
    tree(tmp_path / "data", *many("cat dog cat/deep"))
    (tmp_path / "data" / "cat" / "above").symlink_to(tmp_path)
    (tmp_path / "data" / "cat" / "root").symlink_to(tmp_path / "data")
    (tmp_path / "data" / "cat" / "deep" / "round").symlink_to(tmp_path / "data" / "cat")
    (tmp_path / "data" / "cat" / "elsewhere").symlink_to("deep")
    (tmp_path / "data" / "top").symlink_to("/")
    listing = list_folder(tmp_path / "data")
    assert counted(listing) == {"all": {"cat": 2, "dog": 1}}
    (note,) = listing.notes
    assert note.startswith("links to folders that are read already are not followed: cat/above, cat/deep/round, ")


def test_many_links_to_each_other_are_followed_once(tmp_path: Path) -> None:
    """Of 20 folders that link to the next in two ways, there are a million paths to the last."""
    tree(tmp_path, *many("data/cat data/dog"), *many(" ".join(f"chain/{number}" for number in range(20))))
    for number in range(19):
        for name in ("a", "b"):
            (tmp_path / "chain" / str(number) / name).symlink_to(tmp_path / "chain" / str(number + 1))
    (tmp_path / "data" / "cat" / "chain").symlink_to(tmp_path / "chain" / "0")
    assert counted(list_folder(tmp_path / "data")) == {"all": {"cat": 21, "dog": 1}}


def test_links_that_lead_nowhere_are_told_and_lose_no_class(tmp_path: Path) -> None:
    tree(tmp_path, *many("cat dog"))
    (tmp_path / "cat" / "gone.png").symlink_to("/no/such/image.png")
    (tmp_path / "loop").symlink_to("loop")
    listing = list_folder(tmp_path)
    assert counted(listing) == {"all": ONE}
    assert "by class: cat 1 of 2 (1 broken link)" in listing.notes[0]
    assert "broken links are left out: cat/gone.png, loop" in listing.notes
    (tmp_path / "owl").mkdir()
    (tmp_path / "owl" / "gone.png").symlink_to("/no/such/image.png")
    with pytest.raises(DataError, match=r"would be lost: owl \(1 broken link\)"):
        list_folder(tmp_path)


def test_a_folder_that_cannot_be_listed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is kept out where the tests run as root."""
    tree(tmp_path, *many("cat dog owl"))

    def scandir(path: Path) -> object:
        if Path(path).name == "owl":
            raise PermissionError(13, "Permission denied")
        return os_scandir(path)

    os_scandir = os.scandir
    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(DataError, match=r"owl cannot be listed \(Permission denied\); make it readable"):
        list_folder(tmp_path)
