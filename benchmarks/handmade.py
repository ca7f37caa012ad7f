"""What a user would do instead: spend the time of a run on networks of the same family, made by hand in three sizes.

The time of a whole `nat2 run` (processor seconds of this process) is divided among the three, which are trained from
random weights on training and validation images, with the same augmentation, by SGD with a cosine that ends when the
time is spent. From random weights that is better than the AdamW of a run's fine-tuning (EuroSAT, 60 s: by 1.3 and 2.3
points). All are tested once, on the same images.

    python benchmarks/handmade.py                              digits, three seeds, some 20 minutes on one core
    python benchmarks/handmade.py --data photos --seeds 1
"""

from __future__ import annotations

import statistics
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from table import Row, parser, show
from torch.nn import functional as F
from tuned import Shape, arch_of

import nat2
from nat2.allocator import keep_freed_memory
from nat2.data.transform import ResizedImages, shuffled_batches, steps_per_epoch
from nat2.pipeline.context import pipeline_of
from nat2.pipeline.prepare import prepare
from nat2.runs.config import RunConfig
from nat2.runs.results import Result
from nat2.seeds import torch_generator
from nat2.space import Layer, cost
from nat2.supernet import StaticNetwork, SuperNetwork, extract
from nat2.supernet.static import channels_last
from nat2.training.optimise import Schedule, accuracy, set_learning_rate, sgd

SIZES: dict[str, Shape] = {"small": (2, 2, Layer(3, 3)), "medium": (3, 3, Layer(5, 4)), "large": (5, 4, Layer(5, 6))}
"""What somebody would take who knows the family."""
BATCH, RATE, DECAY, SMOOTHING = 64, 0.08, 3e-5, 0.1


@dataclass(frozen=True)
class Made:
    """A network and its accuracy on the test images."""

    name: str
    params: int
    macs: int
    accuracy: float
    epochs: int


def made_by_hand(config: RunConfig, name: str, seconds: float) -> Made:
    """Train one of the sizes for so many processor seconds, reading the images not counted."""
    plan, dataset = prepare(config)
    config, macro = plan.config, plan.macros[0]
    resolution = plan.space.resolutions[-1]
    arch = arch_of(macro, resolution, SIZES[name])
    generator = torch_generator(config.seed, "handmade", name)
    network: StaticNetwork = channels_last(extract(SuperNetwork(macro, generator=generator), arch))
    pipeline = pipeline_of(config, dataset)
    images = dataset.train.joined(dataset.val)
    optimizer = sgd(network, weight_decay=DECAY)
    steps = steps_per_epoch(len(images), BATCH)
    began, epochs, step = time.process_time(), 0, 0
    network.requires_grad_(True)
    while (spent := (time.process_time() - began) / seconds) < 1:
        network.train()
        for pixels, labels in images.batches(shuffled_batches(len(images), BATCH, generator)):
            # The cosine follows the time, so that the last step ends with it.
            spent = min(1.0, (time.process_time() - began) / seconds)
            rate = Schedule(RATE, 1000)(round(1000 * spent)) * min(1.0, (step + 1) / steps)
            set_learning_rate(optimizer, rate)
            loss = F.cross_entropy(
                network(pipeline.augmented(pixels, resolution, generator)), labels, label_smoothing=SMOOTHING
            )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            step += 1
            if spent == 1:
                break
        epochs += 1
    network.eval()
    test = ResizedImages(dataset.test, pipeline)
    with torch.no_grad():
        right = accuracy(network, test.batches(resolution), test.labels)
    spent_on = cost(macro, arch)
    return Made(name, spent_on.params, spent_on.macs, right, epochs)


def compare(config: RunConfig) -> tuple[list[Result], list[Made], float]:
    """One seed: a run, then the three sizes in its time."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.process_time()
        found = nat2.run(config, out=Path(folder) / "run", quiet=True)
        seconds = time.process_time() - began
    return found, [made_by_hand(config, name, seconds / len(SIZES)) for name in SIZES], seconds


def best_within(found: list[Result], params: int) -> Result | None:
    """What a user takes of a run: the best on validation images with no more parameters."""
    fitting = [result for result in found if result.params <= params]
    return max(fitting, key=lambda result: (result.val_accuracy, -result.params), default=None)


def main() -> None:
    arguments = parser(__doc__ or "")
    arguments.add_argument("--data", default="digits")
    arguments.add_argument("--seeds", type=int, default=3)
    arguments.add_argument("--resolutions", default="auto")
    given = arguments.parse_args()
    keep_freed_memory()
    rows: list[Row] = []
    differences: dict[str, list[float]] = {name: [] for name in SIZES}
    for seed in range(given.seeds):
        config = replace(RunConfig.of("quick", data=given.data, resolutions=given.resolutions), seed=seed)
        found, by_hand, seconds = compare(config)
        rows.append(Row(f"seed {seed}: processor seconds of the run", seconds, unit="s"))
        for number, result in enumerate(found, 1):
            rows.append(
                Row(
                    f"seed {seed}: nat2 {number}",
                    100 * result.test_accuracy,
                    unit="%",
                    detail=f"{result.id}, {result.params:,} parameters",
                )
            )
        for made in by_hand:
            detail = f"{made.params:,} parameters, {made.epochs} epochs"
            rows.append(Row(f"seed {seed}: by hand, {made.name}", 100 * made.accuracy, unit="%", detail=detail))
            ours = best_within(found, made.params)
            if ours is not None:
                differences[made.name].append(100 * (ours.test_accuracy - made.accuracy))
                name = f"seed {seed}: parameters of nat2's choice within those of {made.name}, relative"
                rows.append(Row(name, ours.params / made.params))
        show(f"{given.data}, after seed {seed}", rows, given.json)
    for name, values in differences.items():
        if values:
            mean = statistics.mean(values)
            rows.append(
                Row(f"test accuracy, nat2 minus {name} by hand, mean of {len(values)}", mean, 0.0, "higher", "points")
            )
    show(f"{given.data}: a run against networks made by hand in the same time", rows, given.json)


if __name__ == "__main__":
    main()
