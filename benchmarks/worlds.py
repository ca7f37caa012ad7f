"""Search spaces in which evaluating a network costs nothing, read from published data or given by a formula.

Two of those read stand for a whole search problem: NAS-Bench-Macro, all of whose networks were trained three times,
and the space of Once-For-All MobileNetV3 under the authors' accuracy predictor and their latency table of a Samsung
Note10. A third is a table of Once-For-All networks evaluated on ImageNet, to fit predictors to and judge them by.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nat2.nas.evolve import evolve
from nat2.nas.objectives import Objective
from nat2.nas.select import hypervolume, non_dominated
from nat2.seeds import numpy_generator
from nat2.space import Arch, CostTable, Genomes, IntegerSpace, Layer, Macro, Searchable, SearchSpace
from nat2.space.macro import MAX_DEPTH, STAGES, LayerShape

Values = NDArray[np.float64]
Measure = Callable[[Genomes], Values]
"""Canonical genomes, shape (n, genes), to values, shape (n,)."""


@dataclass(frozen=True)
class Box:
    """Between which values the hypervolume is measured, and the largest there is."""

    origin: Values
    reference: Values
    front: Values
    """The best known trade-offs, shape (n, objectives); all the hypervolume there is."""

    def share(self, values: Values) -> float:
        """Hypervolume of networks as a share of the best known front's."""
        return self._volume(values) / self._volume(self.front)

    def shares(self, values: Values) -> Values:
        """The same of the first network, the first two, and so on, shape (n,)."""
        front, volume = np.empty((0, values.shape[1])), 0.0
        volumes = np.empty(len(values))
        for number, row in enumerate(values):
            if not (front <= row).all(axis=1).any():
                front = np.concatenate([front[~(row <= front).all(axis=1)], row[None]])
                volume = self._volume(front)
            volumes[number] = volume
        return volumes / self._volume(self.front)

    def _volume(self, values: Values) -> float:
        return hypervolume(values, self.reference, self.origin)


@dataclass(frozen=True)
class World:
    """A search problem: networks, the error that evaluating them gives, and what they cost."""

    space: Searchable[Any]
    costs: Mapping[str, Measure]
    """Exact costs by name."""
    error: Measure
    """The true error, by which a search is judged."""
    measured: Callable[[Genomes, int], Values]
    """The error that a search with a seed sees."""
    box: Callable[[str], Box]
    """Between which values the hypervolume in error and costs is measured; names of several are joined by a plus."""

    def exact(self, cost: str) -> dict[str, Measure]:
        """The functions of some costs, by name."""
        return {name: self.costs[name] for name in cost.split("+")}

    def objectives(self, cost: str) -> tuple[Objective, ...]:
        """What a search optimises."""
        return Objective(name="error"), *(Objective(name=name, cost="exact") for name in self.exact(cost))

    def values(self, genomes: Genomes, cost: str) -> Values:
        """True error and costs, shape (n, objectives)."""
        return np.stack([self.error(genomes), *(each(genomes) for each in self.exact(cost).values())], axis=1)


@dataclass(frozen=True)
class Known:
    """Networks whose error was measured, for predictors to learn."""

    space: Searchable[Any]
    genomes: Genomes
    errors: Sequence[Values]
    """One or several measurements, each of shape (n,)."""
    costs: Values
    """Exact costs, shape (n, costs)."""
    resolutions: NDArray[np.int64]
    """Which networks have the same resolution, shape (n,)."""


# -- NAS-Bench-Macro


@cache
def nas_bench_macro(data: Path) -> World:
    """All 6,561 networks of NAS-Bench-Macro: a search sees one of three trainings, and is judged by their mean."""
    genomes, accuracies, costs = _trained(data)
    table = dict(zip(("params", "macs"), costs.T, strict=True))
    places = 3 ** np.arange(genomes.shape[1])[::-1]
    errors = 1 - accuracies
    mean = errors.mean(axis=1)

    def box(cost: str) -> Box:
        values = np.stack([mean, *(table[name] for name in cost.split("+"))], axis=1)
        return Box(values.min(0), values.max(0), values[non_dominated(values)])

    def column(name: str) -> Measure:
        return lambda genomes: table[name][genomes @ places]

    return World(
        IntegerSpace((3,) * genomes.shape[1]),
        {name: column(name) for name in table},
        lambda genomes: mean[genomes @ places],
        lambda genomes, seed: errors[genomes @ places, seed % errors.shape[1]],
        box,
    )


