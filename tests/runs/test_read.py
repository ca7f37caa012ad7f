"""A run as its folder tells it."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import yaml

from nat2.errors import CheckpointError, RunError
from nat2.nas.archive import Archive, Evaluation, EvaluationRecord
from nat2.runs.folder import RunFolder
from nat2.runs.read import read_run
from nat2.space import Arch
from tests.reports.runs import measured, networks, write_run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_run(tmp_path / "run", budget="params<=300000")
    return tmp_path / "run"


def test_a_finished_run_is_read_whole(folder: Path) -> None:
    run = read_run(folder)
    assert (run.name, run.finished, run.state, run.failed) == ("corners", True, "", 1)
    assert [each.name for each in run.objectives] == ["error", "params"]
    assert [each.name for each in run.recorded] == ["macs", "memory"]
    assert run.quantities[1].high == 300_000
    assert len(run.evaluations) == 8 + 10 + 12
    assert len(run.results) == 5
    assert [result.params for result in run.results] == sorted(result.params for result in run.results)
    assert {result.exits for result in run.results if result.anytime} == {(1, 2)}
    assert {timing.runtime for timing in run.timings} == {"onnx", "torch"}
    assert dict(run.facts)["budget"] == "params <= 300,000"
    assert "32 training" in dict(run.facts)["images"]
    assert run.seconds == {"train": 61.0, "search": 5.0}


def test_the_archive_is_that_behind_the_last_generation_with_its_weights(folder: Path) -> None:
    run = read_run(folder)
    archs = networks(14)
    assert [member.arch for member in run.members()] == archs[4:12]
    assert [member.arch for member in run.members(0)] == archs[:8]
    assert [member["error"] for member in run.members()] == [measured(arch)["error"] for arch in archs[4:12]]
    for good in run.front:
        assert good["params"] <= 300_000
        assert not any(other["error"] < good["error"] and other["params"] <= good["params"] for other in run.members())


def test_without_adaptation_the_weights_stay_those_of_the_beginning(folder: Path) -> None:
    with Archive.snapshot(folder / "archive.db") as archive:
        search = json.loads(archive.noted("search") or "")
    with Archive[Arch](folder / "archive.db", ("error", "params", "macs", "memory")) as archive:
        archive.note("search", json.dumps(search | {"adapts": False}))
        for arch in networks(14)[8:12]:
            archive.add(Evaluation(arch, measured(arch)), EvaluationRecord(0, 1, "candidate", 1.0, 0.1, 0))
    run = read_run(folder)
    assert run.members()[0]["error"] == measured(networks(14)[4], -0.1)["error"]


def test_partial_evaluations_are_left_out(folder: Path) -> None:
    before = len(read_run(folder).evaluations)
    with Archive[Arch](folder / "archive.db", ("error", "params", "macs", "memory")) as archive:
        archive.add(
            Evaluation(networks(14)[0], measured(networks(14)[0])), EvaluationRecord(0, 0, "initial", 0.5, 0.1, 0)
        )
    assert len(read_run(folder).evaluations) == before


def test_results_without_counts_of_images_get_them_from_the_run(folder: Path) -> None:
    """Those of nat2 0.1.0."""
    for path in folder.glob("networks/*/result.json"):
        facts = json.loads(path.read_text())
        path.write_text(json.dumps({name: value for name, value in facts.items() if not name.endswith(_COUNTED)}))
    for results in (read_run(folder).results, RunFolder(folder, shared=True).finished_networks()):
        assert len(results) == 5
        assert {(each.val_images, each.test_images, each.val_chance, each.test_chance) for each in results} == {
            (32, 32, 0.25, 0.25)
        }
    (folder / "data.json").unlink()
    assert {each.tested.standard_error for each in RunFolder(folder, shared=True).finished_networks()} == {None}


_COUNTED = ("_images", "_chance")


def test_a_run_under_way_tells_what_there_is(tmp_path: Path) -> None:
    write_run(tmp_path / "run", state="searching")
    run = read_run(tmp_path / "run")
    assert not run.finished
    assert run.results == ()
    assert "generation 2 of 2" in run.state
    assert len(run.members()) == 8


def test_networks_that_are_finished_before_the_run_is_are_there(folder: Path) -> None:
    (folder / "results.json").unlink()
    run = read_run(folder)
    assert not run.finished
    assert len(run.results) == 5
    assert "5 networks are fine-tuned so far" in run.state


def test_a_network_that_was_fine_tuned_later_is_there(folder: Path) -> None:
    listed = json.loads((folder / "results.json").read_text())
    (folder / "results.json").write_text(json.dumps(listed[:-1]))
    assert {result.id for result in read_run(folder).results} == set(listed)


def test_reading_while_another_process_writes(folder: Path) -> None:
    """What is committed is seen, although it lies in the log; and the writer goes on."""
    arch = networks(14)[13]
    with Archive[Arch](folder / "archive.db", ("error", "params", "macs", "memory")) as archive:
        archive.add(Evaluation(arch, measured(arch)), EvaluationRecord(2, 3, "candidate", 1.0, 0.1, 0))
        assert (folder / "archive.db-wal").stat().st_size > 0
        assert read_run(folder).evaluations[-1][0].arch == arch
        archive.note("still", "writing")


def test_reading_leaves_the_folder_as_it_is(folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    read_run(folder)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_a_killed_run_on_a_read_only_disk_is_read(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log is there, but SQLite may not make the index that it needs to read it."""
    killed, arch = tmp_path / "killed", networks(14)[13]
    with Archive[Arch](folder / "archive.db", ("error", "params", "macs", "memory")) as archive:
        archive.add(Evaluation(arch, measured(arch)), EvaluationRecord(2, 3, "candidate", 1.0, 0.1, 0))
        shutil.copytree(folder, killed, ignore=shutil.ignore_patterns("*-shm"))
    connect = sqlite3.connect

    def refusing(place: object, **options: object) -> sqlite3.Connection:
        if "killed" in str(place):
            raise sqlite3.OperationalError("unable to open database file")
        return connect(place, **options)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr(sqlite3, "connect", refusing)
    assert read_run(killed).evaluations[-1][0].arch == arch


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(RunError, match=r"is not a run folder"):
            read_run(folder)


