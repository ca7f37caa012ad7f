"""The archive on disk."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nat2.errors import CheckpointError, RunError
from nat2.nas import archive as module
from nat2.nas.archive import Archive, Evaluation, EvaluationRecord
from nat2.nas.generation import Generation, GenerationFacts, Proposal, Quality
from nat2.space import Arch, SearchSpace

SPACE = SearchSpace(resolutions=(48, 56, 64))
ARCHS = SPACE.sample_distinct(6, np.random.default_rng(0))


def measured(arch: Arch, error: float) -> Evaluation[Arch]:
    return Evaluation(arch, {"error": error, "params": 10, "macs": 20, "memory": 30})


def row(weights: int = 0, *, share: float = 1.0) -> EvaluationRecord:
    return EvaluationRecord(weights, weights, "initial", share, 0.1, 7)


def test_evaluations_are_found_by_architecture_and_weights(tmp_path: Path) -> None:
    with Archive[Arch](tmp_path / "a.db") as archive:
        for weights, error in ((0, 0.5), (1, 0.25)):
            archive.add(measured(ARCHS[0], error), row(weights))
    with Archive[Arch](tmp_path / "a.db") as archive:
        assert archive.find(ARCHS[0], weights=0) == measured(ARCHS[0], 0.5)
        assert archive.find(ARCHS[0], weights=1) == measured(ARCHS[0], 0.25)
        assert archive.find(ARCHS[0], weights=2) is None
        assert archive.find(ARCHS[1], weights=0) is None
        assert archive.evaluations() == [(measured(ARCHS[0], 0.5), row(0)), (measured(ARCHS[0], 0.25), row(1))]
        assert archive.known(1) == [measured(ARCHS[0], 0.25)]


def test_parts_of_the_images_and_failures_are_kept_apart(tmp_path: Path) -> None:
    failed = Evaluation(ARCHS[1], {}, "RuntimeError: out of memory")
    with Archive[Arch](tmp_path / "a.db") as archive:
        archive.add(measured(ARCHS[0], 0.5), row(share=0.25))
        archive.add(failed, row())
        assert archive.find(ARCHS[0], weights=0) is None
        assert archive.find(ARCHS[0], weights=0, share=0.25) == measured(ARCHS[0], 0.5)
        assert archive.find(ARCHS[1], weights=0) == failed
        assert archive.known(0) == []
        assert archive.find_value(ARCHS[0], "params") == 10
        assert archive.find_value(ARCHS[1], "params") is None


def test_pandas_and_sql_read_it_a_column_an_objective(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    with Archive[Arch](tmp_path / "a.db", ("error", "latency")) as archive:
        archive.add(Evaluation(ARCHS[0], {"error": 0.5, "latency": 1.5}), row())
        archive.add(Evaluation(ARCHS[1], {}, "broken"), row())
        with closing(sqlite3.connect(f"file:{tmp_path / 'a.db'}?mode=ro", uri=True)) as reader:
            table = pandas.read_sql("SELECT * FROM evaluations", reader)
    assert table.columns.tolist() == [
        "id", "arch", "weights", "generation", "origin", "share", "seconds", "seed", "failure", "error", "latency",
    ]  # fmt: skip
    assert table["latency"].iloc[0] == 1.5
    assert table["latency"].isna().tolist() == [False, True]
    assert table["failure"].tolist() == ["", "broken"]


def test_an_archive_of_other_objectives_is_refused(tmp_path: Path) -> None:
    Archive(tmp_path / "a.db").close()
    with pytest.raises(CheckpointError, match="holds measurements of error, params, macs, memory, not of error, cost"):
        Archive(tmp_path / "a.db", ("error", "cost"))


def test_generations_are_kept_in_order(tmp_path: Path) -> None:
    facts = GenerationFacts(evaluations=5, failed=0, seconds=1.5)
    generations = [Generation(n, tuple(ARCHS[n:]), 0.1 * n, facts) for n in range(3)]
    with Archive[Arch](tmp_path / "a.db") as archive:
        for generation in generations:
            archive.close_generation(generation)
        assert archive.generations() == generations


def test_others_can_read_while_a_run_writes(tmp_path: Path) -> None:
    with Archive[Arch](tmp_path / "a.db") as archive:
        archive.add(measured(ARCHS[0], 0.5), row())
        reader = sqlite3.connect(tmp_path / "a.db")
        archive.add(measured(ARCHS[1], 0.5), row())
        rows = reader.execute("SELECT arch, error FROM evaluations").fetchall()
        assert rows == [(ARCHS[0].key, 0.5), (ARCHS[1].key, 0.5)]
        reader.close()


def test_what_was_added_survives_a_kill(tmp_path: Path) -> None:
    script = f"""
