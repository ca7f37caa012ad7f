"""Kills at any moment, and two runs in one folder."""

from __future__ import annotations

import random
import shutil
import time
from pathlib import Path

from nat2.nas.archive import Archive, Evaluation, EvaluationRecord
from nat2.space import Arch
from tests.withstand.attack import RecordProperty
from tests.withstand.conftest import assert_same
from tests.zygote import Zygote

KILLS = 20
COLUMNS = ("error", "params", "macs", "memory")


def evaluations(out: Path, scratch: Path) -> list[tuple[Evaluation[Arch], EvaluationRecord]]:
    """What the archive of a run holds that was killed; the run's own files stay as they are."""
    if not (out / "archive.db").exists():
        return []
    scratch.mkdir(exist_ok=True)
    for file in out.glob("archive.db*"):
        shutil.copy(file, scratch)
    with Archive[Arch](scratch / "archive.db", COLUMNS) as archive:
        held = archive.evaluations()
    shutil.rmtree(scratch)
    return held


def test_nothing_is_lost_in_twenty_kills(
    small: list[str],
    reference: Path,
    pace: float,
    zygote: Zygote,
    tmp_path: Path,
    record_property: RecordProperty,
) -> None:
    """One run that is killed again and again, at moments drawn by lot, ends with the results of an undisturbed one."""
    lot, out = random.Random(1), tmp_path / "run"
    before: list[tuple[Evaluation[Arch], EvaluationRecord]] = []
    killed = 0
    for _ in range(KILLS):
        ended = zygote.run(*small, "--out", str(out), kill_after=pace * lot.uniform(0.05, 1.8))
        assert "Traceback" not in ended.errors
        assert ended.code in (0, -9), ended
        killed += ended.code == -9
        now = evaluations(out, tmp_path / "copy")
        assert now[: len(before)] == before
        before = now
    ended = zygote.run(*small, "--out", str(out))
    assert ended.code == 0, ended.errors
    assert_same(out, reference)
    record_property("cases", killed)
    assert killed >= KILLS // 2


def test_a_second_run_in_a_folder_is_refused_and_the_first_unharmed(
    small: list[str], reference: Path, zygote: Zygote, other_zygote: Zygote, tmp_path: Path
) -> None:
    command = [*small, "--out", str(tmp_path / "run")]
    zygote.begin(*command)
    wait_for(tmp_path / "run" / "config.yaml")
    for extra in ([], ["--fresh"], ["--seed", "5"]):
        ended = other_zygote.run(*command, *extra)
        assert ended.code == 2
        assert "another run is working" in ended.errors
    ended = zygote.end()
    assert ended.code == 0, ended.errors
    assert_same(tmp_path / "run", reference)


def wait_for(path: Path, seconds: float = 60) -> None:
    """Wait until a file is there."""
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f"{path} never came"
        time.sleep(0.02)
