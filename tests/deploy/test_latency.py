"""How long networks take here."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from nat2.data.transform import Pipeline
from nat2.deploy import export
from nat2.deploy import latency as module
from nat2.deploy.export import open_session
from nat2.deploy.latency import Latency, Measured, latency, measure_exported, measure_latency
from nat2.deploy.quantise import quantise
from nat2.errors import CheckpointError, ConfigError
from nat2.files import write_csv
from nat2.space import Macro, SearchSpace
from nat2.supernet import StaticNetwork

MACRO = Macro(classes=10, width=0.25, stem_stride=1)
SPACE = SearchSpace.of(MACRO, (12, 32))


def test_the_largest_network_takes_longer_than_the_smallest() -> None:
    taken = [measure_latency(StaticNetwork(MACRO, arch).eval()) for arch in (SPACE.smallest, SPACE.largest)]
    assert 2 * taken[0].median < taken[1].median
    for each in taken:
        assert 0 < each.lower <= each.median <= each.upper
        assert each.runs >= 20


def test_more_images_take_longer() -> None:
    network = StaticNetwork(MACRO, SPACE.largest).eval()
    one, many = (measure_latency(network, batch=batch).median for batch in (1, 16))
    assert many > 2 * one


def test_a_row_of_the_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = Measured("a", "int8", 8, 2, "cpu", Latency(1.25, 1.125, 1.5, 50))
    write_csv(tmp_path / "latency.csv", [written.row()])
    with (tmp_path / "latency.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert Measured.of_row(row) == written
    with pytest.raises(ValueError, match="not a number"):
        Measured.of_row(row | {"median": "nan"})
    del row["runs"]
    with pytest.raises(KeyError):
        Measured.of_row(row)


@pytest.mark.parametrize("name", ["batch", "threads"])
def test_nothing_at_once_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"`{name}`"):
        measure_latency(StaticNetwork(MACRO, SPACE.smallest), **{name: 0})  # type: ignore[arg-type]


class Clock:
    """A clock that runs only while something does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, taken: Callable[[int], float]) -> None:
        self.now, self.runs, self._taken = 0.0, 0, taken
        monkeypatch.setattr("nat2.deploy.latency.time.perf_counter", lambda: self.now)

    def run(self) -> None:
        """Take as long as the run with this number does."""
        self.now += self._taken(self.runs)
        self.runs += 1


def test_warming_up_is_not_measured_and_quartiles_are_in_milliseconds(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, lambda number: 5.0 if number < 10 else 0.001 * (number - 9))
    taken = module._timed(clock.run)
    # 1 ms, 2 ms and so on until a quarter of a second is over: 22 x 23 / 2 = 253.
    assert (taken.runs, clock.runs) == (22, 32)
    assert (taken.lower, taken.median, taken.upper) == pytest.approx((6.25, 11.5, 16.75))


@pytest.mark.parametrize(("seconds", "runs"), [(1.0, 20), (1e-6, 400), (2**-9, 128)])
def test_slow_networks_run_a_few_times_and_quick_ones_no_more_than_needed(
    monkeypatch: pytest.MonkeyPatch, seconds: float, runs: int
) -> None:
    taken = module._timed(Clock(monkeypatch, lambda number: seconds).run)
    assert taken.runs == runs
    assert taken.median == pytest.approx(1000 * seconds)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with two networks, one of them in 8 bits too."""
    folder = tmp_path_factory.mktemp("run")
    for name in ("b", "a"):
        network = StaticNetwork(MACRO, SPACE.smallest).eval()
        pipeline = Pipeline((0.4,) * 3, (0.2,) * 3)
        export(network, pipeline, [*"0123456789"], folder / "networks" / name, side=16, facts={})
    images = torch.rand(8, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    quantise(folder / "networks" / "a" / "model.onnx", folder / "networks" / "a" / "model-int8.onnx", [images])
    (folder / "networks" / "notes").mkdir()
    return folder


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Run everything once instead of for a quarter of a second; what was answered."""
    answers: list[object] = []

    def once(run: Callable[[], object]) -> Latency:
        answers.append(run())
        return Latency(1.23456789, 1.0, 2.0, 20)

    monkeypatch.setattr(module, "_timed", once)
    return answers


def test_every_network_of_a_run_is_measured_under_every_condition(run_folder: Path, quick: list[Any]) -> None:
    found = list(latency(run_folder, runtimes=["onnx", "torch"], batches=[1, 3], threads=[1]))
    conditions = [(each.id, each.runtime, each.batch, each.threads, each.device) for each in found]
    assert conditions == [
        (name, runtime, batch, 1, "cpu") for name in "ab" for runtime in ("onnx", "torch") for batch in (1, 3)
    ]
    assert [tuple(answer.shape) for answer in quick] == [(1, 10), (3, 10)] * 4
    torch.testing.assert_close(quick[0], quick[2], rtol=1e-3, atol=1e-4)  # both runtimes see the same images
    assert found[1].row() == {
        "id": "a", "runtime": "onnx", "batch": 3, "threads": 1, "device": "cpu", "median": 1.23457, "lower": 1.0,
        "upper": 2.0, "runs": 20,
    }  # fmt: skip
    (small,) = latency(run_folder / "networks" / "a", runtimes=["int8"])
    assert (small.id, small.runtime) == ("a", "int8")


