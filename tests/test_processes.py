"""Several processes make what one makes."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nat2.environment import Precision
from nat2.errors import ConfigError
from nat2.launcher import launch
from nat2.processes import Processes, balanced, checked_kind, connect, settled_precision
from nat2.runs.folder import RunFolder
from nat2.training.context import joint_statistics
from nat2.training.settings import SyncBatchNorm
from tests.distributed import everything, refuse_in, step_losses
from tests.tiny import write_corners, write_settings


@given(st.integers(1, 200), st.integers(1, 9))
def test_parts_cover_the_batch_in_pairs(count: int, size: int) -> None:
    parts = [Processes(rank, size).part(count) for rank in range(size)]
    assert [number for part in parts for number in range(count)[part]] == list(range(count))
    assert all(part.start % 2 == 0 for part in parts)
    if count >= 2 * size:
        assert all(part.stop > part.start for part in parts)
        Processes(0, size).check_batch(count)
    else:
        with pytest.raises(ConfigError, match=rf"two images for each of the {size} processes; got {count}"):
            Processes(0, size).check_batch(count)


@given(st.lists(st.floats(0, 1e3), max_size=40), st.integers(1, 6))
def test_balanced_shares_hold_everything_and_differ_by_one_item_at_most(costs: list[float], count: int) -> None:
    shares = balanced(costs, count)
    assert sorted(number for share in shares for number in share) == list(range(len(costs)))
    loads = [sum(costs[number] for number in share) for share in shares]
    assert max(loads) - min(loads) <= max(costs, default=0.0) + 1e-9


def test_cuda_where_there_is_none_is_refused() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ConfigError, match="needs an NVIDIA GPU"):
        connect(accelerator="cuda")
    with pytest.raises(ConfigError, match=r"^--cuda_graphs needs an NVIDIA GPU, and none is used; leave it out$"):
        connect(cuda_graphs=True)
    with pytest.raises(ConfigError, match="--cuda_graphs needs"):
        connect(accelerator="cpu", cuda_graphs=True)


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    return launch(everything, tmp_path_factory.mktemp("together"), devices=2)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    return everything(tmp_path_factory.mktemp("alone"))


def test_the_first_losses_are_those_of_one_process(alone: dict[str, object], together: dict[str, object]) -> None:
    # Sums are made in another order; float32 has a relative precision of 6e-8.
    assert together["steps"] == pytest.approx(alone["steps"], rel=2e-5)


@pytest.mark.parametrize("kind", ["shrink", "clipped", "mixed"])
def test_training_is_that_of_one_process(kind: str, alone: dict[str, object], together: dict[str, object]) -> None:
    assert together[kind] == pytest.approx(alone[kind], rel=2e-4)  # the last bits grow from step to step
    assert together[f"{kind}, processes agree"] == [True, True]


def test_statistics_of_each_process_change_the_training_and_it_goes_on_exactly(
    alone: dict[str, object], together: dict[str, object]
) -> None:
    assert together["own"] != pytest.approx(as_list(together["shrink"])[-1], rel=1e-3)
    assert alone["own"] == as_list(alone["shrink"])[-1]
    for each in (alone, together):
        assert each["own, in parts"] is True
        assert each["own, processes agree"] is True


@pytest.mark.parametrize(
    ("choice", "sizes", "batch", "joint"),
    [("auto", 1, 64, False), ("auto", 2, 64, False), ("auto", 2, 63, True), ("auto", 3, 97, False),
     ("auto", 3, 95, True), ("auto", 8, 256, False), ("auto", 8, 254, True), ("joint", 2, 512, True),
     ("joint", 1, 512, False), ("per-process", 8, 16, False)],
)  # fmt: skip
def test_batch_statistics_are_joint_below_32_images_of_a_process(
    choice: SyncBatchNorm, sizes: int, batch: int, joint: bool
) -> None:
    assert joint_statistics(batch, choice, Processes(0, sizes)) is joint
    trains_alone = Processes(0, 8, team=Processes(0, sizes))
    assert joint_statistics(batch, choice, trains_alone) is joint


def test_processes_that_only_help_learn_what_the_others_have_learned(
    alone: dict[str, object], together: dict[str, object]
) -> None:
    assert together["helped"] == alone["helped"] == alone["steps"]  # by the bit: only one has trained
    assert together["helped, processes agree"] is True


def test_exchanges_keep_every_number_in_its_place(alone: dict[str, object], together: dict[str, object]) -> None:
    gradients, weights, summed, shared = (each for found in (alone, together) for each in as_list(found["exchanged"]))
    assert shared == weights
    assert summed[-1] is None
    for one, other in zip(gradients[:-1], summed[:-1], strict=True):
        assert torch.equal(2 * torch.tensor(one) + 1, torch.tensor(other))


def as_list(value: object) -> list[Any]:
    assert isinstance(value, list)
    return value


@pytest.mark.parametrize(
    ("gpus", "here", "per_gpu", "message"),
    [(1, 4, 1, r"^4 processes need 4 GPUs; this machine has 1\..*let several processes share a GPU"),
     (1, 4, 2, r"^with --processes_per_gpu 2 4 processes need 2 GPUs; this machine has 1\."),
     (4, 3, 2, r"must be a multiple of 2; got 3"), (1, 4, 4, None), (2, 8, 4, None),
     (0, 2, 2, r"needs a GPU to be shared")],
)  # fmt: skip
def test_processes_are_refused_that_have_no_gpu(
    monkeypatch: pytest.MonkeyPatch, gpus: int, here: int, per_gpu: int, message: str | None
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    refused = pytest.raises(ConfigError, match=message) if message else contextlib.nullcontext()
    with refused:
        assert checked_kind("auto", here, per_gpu) == "cuda"
    assert checked_kind("cpu", here, 1) == "cpu"


def test_all_processes_hold_the_archive_of_one(alone: dict[str, object], together: dict[str, object]) -> None:
    assert together["archive"] == alone["archive"]
    assert together["front"] == alone["front"]
    assert together["archives agree"] == [True, True]


def test_clipping_and_mixing_change_the_training(alone: dict[str, object]) -> None:
    losses = [alone[kind] for kind in ("shrink", "clipped", "mixed")]
    for one, other in itertools.combinations(losses, 2):
        assert one != pytest.approx(other, rel=1e-3)


def test_divided_work_gives_the_same_results_and_errors(alone: dict[str, object], together: dict[str, object]) -> None:
    assert together["spread"] == alone["spread"] == [(number, number**2) for number in range(11)]
    assert together["caught"] == alone["caught"] == ["bad was asked for"] * 2


@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_mistake_of_any_process_is_raised_by_the_launcher(rank: int) -> None:
    before = signal.getsignal(signal.SIGTERM), os.environ.get("OMP_NUM_THREADS")
    with pytest.raises(ConfigError, match=f"worse {rank} was asked for"):
        launch(refuse_in, rank, devices=2)
    assert (signal.getsignal(signal.SIGTERM), os.environ.get("OMP_NUM_THREADS")) == before


def run(tmp_path: Path, name: str, *extra: str) -> subprocess.Popen[str]:
    data = tmp_path / "images"
    if not data.exists():
        write_corners(data)
        write_settings(tmp_path / "settings.yaml")
    words = ["run", "--config", str(tmp_path / "settings.yaml"), "--data", str(data), "--out", str(tmp_path / name)]
    words += ["--search.generations", "1", "--networks", "1"]
    return subprocess.Popen(
        [sys.executable, "-m", "nat2", *words, *extra],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip


def archs_of(folder: Path) -> list[tuple[str, int]]:
    database = sqlite3.connect(folder / "archive.db")
    rows = database.execute("SELECT arch, weights FROM evaluations ORDER BY weights, arch").fetchall()
    database.close()
    return rows


def workers_of(process: int) -> list[int]:
    """Its child processes that run the work."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == process and b"spawn_main" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except (OSError, ValueError, IndexError):  # not a process, or gone
            continue
    return found


