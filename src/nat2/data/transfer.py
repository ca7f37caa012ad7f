"""Non-blocking copies to a device."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor to a device; to a GPU through pinned memory, so that the copy overlaps with computation."""
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


@cache
def by_channel(values: tuple[float, ...], device: torch.device) -> Tensor:
    """One value per channel of images (n, channels, side, side), kept on the device.

    Copying them there for every batch would hold the program up each time.
    """
    return torch.tensor(values, device=device).view(1, -1, 1, 1)