def test_a_network_runs_as_it_would_be_exported(quick: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """On images of its channels and side, the same ones every time, with as many threads as asked."""
    threads: list[int] = []

    def opened(content: bytes, **options: int) -> onnxruntime.InferenceSession:
        threads.append(options["threads"])
        return open_session(content, **options)

    monkeypatch.setattr(module, "open_session", opened)
    macro = Macro(classes=7, channels=2, width=0.25, stem_stride=1)
    network = StaticNetwork(macro, SearchSpace.of(macro, (20,)).largest, exits=(1, 3)).eval()
    for batch in (1, 3, 3):
        measure_latency(network, batch=batch, threads=2)
    (one,), (three,), (again,) = quick
    assert (one.shape, three.shape) == ((1, 7), (3, 7))
    assert np.isfinite(three).all()
    assert not np.array_equal(three[0], three[1])
    np.testing.assert_array_equal(three, again)
    assert threads == [2, 2, 2]
    measure_latency(network, device=torch.device("cpu"))
    np.testing.assert_allclose(quick[3][0], one, rtol=1e-4, atol=1e-5)
    assert threads[-1] == 1  # unless told otherwise, as is one image


def test_what_cannot_be_measured_is_refused_before_anything_is(run_folder: Path, quick: list[Any]) -> None:
    with pytest.raises(CheckpointError, match=r"b/model-int8\.onnx does not exist; make one with .* --int8"):
        latency(run_folder, runtimes=["onnx", "int8"])
    with pytest.raises(ConfigError, match="the runtime must be one of onnx, int8, torch; got 'tflite'"):
        latency(run_folder, runtimes=["tflite"])  # type: ignore[list-item]
    with pytest.raises(ConfigError, match="`batch` of the latency must be at least 1; got 0"):
        latency(run_folder, batches=[1, 0])
    with pytest.raises(ConfigError, match="`threads` of the latency must be at least 1; got -1"):
        latency(run_folder, threads=[-1])
    with pytest.raises(CheckpointError, match="does not hold an exported network"):
        latency(run_folder / "networks" / "notes")
    with pytest.raises(ConfigError, match="FOLDER takes a file or folder"):
        latency("https://example.org/run")
    assert not quick


def test_a_damaged_file_is_told(run_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(run_folder / "networks" / "a", tmp_path / "a")
    (tmp_path / "a" / "model.onnx").write_bytes(b"no network")
    with pytest.raises(CheckpointError, match=r"model\.onnx cannot be read .*; export the network again"):
        measure_exported(tmp_path / "a")


def test_torch_gets_its_threads_back(run_folder: Path, quick: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    measure_exported(run_folder / "networks" / "a", runtime="torch", threads=3)
    assert asked == [3, 7]
    monkeypatch.setattr(module, "_timed", lambda run: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        measure_exported(run_folder / "networks" / "a", runtime="torch", threads=2)
    assert asked == [3, 7, 2, 7]


class Recorder:
    """A network, or images on a GPU that is not there; it remembers what is done with it."""

    def __init__(self, device: str = "cuda:1") -> None:
        self.device, self.given = torch.device(device), list[object]()

    def contiguous(self, *, memory_format: torch.memory_format) -> Recorder:
        self.given.append(memory_format)
        return self

    def __call__(self, images: object) -> None:
        self.given.append((images, torch.is_inference_mode_enabled()))


def test_on_a_gpu_a_run_ends_when_the_gpu_is_done(quick: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[object] = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    network, images = Recorder(), Recorder()
    module._on_torch(network, images, 2)  # type: ignore[arg-type]
    assert images.given == [torch.channels_last]
    assert network.given == [(images, True)]
    assert waited == [torch.device("cuda:1")]
    assert quick == [None]  # what is answered stays there


def test_a_network_is_measured_on_the_gpu_that_is_named(
    run_folder: Path, quick: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    moved: list[tuple[object, ...]] = []
    device = torch.device("cuda", 1)

    def to(self: object, *given: object, **options: object) -> object:
        moved.append((type(self), *given, *options.items()))
        return self

    monkeypatch.setattr(torch.Tensor, "to", to)
    monkeypatch.setattr(torch.nn.Module, "to", to)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    macro = Macro(classes=7, channels=2, width=0.25, stem_stride=1)
    seen: list[tuple[int, ...]] = []
    network = StaticNetwork(macro, SearchSpace.of(macro, (20,)).smallest).eval()
    network.register_forward_pre_hook(lambda module, given: seen.append(tuple(given[0].shape)))
    measure_latency(network, batch=3, device=device)
    assert seen == [(3, 2, 20, 20)]
    assert (StaticNetwork, device) in moved
    assert (torch.Tensor, device, ("memory_format", torch.channels_last)) in moved
    moved.clear()
    found = measure_exported(run_folder / "networks" / "a", runtime="torch", batch=2, device=device)
    assert (found.device, found.runtime, found.batch) == ("cuda", "torch", 2)
    assert (torch.Tensor, device) in moved
    moved.clear()
    found = measure_exported(run_folder / "networks" / "a", device=device)  # ONNX Runtime stays on the CPU
    assert found.device == "cpu"
    assert not any(device in each for each in moved)