def macro_networks(data: Path) -> Known:
    """The same networks as a table."""
    genomes, accuracies, costs = _trained(data)
    space = IntegerSpace((3,) * genomes.shape[1])
    return Known(space, genomes, list((1 - accuracies).T), costs, np.zeros(len(genomes), dtype=np.int64))


def _trained(data: Path) -> tuple[Genomes, Values, Values]:
    """Genomes in ascending order, accuracies of three trainings (0..1), and parameters and MACs."""
    nets = json.loads((data / "nas_bench_macro" / "nas-bench-macro_cifar10.json").read_text())
    keys = sorted(nets)
    genomes = np.array([[int(digit) for digit in key] for key in keys])
    accuracies = np.array([nets[key]["test_acc"] for key in keys]) / 100
    costs = np.array([[nets[key]["params"], nets[key]["flops"]] for key in keys], dtype=np.float64)
    return genomes, accuracies, costs


# -- by formula


@cache
def cells(data: Path) -> World:
    """15,625 cells of six operations each, as in NAS-Bench-201; every value is known."""
    genomes = np.stack(np.meshgrid(*[np.arange(5)] * 6, indexing="ij"), axis=-1).reshape(-1, 6)
    worth, price = np.array([0.0, 0.3, 0.55, 0.9, 1.0]), np.array([0.0, 0.02, 0.25, 0.5, 1.0])

    def error(genomes: Genomes) -> Values:
        """Two operations after each other bring more than their sum; a path that is cut brings nothing."""
        w = worth[genomes]
        paths = w[:, 0] * w[:, 3] + w[:, 1] * w[:, 4] + w[:, 2] + 0.5 * w[:, 5] * (w[:, 0] + w[:, 4])
        direct: Values = 0.06 + 0.5 * np.exp(-1.3 * paths) + 0.02 * (genomes[:, 2] == 1) * (genomes[:, 5] > 2)
        return direct

    def size(genomes: Genomes) -> Values:
        summed: Values = 0.1 + price[genomes] @ np.array([1.0, 1.0, 2.0, 1.5, 1.5, 2.0])
        return summed

    def time(genomes: Genomes) -> Values:
        """As long as the slowest path."""
        t = np.array([0.0, 0.05, 0.6, 0.5, 1.0])[genomes]
        slowest: Values = 0.2 + np.max([t[:, 0] + t[:, 3], t[:, 1] + t[:, 4], t[:, 2], t[:, 5] + 0.5 * t[:, 0]], axis=0)
        return slowest

    costs: dict[str, Measure] = {"size": size, "time": time}

    @cache
    def box(cost: str) -> Box:
        values = np.stack([error(genomes), *(costs[name](genomes) for name in cost.split("+"))], axis=1)
        return Box(values.min(0), values.max(0), values[non_dominated(values)])

    return World(IntegerSpace((5,) * 6), costs, error, _noisy(error, 0.004), box)


