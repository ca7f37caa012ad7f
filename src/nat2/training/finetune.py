"""Post-processing of a returned network: fine-tune it alone, at its own resolution (NAT2, variant A)."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nat2.data.dataset import Split
from nat2.data.transform import Pipeline, ResizedImages, shuffled_batches, steps_per_epoch
from nat2.errors import RunError
from nat2.files import save_tensors
from nat2.seeds import numpy_generator, torch_generator
from nat2.settings import FinetuneSettings
from nat2.supernet.static import StaticNetwork
from nat2.training.optimise import (
    Schedule,
    accuracy,
    has_state,
    is_finite,
    load_state,
    mix,
    mixed_loss,
    read_state,
    save_state,
    set_learning_rate,
)
from nat2.training.shrink import CHECKPOINT_INTERVAL


@dataclass(frozen=True)
class Finetuned:
    """A fine-tuned network and how it got there."""

    network: StaticNetwork
    inherited_val_accuracy: float
    """With the super-network's weights and calibrated statistics."""
    val_accuracy: float
    """Of phase 1 at its best epoch, which has not seen the validation images."""
    epochs: int
    """The best epoch E*; 0 if no epoch was better than the inherited weights."""


def finetune(
    inherited: StaticNetwork,
    train: Split,
    val: Split,
    pipeline: Pipeline,
    settings: FinetuneSettings,
    *,
    state: Path,
    seed: int,
    interval: float = CHECKPOINT_INTERVAL,
    say: Callable[[str], None] = lambda line: None,
    tick: Callable[[int], None] = lambda steps: None,
) -> Finetuned:
    """Fine-tune in two phases that both start from the inherited weights.

    Phase 1 trains on the training images and finds the epoch E* of the best validation accuracy (of equals, that of
    the lowest validation loss). Phase 2 trains on training and validation images for E* epochs along the same
    learning-rate curve; its weights are the result, and nothing measures them but the test.

    Args:
        inherited: Extracted from the super-network with calibrated statistics; left as it is.
        train: Training images.
        val: Validation images.
        pipeline: Turns images into inputs.
        settings: How to train.
        state: File of the resume point; if it exists, training continues from it.
        seed: The run's seed.
        interval: Seconds of training behind which an epoch's end is written down.
        say: Told what a user should know.
        tick: Called with the number of epochs just made (or found made), twice `settings.epochs` in all.
    """
    progress = _Progress(state, inherited, interval, say)
    images = ResizedImages(val, pipeline)
    if not progress.facts:
        loss, value = _validate(inherited, images)
        progress.facts |= {"inherited": value, "best": value, "best_loss": loss, "best_epoch": 0}
        progress.facts |= {"phase": 1, "epochs": 0, "least_loss": float("inf"), "since": 0}
    facts = progress.facts
    if facts["phase"] == 1:
        tick(facts["epochs"])
        network, optimizer = progress.resume(settings)
        while facts["epochs"] < settings.epochs and facts["since"] < settings.patience:
            _train(network, optimizer, train, pipeline, settings, seed, facts["epochs"])
            facts["epochs"] += 1
            loss, value = _validate(network, images)
            facts["since"] = 0 if loss < facts["least_loss"] else facts["since"] + 1
            facts["least_loss"] = min(loss, facts["least_loss"])
            if (value, -loss) > (facts["best"], -facts["best_loss"]):
                facts |= {"best": value, "best_loss": loss, "best_epoch": facts["epochs"]}
            progress.save(network, optimizer)
            tick(1)
        tick(settings.epochs - facts["epochs"])
        facts |= {"phase": 2, "epochs": 0}
        progress.restart()
    else:
        tick(settings.epochs)
    network, optimizer = progress.resume(settings)
    tick(facts["epochs"])
    everything = train.joined(val)
    while facts["epochs"] < facts["best_epoch"]:
        _train(network, optimizer, everything, pipeline, settings, seed, settings.epochs + facts["epochs"])
        facts["epochs"] += 1
        progress.save(network, optimizer)
        tick(1)
    tick(settings.epochs - facts["best_epoch"])
    progress.save(network, optimizer, now=True)
    return Finetuned(network.eval(), facts["inherited"], facts["best"], facts["best_epoch"])