import os, signal
from pathlib import Path
from nat2.nas.archive import Archive, Evaluation, EvaluationRecord
from nat2.space import Arch
archive = Archive(Path({str(tmp_path / "a.db")!r}), ("error",))
for key in {[arch.key for arch in ARCHS]!r}:
    archive.add(Evaluation(Arch.from_key(key), {{"error": 0.5}}), EvaluationRecord(0, 0, "initial", 1.0, 0.1, 0))
os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", script], check=False, env=os.environ)
    assert killed.returncode == -signal.SIGKILL
    with Archive[Arch](tmp_path / "a.db", ("error",)) as archive:
        assert [evaluation.arch for evaluation, _ in archive.evaluations()] == ARCHS


def test_a_full_disk_loses_nothing_that_was_added(tmp_path: Path) -> None:
    with Archive[Arch](tmp_path / "a.db") as archive:
        pages = archive._database.execute("PRAGMA page_count").fetchone()[0]
        archive._database.execute(f"PRAGMA max_page_count = {pages + 1}")  # SQLite's own way to fill a disk
        added: list[int] = []

        def fill() -> None:
            for number in range(10_000):
                archive.add(measured(ARCHS[number % 6], number / 10_000), row(number))
                added.append(number)

        with pytest.raises(RunError, match=r"kept\. Free some space"):
            fill()
    with Archive[Arch](tmp_path / "a.db") as archive:
        assert len(archive.evaluations()) == len(added) > 0


def test_other_schema_versions_are_refused_with_the_release_that_wrote_them(tmp_path: Path) -> None:
    with Archive[Arch](tmp_path / "a.db") as archive:
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


def test_a_database_of_something_else_is_left_as_it_is(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "a.db")) as other:
        other.execute("CREATE TABLE songs (name TEXT)")
        other.commit()
    before = (tmp_path / "a.db").read_bytes()
    with pytest.raises(CheckpointError, match="not an archive"):
        Archive(tmp_path / "a.db")
    assert (tmp_path / "a.db").read_bytes() == before


def test_two_searches_on_one_file_are_told(tmp_path: Path) -> None:
    with Archive[Arch](tmp_path / "a.db") as first, Archive[Arch](tmp_path / "a.db") as second:
        first.add(measured(ARCHS[0], 0.5), row())
        with pytest.raises(RunError, match="another search is writing"):
            second.add(measured(ARCHS[0], 0.5), row())


def test_a_folder_that_does_not_exist_is_told(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="a folder that exists"):
        Archive(tmp_path / "nowhere" / "a.db")


def test_facts_about_a_run_are_kept_and_replaced(tmp_path: Path) -> None:
    with Archive[Arch](tmp_path / "a.db") as archive:
        assert archive.noted("box") is None
        archive.note("box", "[1]")
        archive.note("box", "[2]")
    with Archive[Arch](tmp_path / "a.db") as archive:
        assert archive.noted("box") == "[2]"