def test_a_run_in_two_processes_goes_on_when_one_is_killed(tmp_path: Path) -> None:
    whole = run(tmp_path, "whole", "--devices", "2")
    output, errors = whole.communicate(timeout=300)
    assert whole.returncode == 0, errors
    assert "Traceback" not in errors
    assert "exported" in output

    broken = run(tmp_path, "broken", "--devices", "2", "--checkpoint_seconds", "0")
    assert broken.stdout is not None
    for line in broken.stdout:
        if "generation 0 of 1" in line:
            break
    os.kill(workers_of(broken.pid)[-1], signal.SIGKILL)
    rest = broken.stdout.read()
    errors = broken.communicate(timeout=300)[1]
    assert broken.returncode == 0, errors
    assert "a process was lost; all were started again and go on" in rest
    assert archs_of(tmp_path / "broken") == archs_of(tmp_path / "whole")
    assert (tmp_path / "broken" / "pareto.csv").read_text() == (tmp_path / "whole" / "pareto.csv").read_text()


def test_torchrun_starts_the_same_and_a_mistake_is_told_once(tmp_path: Path) -> None:
    write_corners(tmp_path / "images")
    began = time.monotonic()
    finished = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "nat2", "run",
         "--data", str(tmp_path / "images"), "--out", str(tmp_path / "out"), "--shrink.batch_size", "3"],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert finished.returncode != 0
    assert finished.stderr.count("nat2: a batch needs at least two images for each of the 2 processes; got 3") == 1
    assert not (tmp_path / "out").exists()
    assert time.monotonic() - began < 100