class _Progress:
    """Where the two phases stand, on disk."""

    def __init__(self, path: Path, inherited: StaticNetwork, interval: float, say: Callable[[str], None]) -> None:
        self._path = path
        self._inherited = inherited
        self._interval = interval
        self._saved = time.monotonic()
        self.facts: dict[str, Any] = read_state(path, say=say)[1] if has_state(path) else {}

    def restart(self) -> None:
        """Forget the weights: the next phase begins with the inherited ones."""
        save_tensors(self._path, {}, self.facts)

    def resume(self, settings: FinetuneSettings) -> tuple[StaticNetwork, torch.optim.Optimizer]:
        """The network and optimiser to continue with."""
        network = copy.deepcopy(self._inherited).requires_grad_(True)
        parameters = network.parameters()
        optimizer: torch.optim.Optimizer
        if settings.optimizer == "sgd":
            optimizer = torch.optim.SGD(parameters, lr=0.0, momentum=0.9, weight_decay=settings.weight_decay)
        else:
            optimizer = torch.optim.AdamW(parameters, lr=0.0, weight_decay=settings.weight_decay)
        if has_state(self._path) and self.facts["epochs"]:
            load_state(self._path, network, optimizer)
        return network, optimizer

    def save(self, network: nn.Module, optimizer: torch.optim.Optimizer, *, now: bool = False) -> None:
        """Write the resume point, if the last one is old enough."""
        if now or time.monotonic() - self._saved > self._interval:
            save_state(self._path, network, optimizer, self.facts)
            self._saved = time.monotonic()


def _train(
    network: StaticNetwork,
    optimizer: torch.optim.Optimizer,
    split: Split,
    pipeline: Pipeline,
    settings: FinetuneSettings,
    seed: int,
    epoch: int,
) -> None:
    """One epoch; those of phase 2 are numbered on behind `settings.epochs` and follow phase 1's learning rates."""
    steps = steps_per_epoch(len(split), settings.batch_size)
    schedule = Schedule(settings.lr, steps * settings.epochs, final=1e-8)
    crops = torch_generator(seed, "finetune", network.arch.key, epoch)
    network.train()
    total = 0.0
    order = shuffled_batches(len(split), settings.batch_size, crops)
    choices = numpy_generator(seed, "finetune", network.arch.key, epoch)
    for step, (pixels, labels) in enumerate(split.batches(order)):
        images = pipeline.augmented(pixels, network.arch.resolution, crops)
        labels = labels.to(pipeline.device)
        images, kept, others = mix(images, labels, pipeline.augmentation.mixup, choices)
        logits = network(images)
        loss = mixed_loss(partial(_loss, logits, settings.label_smoothing), labels, others, kept)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        set_learning_rate(optimizer, schedule(epoch % settings.epochs * steps + step))
        optimizer.step()
        total += float(loss.detach())
    network.eval()
    if not math.isfinite(total) or not is_finite(network):
        raise RunError(f"fine-tuning {network.arch.id} diverged (loss {total / steps}); try a smaller --finetune.lr")


def _loss(logits: Tensor, smoothing: float, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels, label_smoothing=smoothing)


@torch.no_grad()
def _validate(network: StaticNetwork, images: ResizedImages) -> tuple[float, float]:
    """Cross entropy and accuracy."""
    network.eval()
    logits = torch.cat([network(batch) for batch in images.batches(network.arch.resolution)])
    loss: Tensor = F.cross_entropy(logits, images.labels)
    return float(loss), accuracy(lambda batch: batch, [logits], images.labels)
