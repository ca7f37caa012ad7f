"""Post-processing of a returned network: fine-tune it at its own resolution, with one exit or several (NAT2)."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from nat2.data.dataset import Split
from nat2.data.transfer import to_device
from nat2.data.transform import Pipeline, ResizedImages, shuffled_batches, steps_per_epoch
from nat2.errors import RunError
from nat2.files import load_tensors, save_tensors
from nat2.progress import FoundDone
from nat2.seeds import numpy_generator, torch_generator
from nat2.supernet.static import StaticNetwork, by_exit
from nat2.training.context import TrainingContext
from nat2.training.distill import Teacher, exit_weights, joint_accuracy, joint_loss
from nat2.training.optimise import (
    Schedule,
    has_state,
    is_finite,
    load_state,
    mix,
    mixed_loss,
    read_state,
    save_state,
    set_learning_rate,
)
from nat2.training.prune import best_exits, keep_exits
from nat2.training.settings import FinetuneSettings


@dataclass(frozen=True)
class Finetuned:
    """A fine-tuned network and how it got there."""

    network: StaticNetwork
    """With the exits that are kept."""
    weights: tuple[float, ...]
    """Of their outputs; they sum to 1."""
    calibrated_val_accuracy: float
    """With the super-network's weights and calibrated statistics, and all exits."""
    val_accuracy: float
    """Of phase 1 at its best epoch, which has not seen the validation images, and the exits kept."""
    epochs: int
    """The best epoch E*; 0 if no epoch was better than the inherited weights."""
    val_logits: Tensor
    """What the exits kept said of the validation images at that epoch, shape (exits, N, classes)."""


def finetune(
    inherited: StaticNetwork,
    val: Split,
    settings: FinetuneSettings,
    context: TrainingContext,
    *,
    allowed: Callable[[tuple[int, ...]], bool] = lambda exits: True,
    teacher: Teacher | None = None,
) -> Finetuned:
    """Fine-tune in two phases that both start from the inherited weights.

    Phase 1 trains on the training images and finds the epoch E* of the best validation accuracy (of equals, that of
    the lowest validation loss). Phase 2 trains on training and validation images for E* epochs, along a curve of
    learning rates of that length or along phase 1's, cut off; its weights are the result, and nothing measures them but
    the test.

    Several exits are trained jointly and answer together, weighted by `settings.ramp` (AEP; variant B). Which of them
    are kept is decided on the validation images by the weights of epoch E* of phase 1.

    Args:
        inherited: Extracted from the super-network with calibrated statistics, with one exit or several; left as it is.
        val: Validation images.
        settings: How to train.
        context: Training images, resume point, seed; epochs are reported, twice `settings.epochs` in all.
        allowed: Whether a subset of the exits keeps the budget.
        teacher: Distils its answers with the weight `settings.kd_ratio`.
    """
    progress = _Progress(context, inherited)
    images = ResizedImages(val, context.pipeline)
    lesson = _Lesson(context.pipeline, settings, context.seed, teacher if settings.kd_ratio else None)
    standing = progress.read()
    if standing is None:
        answers = answers_of(inherited, images)
        loss, value = _measure(answers, images.labels, settings)
        progress.keep(answers)
        standing = _Standing(calibrated=value, best=value, best_loss=loss)
    if standing.phase == 1:
        context.step(FoundDone(standing.epochs))
        network, optimizer = progress.resume(settings, standing)
        while standing.epochs < settings.epochs and standing.since < settings.patience:
            _train(network, optimizer, context.split, lesson, standing.epochs, last=settings.epochs)
            answers = answers_of(network, images)
            standing = standing.after(*_measure(answers, images.labels, settings))
            improved = standing.best_epoch == standing.epochs
            if improved:
                progress.keep(answers)
            # What was kept is never newer than the resume point by more than a moment.
            progress.save(network, optimizer, standing, now=improved)
            context.step(1)
        context.step(FoundDone(settings.epochs - standing.epochs))
        standing = replace(standing, phase=2, epochs=0)
        progress.restart(standing)
    else:
        context.step(FoundDone(settings.epochs))
    network, optimizer = progress.resume(settings, standing)
    context.step(FoundDone(standing.epochs))
    everything = context.split.joined(val)
    last = standing.best_epoch if settings.anneal else settings.epochs
    while standing.epochs < standing.best_epoch:
        _train(network, optimizer, everything, lesson, settings.epochs + standing.epochs, last=last)
        standing = replace(standing, epochs=standing.epochs + 1)
        progress.save(network, optimizer, standing)
        context.step(1)
    context.step(FoundDone(settings.epochs - standing.best_epoch))
    progress.save(network, optimizer, standing, now=True)
    answers = progress.kept().to(images.labels.device)
    return _pruned(network.eval(), answers, images.labels, standing, settings, allowed)