def test_failures_are_forgotten_where_asked_and_nothing_else() -> None:
    with Archive[Arch](None) as archive:
        archive.add(Evaluation(ARCHS[0], {}, "broken"), row())
        archive.add(Evaluation(ARCHS[1], {}, "broken"), row())
        archive.add(measured(ARCHS[0], 0.5), row(1))
        archive.forget_failures([ARCHS[0], ARCHS[2]])
        assert [archive.failed(arch) for arch in ARCHS[:3]] == [False, True, False]
        assert archive.find(ARCHS[0], weights=0) is None
        assert archive.find(ARCHS[0], weights=1) == measured(ARCHS[0], 0.5)


def test_copies_hold_what_was_there_and_are_no_longer_connected(tmp_path: Path) -> None:
    columns = ("error", "watts")
    evaluation = Evaluation(ARCHS[0], {"error": 0.5, "watts": 3})
    with Archive[Arch](tmp_path / "a.db", columns) as archive:
        archive.add(evaluation, row())
        copies = [Archive.copy(archive.content(), columns), Archive.snapshot(tmp_path / "a.db")]  # while it is open
        archive.add(Evaluation(ARCHS[1], {"error": 0.5, "watts": 3}), row())
    copies.append(Archive.snapshot(tmp_path / "a.db"))
    assert [each.columns for each in copies] == [columns] * 3
    assert [len(each.evaluations()) for each in copies] == [1, 1, 2]
    assert all(each.find(ARCHS[0], weights=0) == evaluation for each in copies)
    assert copies[1].path == tmp_path / "a.db"
    assert [each.name for each in tmp_path.iterdir()] == ["a.db"]
    for each in copies:
        each.add(Evaluation(ARCHS[2], {"error": 0.1, "watts": 1}), row())  # a copy can be gone on with
        each.close()


def test_what_cannot_be_copied_is_told(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"a\.db cannot be read \(No such file"):
        Archive.snapshot(tmp_path / "a.db")
    (tmp_path / "a.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(CheckpointError, match="not an archive or is damaged"):
        Archive.snapshot(tmp_path / "a.db")
    with closing(sqlite3.connect(tmp_path / "b.db")) as other:
        other.execute("CREATE TABLE songs (name TEXT)")
        other.commit()
    with pytest.raises(CheckpointError, match="is not an archive; name the folder of a run"):
        Archive.snapshot(tmp_path / "b.db")


PROPOSAL = Proposal(
    predictor="lgb", predictors={"error": "lgb"}, bounded=True, feasible=0.254, duplicate=0.5, predict_seconds=1.23456,
    evolve_seconds=0.5, select_seconds=0.25,
)  # fmt: skip
FREE = dataclasses.replace(PROPOSAL, bounded=False)
FACTS = GenerationFacts(
    evaluations=30, failed=0, seconds=9.0, candidates=6, proposal=PROPOSAL, quality=Quality(0.456, 0.5, 0.1)
)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, ", 6 new networks predicted by lgb with tau 0.46, 25 % of proposals within the budget"),
        ({"proposal": FREE, "quality": Quality(None, None, 0.1)}, ", 6 new networks predicted by lgb with tau -"),
        ({"proposal": FREE, "failed": 2}, ", 6 new networks predicted by lgb with tau 0.46, 2 evaluations failed"),
        ({"quality": None, "failed": 1}, ", 1 evaluations failed"),
        ({"quality": None}, ""),
    ],
)
def test_a_generation_tells_in_a_line_what_it_was_like(changes: dict[str, Any], line: str) -> None:
    generation = Generation(2, tuple(ARCHS), 0.12345, dataclasses.replace(FACTS, **changes))
    assert generation.summary(5) == f"generation 2 of 5, hypervolume 0.1235{line}"


