"""Disks that are full, and folders that cannot be written."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.withstand.attack import RecordProperty, refused
from tests.withstand.conftest import assert_same
from tests.zygote import Zygote

FILE_SIZES = (1_000, 20_000, 60_000, 400_000, 2_600_000)
DISK_SIZES = (40, 1200, 2600, 5000, 7000)  # kB


def assert_full(errors: str) -> None:
    assert "Traceback" not in errors
    assert any(words in errors for words in ("disk is full", "free some space", "Free some space")), errors
    assert len(errors.splitlines()) < 5


@pytest.mark.slow
def test_files_that_may_not_grow(
    small: list[str], reference: Path, zygote: Zygote, tmp_path: Path, record_property: RecordProperty
) -> None:
    """A run whose files may grow a little larger with each attempt stops in ever later stages and loses nothing."""
    out, full = tmp_path / "run", 0
    for largest in FILE_SIZES:
        ended = zygote.run(*small, "--out", str(out), "--quiet", largest=largest)
        if ended.code:
            assert ended.code == 2, ended
            full += 1
    ended = zygote.run(*small, "--out", str(out))
    assert ended.code == 0, ended.errors
    assert_same(out, reference)
    record_property("cases", full)
    assert full >= 3


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, which only root can make."""
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)], check=False, capture_output=True
    )
    if made.returncode:
        pytest.skip("no file system can be mounted here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def resize(place: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(place)], check=True)


def test_a_disk_that_is_full_again_and_again(
    small: list[str], reference: Path, zygote: Zygote, tiny_disk: Path, record_property: RecordProperty
) -> None:
    out, full = tiny_disk / "run", 0
    for size in DISK_SIZES:
        resize(tiny_disk, f"size={size}k")
        ended = zygote.run(*small, "--out", str(out))
        if ended.code == 0:
            break
        assert ended.code == 2, ended
        assert_full(ended.errors)
        full += 1
    resize(tiny_disk, "size=200m")
    ended = zygote.run(*small, "--out", str(out))
    assert ended.code == 0, ended.errors
    assert_same(out, reference)
    record_property("cases", full)
    assert full >= 3


@pytest.mark.slow
def test_a_disk_that_becomes_read_only(
    small: list[str], reference: Path, pace: float, zygote: Zygote, tiny_disk: Path
) -> None:
    out = tiny_disk / "run"
    resize(tiny_disk, "size=200m")
    assert zygote.run(*small, "--out", str(out), kill_after=2.5 * pace).code == -9
    resize(tiny_disk, "ro")
    ended = zygote.run(*small, "--out", str(out))
    resize(tiny_disk, "rw")
    assert ended.code == 2, ended
    assert "cannot be written" in ended.errors
    ended = zygote.run(*small, "--out", str(out))
    assert ended.code == 0, ended.errors
    assert_same(out, reference)


@pytest.mark.parametrize("place", ["/proc", "/proc/self", "/sys", "/dev/null", "/proc/self/mem", "/dev/full"])
def test_places_where_nothing_can_be_written(place: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert place in refused(capsys, "run", "--out", f"{place}/run")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_leave_to_write(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tmp_path.chmod(0o500)
    assert "cannot be written" in refused(capsys, "run", "--out", str(tmp_path / "run"))