def _pruned(
    network: StaticNetwork,
    answers: Tensor,
    labels: Tensor,
    standing: _Standing,
    settings: FinetuneSettings,
    allowed: Callable[[tuple[int, ...]], bool],
) -> Finetuned:
    """The network with the exits that are best together on the validation images."""
    exits = network.exit_numbers
    weights = exit_weights(settings.ramp, len(exits))[1]
    kept = best_exits(network, answers, labels, weights, allowed=allowed) if settings.prune else exits
    rows = [exits.index(number) for number in kept]
    answers, weights = answers[rows], weights[rows] / weights[rows].sum()
    return Finetuned(
        network=keep_exits(network, kept),
        weights=tuple(weights.tolist()),
        calibrated_val_accuracy=standing.calibrated,
        val_accuracy=joint_accuracy(answers, labels, weights),
        epochs=standing.best_epoch,
        val_logits=answers,
    )


@dataclass(frozen=True)
class _Standing:
    """Where the two phases stand."""

    calibrated: float
    """Validation accuracy of the inherited weights."""
    best: float
    """Validation accuracy of the best epoch so far."""
    best_loss: float
    best_epoch: int = 0
    """Counted from 1; 0 are the inherited weights."""
    phase: int = 1
    epochs: int = 0
    """Those of the phase that are done."""
    least_loss: float = math.inf
    """The least validation loss of an epoch so far."""
    since: int = 0
    """Epochs since that one."""

    def after(self, loss: float, value: float) -> _Standing:
        """Behind one more epoch of phase 1, given its loss and accuracy on the validation images."""
        done = replace(
            self,
            epochs=self.epochs + 1,
            least_loss=min(loss, self.least_loss),
            since=0 if loss < self.least_loss else self.since + 1,
        )
        if (value, -loss) > (self.best, -self.best_loss):
            return replace(done, best=value, best_loss=loss, best_epoch=done.epochs)
        return done


class _Progress:
    """Weights and standing on disk."""

    def __init__(self, context: TrainingContext, inherited: StaticNetwork) -> None:
        self._context = context
        self._path = path = context.state
        # Beside the resume point and never older: the epochs between are made again, and end with the same answers.
        self._answers = path.with_name(f"{path.stem}-answers{path.suffix}")
        self._inherited = inherited
        self._saved = time.monotonic()

    def read(self) -> _Standing | None:
        """Where a training that was interrupted stood; None if there was none."""
        if not has_state(self._path):
            return None
        return _Standing(**read_state(self._path, progress=self._context.progress)[1])

    def keep(self, answers: Tensor) -> None:
        """Keep what the exits said of the validation images at the best epoch so far."""
        save_tensors(self._answers, {"answers": answers})

    def kept(self) -> Tensor:
        """What `keep` was given last."""
        return load_tensors(self._answers)[0]["answers"]

    def restart(self, standing: _Standing) -> None:
        """Forget the weights: the next phase begins with the inherited ones."""
        save_tensors(self._path, {}, asdict(standing))

    def resume(self, settings: FinetuneSettings, standing: _Standing) -> tuple[StaticNetwork, torch.optim.Optimizer]:
        """The network and optimiser to continue with."""
        network = copy.deepcopy(self._inherited).requires_grad_(True)
        parameters = network.parameters()
        optimizer: torch.optim.Optimizer
        if settings.optimizer == "sgd":
            optimizer = torch.optim.SGD(parameters, lr=0.0, momentum=0.9, weight_decay=settings.decay)
        else:
            optimizer = torch.optim.AdamW(parameters, lr=0.0, weight_decay=settings.decay)
        if has_state(self._path) and standing.epochs:
            load_state(self._path, network, optimizer)
        return network, optimizer

    def save(
        self, network: nn.Module, optimizer: torch.optim.Optimizer, standing: _Standing, *, now: bool = False
    ) -> None:
        """Write the resume point, if the last one is old enough."""
        if now or self._context.is_due(self._saved):
            save_state(self._path, network, optimizer, asdict(standing))
            self._saved = time.monotonic()


