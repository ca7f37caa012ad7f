"""Images of splits that tests know to be in memory."""

from __future__ import annotations

import torch

from nat2.data.dataset import Split


def pixels_of(split: Split) -> torch.Tensor:
    """The images of a split as a tensor; an error if they are decoded when they are needed."""
    assert isinstance(split.pixels, torch.Tensor)
    return split.pixels
