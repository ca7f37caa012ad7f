"""What trained weights save: the same network fine-tuned from those that come with nat2, and from random ones.

    python benchmarks/transfer.py --images FOLDER --json transfer.json

The same architecture (`benchmarks/handmade.py`), images, augmentation and number of gradient steps on both sides; each
number of steps is a training of its own, along a cosine that ends there. FOLDER: see `benchmarks/worth.py`.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from handmade import SIZES
from table import Row, parser, show
from worth import FILES, OWN, source

from nat2.allocator import keep_freed_memory
from nat2.data.transform import Pipeline, ResizedImages
from nat2.pipeline.prepare import prepare
from nat2.pipeline.pretrained import begin_with
from nat2.runs.config import RunConfig
from nat2.seeds import torch_generator
from nat2.shipped import DEFAULT
from nat2.space import Arch
from nat2.supernet import SuperNetwork, calibrate, extract
from nat2.supernet.static import channels_last
from nat2.training.lesson import Lesson, answers_of, measure, optimizer_of
from nat2.training.optimise import Schedule
from nat2.training.settings import FinetuneSettings

_WARMUP = 0.05  # of the steps


def accuracies(data: str, size: str, steps: int, seed: int) -> dict[str, float]:
    """Share of test images classified rightly after so many steps, by what the training began with."""
    plan, dataset = prepare(RunConfig(data=data, seed=seed))
    (macro,), resolution = plan.macros, plan.space.resolutions[-1]
    stages, depth, layer = SIZES[size]
    arch = Arch(resolution=resolution, width=macro.width, stages=((layer,) * depth,) * stages)
    pipeline = Pipeline(dataset.mean, dataset.std, plan.config.augmentation, center=plan.config.center or 1.0)
    images = dataset.train.joined(dataset.val)
    found = {}
    for start in ("trained", "random"):
        network = SuperNetwork(macro, generator=torch_generator(seed, "transfer", size)).eval()
        if start == "trained":
            begin_with(network, DEFAULT.name)
        some = ResizedImages(images.part(torch.linspace(0, len(images) - 1, 256).long()), pipeline)
        static = channels_last(extract(network, arch, calibrate(network, arch, some.batches(resolution))))
        static.requires_grad_(True)
        settings = FinetuneSettings().settled(len(images))
        lesson = Lesson.of(pipeline, settings, seed, len(images), None)
        schedule = Schedule(lesson.rate, steps, round(_WARMUP * steps), 0.1 * lesson.rate)
        lesson.train(static, optimizer_of(static, settings), images, schedule, steps=range(steps), part=0)
        test = ResizedImages(dataset.test, pipeline)
        found[start] = measure(answers_of(static, test), test.labels, settings)[1]
    return found


def main() -> None:
    """Measure, print, write."""
    options = parser(str(__doc__).partition("\n")[0])
    options.add_argument("--images", type=Path, help="folder of the sets")
    options.add_argument("--sets", nargs="+", choices=(*FILES, *OWN), default=[*FILES])
    options.add_argument("--sizes", nargs="+", choices=SIZES, default=["medium"])
    options.add_argument("--steps", nargs="+", type=int, default=[200, 600])
    options.add_argument("--seeds", type=int, default=1)
    given = options.parse_args()
    keep_freed_memory()
    rows: list[Row] = []
    for name in given.sets:
        with tempfile.TemporaryDirectory() as scratch:
            data = source(name, given.images, Path(scratch))
            if data is None:
                print(f"{name}: its images are not in {given.images}", flush=True)
                continue
            for size in given.sizes:
                for steps in given.steps:
                    for seed in range(given.seeds):
                        found = accuracies(data, size, steps, seed)
                        gain = 100 * (found["trained"] - found["random"])
                        detail = f"{100 * found['trained']:.1f} against {100 * found['random']:.1f} %"
                        rows.append(
                            Row(f"{name}, {size}, {steps} steps, seed {seed}: gain", gain, unit="points", detail=detail)
                        )
                        print(f"{rows[-1].name} {gain:.1f}; {detail}", flush=True)
    show("From the weights that come with nat2, and from random ones", rows, given.json)


if __name__ == "__main__":
    main()
