"""The objectives of a configuration, tied to a super-network."""

from __future__ import annotations

import copy
import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nat2.data.dataset import Split
from nat2.data.transform import Pipeline, ResizedImages
from nat2.deploy.latency import Latency
from nat2.errors import ConfigError
from nat2.nas.feasible import exact
from nat2.nas.objectives import OBJECTIVES, Objective
from nat2.pipeline import evaluation as module
from nat2.pipeline.evaluation import Evaluator, exact_costs, latency_of_ends, quantities, try_objectives
from nat2.processes import ALONE
from nat2.runs.config import RunConfig
from nat2.space import Macro, SearchSpace, cost
from nat2.space.device import device_cost
from nat2.supernet import StaticNetwork, SuperNetwork, SuperNetworks, extract
from nat2.supernet.static import channels_last

MACRO = Macro(classes=4, channels=1, width=0.25, stem_stride=1)
SPACE = SearchSpace.of(MACRO, (12, 16))


@pytest.fixture(scope="module")
def networks() -> SuperNetworks:
    network = channels_last(SuperNetwork(MACRO, generator=torch.Generator().manual_seed(0))).eval()
    return SuperNetworks([network])


@pytest.fixture(scope="module")
def evaluator() -> Evaluator:
    """200 images a class, one class behind the other."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (800, 1, 16, 16), dtype=torch.uint8, generator=generator)
    split = Split(pixels, torch.arange(800) // 200)
    images = ResizedImages(split, Pipeline((0.5,), (0.25,)))
    return Evaluator(images, images, ALONE)


def names(objectives: tuple[Objective, ...]) -> list[str]:
    return [each.name for each in objectives]


def test_costs_are_recorded_whether_they_are_optimised_or_not() -> None:
    objectives, recorded = quantities(RunConfig(objectives="error,macs"))
    assert names(objectives) == ["error", "macs"]
    assert names(recorded) == ["params", "memory"]


def test_the_error_is_recorded_beside_that_in_8_bits() -> None:
    objectives, recorded = quantities(RunConfig(objectives="flash,int8_error"))
    assert names(objectives) == ["int8_error", "flash"]
    assert names(recorded) == ["error", "params", "macs", "memory"]
    _, recorded = quantities(RunConfig(budget="int8_error<=5%"))
    assert [(each.name, each.high) for each in recorded if each.bounded] == [("int8_error", 0.05)]


def test_the_error_in_8_bits_is_measured_when_it_counts(networks: SuperNetworks, evaluator: Evaluator) -> None:
    small = Evaluator(evaluator.calibration.part(0.1), evaluator.validation.part(0.1), ALONE)
    both = small.evaluate(networks, [*OBJECTIVES.values()])(SPACE.smallest)
    assert both.keys() == {"error", "int8_error"}
    assert small.evaluate(networks, [OBJECTIVES["error"]])(SPACE.smallest) == {"error": both["error"]}
    network = networks[MACRO.width]
    extracted = extract(network, SPACE.smallest, small.statistics(network, SPACE.smallest))
    assert both["int8_error"] == small.int8_error(extracted)


def test_a_bounded_latency_is_measured_without_being_an_objective() -> None:
    objectives, recorded = quantities(RunConfig(budget="latency<=3ms,params<=20k"))
    assert names(recorded) == ["macs", "memory", "latency", "latency_spread"]
    assert objectives[1].high == 20_000
    assert recorded[2].high == 3


@pytest.mark.parametrize("cost", ["exact", "predicted", "measured"])
def test_objectives_of_ones_own_are_bounded_once(tmp_path: Path, cost: str) -> None:
    file = tmp_path / "own.py"
    file.write_text(f"import nat2\n\n@nat2.objective(cost={cost!r})\ndef watts(given): return 1.0\n")
    config = RunConfig(objectives=f"error,{file}:watts", budget="watts>=2,watts<=3.5,macs<=1M")
    objectives, recorded = quantities(config)
    assert [(each.name, each.low, each.high) for each in objectives] == [
        ("error", -math.inf, math.inf),
        ("watts", 2.0, 3.5),
    ]
    assert [(each.name, each.high) for each in recorded] == [
        ("params", math.inf),
        ("macs", 1_000_000),
        ("memory", math.inf),
    ]


def test_exact_objectives_are_those_of_single_networks() -> None:
    objectives, recorded = quantities(RunConfig(objectives="error,params,macs,memory"))
    costs = exact_costs((*objectives, *recorded), SPACE, [MACRO])
    assert list(costs) == ["params", "macs", "memory"]
    genomes = SPACE.sample(20, np.random.default_rng(0))
    values = exact(objectives[1:], costs, genomes)
    expected = [cost(MACRO, SPACE.decode(genome)) for genome in genomes]
    assert values.tolist() == [[each.params, each.macs, 4 * each.memory] for each in expected]


def test_functions_of_ones_own_get_architecture_or_network(
    tmp_path: Path, networks: SuperNetworks, evaluator: Evaluator
) -> None:
    file = tmp_path / "own.py"
    file.write_text(
        "import nat2\n\n"
        "@nat2.objective(cost='exact')\ndef layers(arch): return sum(arch.depths)\n\n"
        "@nat2.objective(cost='predicted', direction='max')\ndef sharpness(network): return network.training + 2.0\n\n"
        "def tensors(network): return len(list(network.parameters()))\n"
    )
    config = RunConfig(objectives=f"error,{file}:layers,{file}:sharpness,{file}:tensors")
    objectives, recorded = quantities(config)
    costs = exact_costs((*objectives, *recorded), SPACE, [MACRO])
    genomes = SPACE.sample(5, np.random.default_rng(0))
    assert costs.keys() == {"layers", "params", "macs", "memory"}
    assert exact([objectives[1]], costs, genomes)[:, 0].tolist() == [sum(SPACE.decode(g).depths) for g in genomes]
    measurements = evaluator.measurements(networks, (*objectives, *recorded))
    assert measurements.keys() == {"tensors"}
    assert float(measurements["tensors"](SPACE.largest)) > float(measurements["tensors"](SPACE.smallest))
    values = evaluator.evaluate(networks, objectives)(SPACE.smallest)
    assert values.keys() == {"error", "sharpness"}
    assert values["sharpness"] == 2.0


def test_an_evaluation_leaves_the_weights_as_they_are(networks: SuperNetworks, evaluator: Evaluator) -> None:
    before = copy.deepcopy(networks.state_dict())
    evaluate = evaluator.evaluate(networks, quantities(RunConfig())[0])
    assert evaluate(SPACE.largest) == evaluate(SPACE.largest)
    assert all(torch.equal(value, before[name]) for name, value in networks.state_dict().items())


def test_a_share_of_the_images_is_even_over_the_classes(evaluator: Evaluator) -> None:
    part = evaluator.validation.part(0.25)
    assert torch.bincount(part.labels).tolist() == [50, 50, 50, 50]
    assert part is evaluator.validation.part(0.25)
    assert evaluator.validation.part(1.0) is evaluator.validation
    assert len(evaluator.validation.part(0.001, least=64)) == 64


def test_errors_on_a_share_are_near_those_on_all(networks: SuperNetworks, evaluator: Evaluator) -> None:
    network = networks[0.25]
    assert evaluator.error(network, SPACE.largest, share=0.5) == pytest.approx(
        evaluator.error(network, SPACE.largest), abs=0.1
    )


def test_a_latency_that_no_network_has_is_refused(networks: SuperNetworks, evaluator: Evaluator) -> None:
    bound = Objective(name="latency", cost="measured", unit="ms", high=1e-6)
    with pytest.raises(ConfigError, match=r"the smallest takes .* ms; widen the budget"):
        latency_of_ends(evaluator, networks, SPACE, bound)
    least, most = latency_of_ends(evaluator, networks, SPACE, Objective(name="latency", cost="measured"))
    assert 0 < least < most


def test_a_latency_is_the_median_of_the_network_and_its_spread_lies_between_the_quartiles(
    networks: SuperNetworks, evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    conditions: list[dict[str, Any]] = []

    def timed(network: StaticNetwork, **given: Any) -> Latency:
        conditions.append(given)
        size = sum(parameter.numel() for parameter in network.parameters())
        return Latency(median=size, lower=size - 2, upper=size + 3, runs=20)

    monkeypatch.setattr(module, "measure_latency", timed)
    objectives, recorded = quantities(RunConfig(objectives="error,latency"))
    asked = dataclasses.replace(evaluator, latency_batch=4, latency_threads=2)
    measures = asked.measurements(networks, (*objectives, *recorded))
    assert measures.keys() == {"latency", "latency_spread"}
    for arch in (SPACE.smallest, SPACE.largest):
        assert measures["latency"](arch) == cost(MACRO, arch).params
        assert measures["latency_spread"](arch) == 5
    assert conditions == [{"batch": 4, "threads": 2, "device": ALONE.device}] * 2


@pytest.mark.parametrize("text", ["return 1 / 0", "return None", "return float('nan')", "return 'much'"])
def test_functions_that_do_not_work_are_refused_before_training(
    tmp_path: Path, networks: SuperNetworks, evaluator: Evaluator, text: str
) -> None:
    (tmp_path / "own.py").write_text(f"def watts(network):\n    {text}\n")
    objectives, _ = quantities(RunConfig(objectives=f"error,{tmp_path / 'own.py'}:watts"))
    with pytest.raises(ConfigError, match="the objective watts"):
        try_objectives(evaluator, networks, SPACE, objectives)


def test_a_board_bounds_flash_and_ram_unless_the_budget_does() -> None:
    _, recorded = quantities(RunConfig(device="arduino-nano-33-ble"))
    bounds = {each.name: each.high for each in recorded if each.bounded}
    assert bounds == {"flash": 2**19, "ram": 2**17}
    _, recorded = quantities(RunConfig(device="arduino-nano-33-ble", budget="ram<=48KiB,macs<=20k"))
    assert {each.name: each.high for each in recorded if each.bounded} == {
        "macs": 20_000,
        "flash": 2**19,
        "ram": 48 * 2**10,
    }
    objectives, recorded = quantities(RunConfig(objectives="error,flash", device="stm32f4"))
    assert [(each.name, each.high) for each in objectives] == [("error", math.inf), ("flash", 2**18)]
    assert "ram" in {each.name for each in recorded}
    assert not {"flash", "ram"} & {each.name for part in quantities(RunConfig()) for each in part}
    with pytest.raises(ConfigError, match=r"--device must be one of .*; got 'nano'"):
        RunConfig(device="nano")


def test_flash_and_ram_are_those_of_single_networks() -> None:
    objectives, recorded = quantities(RunConfig(budget="flash<=64KiB,ram<=48KiB"))
    bounded = [each for each in (*objectives, *recorded) if each.name in ("flash", "ram")]
    genomes = SPACE.sample(20, np.random.default_rng(0))
    values = exact(bounded, exact_costs(bounded, SPACE, [MACRO]), genomes)
    assert values.tolist() == [[*map(float, device_cost(MACRO, SPACE.decode(genome)))] for genome in genomes]