@cache
def chain(data: Path) -> World:
    """4 ** 28 chains of layers; what a layer brings depends on the one before it."""
    genes = 28
    generator = numpy_generator(0, "chain")
    alone = np.sort(generator.random((genes, 4)), axis=1)
    alone[:, 0] = 0
    pairs = 0.6 * generator.normal(size=(genes - 1, 4, 4))
    price = np.array([0.0, 1.0, 2.0, 4.0]) * generator.uniform(0.5, 2.0, genes)[:, None]
    places = np.arange(genes)

    def error(genomes: Genomes) -> Values:
        brought = alone[places, genomes].sum(axis=1)
        brought += np.tanh(pairs[places[:-1], genomes[:, :-1], genomes[:, 1:]]).sum(axis=1)
        lowest: Values = 0.05 + 0.6 * np.exp(-0.09 * np.maximum(brought + 6, 0))
        return lowest

    def size(genomes: Genomes) -> Values:
        summed: Values = 1 + price[places, genomes].sum(axis=1)
        return summed

    slow = np.array([0.0, 2.0, 1.0, 3.0]) * numpy_generator(1, "chain").uniform(0.2, 2.0, genes)[:, None]

    def time(genomes: Genomes) -> Values:
        """A layer has to wait where it differs from the one before."""
        summed: Values = 1 + slow[places, genomes].sum(axis=1) + 0.5 * (np.diff(genomes, axis=1) != 0).sum(axis=1)
        return summed

    space, costs = IntegerSpace((4,) * genes), {"size": size, "time": time}

    @cache
    def box(cost: str) -> Box:
        return _best_known(space, error, [costs[name] for name in cost.split("+")])

    return World(space, costs, error, _noisy(error, 0.004), box)


def _noisy(error: Measure, deviation: float) -> Callable[[Genomes, int], Values]:
    """The error as a search with a seed sees it: the same for a network that is evaluated twice."""

    def measured(genomes: Genomes, seed: int) -> Values:
        noise = [numpy_generator(seed, ",".join(map(str, genome))).normal() for genome in genomes.tolist()]
        seen: Values = error(genomes) + deviation * np.array(noise)
        return seen

    return measured


# -- Once-For-All MobileNetV3 under the authors' accuracy predictor and latency table

OFA = Macro(classes=1000, width=1.2, early_exits=False, dense_skips=False)
RESOLUTIONS = (160, 176, 192, 208, 224)
_FEATURE_RESOLUTIONS = range(112, 225, 16)


@cache
def ofa(data: Path) -> World:
    """OFAMobileNetV3 of width 1.2; its error is what the published predictor says, its latency a Note10's table."""
    space = SearchSpace.of(OFA, RESOLUTIONS)
    table = CostTable(space, {OFA.width: OFA})
    error = _surrogate(data, space)
    costs: dict[str, Measure] = {
        "macs": lambda genomes: table(genomes)[:, 1].astype(np.float64),
        "latency": _latency(data, space),
    }

    @cache
    def box(cost: str) -> Box:
        return _best_known(space, error, [costs[name] for name in cost.split("+")])

    return World(space, costs, error, lambda genomes, seed: error(genomes), box)


def _surrogate(data: Path, space: SearchSpace) -> Measure:
    """The published accuracy predictor, three hidden layers on one-hot kernels, expand ratios and resolution."""
    with np.load(data / "ofa_mbv3_surrogate" / "acc_predictor.npz") as arrays:
        layers = [(arrays[f"{n}.weight"].T, arrays[f"{n}.bias"]) for n in (0, 2, 4, 6)]
    kernels, expands = (np.zeros((len(space.settings) + 1, 3)) for _ in range(2))
    for code, layer in enumerate(space.settings, start=1):
        kernels[code, space.kernels.index(layer.kernel)] = 1
        expands[code, space.expands.index(layer.expand)] = 1
    sides = np.array([[float(side == other) for other in _FEATURE_RESOLUTIONS] for side in space.resolutions])

    def error(genomes: Genomes) -> Values:
        stages = space.stage_genes(genomes).reshape(len(genomes), -1)
        parts = [kernels[stages], expands[stages], sides[genomes[:, 0]]]
        x = np.concatenate([part.reshape(len(genomes), -1) for part in parts], axis=1)
        for weight, bias in layers[:-1]:
            x = np.maximum(x @ weight + bias, 0)
        predicted: Values = 1 - (x @ layers[-1][0] + layers[-1][1])[:, 0]
        return predicted

    return error


