"""The archive on disk."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nat2.errors import CheckpointError, RunError
from nat2.search.archive import Archive, Evaluation, Generation
from nat2.space import SearchSpace

SPACE = SearchSpace(resolutions=(48, 56, 64))
ARCHS = SPACE.sample_distinct(6, np.random.default_rng(0))


def test_evaluations_are_found_by_architecture_and_weights(tmp_path: Path) -> None:
    with Archive(tmp_path / "a.db") as archive:
        for weights, error in ((0, 0.5), (1, 0.25)):
            evaluation = Evaluation(ARCHS[0], error, 10, 20)
            archive.add(evaluation, weights=weights, generation=weights, origin="initial", seconds=0.1)
    with Archive(tmp_path / "a.db") as archive:
        assert archive.find(ARCHS[0], weights=0) == Evaluation(ARCHS[0], 0.5, 10, 20)
        assert archive.find(ARCHS[0], weights=1) == Evaluation(ARCHS[0], 0.25, 10, 20)
        assert archive.find(ARCHS[0], weights=2) is None
        assert archive.find(ARCHS[1], weights=0) is None
        assert [weights for _, weights in archive.evaluations()] == [0, 1]


def test_generations_are_kept_in_order(tmp_path: Path) -> None:
    generations = [Generation(n, tuple(ARCHS[n:]), 0.1 * n, {"tau": None, "seconds": 1.5}) for n in range(3)]
    with Archive(tmp_path / "a.db") as archive:
        for generation in generations:
            archive.close_generation(generation)
        assert archive.generations() == generations


def test_others_can_read_while_a_run_writes(tmp_path: Path) -> None:
    with Archive(tmp_path / "a.db") as archive:
        archive.add(Evaluation(ARCHS[0], 0.5, 1, 2), weights=0, generation=0, origin="initial", seconds=0)
        reader = sqlite3.connect(tmp_path / "a.db")
        archive.add(Evaluation(ARCHS[1], 0.5, 1, 2), weights=0, generation=0, origin="initial", seconds=0)
        rows = reader.execute("SELECT arch, error FROM evaluations").fetchall()
        assert rows == [(ARCHS[0].key, 0.5), (ARCHS[1].key, 0.5)]
        reader.close()


def test_what_was_added_survives_a_kill(tmp_path: Path) -> None:
    script = f"""
import os, signal
from pathlib import Path
from nat2.search.archive import Archive, Evaluation
from nat2.space import Arch
archive = Archive(Path({str(tmp_path / "a.db")!r}))
for key in {[arch.key for arch in ARCHS]!r}:
    evaluation = Evaluation(Arch.from_key(key), 0.5, 1, 2)
    archive.add(evaluation, weights=0, generation=0, origin="initial", seconds=0)
os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", script], check=False, env=os.environ)
    assert killed.returncode == -signal.SIGKILL
    with Archive(tmp_path / "a.db") as archive:
        assert [evaluation.arch for evaluation, _ in archive.evaluations()] == ARCHS


def test_a_full_disk_loses_nothing_that_was_added(tmp_path: Path) -> None:
    with Archive(tmp_path / "a.db") as archive:
        pages = archive._database.execute("PRAGMA page_count").fetchone()[0]
        archive._database.execute(f"PRAGMA max_page_count = {pages + 1}")  # SQLite's own way to fill a disk
        added: list[int] = []

        def fill() -> None:
            for number in range(10_000):
                evaluation = Evaluation(ARCHS[number % 6], number / 10_000, 1, 2)
                archive.add(evaluation, weights=number, generation=0, origin="initial", seconds=0)
                added.append(number)

        with pytest.raises(RunError, match=r"kept\. Free some space"):
            fill()
    with Archive(tmp_path / "a.db") as archive:
        assert len(archive.evaluations()) == len(added) > 0


def test_other_schema_versions_are_refused_with_the_release_that_wrote_them(tmp_path: Path) -> None:
    with Archive(tmp_path / "a.db") as archive:
        archive.note("schema_version", "99")
        archive.note("written_by", "nat2 9.9")
    with pytest.raises(CheckpointError, match=r"schema version 99, written by nat2 9\.9"):
        Archive(tmp_path / "a.db")


def test_a_folder_in_the_place_of_an_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.db").mkdir()
    with pytest.raises(RunError, match="cannot be used"):
        Archive(tmp_path / "a.db")


def test_files_that_are_no_archive_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(CheckpointError, match="not an archive or is damaged"):
        Archive(tmp_path / "a.db")
