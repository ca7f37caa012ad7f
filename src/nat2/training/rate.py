"""How learning rates follow the batch size."""

from __future__ import annotations

import math
from typing import Literal

REFERENCE_BATCH = 64
"""Images in a batch for which all learning rates in the settings are given."""


def rate_for(lr: float, batch_size: int, optimizer: Literal["sgd", "adamw"] = "sgd") -> float:
    """The learning rate for batches of `batch_size` images, given the rate for batches of 64.

    Proportional to the batch size for SGD (Goyal et al. 2017, as OFA does), to its square root for AdamW, whose steps
    do not grow with the gradient. A batch of four times the size then makes the same progress in a quarter of the
    steps.
    """
    relative = batch_size / REFERENCE_BATCH
    return lr * (relative if optimizer == "sgd" else math.sqrt(relative))
