"""What a run measures of sub-networks: the objectives of its configuration, bound to its super-networks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import numpy as np
import torch

from nat2.data.transform import ResizedImages
from nat2.deploy.integers import error_in_integers
from nat2.deploy.latency import Latency, measure_latency
from nat2.errors import ConfigError, Nat2Error
from nat2.nas.budget import board_bounds, format_bound, parse_budget
from nat2.nas.functions import ExactCost, Measurement
from nat2.nas.objectives import OBJECTIVES, Objective, UserFunction, parse_objectives
from nat2.processes import Processes
from nat2.runs.config import RunConfig
from nat2.space import Arch, CostTable, Macro, SearchSpace
from nat2.space.device import DeviceCost, DeviceCostTable
from nat2.supernet import (
    Normalize,
    StaticNetwork,
    Statistics,
    SuperNetwork,
    SuperNetworks,
    calibrate,
    extract,
    normalize_by,
)
from nat2.training.optimise import accuracy

BYTES = 4  # of a float32
_LEAST = 64  # images that batch-norm statistics need
_LEAST_IN_8_BITS = 32  # images by which the ranges of integers are chosen
SPREAD = Objective(name="latency_spread", cost="measured", unit="ms")
"""Between the quartiles of the latency."""


def quantities(config: RunConfig) -> tuple[tuple[Objective, ...], tuple[Objective, ...]]:
    """What is optimised, and what is only recorded or bounded, by a configuration.

    Raises:
        ConfigError: an objective or a bound is not written as it should be.
    """
    objectives = parse_objectives(config.objectives)
    given = (*board_bounds(config.device, target=config.target), *parse_budget(config.budget, objectives))
    bounds = {each.name: each for each in given}  # of two with the same name the user's
    recorded = [OBJECTIVES[name] for name in ("error", "params", "macs", "memory")]
    recorded += [bound for bound in bounds.values() if bound.cost != "exact" or bound.name in DeviceCost._fields]
    recorded += [SPREAD] if "latency" in {each.name for each in (*objectives, *recorded)} else []
    optimised = {each.name for each in objectives}
    unique = {each.name: each for each in recorded if each.name not in optimised}

    def bounded(each: Objective) -> Objective:
        bound = bounds.get(each.name)
        return each if bound is None else replace(each, low=bound.low, high=bound.high)

    return tuple(map(bounded, objectives)), tuple(map(bounded, unique.values()))


def exact_costs(objectives: Sequence[Objective], space: SearchSpace, macros: Sequence[Macro]) -> dict[str, ExactCost]:
    """The functions of exact objectives, by name: the closed-form costs of a space, or the user's."""
    table = CostTable(space, {macro.width: macro for macro in macros})
    columns = {"params": (0, 1), "macs": (1, 1), "memory": (2, BYTES)}
    on_device = {each.name for each in objectives} & {*DeviceCost._fields}
    device = DeviceCostTable(space, {macro.width: macro for macro in macros}) if on_device else None

    def cost_of(each: Objective) -> ExactCost:
        if each.function is not None:
            return _of_each(each.function, space)
        if device is not None and each.name in on_device:
            place = DeviceCost._fields.index(each.name)
            return lambda genomes: device(genomes)[:, place]
        column, factor = columns[each.name]
        return lambda genomes: table(genomes)[:, column] * factor

    return {each.name: cost_of(each) for each in objectives if each.cost == "exact"}


def _of_each(function: UserFunction, space: SearchSpace) -> ExactCost:
    """A function of an architecture as one of genomes; the same networks come back again and again."""
    remembered = lru_cache(100_000)(function)
    return lambda genomes: np.array([float(remembered(space.decode(genome))) for genome in genomes])


def _handed_over(network: SuperNetwork, arch: Arch, statistics: Statistics | None = None) -> StaticNetwork:
    """What a user's function gets: the extracted network on the CPU, so that it works with and without a GPU."""
    return extract(network, arch, statistics).cpu()


