"""What the images cost: the in-memory pipeline beside a training step, and beside a DataLoader that does the same.

python benchmarks/data.py --json data.json
"""

from __future__ import annotations

import statistics

import torch
from table import Row, parser, ratio, seconds_of, show
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from nat2.allocator import keep_freed_memory
from nat2.data.dataset import Split
from nat2.data.settings import Augmentation
from nat2.data.transform import Pipeline
from nat2.seeds import numpy_generator
from nat2.space import Macro, SearchSpace
from nat2.supernet import SuperNetwork
from nat2.supernet.static import channels_last
from nat2.training.optimise import sgd

SIDE, BATCH = 32, 128
MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
AUGMENTATIONS = {
    "crop and flip": Augmentation(),
    "flip and AutoAugment": Augmentation(crop_scale=1.0, policy="autoaugment"),
    "crop, flip, RandAugment and cutout": Augmentation(policy="randaugment", cutout=0.5),
}


class OneByOne(Dataset[tuple[Tensor, Tensor]]):
    """The same pipeline, an image at a time, as a DataLoader asks for it."""

    def __init__(self, split: Split, pipeline: Pipeline, resolution: int) -> None:
        self.split, self.pipeline, self.resolution = split, pipeline, resolution
        self.generator = torch.Generator().manual_seed(0)

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = self.split.pixels[torch.tensor([index])]
        return self.pipeline.augmented(image, self.resolution, self.generator)[0], self.split.labels[index]


def batched(split: Split, pipeline: Pipeline, resolution: int) -> None:
    generator = torch.Generator().manual_seed(0)
    for pixels, _ in split.batches(torch.randperm(len(split)).split(BATCH)):  # type: ignore[no-untyped-call]
        pipeline.augmented(pixels, resolution, generator)


def over_loader(split: Split, pipeline: Pipeline, resolution: int) -> tuple[float, float]:
    """How many times as fast as a DataLoader with 2 workers, and images a second; medians."""
    loader = DataLoader(OneByOne(split, pipeline, resolution), batch_size=BATCH, num_workers=2, persistent_workers=True)
    times = []
    for _ in range(6):
        torch.set_num_threads(1)  # of the main process, which only collects what the workers make
        theirs = seconds_of(lambda: list(loader))
        torch.set_num_threads(2)
        ours = seconds_of(lambda: batched(split, pipeline, resolution))
        times.append((theirs / ours, len(split) / ours))
    times = times[1:]  # the first starts the workers
    return statistics.median(each for each, _ in times), statistics.median(each for _, each in times)


def main() -> None:
    given = parser(__doc__ or "").parse_args()
    keep_freed_memory()
    torch.set_num_threads(2)
    pixels = torch.randint(0, 256, (40 * BATCH, 3, SIDE, SIDE), dtype=torch.uint8)
    split = Split(pixels, torch.randint(0, 10, (len(pixels),)))
    macro = Macro(classes=10, channels=3, width=0.5, early_exits=True, dense_skips=True, stem_stride=1)
    network = channels_last(SuperNetwork(macro)).train()
    optimizer = sgd(network, weight_decay=3e-5)
    space = SearchSpace.of(macro, (24, 28, SIDE))
    arch = space.sample_elastic(numpy_generator(0, "arch"), resolution=SIDE)
    rows = []
    for name, augmentation in AUGMENTATIONS.items():
        pipeline = Pipeline(MEAN, STD, augmentation)
        generator = torch.Generator().manual_seed(0)
        images = pipeline(pixels[:BATCH], SIDE)

        def step(images: Tensor = images) -> None:
            loss = F.cross_entropy(network(images, arch), split.labels[:BATCH])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()

        def prepare(pipeline: Pipeline = pipeline, generator: torch.Generator = generator) -> None:
            pipeline.augmented(pixels[:BATCH], SIDE, generator)

        share, seconds = ratio(prepare, step, repeats=11)
        target = 0.10 if name == "crop and flip" else None
        rows.append(Row(f"{name}: time of a batch over a training step's", share, target))
        rows.append(Row(f"{name}: a batch of {BATCH}", 1000 * seconds, unit="ms"))
    for name, augmentation in list(AUGMENTATIONS.items())[:2]:
        gain, rate = over_loader(split, Pipeline(MEAN, STD, augmentation), 28)
        target = 2.5 if name == "crop and flip" else None
        rows.append(
            Row(f"{name}, to 28 px: images a second over a DataLoader's with 2 workers", gain, target, "higher")
        )
        rows.append(Row(f"{name}, to 28 px: images a second", rate))
    show("images to batches, 32 px, 2 cores", rows, given.json)


if __name__ == "__main__":
    main()
