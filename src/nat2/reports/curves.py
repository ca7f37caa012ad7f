"""The search as curves for TensorBoard; needs the extra ``tensorboard``."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from nat2.errors import ConfigError
from nat2.nas.generation import Generation
from nat2.space.searchable import A


def check_curves() -> None:
    """Check that TensorBoard is installed.

    Raises:
        ConfigError: it is not.
    """
    if find_spec("tensorboard") is None:
        raise ConfigError("--tensorboard needs TensorBoard: pip install 'nat2[tensorboard]'")


def write_curves(folder: Path, generations: Sequence[Generation[A]]) -> None:
    """Write every number of ``log.csv`` as a scalar by generation, replacing earlier files."""
    from torch.utils.tensorboard import SummaryWriter

    shutil.rmtree(folder, ignore_errors=True)
    with SummaryWriter(str(folder)) as writer:
        for generation in generations:
            for name, value in generation.row().items():
                if isinstance(value, int | float) and name != "generation":
                    part = "seconds" if name.endswith("seconds") else "search"
                    writer.add_scalar(f"{part}/{name}", value, generation.number)