@dataclass(frozen=True)
class Evaluator:
    """Measures sub-networks with the weights that the super-networks have when they are asked."""

    calibration: ResizedImages
    """Training images for batch-norm statistics."""
    validation: ResizedImages
    processes: Processes
    latency_batch: int = 1
    latency_threads: int = 1

    def statistics(
        self, network: SuperNetwork, arch: Arch, *, share: float = 1.0, exits: tuple[int, ...] | None = None
    ) -> Statistics:
        """Batch-norm statistics, calibrated on training images; for the architecture's exit or for several."""
        images = self.calibration.part(share, least=_LEAST)
        return calibrate(network, arch, images.batches(arch.resolution), exits=exits)

    @torch.no_grad()
    def error(
        self, network: SuperNetwork, arch: Arch, *, share: float = 1.0, normalize: Normalize | None = None
    ) -> float:
        """Share of misclassified validation images, of all or of a part of them; calibrated by default."""
        normalize = normalize or normalize_by(self.statistics(network, arch, share=share))
        images = self.validation.part(share)
        answer = partial(network, arch=arch, normalize=normalize)
        return 1 - accuracy(answer, images.batches(arch.resolution), images.labels)

    def int8_error(self, network: StaticNetwork, *, share: float = 1.0) -> float:
        """Share of misclassified validation images in 8-bit integers alone, of all or of a part of them."""
        images, resolution = self.validation.part(share), network.arch.resolution
        calibration = torch.cat([*self.calibration.part(1e-9, least=_LEAST_IN_8_BITS).batches(resolution)])
        return error_in_integers(network, calibration, images.batches(resolution), images.labels)

    def evaluate(self, networks: SuperNetworks, objectives: Sequence[Objective]) -> Callable[..., dict[str, float]]:
        """The evaluation that a search asks for: the error, that in 8 bits if it counts, and the user's predicted
        objectives.

        It works with the weights that the super-networks have when it is called.
        """
        functions = {each.name: each.function for each in objectives if each.cost == "predicted" and each.function}
        in_8_bits = "int8_error" in {each.name for each in objectives}

        @torch.no_grad()
        def evaluate(arch: Arch, *, share: float = 1.0) -> dict[str, float]:
            network = networks[arch.width]
            statistics = self.statistics(network, arch, share=share)
            values = {"error": self.error(network, arch, share=share, normalize=normalize_by(statistics))}
            if functions or in_8_bits:
                extracted = extract(network, arch, statistics)
                values |= {"int8_error": self.int8_error(extracted, share=share)} if in_8_bits else {}
                extracted.cpu()  # as `_handed_over` does
                values |= {name: float(function(extracted)) for name, function in functions.items()}
            return values

        return evaluate

    def measurements(self, networks: SuperNetworks, objectives: Sequence[Objective]) -> dict[str, Measurement[Arch]]:
        """The functions of measured objectives, by name; they extract the sub-network from its super-network."""
        spreads: dict[Arch, float] = {}

        def latency(arch: Arch) -> float:
            measured = self.latency(extract(networks[arch.width], arch))
            spreads[arch] = measured.spread
            return measured.median

        def measurement(function: UserFunction) -> Measurement[Arch]:
            return torch.no_grad()(lambda arch: function(_handed_over(networks[arch.width], arch)))

        built_in: dict[str, Measurement[Arch]] = {"latency": latency, SPREAD.name: spreads.__getitem__}
        return {
            each.name: built_in[each.name] if each.function is None else measurement(each.function)
            for each in objectives
            if each.cost == "measured"
        }

    def latency(self, network: StaticNetwork) -> Latency:
        """Of a sub-network on this machine."""
        return measure_latency(
            network,
            batch=self.latency_batch,
            threads=self.latency_threads,
            device=self.processes.device,
        )


def latency_of_ends(
    evaluator: Evaluator, networks: SuperNetworks, space: SearchSpace, bound: Objective
) -> tuple[float, float]:
    """Median latency of the smallest and of the largest network, in milliseconds.

    Raises:
        ConfigError: even the smallest is slower than the upper bound, or the largest faster than the lower one.
    """
    ends = [evaluator.latency(extract(networks[arch.width], arch)) for arch in (space.smallest, space.largest)]
    if ends[0].lower > bound.high:
        raise ConfigError(
            f"no network keeps --budget {format_bound(bound)} on this machine: the smallest takes "
            f"{ends[0].median:.3g} ms; widen the budget, or choose smaller --resolutions or --width"
        )
    if ends[1].upper < bound.low:
        raise ConfigError(
            f"no network keeps --budget {format_bound(bound)} on this machine: the largest takes "
            f"{ends[1].median:.3g} ms"
        )
    return ends[0].median, ends[1].median


@torch.no_grad()
def try_objectives(
    evaluator: Evaluator, networks: SuperNetworks, space: SearchSpace, objectives: Sequence[Objective]
) -> None:
    """Ask the user's functions about the smallest and the largest network, before hours of work.

    Args:
        evaluator: What measures.
        networks: Untrained ones will do.
        space: The search space.
        objectives: All of the run.

    Raises:
        ConfigError: a function fails, or gives no finite number.
    """
    for each in objectives:
        if each.cost == "exact" or each.function is None:
            continue
        for arch in (space.smallest, space.largest):
            network = networks[arch.width]
            try:
                given = each.function(_handed_over(network, arch, evaluator.statistics(network, arch)))
                value = float(given)
            except Nat2Error:
                raise
            except Exception as error:  # whatever the user's function does
                raise ConfigError(
                    f"the objective {each.name} fails for {arch.key} ({type(error).__name__}: {error})"
                ) from error
            if not math.isfinite(value):
                raise ConfigError(f"the objective {each.name} must be a finite number; got {value} for {arch.key}")
