"""What nat2.create is worth: the same network fine-tuned from trained and from random weights, by a plain loop.

    python benchmarks/create.py --images FOLDER --json create.json          some minutes on one core

EuroSAT (10 classes), and the cats and dogs of CIFAR-10 (2 classes, 1,000 training images). The loop is that of
docs/create.md with shifted images, the same images, batches and number of steps for both. FOLDER: see
`benchmarks/worth.py`.
"""

from __future__ import annotations

import io
import statistics
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from table import Row, parser, show
from torch import Tensor
from torch.nn import functional as F

import nat2
from nat2.allocator import keep_freed_memory
from nat2.pipeline.create import Network

SETS = {"EuroSAT": ("eurosat_rgb_subset", (), 0), "cats and dogs": ("cifar10", (3, 5), 1000)}
"""Folder, classes (all if empty) and training images (all if 0)."""
BATCH, RATE, WEIGHT_DECAY, SMOOTHING = 64, 2e-3, 0.05, 0.1


@dataclass(frozen=True)
class Labelled:
    """8-bit images of shape (n, 3, side, side), and labels from 0."""

    pixels: Tensor
    labels: Tensor

    @staticmethod
    def of(file: Path, classes: tuple[int, ...], most: int) -> Labelled:
        """Those of the given classes, at most so many, in random order."""
        with np.load(file) as held:
            data, offsets, labels = held["data"], held["offsets"], held["labels"].astype(np.int64)
        chosen = np.flatnonzero(np.isin(labels, classes)) if classes else np.arange(len(labels))
        chosen = np.random.default_rng(0).permutation(chosen)[: most or None]
        images = [
            np.asarray(Image.open(io.BytesIO(data[offsets[n] : offsets[n + 1]].tobytes())).convert("RGB"))
            for n in chosen
        ]
        _, numbers = np.unique(labels[chosen], return_inverse=True)
        return Labelled(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2), torch.from_numpy(numbers))


def finetune(network: Network, train: Labelled, steps: int, seed: int) -> None:
    """AdamW along one cycle, on mirrored and shifted images."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=RATE, total_steps=steps)
    inputs = network.preprocessing(train.pixels)
    network.train()
    for _ in range(steps):
        chosen = torch.randint(len(inputs), (BATCH,), generator=generator)
        images = inputs[chosen]
        if torch.rand((), generator=generator) < 0.5:
            images = images.flip(3)
        top, left = torch.randint(-4, 5, (2,), generator=generator).tolist()
        loss = F.cross_entropy(
            network(images.roll((top, left), (2, 3))), train.labels[chosen], label_smoothing=SMOOTHING
        )
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    network.eval()


@torch.no_grad()
def accuracy(network: Network, test: Labelled) -> float:
    """Share of the images that are classified correctly."""
    answers = [network(network.preprocessing(pixels)).argmax(1) for pixels in torch.split(test.pixels, 250)]
    return float((torch.cat(answers) == test.labels).float().mean())


def main() -> None:
    """Measure, print, write."""
    options = parser(str(__doc__).partition("\n")[0])
    options.add_argument("--images", type=Path, required=True, help="folder of the sets")
    options.add_argument("--sets", nargs="+", choices=SETS, default=[*SETS])
    options.add_argument("--params", default="50k", help="budget of the network")
    options.add_argument("--resolution", type=int, default=48)
    options.add_argument("--steps", type=int, default=600)
    options.add_argument("--seeds", type=int, default=2)
    given = options.parse_args()
    keep_freed_memory()
    rows: list[Row] = []
    for name in given.sets:
        folder, classes, most = SETS[name]
        train = Labelled.of(given.images / folder / "train.npz", classes, most)
        test = Labelled.of(given.images / folder / "test.npz", classes, 0)
        found: dict[bool, list[float]] = {True: [], False: []}
        for seed in range(given.seeds):
            for trained in found:
                network = nat2.create(
                    classes=int(train.labels.max()) + 1,
                    params=given.params,
                    resolution=given.resolution,
                    pretrained=trained,
                    seed=seed,
                )
                finetune(network, train, given.steps, seed)
                found[trained].append(100 * accuracy(network, test))
                print(f"{name}, {network.listed.name}, seed {seed}: {found[trained][-1]:.1f} %", flush=True)
        trained_mean, random_mean = (statistics.mean(found[trained]) for trained in (True, False))
        detail = f"{len(train.labels):,} images, {given.steps} steps, {network.listed.name}"
        rows += [
            Row(f"{name}: trained weights", trained_mean, better="higher", unit="%", detail=detail),
            Row(f"{name}: random weights", random_mean, better="higher", unit="%", detail=detail),
            Row(f"{name}: gain", trained_mean - random_mean, 0.0, "higher", "points"),
        ]
    show("Networks without a search: trained against random weights", rows, given.json)


if __name__ == "__main__":
    main()
