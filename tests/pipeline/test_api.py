"""A run in parts ends as a run in one piece, and its networks go on to be shipped."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from numpy.typing import NDArray

import nat2
from nat2.deploy.latency import measure_exported
from nat2.deploy.predict import operating_points, predict
from nat2.deploy.tflite_runtime import Answers
from nat2.errors import CheckpointError, ConfigError, RunError
from nat2.nas.archive import Archive
from nat2.pipeline.export import export
from nat2.runs.config import RunConfig, read_config
from nat2.runs.folder import RunFolder
from nat2.runs.read import read_run
from nat2.runs.results import Result
from nat2.space import Arch
from nat2.training.settings import Phase
from tests.tiny import SETTINGS, write_corners


def config(data: Path, **changes: Any) -> RunConfig:
    settings = dict(SETTINGS)
    phases = tuple(Phase(**phase) for phase in settings.pop("phases"))
    # Twice, as published, and every exit is kept.
    settings["finetune"] = {"epochs": 2, "batch_size": 32, "restart": True, "prune": False}
    return RunConfig.of("quick", data=str(data), **{**settings, "phases": phases, **changes})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corners(tmp_path_factory.mktemp("verbs") / "images")


@pytest.fixture(scope="module")
def staged(data: Path) -> tuple[Path, list[Result]]:
    """A run in three parts."""
    out = data.parent / "staged"
    (supernet,) = nat2.train(config(data), out=out, quiet=True)
    assert supernet.exists()
    assert not (out / "archive.db").exists()
    front = nat2.search(config(data), out=out, quiet=True)
    assert {each.arch for each in front} == {each.arch for each in read_run(out).front}
    assert not (out / "networks").exists()
    return out, nat2.finetune(config(data), out=out, quiet=True)


@pytest.fixture(scope="module")
def further(data: Path, staged: tuple[Path, list[Result]]) -> tuple[Path, list[Result]]:
    """The same run with another network, whose several exits were trained jointly too."""
    out, before = staged
    with Archive.snapshot(out / "archive.db") as archive:
        archs = {evaluation.arch for evaluation, _ in archive.evaluations()}
    made = {result.id for result in before}
    arch = min((arch for arch in archs if arch.exit >= 3 and arch.id not in made), key=lambda arch: arch.key)
    return out, nat2.finetune(config(data), networks=[arch.id], out=out, quiet=True)


def test_stages_one_by_one_end_as_a_run_in_one_piece(data: Path, staged: tuple[Path, list[Result]]) -> None:
    whole = nat2.run(config(data), out=data.parent / "whole", quiet=True)
    assert staged[1] == whole
    for name in ("pareto.csv", "config.yaml"):
        assert (staged[0] / name).read_text() == (data.parent / "whole" / name).read_text()
    for result in whole:
        first, second = (nat2.load(out / "networks" / result.id) for out in (staged[0], data.parent / "whole"))
        assert all(torch.equal(first.state_dict()[name], tensor) for name, tensor in second.state_dict().items())


def test_further_networks_of_a_finished_run_are_fine_tuned(
    staged: tuple[Path, list[Result]], further: tuple[Path, list[Result]]
) -> None:
    out, results = further
    new = [result for result in results if result not in staged[1]]
    assert [result for result in results if result not in new] == staged[1]
    single, several = sorted(new, key=lambda result: result.id)
    assert several.id == single.id + "-ee"
    assert single.exits == (Arch.from_key(single.arch).exit,)
    assert several.exits[-1] == Arch.from_key(several.arch).exit
    assert json.loads((out / "results.json").read_text()) == [result.id for result in results]
    assert not (out / "state").exists()
    assert "This run is not finished" not in (out / "report.html").read_text()
    assert nat2.train(read_config(out / "config.yaml"), out=str(out), quiet=True) == [
        out / "supernet-w0.25.safetensors"
    ]
    front = nat2.search(read_config(out / "config.yaml"), out=out, quiet=True)
    members = {evaluation.arch.id for evaluation in read_run(out).members()}
    assert members >= {evaluation.arch.id for evaluation in front}
    assert members >= {result.id.removesuffix("-ee") for result in staged[1]}


def test_accuracies_of_several_exits_are_those_of_the_shipped_network(further: tuple[Path, list[Result]]) -> None:
    out, results = further
    several = next(result for result in results if result.id.endswith("-ee"))
    model = nat2.load(out / "networks" / several.id)
    assert sum(parameter.numel() for parameter in model.parameters()) == several.params
    assert len(several.exits) > 1
    assert several.anytime[-1].test_accuracy == pytest.approx(several.test_accuracy)
    assert several.anytime[-1].macs == several.macs
    assert several.anytime[0].macs < several.anytime[-1].macs
    assert operating_points(out / "networks" / several.id) == several.anytime


def test_a_network_that_nobody_knows_is_refused(data: Path, staged: tuple[Path, list[Result]]) -> None:
    with pytest.raises(ConfigError, match="'nobody' is neither the id"):
        nat2.finetune(config(data), networks=["nobody"], out=staged[0], quiet=True)
    with pytest.raises(ConfigError, match="resolution must be one of 12, 16"):
        nat2.finetune(config(data), networks=["r99-w0.25-k3e3.k3e3"], out=staged[0], quiet=True)


def test_settings_of_stages_that_have_not_begun_may_change(data: Path) -> None:
    out = data.parent / "changed"
    nat2.train(config(data), out=out, quiet=True)
    impossible = config(data, objectives="error,latency", budget="latency<=0.0001ms")
    with pytest.raises(ConfigError, match="no network keeps --budget"):
        nat2.search(impossible, out=out, quiet=True)
    with pytest.raises(ConfigError, match="'nobody' is neither the id"):
        nat2.finetune(config(data), networks="nobody", out=out, quiet=True)
    assert not (out / "archive.db").exists()  # so that other settings can be given
    bounded = config(data, budget="params<=60k", networks=1)
    nat2.search(bounded, out=out, quiet=True)
    assert yaml.safe_load((out / "config.yaml").read_text())["budget"] == "params<=60k"
    with pytest.raises(RunError, match="different are budget"):
        nat2.search(config(data), out=out, quiet=True)
    with pytest.raises(RunError, match="different are width"):
        nat2.search(replace(bounded, width="0.3"), out=out, quiet=True)
    before = (out / "supernet-w0.25.safetensors").read_bytes()
    nat2.train(bounded, out=out, quiet=True)  # what the search has adapted stays so
    assert (out / "supernet-w0.25.safetensors").read_bytes() == before
    single = replace(bounded, finetune=replace(bounded.finetune, variant="single", epochs=1), int8=True, pt2=True)
    (result,) = nat2.finetune(single, out=out, quiet=True)
    assert {"model.onnx", "model-int8.onnx", "model.pt2"} < set(result.files)
    assert result.int8_test_accuracy is not None
    assert read_config(out / "config.yaml").finetune.variant == "single"


def test_networks_are_exported_measured_and_asked(
    data: Path, further: tuple[Path, list[Result]], tmp_path: Path
) -> None:
    out, results = further
    first, last = results[0].id, results[-1].id
    assert export(out, [first, last], to=tmp_path / "deploy", int8=True, quiet=True) == [
        tmp_path / "deploy" / first,
        tmp_path / "deploy" / last,
    ]
    assert all(result.int8_test_accuracy is None for result in RunFolder(out, shared=True).results())
    for name in (first, last):
        folder = tmp_path / "deploy" / name
        facts = Result(**json.loads((folder / "result.json").read_text()))
        assert facts.int8_test_accuracy is not None
        assert facts.files == {
            path.name: path.stat().st_size for path in folder.iterdir() if path.name != "result.json"
        }
        assert {"model.onnx", "model-int8.onnx", "model.pt2"} < set(facts.files)
        content = (out / "networks" / name / "model.onnx").read_bytes()
        assert (folder / "model.onnx").read_bytes() == content
        runtimes = {each.runtime for each in nat2.latency(folder, runtimes=["onnx", "int8", "torch"], batches=[1, 2])}
        assert runtimes == {"onnx", "int8", "torch"}
        with pytest.raises(CheckpointError, match="model-int8"):
            nat2.latency(folder, out / "networks" / name, runtimes=["onnx", "int8"])
        images = sorted(data.rglob("*.png"))[:3]
        assert list(predict(folder, images)) == list(predict(out / "networks" / name, images))
    export(out, first, int8=True, quiet=True)  # where the run keeps it
    rows = list(csv.DictReader((out / "pareto.csv").read_text().splitlines()))
    assert [row["id"] for row in rows if row["int8_test_accuracy"]] == [first]
    assert "int8" in (out / "latency.csv").read_text()
    assert [row["id"] for row in rows if row["model.pt2_bytes"]] == [first]
    export(out, last, quiet=True)
    rows = list(csv.DictReader((out / "pareto.csv").read_text().splitlines()))
    assert {row["id"] for row in rows if row["model.pt2_bytes"]} == {first, last}
    assert "Files and their sizes" in (out / "report.html").read_text()


def test_a_run_of_version_0_1_0_can_be_read_and_exported(
    data: Path, staged: tuple[Path, list[Result]], tmp_path: Path
) -> None:
    out = tmp_path / "old"
    shutil.copytree(staged[0], out)
    stored = yaml.safe_load((out / "config.yaml").read_text())
    del stored["pt2"]
    (out / "config.yaml").write_text(yaml.safe_dump(stored, sort_keys=False))
    for path in out.glob("networks/*/result.json"):
        facts = json.loads(path.read_text())
        del facts["files"]
        path.write_text(json.dumps(facts))
    results = nat2.run(config(data), out=out, quiet=True)
    assert {result.id for result in results} >= {result.id for result in staged[1]}
    assert not any(result.files for result in results)
    nat2.report(out)
    assert "Files and their sizes" not in (out / "report.html").read_text()
    with pytest.raises(RunError, match=r"different are pt2 \(False there, True now\)"):
        nat2.run(config(data, pt2=True), out=out, quiet=True)
    export(out, results[0].id, quiet=True)
    rows = list(csv.DictReader((out / "pareto.csv").read_text().splitlines()))
    assert [row["id"] for row in rows if row["model.onnx_bytes"]] == [results[0].id]


def test_what_cannot_be_exported_is_refused(data: Path, staged: tuple[Path, list[Result]], tmp_path: Path) -> None:
    out = staged[0]
    with pytest.raises(RunError, match=r"has returned no network nobody; it has \w+"):
        export(out, ["nobody"])
    with pytest.raises(RunError, match="is not a run folder"):
        export(data)
    with pytest.raises(ConfigError, match="lies inside the run"):
        export(out, to=out / "networks" / "mine")
    with pytest.raises(
        CheckpointError, match=r"model-int8\.onnx does not exist; make one with nat2 export RUN ID --int8$"
    ):
        measure_exported(out / "networks" / staged[1][-1].id, runtime="int8")
    damaged = shutil.copytree(out, tmp_path / "damaged")
    for content in ("{", "{}", "[]"):
        (damaged / "data.json").write_text(content)
        with pytest.raises(CheckpointError, match="holds a damaged run"):
            export(damaged, to=tmp_path / "deploy", int8=True)


def test_exits_are_asked_as_the_user_wants(data: Path, further: tuple[Path, list[Result]]) -> None:
    out, results = further
    several = next(result for result in results if len(result.exits) > 1)
    single = next(result for result in results if len(result.exits) == 1)
    images = sorted(data.rglob("*.png"))[:4]
    with pytest.raises(ConfigError, match="has one exit"):
        predict(out / "networks" / single.id, images, threshold=0.5)
    folder = out / "networks" / several.id
    together, asked = (list(predict(folder, images, top=4, threshold=threshold)) for threshold in (None, 1.0))
    for (_, expected), (_, actual) in zip(together, asked, strict=True):
        assert dict(actual) == pytest.approx(dict(expected), abs=1e-4)
    assert len(list(predict(folder, images, mean_macs=several.macs))) == 4
    assert list(predict(folder, str(images[0]), threshold=0.0)) == list(predict(folder, images[:1], threshold=0.0))
    with pytest.raises(ConfigError, match="no threshold has 1 MACs"):
        predict(folder, images, mean_macs=1)
    with pytest.raises(ConfigError, match="give one of them"):
        predict(folder, images, threshold=0.5, mean_macs=10)
    with pytest.raises(ConfigError, match="--threshold must be from 0 to 1; got 3"):
        predict(folder, images, threshold=3)


def test_networks_are_written_for_a_device(
    staged: tuple[Path, list[Result]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The interpreter is replaced by one that always names the first class; others test what it answers."""

    def answers(runtime: str, model: bytes, images: NDArray[np.float32]) -> Answers:
        return Answers(np.eye(4)[np.zeros(len(images), int)], 9_000)

    out, results = staged
    name = results[0].id
    before = Result(**json.loads((out / "networks" / name / "result.json").read_text()))
    monkeypatch.setattr("nat2.pipeline.export.check_device", lambda device: None)
    monkeypatch.setattr("nat2.deploy.tflite_export.run_tflite", answers)
    (folder,) = export(out, name, to=tmp_path / "deploy", target="microcontroller", quiet=True)
    numbers = json.loads((folder / "microcontroller" / "numbers.json").read_text())
    facts = Result(**json.loads((folder / "result.json").read_text()))
    size = (folder / "microcontroller" / "model.tflite").stat().st_size
    assert facts.files["microcontroller/model.tflite"] == numbers["flash"] == size
    assert numbers["images"] == facts.test_images
    assert numbers["float_accuracy"] == pytest.approx(facts.test_accuracy)
    assert facts.int8_test_accuracy == before.int8_test_accuracy  # that is of model-int8.onnx
    export(out, name, target="microcontroller", quiet=True)  # where the run keeps it
    rows = {row["id"]: row for row in csv.DictReader((out / "pareto.csv").read_text().splitlines())}
    assert rows[name]["microcontroller/model.tflite_bytes"] == str(size)


def test_a_device_that_cannot_be_written_for_is_refused_first(
    staged: tuple[Path, list[Result]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        ConfigError,
        match="--for must be one of microcontroller, phone, executorch, coreml, browser, server, gpu; got 'toa",
    ):
        export(staged[0], to=tmp_path / "deploy", target="toaster")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'nat2\[phone\]'"):
        export(staged[0], to=tmp_path / "deploy", target="phone")
    assert not (tmp_path / "deploy").exists()


def test_networks_are_ranked_by_what_8_bits_leave_of_them(data: Path) -> None:
    settings = config(data, objectives="int8_error,flash", finetune={"steps": 6, "batch_size": 32})
    out = data.parent / "in-8-bits"
    results = nat2.run(settings, out=out, quiet=True)
    with (out / "pareto.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["id"] for row in rows} == {each.id for each in results}
    for each in results:
        assert each.int8_test_accuracy is not None
        assert {"int8_error", "flash"} <= each.others.keys()
        assert (out / "networks" / each.id / "model-int8.onnx").exists()
