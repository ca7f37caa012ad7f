"""The table of networks behind nat2.create: sub-networks of the shipped super-network, measured on held-out images.

    python benchmarks/networks.py runs/pretrain                         some 10 minutes on one core; replaces the table
    python benchmarks/networks.py --images train.npz --held-out 5000    the same without the run folder

The images are those of the run that trained the weights (`recipes/pretrain.yaml`): training images calibrate the batch
norms, validation and test images measure. Without the run they come from an .npz file of encoded image files joined end
to end (`data`), the start of each (`offsets`), and `labels` in the order of the super-network's classes; the last ones
must not have been used for training. The three rounds use different held-out images, so the reported accuracies are not
biased by the selection:

1. `--sample` networks at 32, 48 and 64 pixels, spread evenly over the logarithm of their parameters, are measured with
   the statistics of the batch; a predictor is fitted to them.
2. Of 30,000 others, the three with the best predicted accuracy in each class of size (`PARAMS` and `MACS`,
   for each side) are measured with calibrated statistics.
3. The best of each class is measured again and stored with its statistics, unless one that is smaller in both costs is
   more accurate by more than the standard error.
"""

from __future__ import annotations

import argparse
import io
import itertools
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from nat2.data.dataset import Split
from nat2.data.transform import Pipeline
from nat2.nas.predictors import fit_ensemble
from nat2.pipeline.prepare import prepare
from nat2.runs.config import read_config
from nat2.shipped import DEFAULT
from nat2.shipped.networks import NAMED_FOR, Measured, NetworkTable, macro_of, names_of, table_of
from nat2.space import Arch, CostTable, SearchSpace
from nat2.supernet import Statistics, SuperNetwork, calibrate, normalize_by, normalize_by_batch
from nat2.supernet.checkpoint import load_pretrained
from nat2.supernet.static import StaticNetwork
from nat2.supernet.statistics import packed
from nat2.supernet.weights import open_checkpoint

SIDES = (32, 48, 64)
MEAN, STD = (0.480, 0.448, 0.397), (0.275, 0.268, 0.280)  # of Tiny ImageNet
POOL, CONTENDERS = 30_000, 3
PARAMS = (15_000, 20_000, 30_000, 50_000, 75_000, 100_000, 150_000, 200_000, 300_000, 500_000, 1_000_000)
MACS = (500_000, 1_000_000, 2_000_000, 3_000_000, 5_000_000)
"""Upper ends of the classes of size: what people ask for."""
CLASSES, CALIBRATION = 200, 512
Costs = NDArray[np.int64]
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Images:
    """Images with labels, as inputs at every side."""

    inputs: dict[int, Tensor]
    labels: Tensor

    @staticmethod
    def of(split: Split, pipeline: Pipeline, numbers: Iterable[int]) -> Images:
        """The images of these numbers in a split."""
        ((pixels, labels),) = split.batches([torch.tensor(list(numbers))])
        return Images({side: pipeline(pixels, side) for side in SIDES}, labels)