def _latency(data: Path, space: SearchSpace) -> Measure:
    """Milliseconds on a Samsung Note10: the sum of the published table's entries of the blocks that are executed."""
    file = json.loads((data / "ofa_mbv3_surrogate" / "note10_latency_lut.json").read_text())
    fixed = np.zeros(len(space.resolutions))
    layers = np.zeros((len(space.resolutions), STAGES, MAX_DEPTH, len(space.settings) + 1))
    for r, resolution in enumerate(space.resolutions):
        means = {key: entry[0] for key, entry in file[str(resolution)].items()}
        sizes, last = OFA.feature_sizes(resolution), OFA.exit_shape(STAGES)
        ends = (
            f"Conv-input:{_map(resolution, OFA.channels)}-output:{_map(sizes[0], OFA.stem_channels)}",
            _block(OFA.first_shape, Layer(3, 1), sizes[0], sizes[0]),
            f"Conv_1-input:{_map(sizes[-1], last.in_channels)}-output:{_map(sizes[-1], last.expand_channels)}",
            f"AvgPool2D-input:{_map(sizes[-1], last.expand_channels)}-output:{_map(1, last.expand_channels)}",
            f"Conv_2-input:{_map(1, last.expand_channels)}-output:{_map(1, last.mix_channels)}",
            f"Logits-input:{_map(1, last.mix_channels)}-output:{OFA.classes}",
        )
        fixed[r] = sum(means[key] for key in ends)
        for s, shapes in enumerate(OFA.layer_shapes):
            for p, shape in enumerate(shapes):
                size = sizes[s] if p == 0 else sizes[s + 1]
                for gene, layer in enumerate(space.settings, start=1):
                    layers[r, s, p, gene] = means[_block(shape, layer, size, sizes[s + 1])]

    def latency(genomes: Genomes) -> Values:
        r, stages = genomes[:, 0], space.stage_genes(genomes)
        places = np.arange(STAGES)[:, None], np.arange(MAX_DEPTH)
        summed: Values = fixed[r] + layers[r[:, None, None], places[0], places[1], stages].sum(axis=(1, 2))
        return summed

    return latency


def _map(side: int, channels: int) -> str:
    return f"{side}x{side}x{channels}"


def _block(shape: LayerShape, layer: Layer, size: int, out_size: int) -> str:
    """Name of an inverted bottleneck in the latency table."""
    return (
        f"expanded_conv-input:{_map(size, shape.in_channels)}-output:{_map(out_size, shape.out_channels)}"
        f"-expand:{shape.mid_channels(layer.expand)}-kernel:{layer.kernel}-stride:{shape.stride}"
        f"-idskip:{shape.residual:d}-se:{shape.squeeze_excite:d}-hs:{shape.activation == 'hswish':d}"
    )


def _best_known(space: Searchable[Any], error: Measure, costs: Sequence[Measure], *, generations: int = 400) -> Box:
    """The front of a long evolution on the surrogates themselves, and the box that all searches are measured in.

    The box reaches from the lowest error of that front and the smallest network's costs to the smallest network's error
    and the largest network's costs.
    """
    front = np.empty((0, 1 + len(costs)))

    def values(genomes: Genomes) -> Values:
        nonlocal front
        found = np.stack([error(genomes), *(cost(genomes) for cost in costs)], axis=1)
        if len(costs) > 1:  # a front of two dimensions is larger than a population
            front = np.unique(np.concatenate([front, found]), axis=0)
            front = front[non_dominated(front)]
        return found

    ends = np.stack([space.lower, space.upper])
    start = np.concatenate([ends, space.sample(198, numpy_generator(0, "best known"))])
    last = evolve(
        space, values, n_objectives=1 + len(costs), population=200, generations=generations, start=start, seed=0
    )
    found, (smallest, largest) = values(last), values(ends)
    if len(costs) == 1:
        front = found[non_dominated(found)]
    origin = np.array([found[:, 0].min(), *smallest[1:]])
    return Box(origin, np.array([smallest[0], *largest[1:]]), front)


@dataclass(frozen=True)
class Published:
    """A network that the authors of Once-For-All specialised for a device or a number of MACs."""

    name: str
    genome: Genomes
    device: str | None
    latency: float | None
    """Published milliseconds on the device."""
    macs: float | None
    """Published multiply-accumulates."""