@dataclass(frozen=True)
class _Lesson:
    """What is taught, and how."""

    pipeline: Pipeline
    settings: FinetuneSettings
    seed: int
    teacher: Teacher | None


def _train(
    network: StaticNetwork,
    optimizer: torch.optim.Optimizer,
    split: Split,
    lesson: _Lesson,
    epoch: int,
    *,
    last: int,
) -> None:
    """One epoch; those of phase 2 are numbered on behind `settings.epochs`. The cosine ends behind epoch `last`."""
    pipeline, settings = lesson.pipeline, lesson.settings
    steps = steps_per_epoch(len(split), settings.batch_size)
    schedule = Schedule(settings.lr, steps * last, final=1e-8)
    exits = network.exit_numbers if len(network.exit_numbers) > 1 else ()
    purpose: tuple[str | int, ...] = ("finetune", network.arch.key, *exits, epoch)
    crops = torch_generator(lesson.seed, *purpose)
    weights = exit_weights(settings.ramp, len(network.exit_numbers))[0].to(pipeline.device)
    network.train()
    total = torch.zeros((), device=pipeline.device)
    order = shuffled_batches(len(split), settings.batch_size, crops)
    choices = numpy_generator(lesson.seed, *purpose)
    for step, (pixels, labels) in enumerate(split.batches(order)):
        images = pipeline.augmented(pixels, network.arch.resolution, crops)
        labels = to_device(labels, pipeline.device)
        images, kept, others = mix(images, labels, pipeline.augmentation.mixup, choices)
        loss_of = partial(
            joint_loss,
            by_exit(network(images)),
            weights=weights,
            targets=lesson.teacher(images) if lesson.teacher is not None else None,
            ratio=settings.kd_ratio,
            label_smoothing=settings.label_smoothing,
        )
        loss = mixed_loss(loss_of, labels, others, kept)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        set_learning_rate(optimizer, schedule(epoch % settings.epochs * steps + step))
        optimizer.step()
        total += loss.detach()
    network.eval()
    if not math.isfinite(mean := float(total) / steps) or not is_finite(network):
        raise RunError(f"fine-tuning {network.arch.id} diverged (loss {mean}); try a smaller --finetune.lr")


@torch.no_grad()
def answers_of(network: StaticNetwork, images: ResizedImages) -> Tensor:
    """Logits of the images, shape (exits, N, classes)."""
    network.eval()
    return torch.cat([by_exit(network(batch)) for batch in images.batches(network.arch.resolution)], dim=1)


def _measure(answers: Tensor, labels: Tensor, settings: FinetuneSettings) -> tuple[float, float]:
    """Joint cross entropy of the exits, and accuracy of their joint answer."""
    losses, outputs = exit_weights(settings.ramp, len(answers))
    return float(joint_loss(answers, labels, losses)), joint_accuracy(answers, labels, outputs)
