"""A small learnable problem: which corner of a grey image is bright."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nat2.data.dataset import Split
from nat2.data.settings import Augmentation
from nat2.data.transform import Pipeline
from nat2.space import Macro, SearchSpace
from nat2.supernet import SuperNetwork
from nat2.supernet.static import channels_last
from nat2.training.context import TrainingContext
from tests.calls import Calls

MACRO = Macro(classes=4, channels=1, width=0.25, stem_stride=1)
SPACE = SearchSpace.of(MACRO, (12, 16))
PIPELINE = Pipeline((0.3,), (0.25,), Augmentation(crop_scale=0.9, flip=False))


def corners(count: int, seed: int = 0) -> Split:
    """Noise with one bright quarter; the label says which."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 120, (count, 1, 16, 16), dtype=torch.uint8, generator=generator)
    labels = torch.arange(count) % 4
    for image, label in zip(pixels, labels.tolist(), strict=True):
        image[:, 8 * (label // 2) : 8 * (label // 2) + 8, 8 * (label % 2) : 8 * (label % 2) + 8] += 80
    return Split(pixels, labels)


@pytest.fixture
def split() -> Split:
    return corners(96)


def new_network(macro: Macro = MACRO) -> SuperNetwork:
    """The same untrained super-network every time."""
    return channels_last(SuperNetwork(macro, generator=torch.Generator().manual_seed(0))).eval()


@pytest.fixture
def network() -> SuperNetwork:
    return new_network()


def kill_after(count: int) -> Callable[[int], None]:
    """A tick that interrupts the work once that many steps were made."""
    made = 0

    def tick(steps: int) -> None:
        nonlocal made
        made += steps
        if made >= count:
            raise KeyboardInterrupt

    return tick


def weights_of(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def same_weights(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def context_of(
    split: Split,
    state: Path = Path("nowhere.safetensors"),
    *,
    say: Callable[[str], object] | None = None,
    tick: Callable[[int], object] | None = None,
    **changes: object,
) -> TrainingContext:
    """What a training loop of a test is given."""
    given: dict[str, Any] = {"split": split, "pipeline": PIPELINE, "state": state, "seed": 0, **changes}
    return TrainingContext(progress=Calls(say, tick), **given)