def test_a_run_whose_search_has_not_begun_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path / "run", state="training")
    with pytest.raises(RunError, match="has not begun: the super-network is still being trained"):
        read_run(tmp_path / "run")
    with Archive(tmp_path / "run" / "archive.db"):
        pass
    with pytest.raises(RunError, match="has not measured a network yet"):
        read_run(tmp_path / "run")


@pytest.mark.parametrize("name", ["config.yaml", "data.json", "environment.json", "archive.db", "results.json"])
def test_damage_is_told(folder: Path, name: str) -> None:
    for content in ((folder / name).read_bytes()[:7], b"3", b""):
        (folder / name).write_bytes(content)
        with pytest.raises(CheckpointError):
            read_run(folder)


def test_lost_files_are_told(folder: Path) -> None:
    first = read_run(folder).results[0].id
    (folder / "networks" / first / "result.json").write_text("{")
    with pytest.raises(CheckpointError, match=f"networks/{first}/result.json"):
        read_run(folder)


def test_a_damaged_table_of_latencies_is_told(folder: Path) -> None:
    for text in ("id,runtime\na,onnx\n", (folder / "latency.csv").read_text().replace("0.2,", "nan,")):
        (folder / "latency.csv").write_text(text)
        with pytest.raises(CheckpointError, match="damaged"):
            read_run(folder)


def test_lost_evaluations_are_told(folder: Path) -> None:
    with closing(sqlite3.connect(folder / "archive.db")) as database, database:
        database.execute("DELETE FROM evaluations WHERE weights = 2")
    with pytest.raises(CheckpointError, match="damaged"):
        read_run(folder)


def test_another_release_s_archive_is_told(folder: Path) -> None:
    with closing(sqlite3.connect(folder / "archive.db")) as database, database:
        database.execute("UPDATE meta SET value = '1' WHERE key = 'schema_version'")
    with pytest.raises(CheckpointError, match="schema version 1"):
        read_run(folder)


def test_macros_are_those_of_the_configuration(folder: Path) -> None:
    config = yaml.safe_load((folder / "config.yaml").read_text())
    (folder / "config.yaml").write_text(yaml.safe_dump(config | {"family": "SE_DP", "width": "0.25,0.5"}))
    narrow, wide = read_run(folder).macros
    assert (narrow.width, wide.width) == (0.25, 0.5)
    assert narrow.family == "SE_DP"
    assert narrow.classes == 4


def test_objectives_are_counted_as_they_are_read(tmp_path: Path) -> None:
    write_run(tmp_path / "run")
    path = tmp_path / "run" / "config.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"objectives": "error, params,"}))
    assert [each.name for each in read_run(tmp_path / "run").objectives] == ["error", "params"]


@pytest.mark.parametrize("damage", [{"family": "XX"}, {"width": "wide"}, {"resolutions": "16,12"}])
def test_a_configuration_that_means_nothing_is_refused(tmp_path: Path, damage: dict[str, str]) -> None:
    write_run(tmp_path / "run")
    path = tmp_path / "run" / "config.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | damage))
    with pytest.raises(CheckpointError, match="holds a damaged run"):
        read_run(tmp_path / "run")