def test_fresh_is_obeyed_once(tmp_path: Path) -> None:
    for expected, fresh in ((True, "first"), (True, "first"), (False, "second"), (False, "")):
        with RunFolder(tmp_path / "out", fresh=fresh):
            pass
        if fresh == "first" and not (tmp_path / "out" / "config.yaml").exists():
            (tmp_path / "out" / "config.yaml").write_text("x: 1")
        assert (tmp_path / "out" / "config.yaml").exists() is expected


def test_half_precision_computes_nearly_the_same() -> None:
    half = connect(accelerator="cpu", precision="bf16-mixed")
    assert step_losses(half) == pytest.approx(step_losses(Processes()), abs=0.02)
    assert step_losses(half) != step_losses(Processes())


@pytest.fixture
def tf32() -> Iterator[None]:
    """It is allowed, as torch has it; pytest cannot put back what is no ordinary attribute."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = True
    yield
    torch.backends.cudnn.allow_tf32 = before


@pytest.mark.usefixtures("tf32")
@pytest.mark.parametrize(
    ("asked", "native", "expected"),
    [("auto", True, "bf16-mixed"), ("auto", False, "32-true"), ("32-true", True, "32-true"),
     ("bf16-mixed", True, "bf16-mixed"), ("bf16-mixed", False, None)],
)  # fmt: skip
def test_gpus_that_emulate_bfloat16_compute_in_float32(
    monkeypatch: pytest.MonkeyPatch, asked: Precision, native: bool, expected: Precision | None
) -> None:
    def supported(including_emulation: bool = True) -> bool:
        return native or including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    if expected is None:
        with pytest.raises(ConfigError, match=r"Tesla T4 only emulates it, .* Use 32-true"):
            settled_precision(asked, "cuda")
    else:
        assert settled_precision(asked, "cuda") == expected
        assert not torch.backends.cudnn.allow_tf32
    assert settled_precision("auto", "cpu") == "32-true"


def test_a_script_that_is_imported_launches_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The launcher finds the mark that the process leaves, and says what is missing once."""
    monkeypatch.setenv("NAT2_LAUNCH", str(tmp_path))
    monkeypatch.setattr(os, "_exit", sys.exit)
    with pytest.raises(SystemExit, match="2"):
        launch(print, devices=2)
    assert [path.name for path in tmp_path.iterdir()] == ["unguarded"]
