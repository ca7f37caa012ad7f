"""What every training loop of a run needs, apart from what it trains."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from nat2.data.dataset import Split
from nat2.data.transform import Pipeline
from nat2.processes import ALONE, Processes
from nat2.progress import SILENT, Reporter
from nat2.training.settings import ENOUGH_FOR_STATISTICS, SyncBatchNorm

CHECKPOINT_INTERVAL = 5.0  # seconds of training that a kill may cost, in addition to the epoch that it interrupts


@dataclass(frozen=True, kw_only=True)
class TrainingContext:
    """Images, resume point, seed and processes of a training loop, and where it reports."""

    split: Split
    """Training images."""
    pipeline: Pipeline
    """Turns images into inputs."""
    state: Path
    """File of the resume point; if it exists, training continues from it."""
    seed: int
    """The run's seed."""
    processes: Processes = ALONE
    """Those that divide each batch."""
    sync_batch_norm: SyncBatchNorm = "auto"
    """Whose images batch norms take their statistics from: those of all processes, or each process's own."""
    interval: float = CHECKPOINT_INTERVAL
    """Seconds of training after which the end of an epoch is written down."""
    progress: Reporter = SILENT
    unit: str = ""
    """What the steps of this loop are called in the current stage of `progress`; its first unit by default."""

    def step(self, count: int = 1) -> None:
        """Report steps."""
        self.progress.step(count, unit=self.unit)

    def is_due(self, since: float) -> bool:
        """Whether the resume point is due, given when it was written last, by `time.monotonic`."""
        return time.monotonic() - since > self.interval


def joint_statistics(batch_size: int, choice: SyncBatchNorm, processes: Processes) -> bool:
    """Whether batch norms use the images of all processes that divide a batch, or those of each process alone.

    Args:
        batch_size: Images of all processes together.
        choice: `auto` is the latter if each process has at least 32.
        processes: All of the run.
    """
    trainers = processes.trainers
    if trainers.size == 1 or choice == "per-process":
        return False
    fewest = min(part.stop - part.start for part in trainers.parts(batch_size))
    return choice == "joint" or fewest < ENOUGH_FOR_STATISTICS