def published(data: Path) -> list[Published]:
    """The published networks that are in the space of `ofa`: those of its width and one of its resolutions."""
    space = SearchSpace.of(OFA, RESOLUTIONS)
    found = []
    for net in json.loads((data / "ofa_mbv3_surrogate" / "ofa_specialized_nets.json").read_text()):
        wide = net["net"] == "MobileNetV3" and net["block_out_channels"][0] == OFA.stem_channels
        if not wide or net["image_size"] not in RESOLUTIONS:
            continue
        layers = iter(list(zip(net["block_ks"], net["block_expand"], strict=True))[1:])
        stages = tuple(tuple(Layer(*next(layers)) for _ in range(depth)) for depth in net["stage_depth"])
        genome = space.encode(Arch(net["image_size"], OFA.width, stages))
        macs = None if net["flops_m"] is None else 1e6 * net["flops_m"]
        found.append(Published(net["name"].split("_top1")[0], genome, net["device"], net["latency_ms"], macs))
    return found


# -- tables to fit predictors to

DRAWN = 3000


@cache
def drawn_networks(make: Callable[[Path], World], cost: str, data: Path) -> Known:
    """Networks drawn from a world, with the errors that three searches would see and one cost."""
    world = make(data)
    genomes = np.unique(world.space.sample(DRAWN, numpy_generator(0, "table")), axis=0)
    errors = [world.measured(genomes, seed) for seed in range(3)]
    return Known(world.space, genomes, errors, world.costs[cost](genomes)[:, None], genomes[:, 0])


LATENCIES = ("2080ti_1", "2080ti_64", "titan_rtx_32", "v100_64")
"""Devices and batch sizes of `latency_networks`."""


@cache
def latency_networks(name: str, data: Path) -> Known:
    """Sub-networks of OFAMobileNetV3 with a latency measured on a GPU in place of the error."""
    macro = Macro(classes=1000, early_exits=False, dense_skips=False)
    space = SearchSpace.of(macro, tuple(range(128, 225, 4)))
    with (data / "ofa_mbv3_latency_help" / "ofa_latency.csv").open() as file:
        rows = list(csv.DictReader(file))[:DRAWN]
    genomes = space.encode_all([_arch(row, int(row["r"]), macro.width) for row in rows])
    measured = np.array([float(row[f"{name}_ms"]) for row in rows])
    costs = CostTable(space, {macro.width: macro})(genomes).astype(np.float64)
    return Known(space, genomes, [measured], costs, genomes[:, 0])


def _arch(row: Mapping[str, str], resolution: int, width: float) -> Arch:
    """The architecture of a row with kernels, expand ratios and depths."""
    kernels, expands, depths = ([int(part) for part in row[name].split()] for name in ("ks", "e", "d"))
    stages = tuple(
        tuple(Layer(kernels[i], expands[i]) for i in range(MAX_DEPTH * s, MAX_DEPTH * s + depth))
        for s, depth in enumerate(depths)
    )
    return Arch(resolution, width, stages)


# -- Once-For-All MobileNetV3 on ImageNet


def imagenet_networks(data: Path) -> Known:
    """2,610 sub-networks of OFAMobileNetV3 with their error on ImageNet's 50,000 validation images."""
    macro = Macro(classes=1000, early_exits=False, dense_skips=False)
    space = SearchSpace.of(macro, (128, 160, 192))
    archs, errors = [], []
    with (data / "ofa_mbv3_moofa_tables" / "ofa_mbv3_imagenet.csv").open() as file:
        for row in csv.DictReader(file):
            archs.append(_arch(row, int(row["image_size"]), macro.width))
            errors.append(1 - float(row["top1"]))
    genomes = space.encode_all(archs)
    costs = CostTable(space, {macro.width: macro})(genomes).astype(np.float64)
    return Known(space, genomes, [np.array(errors)], costs, genomes[:, 0])