def test_a_generation_is_a_row_of_the_log() -> None:
    row = Generation(2, tuple(ARCHS), 0.25, FACTS).row()
    assert row == {
        "generation": 2, "hypervolume": 0.25, "archive": 6, "evaluations": 30, "failed": 0, "candidates": 6,
        "predictor": "lgb", "tau": 0.456, "rho": 0.5, "rmse": 0.1, "feasible": 0.254, "duplicate": 0.5,
        "predict_seconds": 1.235, "evolve_seconds": 0.5, "select_seconds": 0.25, "evaluate_seconds": 0.0,
        "adapt_seconds": 0.0, "again_seconds": 0.0, "seconds": 9.0,
    }  # fmt: skip


def test_a_first_generation_has_nothing_to_say_of_candidates() -> None:
    first = Generation(0, tuple(ARCHS), 0.25, GenerationFacts(evaluations=30, failed=2, seconds=1.0))
    assert first.summary(5) == "generation 0 of 5, hypervolume 0.2500, 2 evaluations failed"
    row = first.row()
    assert [row[name] for name in ("candidates", "predictor", "tau", "rho", "rmse", "feasible", "duplicate")] == [
        None
    ] * 7
    assert row["predict_seconds"] == row["again_seconds"] == 0.0


WRITTEN = (
    {"evaluations": 16, "failed": 0, "seconds": 0.25},
    {
        "predictor": "lgb", "predictors": {"error": "lgb", "x_rmse": "svr"}, "bounded": True, "feasible": 0.5,
        "duplicate": 0.25, "predict_seconds": 0.2, "evolve_seconds": 0.1, "select_seconds": 0.05, "candidates": 3,
        "evaluations": 11, "tau": 0.5, "rho": None, "rmse": 0.125, "x_rmse_tau": None, "x_rmse_rho": 0.5,
        "x_rmse_rmse": 2.0, "good": [[1, 0], [0, 2]], "failed": 1, "evaluate_seconds": 0.06, "adapt_seconds": 0.09,
        "again_seconds": 0.11, "seconds": 0.5,
    },
)  # fmt: skip
"""As 0.1.0 wrote it; an objective may be called like a part of its quality."""


@pytest.mark.parametrize("written", WRITTEN)
def test_facts_of_a_generation_keep_their_form_on_disk(written: dict[str, object]) -> None:
    facts = GenerationFacts.from_json(json.dumps(written))
    assert json.loads(facts.to_json()) == written
    assert facts.failed == written["failed"]
    if "good" in written:
        assert facts.quality == Quality(0.5, None, 0.125)
        assert facts.quality_of == {"x_rmse": Quality(None, 0.5, 2.0)}
        assert facts.good == [[1, 0], [0, 2]]


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{}",
        "7",
        "null",
        '{"evaluations": 3}',
        "{",
        json.dumps({**WRITTEN[1], "tau": 1} | {"rmse": 1, "y_rmse": 2}),
    ],
)
def test_incomplete_facts_are_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"incomplete|Expecting"):
        GenerationFacts.from_json(text)
    with Archive[Arch](tmp_path / "a.db", ("error",)) as archive:
        archive._database.execute("INSERT INTO generations VALUES (0, '[]', 0.5, ?)", (text,))
        with pytest.raises(CheckpointError, match="is not an archive or is damaged"):
            archive.generations()


def test_a_log_on_a_disk_that_cannot_be_written_is_read_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite cannot make the index of the log beside the file there."""
    original, opened = module._serialized, list[str]()

    def refusing(uri: str) -> bytes:
        opened.append(uri)
        if uri.startswith(tmp_path.as_uri()):
            raise sqlite3.OperationalError("unable to open database file")
        return original(uri)

    monkeypatch.setattr(module, "_serialized", refusing)
    with Archive[Arch](tmp_path / "a.db") as archive:
        archive.add(measured(ARCHS[0], 0.5), row())
        copy = Archive.snapshot(tmp_path / "a.db")
    assert opened[0].endswith("?mode=ro")
    assert [evaluation for evaluation, _ in copy.evaluations()] == [measured(ARCHS[0], 0.5)]