@dataclass(frozen=True)
class HeldOut:
    """What the networks are calibrated on, and measured on in each round."""

    pipeline: Pipeline
    calibration: Images
    rounds: tuple[Images, Images, Images]

    @staticmethod
    def of_run(folder: Path) -> HeldOut:
        """Images of the run that trained the weights: a fifth of the validation images, the others, the test images."""
        _, dataset = prepare(read_config(folder / "config.yaml"))
        pipeline, few = Pipeline(dataset.mean, dataset.std), len(dataset.val) // 5
        val, count = dataset.val, len(dataset.val)
        some = torch.linspace(0, len(dataset.train) - 1, CALIBRATION).long().tolist()
        return HeldOut(
            pipeline,
            Images.of(dataset.train, pipeline, some),
            (
                Images.of(val, pipeline, range(few)),
                Images.of(val, pipeline, range(few, count)),
                Images.of(dataset.test, pipeline, range(len(dataset.test))),
            ),
        )

    @staticmethod
    def of_file(file: Path, held_out: int) -> HeldOut:
        """The first images of a file for calibration; a tenth, four tenths and a half of the last ones."""
        with np.load(file) as held:
            data, offsets, labels = held["data"], held["offsets"], held["labels"].astype(np.int64)
        kept = [*range(CALIBRATION), *range(len(labels) - held_out, len(labels))]
        pixels = [
            np.asarray(Image.open(io.BytesIO(data[offsets[n] : offsets[n + 1]].tobytes())).convert("RGB")) for n in kept
        ]
        split = Split(torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2), torch.from_numpy(labels[kept]))
        pipeline, edges = Pipeline(MEAN, STD), [CALIBRATION + held_out * tenths // 10 for tenths in (0, 5, 9, 10)]
        last, second, first = (Images.of(split, pipeline, range(*edge)) for edge in itertools.pairwise(edges))
        return HeldOut(pipeline, Images.of(split, pipeline, range(CALIBRATION)), (first, second, last))


@torch.no_grad()
def accuracy(network: SuperNetwork, arch: Arch, images: Images, statistics: Statistics | None = None) -> float:
    """Top-1 accuracy of a sub-network, with the statistics of each batch if there are no others."""
    normalize = normalize_by_batch if statistics is None else normalize_by(statistics)
    batches = torch.split(images.inputs[arch.resolution], 512)
    answers = torch.cat([network(batch, arch, normalize=normalize).argmax(1) for batch in batches])
    return float((answers == images.labels).double().mean())


def statistics_of(network: SuperNetwork, arch: Arch, images: Images) -> Statistics:
    """Calibrated statistics of a sub-network."""
    return calibrate(network, arch, torch.split(images.inputs[arch.resolution], 256))


def spread(costs: Costs, count: int, generator: np.random.Generator) -> list[int]:
    """Numbers of networks, evenly over the logarithm of their parameters."""
    params = np.log(costs[:, 0])
    wanted = generator.uniform(params.min(), params.max(), count)
    order = np.argsort(params)
    return sorted(set(order[np.searchsorted(params[order], wanted).clip(0, len(order) - 1)].tolist()))


def classes_of_size(costs: Costs) -> list[tuple[int, float, float]]:
    """Classes of size: a column of costs, and the values above the first up to the second that belong to it."""
    edges = ((0, (0, *PARAMS, costs[:, 0].max())), (1, (0, *MACS, costs[:, 1].max())))
    return [(column, low, high) for column, values in edges for low, high in itertools.pairwise(values) if low < high]


def best_of_each_size(costs: Costs, values: Values, sides: NDArray[np.int64], count: int) -> list[int]:
    """Numbers of the networks with the highest values of each class of size, for each side, ascending."""
    found: set[int] = set()
    for side in np.unique(sides):
        for column, low, high in classes_of_size(costs):
            inside = np.flatnonzero((sides == side) & (costs[:, column] > low) & (costs[:, column] <= high))
            found |= set(inside[np.argsort(-values[inside], kind="stable")][:count].tolist())
    return sorted(found)


def front(costs: Costs, values: Values, sides: NDArray[np.int64], error: float) -> list[int]:
    """Numbers of the networks that no other of their side beats by more than the standard error at no higher costs."""
    cheaper = (costs[None] <= costs[:, None]).all(2) & (sides[None] == sides[:, None])
    beaten = cheaper & (values[None] > values[:, None] + error)
    return [int(number) for number in np.flatnonzero(~beaten.any(1))]


def chosen(network: SuperNetwork, space: SearchSpace, held_out: HeldOut, sample: int, seed: int) -> list[Arch]:
    """The networks to store, after the first two rounds."""
    generator, (images, others, _) = np.random.default_rng(seed), held_out.rounds
    pool = np.unique(space.sample(POOL, generator), axis=0)
    costs = CostTable(space, {DEFAULT.width: macro_of(DEFAULT, classes=NAMED_FOR)})(pool)[:, :2]
    first, began = spread(costs, sample, generator), time.monotonic()
    measured = np.array([accuracy(network, space.decode(pool[n]), images) for n in first])
    print(
        f"measured {len(first):,} networks on {len(images.labels)} images in {time.monotonic() - began:.0f} s",
        flush=True,
    )
    fitted = fit_ensemble("ridge", space.features(pool[first], "structure"), measured, seed=seed)
    print(f"predicted accuracy: Kendall's tau {fitted.tau:.2f}, error {100 * fitted.rmse:.1f} points", flush=True)
    second = best_of_each_size(costs, fitted.predict(space.features(pool, "structure")), pool[:, 0], CONTENDERS)
    archs, began = [space.decode(pool[n]) for n in second], time.monotonic()
    values = np.array(
        [accuracy(network, each, others, statistics_of(network, each, held_out.calibration)) for each in archs]
    )
    print(f"measured {len(second)} on {len(others.labels)} images in {time.monotonic() - began:.0f} s", flush=True)
    pool, costs = pool[second], costs[second]
    third = best_of_each_size(costs, values, pool[:, 0], 1)
    error = float(np.sqrt(values.mean() * (1 - values.mean()) / len(others.labels)))
    kept = front(costs[third], values[third], pool[third][:, 0], error)
    return [archs[third[number]] for number in kept]


def measure(network: SuperNetwork, archs: Sequence[Arch], held_out: HeldOut) -> NetworkTable:
    """The table: the third round, and the statistics."""
    macro, images = macro_of(DEFAULT, classes=NAMED_FOR), held_out.rounds[2]
    networks, statistics = [], {}
    for name, arch in zip(names_of(archs, macro), archs, strict=True):
        found = statistics_of(network, arch, held_out.calibration)
        statistics[name] = packed(StaticNetwork(macro, arch), found)
        networks.append(Measured(name=name, key=arch.key, accuracy=accuracy(network, arch, images, found)))
    return NetworkTable(
        weights=DEFAULT.sha256,
        mean=held_out.pipeline.mean,
        std=held_out.pipeline.std,
        images=len(images.labels),
        networks=tuple(networks),
        statistics=statistics,
    )


def main() -> None:
    """Measure, print, write."""
    options = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    options.add_argument("run", type=Path, nargs="?", help="folder of the run that trained the weights")
    options.add_argument("--images", type=Path, help="file of images, instead of the run")
    options.add_argument("--held-out", type=int, default=5000, help="images at its end that were not trained on")
    options.add_argument("--sample", type=int, default=1500, help="networks of the first round")
    options.add_argument("--out", type=Path, default=table_of(DEFAULT), help="file to write")
    options.add_argument("--seed", type=int, default=0)
    given = options.parse_args()
    if (given.run is None) == (given.images is None):
        options.error("name the run folder, or a file with --images")
    torch.set_num_threads(1)
    held_out = HeldOut.of_run(given.run) if given.run else HeldOut.of_file(given.images, given.held_out)
    DEFAULT.verify()
    macro = macro_of(DEFAULT, classes=CLASSES)
    network = SuperNetwork(macro).eval()
    load_pretrained(network, open_checkpoint(DEFAULT.name).of(DEFAULT.width))
    archs = chosen(network, SearchSpace.of(macro, SIDES), held_out, given.sample, given.seed)
    table = measure(network, archs, held_out)
    table.write(given.out)
    for each in table.networks:
        print(f"{each.name:>12} {100 * each.accuracy:5.1f} %  {each.key}")
    print(f"{len(table.networks)} networks in {given.out} ({given.out.stat().st_size / 1e3:,.0f} kB)")


if __name__ == "__main__":
    main()
