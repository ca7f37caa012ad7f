"""The whole way, and back again after a kill."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import yaml

from nat2.runs.folder import RunFolder
from nat2.space import Arch
from tests.tiny import write_corners, write_settings
from tests.zygote import Zygote

# Twenty random moments are tried among the attacks; here are those between two stages, the longer half if asked for.
STAGES = (
    "nothing",
    pytest.param("train: all", marks=pytest.mark.slow),
    "generation 0",
    pytest.param("generation 2", marks=pytest.mark.slow),
    "exported",
)
Said = Callable[[list[str]], str]
"""Runs a command line; gives what was printed."""
Kill = Callable[[list[str], str], None]
"""Runs a command line until it prints a text."""


def command(data: Path, settings: Path, out: Path, *extra: str) -> list[str]:
    return ["run", "--config", str(settings), "--data", str(data), "--out", str(out), *extra]


def start(arguments: list[str]) -> subprocess.Popen[str]:
    """The program as a user starts it; most tests need only what `zygote` runs."""
    environment = {
        **os.environ,
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONWARNINGS": "error::UserWarning",
    }
    line = [sys.executable, "-m", "nat2", *arguments]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


@pytest.fixture
def refusal(zygote: Zygote) -> Said:
    """What the program says when it refuses a command."""

    def refuse(arguments: list[str]) -> str:
        ended = zygote.run(*arguments)
        assert ended.code == 2, ended
        assert "Traceback" not in ended.errors
        return ended.errors

    return refuse


@pytest.fixture
def finish(zygote: Zygote) -> Said:
    """What the program prints on its way to a good end."""

    def finish(arguments: list[str]) -> str:
        ended = zygote.run(*arguments)
        assert ended.code == 0, ended.errors
        return ended.output

    return finish


@pytest.fixture
def kill(zygote: Zygote) -> Kill:
    """Runs the program until a moment after it has printed a text."""

    def kill(arguments: list[str], text: str) -> None:
        pause = {"pause": 0.0} if text == "exported" else {}  # after which a run soon ends
        ended = zygote.run(*arguments, kill_at=text, **pause)
        assert ended.code == -signal.SIGKILL, ended
        assert text in ended.output

    return kill


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("a place")
    return write_corners(root / "some images"), write_settings(root / "settings.yaml")


@pytest.fixture(scope="module")
def whole(place: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("runs") / "whole"
    process = start(command(*place, out))
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert errors == ""
    return out, output


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_the_run_folder_explains_itself(whole: tuple[Path, str]) -> None:
    out, output = whole
    names = {path.name for path in out.iterdir()}
    assert names == {
        ".lock", "archive.db", "config.yaml", "data.json", "environment.json", "latency.csv", "log.csv", "networks",
        "pareto.csv", "pareto.png", "report.html", "results.json", "seconds.json", "splits.csv",
        "supernet-w0.25.safetensors",
    }  # fmt: skip
    seconds = json.loads((out / "seconds.json").read_text())
    assert list(seconds) == ["read", "train", "search", "fine-tune and export"]
    assert min(seconds.values()) > 0
    config = yaml.safe_load((out / "config.yaml").read_text())
    assert config["search"]["archive"] == 8
    assert config["adapt"]["lr"] == 0.01  # complete: what was not given stands there too
    assert json.loads((out / "environment.json").read_text())["packages"]["torch"]
    networks = rows(out / "pareto.csv")
    assert list(networks[0])[:7] == ["id", "arch", "error", "params", "macs", "val_accuracy", "test_accuracy"]
    assert {row["id"].removesuffix("-ee") for row in networks} == {
        row["id"] for row in networks if "-ee" not in row["id"]
    }
    assert 1 <= len({row["id"].removesuffix("-ee") for row in networks}) <= 2  # one may beat the other
    latencies = rows(out / "latency.csv")
    assert [row["id"] for row in latencies] == [row["id"] for row in networks]
    assert all(0 < float(row["lower"]) <= float(row["median"]) <= float(row["upper"]) for row in latencies)
    for row in networks:
        assert 0 <= float(row["test_accuracy"]) <= 1
        files = {path.name for path in (out / "networks" / row["id"]).iterdir()}
        assert files == {
            "arch.json", "mistakes.json", "model.onnx", "model.safetensors", "predictions.csv", "preprocessing.json",
            "result.json",
        }  # fmt: skip
        for name in files - {"mistakes.json", "predictions.csv", "result.json"}:  # what is not there to be deployed
            assert int(row[f"{name}_bytes"]) == (out / "networks" / row["id"] / name).stat().st_size
        assert row["id"] in output
    log = rows(out / "log.csv")
    assert [row["generation"] for row in log] == ["0", "1", "2"]
    assert all(row["rmse"] for row in log[1:])


def test_the_last_lines_say_what_to_do_next(whole: tuple[Path, str]) -> None:
    out, output = whole
    tail = output.splitlines()[-12:]
    assert any("most accurate" in line for line in tail)
    assert any("report.html" in line for line in tail)
    assert tail[-1].lstrip().startswith(("next: nat2 predict", "next: check the labels"))  # which, depends on chance
    assert str(out) in output


def test_the_archive_can_be_read_with_sql(whole: tuple[Path, str]) -> None:
    database = sqlite3.connect(whole[0] / "archive.db")
    total, distinct = database.execute(
        "SELECT count(*), count(DISTINCT arch || '/' || weights) FROM evaluations WHERE error BETWEEN 0 AND 1"
    ).fetchone()
    assert total == distinct >= 16 + 2 * 8
    database.close()


def test_a_finished_run_is_not_repeated(whole: tuple[Path, str], place: tuple[Path, Path], finish: Said) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole[0].rglob("*") if path.is_file() and path.name != ".lock"}
    output = finish(command(*place, whole[0]))
    assert "finished run" in output
    assert output.splitlines()[-1] == whole[1].splitlines()[-1]
    assert before == {path: path.stat().st_mtime_ns for path in before}


def assert_same_outcome(out: Path, expected: Path) -> None:
    for name in ("pareto.csv", "results.json", "config.yaml"):
        assert (out / name).read_text() == (expected / name).read_text()
    unchanging = ("generation", "hypervolume", "archive", "evaluations", "tau", "rho", "rmse")
    for row, other in zip(rows(out / "log.csv"), rows(expected / "log.csv"), strict=True):
        assert [row[name] for name in unchanging] == [other[name] for name in unchanging]


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_killed_in_any_stage_ends_with_the_same_networks(
    place: tuple[Path, Path],
    whole: tuple[Path, str],
    tmp_path: Path,
    kill: Kill,
    finish: Said,
    stage: str,
) -> None:
    out = tmp_path / "killed"
    kill(command(*place, out), "objectives" if stage == "nothing" else stage)
    assert not (out / "results.json").exists()
    finish(command(*place, out))
    assert_same_outcome(out, whole[0])


OWN = """
import nat2

