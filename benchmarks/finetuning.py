"""How a network is best fine-tuned in a few hundred steps: what was tried besides the defaults, one change at a time.

    python benchmarks/finetuning.py --images FOLDER --json finetuning.json

The same architecture (`benchmarks/handmade.py`), beginning with the weights that come with nat2, trained on the same
images for the same number of steps, tested on the same images; beside each, the gain over the defaults and the seconds.
FOLDER: see `benchmarks/worth.py`.
"""

from __future__ import annotations

import copy
import statistics
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from handmade import SIZES
from table import Row, parser, show
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tuned import Setting, Tuning, timed
from worth import FILES, OWN, source

from nat2.allocator import keep_freed_memory
from nat2.data.dataset import Dataset
from nat2.pipeline.prepare import prepare
from nat2.runs.config import RunConfig
from nat2.runs.plan import RunPlan
from nat2.supernet import StaticNetwork
from nat2.training.settings import FinetuneSettings

_AVERAGED = 0.9  # of the average is kept after every part
_PART = 10  # steps
_LATE = 0.6  # of the steps are made before


@dataclass(frozen=True)
class Variant:
    """What differs from the defaults."""

    finetune: dict[str, Any] = field(default_factory=dict)
    augmentation: dict[str, Any] = field(default_factory=dict)
    averaged: bool = False
    """The weights that are tested are an exponential moving average."""
    smaller: float = 0.0
    """Share of the steps, from the first, at three quarters of the resolution."""
    late: dict[str, Any] = field(default_factory=dict)
    """Augmentation of the last two fifths of the steps."""


VARIANTS = {
    "defaults": Variant(),
    "weights averaged": Variant(averaged=True),
    "learning rate 0.005": Variant({"lr": 0.005}),
    "learning rate 0.02": Variant({"lr": 0.02}),
    "SGD, 0.08": Variant({"optimizer": "sgd", "lr": 0.08, "weight_decay": 3e-5}),
    "no label smoothing": Variant({"label_smoothing": 0.0}),
    "weight decay 0.05": Variant({"weight_decay": 0.05}),
    "crops of half the area": Variant(augmentation={"crop_scale": 0.5}),
    "crops of three quarters of the area": Variant(augmentation={"crop_scale": 0.75}),
    "RandAugment": Variant(augmentation={"policy": "randaugment"}),
    "RandAugment in the last two fifths": Variant(late={"policy": "randaugment"}),
    "AutoAugment": Variant(augmentation={"policy": "autoaugment"}),
    "two thirds of the steps at smaller size": Variant(smaller=2 / 3),
}


def trained(plan: RunPlan, dataset: Dataset, size: str, variant: Variant, steps: int) -> float:
    """Share of the test images that a network classifies rightly after so many steps."""
    augmentation = replace(plan.config.augmentation, **variant.augmentation)
    finetune = replace(FinetuneSettings(), **variant.finetune)
    setting = Setting(("finetuning", size), steps, finetune=finetune, augmentation=augmentation)
    tuning = Tuning.of(plan, dataset, SIZES[size], setting)
    network, arch = tuning.network, tuning.network.arch
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(_AVERAGED), use_buffers=True)  # type: ignore[no-untyped-call]
    small = replace(arch, resolution=plan.space.resolutions[0])
    pipeline = replace(tuning.pipeline, augmentation=replace(augmentation, **variant.late))
    late = replace(tuning, lesson=replace(tuning.lesson, pipeline=pipeline))
    for part in range(steps // _PART):
        network.arch = small if part * _PART < variant.smaller * steps else arch
        now = late if part * _PART >= _LATE * steps else tuning
        now.train(range(part * _PART, (part + 1) * _PART), part=part)
        average.update_parameters(network)
    return tuning.accuracy(averaged(network, average.module) if variant.averaged else None)


def averaged(network: StaticNetwork, average: nn.Module) -> StaticNetwork:
    """A copy with the averaged weights and statistics."""
    result = copy.deepcopy(network)
    result.load_state_dict(average.state_dict())
    return result


def main() -> None:
    """Measure, print, write."""
    options = parser(str(__doc__).partition("\n")[0])
    options.add_argument("--images", type=Path, help="folder of the sets")
    options.add_argument("--sets", nargs="+", choices=(*FILES, *OWN), default=["EuroSAT", "CIFAR-10", "Fashion-MNIST"])
    options.add_argument("--size", choices=SIZES, default="small")
    options.add_argument("--steps", type=int, default=300)
    options.add_argument("--seeds", type=int, default=2)
    options.add_argument("--most", type=int, default=0, help="training images of each set; by default as in worth.py")
    options.add_argument("--changes", nargs="+", choices=VARIANTS, default=[*VARIANTS], metavar="CHANGE")
    given = options.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)  # processor time is compared
    title = f"Fine-tuning the {given.size} network for {given.steps} steps"
    rows: list[Row] = []
    tried = {name: VARIANTS[name] for name in ("defaults", *given.changes)}
    gains: dict[str, list[float]] = {name: [] for name in tried}
    for name in given.sets:
        with tempfile.TemporaryDirectory() as scratch:
            data = source(name, given.images, Path(scratch), most=given.most)
            if data is None:
                print(f"{name}: its images are not in {given.images}", flush=True)
                continue
            for seed in range(given.seeds):
                plan, dataset = prepare(RunConfig(data=data, seed=seed))
                usual = 0.0
                for changed, variant in tried.items():
                    reached, seconds = timed(
                        lambda at=variant: trained(plan, dataset, given.size, at, given.steps)  # type: ignore[misc]  # noqa: B023
                    )
                    usual = usual or reached
                    gains[changed].append(100 * (reached - usual))
                    detail = f"{seconds:.0f} s, {gains[changed][-1]:+.1f} points"
                    rows.append(Row(f"{name}, seed {seed}: {changed}", 100 * reached, unit="%", detail=detail))
                    print(f"{rows[-1].name} {rows[-1].value:.1f} %; {detail}", flush=True)
    for changed, values in gains.items():
        if len(values) > 1 and changed != "defaults":
            error = statistics.stdev(values) / len(values) ** 0.5
            detail = f"standard error {error:.1f}, {len(values)} pairs"
            rows.append(Row(f"mean gain: {changed}", statistics.mean(values), unit="points", detail=detail))
    show(title, rows, given.json)


if __name__ == "__main__":
    main()