@nat2.objective(direction="max", cost="predicted")
def calm(network):
    return -float(sum(weight.abs().mean() for weight in network.parameters()))
"""


@pytest.fixture(scope="module")
def bounded(
    place: tuple[Path, Path], zygote: Zygote, tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[str], Path]:
    """A command with a budget, a measured latency, an objective of the user, halving and curves; where it was run."""
    root = tmp_path_factory.mktemp("bounded")
    (root / "own.py").write_text(OWN)
    arguments = command(write_corners(root / "images", 130), place[1], root / "whole")
    arguments += ["--objectives", f"error,params,{root / 'own.py'}:calm", "--budget", "params<=60k,latency<=1s"]
    arguments += ["--search.preprocess", "halving", "--search.oversample", "3", "--tensorboard", "true"]
    ended = zygote.run(*arguments)
    assert ended.code == 0, ended.errors
    return arguments, root / "whole"


def test_a_budget_is_kept_from_the_first_network_on(bounded: tuple[list[str], Path]) -> None:
    out = bounded[1]
    networks = rows(out / "pareto.csv")
    assert all(float(row["params"]) <= 60_000 and 0 < float(row["latency"]) < 1000 for row in networks)
    with closing(sqlite3.connect(out / "archive.db")) as archive:
        over = archive.execute("SELECT count(DISTINCT arch) FROM evaluations WHERE params > 60000").fetchone()[0]
        parts = archive.execute("SELECT DISTINCT share FROM evaluations ORDER BY share").fetchall()
    assert over == 1  # the largest network, which is always looked at
    assert [share for (share,) in parts] == [pytest.approx(1 / 3), 1]
    assert list(networks[0])[2:5] == ["error", "params", "calm"]
    assert any((out / "tensorboard").iterdir())


def test_a_run_with_a_budget_survives_kills(
    bounded: tuple[list[str], Path],
    tmp_path: Path,
    kill: Kill,
    finish: Said,
) -> None:
    """Latencies differ from run to run, so only what does not depend on them is compared."""
    arguments, whole = bounded
    arguments = [str(tmp_path / "killed") if word == str(whole) else word for word in arguments]
    for moment in ("train: all done", "generation 1"):
        kill(arguments, moment)
    finish(arguments)
    first, second = (rows(out / "log.csv")[0] for out in (whole, tmp_path / "killed"))
    assert [first[name] for name in ("hypervolume", "evaluations")] == [
        second[name] for name in ("hypervolume", "evaluations")
    ]
    with closing(sqlite3.connect(tmp_path / "killed" / "archive.db")) as archive:
        twice = archive.execute("SELECT count(*) - count(DISTINCT arch || weights || share) FROM evaluations")
        assert twice.fetchone()[0] == 0


def test_another_budget_is_another_run(bounded: tuple[list[str], Path], refusal: Said) -> None:
    assert "different are budget" in refusal([word.replace("60k", "50k") for word in bounded[0]])


def test_halving_on_a_handful_of_images_is_refused(place: tuple[Path, Path], tmp_path: Path, refusal: Said) -> None:
    options = ("--search.preprocess", "halving", "--search.oversample", "9")
    assert "validation images, which says nothing" in refusal(command(*place, tmp_path / "out", *options))


def test_parallel_blocks_and_two_widths_go_the_whole_way_and_survive_a_kill(
    place: tuple[Path, Path],
    tmp_path: Path,
    kill: Kill,
    finish: Said,
) -> None:
    options = ("--family", "EE_DP", "--width", "0.15,0.25", "--finetune.variant", "both")
    output = finish(command(*place, tmp_path / "whole", *options))
    assert "EE_DP of width 0.15 and 0.25" in output
    names = {path.name for path in (tmp_path / "whole").glob("supernet-*")}
    assert names == {"supernet-w0.15.safetensors", "supernet-w0.25.safetensors"}
    with closing(sqlite3.connect(tmp_path / "whole" / "archive.db")) as archive:
        archs = [row[0] for row in archive.execute("SELECT arch FROM evaluations")]
    assert {Arch.from_key(arch).width for arch in archs} == {0.15, 0.25}
    assert len({layer.blocks for arch in archs for layer in Arch.from_key(arch).stages[0]}) > 3
    kill(command(*place, tmp_path / "killed", *options), "train width 0.15: full")
    finish(command(*place, tmp_path / "killed", *options))
    assert_same_outcome(tmp_path / "killed", tmp_path / "whole")


@pytest.mark.parametrize(
    ("cache", "said"), [("decoded", "decoded images: "), ("none", "are decoded whenever they are needed")]
)
def test_images_that_stay_on_disk_make_the_same_networks(
    place: tuple[Path, Path], whole: tuple[Path, str], tmp_path: Path, finish: Said, cache: str, said: str
) -> None:
    folder = cache if cache == "none" else str(tmp_path / cache)
    output = finish(command(*place, tmp_path / "streamed", "--memory", "1e-6", "--cache", folder))
    assert said in output
    assert (tmp_path / "streamed" / "pareto.csv").read_text() == (whole[0] / "pareto.csv").read_text()


def test_a_run_goes_on_from_a_trained_super_network_on_other_images(
    place: tuple[Path, Path], whole: tuple[Path, str], tmp_path: Path, finish: Said
) -> None:
    shutil.copytree(place[0], tmp_path / "three")
    shutil.rmtree(tmp_path / "three" / "north east")
    weights = whole[0] / "supernet-w0.25.safetensors"
    out = tmp_path / "transferred"
    output = finish(command(tmp_path / "three", place[1], out, "--pretrained", str(weights)))
    assert f"{weights}: classifiers of exits 1, 2, 3, 4, 5: 4 classes, not 3; left as initialised" in output
    assert rows(out / "pareto.csv")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--pretrained", "absent.pth"], "absent.pth does not exist"),
        (["--pretrained", "a.pth,b.pth"], "needs one file per width; got 2 for 1 widths"),
        (["--family", "SE_B", "--pretrained", "WEIGHTS"], "it needs --family EE_D"),
        (["--schedule", "transfer", "--phases", "[]"], "name them with --pretrained"),
    ],
)
def test_unfit_weights_are_refused_before_anything_is_begun(
    place: tuple[Path, Path],
    whole: tuple[Path, str],
    tmp_path: Path,
    refusal: Said,
    options: list[str],
    message: str,
) -> None:
    options = [str(whole[0] / "supernet-w0.25.safetensors") if option == "WEIGHTS" else option for option in options]
    assert message in refusal(command(*place, tmp_path / "out", *options))
    assert not (tmp_path / "out").exists()


def test_another_configuration_is_refused_and_named(
    whole: tuple[Path, str], place: tuple[Path, Path], refusal: Said
) -> None:
    errors = refusal(command(*place, whole[0], "--seed", "7", "--search.candidates=5"))
    assert "seed (0 there, 7 now); search.candidates (3 there, 5 now)" in errors


def test_changed_images_are_refused(
    whole: tuple[Path, str], place: tuple[Path, Path], tmp_path: Path, refusal: Said
) -> None:
    data = write_corners(tmp_path / "some images")
    config = yaml.safe_load((whole[0] / "config.yaml").read_text())
    out = tmp_path / "run"
    out.mkdir()
    (out / "config.yaml").write_text(yaml.safe_dump(config | {"data": str(data)}, sort_keys=False))
    (out / "data.json").write_text((whole[0] / "data.json").read_text())
    (data / "north east" / "0.png").write_bytes((data / "north west" / "0.png").read_bytes())
    assert "not those that the run" in refusal(command(data, place[1], out))


def test_the_same_images_by_another_path_are_the_same_run(
    whole: tuple[Path, str], place: tuple[Path, Path], finish: Said
) -> None:
    data = place[0].parent / "." / f"{place[0].name}/"
    line = command(data, place[1], whole[0], "--skip-bad-images")
    line[line.index("--data") + 1] += "/"
    assert "finished run" in finish(line)


@pytest.mark.parametrize("lost", ["networks/*/model.onnx", "report.html", "networks/*/result.json"])
def test_a_finished_run_that_is_no_longer_whole_says_so(
    whole: tuple[Path, str],
    place: tuple[Path, Path],
    tmp_path: Path,
    refusal: Said,
    lost: str,
) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole[0], out)
    next(out.glob(lost)).unlink()
    assert Path(lost).name in refusal(command(*place, out))


@pytest.mark.parametrize("name", ["config.yaml", "data.json", "results.json"])
def test_a_damaged_run_folder_is_refused(
    whole: tuple[Path, str],
    place: tuple[Path, Path],
    tmp_path: Path,
    refusal: Said,
    name: str,
) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole[0], out)
    (out / name).write_bytes((out / name).read_bytes()[:5])
    assert "damaged run" in refusal(command(*place, out))


def test_an_interrupted_fresh_start_is_made_good(whole: tuple[Path, str], tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole[0], out)
    (out / ".clearing").touch()
    (out / "config.yaml").unlink()
    with RunFolder(out):
        assert {path.name for path in out.iterdir()} == {".lock"}


def test_work_goes_on_when_nobody_listens_any_more(place: tuple[Path, Path], tmp_path: Path) -> None:
    process = start(command(*place, tmp_path / "run", "--networks", "1", "--search.generations", "0"))
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr is not None
    errors = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=300) == 0, errors
    assert (tmp_path / "run" / "report.html").exists()


def test_fresh_starts_over_and_foreign_folders_are_left_alone(
    place: tuple[Path, Path],
    tmp_path: Path,
    refusal: Said,
    kill: Kill,
) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    assert "precious.txt" in refusal(command(*place, tmp_path, "--fresh"))
    assert (tmp_path / "precious.txt").read_text() == "mine"
    out = tmp_path / "run"
    (out / "networks").mkdir(parents=True)
    (out / "networks" / "old.txt").write_text("old")
    (out / "config.yaml").write_text("seed: 5\n")
    kill(command(*place, out, "--fresh"), "objectives")
    assert not (out / "networks" / "old.txt").exists()
    assert yaml.safe_load((out / "config.yaml").read_text())["seed"] == 0


def test_a_full_disk_ends_in_a_message_and_the_run_continues_later(
    place: tuple[Path, Path], tmp_path: Path, zygote: Zygote, finish: Said
) -> None:
    out = tmp_path / "full"
    ended = zygote.run(*command(*place, out), largest=300_000)
    assert ended.code == 2, ended
    assert "the disk is full" in ended.errors
    assert "Traceback" not in ended.errors
    finish(command(*place, out))
