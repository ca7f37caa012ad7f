"""Post-processing of a returned network: fine-tune it at its own resolution, with one exit or several (NAT2)."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor, nn

from nat2.data.dataset import Split
from nat2.data.transform import ResizedImages, steps_per_epoch
from nat2.files import load_tensors, save_tensors
from nat2.progress import FoundDone
from nat2.supernet.static import StaticNetwork
from nat2.training.context import TrainingContext
from nat2.training.distill import Teacher, exit_weights, joint_accuracy
from nat2.training.lesson import Lesson, answers_of, measure, optimizer_of
from nat2.training.optimise import Schedule, has_state, load_state, read_state, save_state
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
    """Of phase 1 (at its best epoch if it has one), which has not seen the validation images, and the exits kept."""
    epochs: int
    """The best epoch E*, 0 if no epoch was better than the inherited weights; or those of a continued fine-tuning."""
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
    training = _TwoPhases(inherited, val, settings, context, teacher)
    best = training.find_best_epoch()
    network = training.train_on_all(best)
    return pruned(
        network.eval(),
        training.answers,
        training.labels,
        settings,
        allowed,
        calibrated=best.calibrated,
        epochs=best.best_epoch,
    )


def pruned(
    network: StaticNetwork,
    answers: Tensor,
    labels: Tensor,
    settings: FinetuneSettings,
    allowed: Callable[[tuple[int, ...]], bool],
    *,
    calibrated: float,
    epochs: int,
) -> Finetuned:
    """The network with the exits that are best together on the validation images.

    Args:
        network: With all exits.
        answers: What they said of the validation images, shape (exits, N, classes).
        labels: Of these.
        settings: Weights of the exits, and whether to leave any out.
        allowed: Whether a subset of the exits keeps the budget.
        calibrated: See `Finetuned`.
        epochs: See `Finetuned`.
    """
    exits = network.exit_numbers
    weights = exit_weights(settings.ramp, len(exits))[1]
    kept = best_exits(network, answers, labels, weights, allowed=allowed) if settings.prune else exits
    rows = [exits.index(number) for number in kept]
    answers, weights = answers[rows], weights[rows] / weights[rows].sum()
    return Finetuned(
        network=keep_exits(network, kept),
        weights=tuple(weights.tolist()),
        calibrated_val_accuracy=calibrated,
        val_accuracy=joint_accuracy(answers, labels, weights),
        epochs=epochs,
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


class _TwoPhases:
    """A fine-tuning, from where it stands."""

    def __init__(
        self,
        inherited: StaticNetwork,
        val: Split,
        settings: FinetuneSettings,
        context: TrainingContext,
        teacher: Teacher | None,
    ) -> None:
        self._inherited, self._val, self._settings, self._context = inherited, val, settings, context
        self._images = ResizedImages(val, context.pipeline)
        self._lesson = Lesson.of(context.pipeline, settings, context.seed, len(context.split), teacher)
        self._longest = settings.length(len(context.split)).parts
        self._progress = _Progress(context, inherited)

    @property
    def labels(self) -> Tensor:
        """Of the validation images."""
        return self._images.labels

    @property
    def answers(self) -> Tensor:
        """What the exits said of the validation images at the best epoch, shape (exits, N, classes)."""
        return self._progress.kept().to(self.labels.device)

    def find_best_epoch(self) -> _Standing:
        """Phase 1, or what is left of it."""
        progress, context = self._progress, self._context
        standing = progress.read() or self._beginning()
        if standing.phase != 1:
            context.step(FoundDone(self._longest))
            return standing
        context.step(FoundDone(standing.epochs))
        network, optimizer = progress.resume(self._settings, standing)
        while standing.epochs < self._longest and standing.since < self._settings.patience:
            self._train(network, optimizer, context.split, standing, last=self._longest)
            answers = answers_of(network, self._images)
            standing = standing.after(*measure(answers, self.labels, self._settings))
            improved = standing.best_epoch == standing.epochs
            if improved:
                progress.keep(answers)
            # What was kept is never newer than the resume point by more than a moment.
            progress.save(network, optimizer, standing, now=improved)
            context.step(1)
        context.step(FoundDone(self._longest - standing.epochs))
        standing = replace(standing, phase=2, epochs=0)
        progress.restart(standing)
        return standing

    def train_on_all(self, standing: _Standing) -> StaticNetwork:
        """Phase 2, or what is left of it."""
        progress, context = self._progress, self._context
        network, optimizer = progress.resume(self._settings, standing)
        context.step(FoundDone(standing.epochs))
        everything = context.split.joined(self._val)
        last = standing.best_epoch if self._settings.anneal else self._longest
        while standing.epochs < standing.best_epoch:
            self._train(network, optimizer, everything, standing, last=last)
            standing = replace(standing, epochs=standing.epochs + 1)
            progress.save(network, optimizer, standing)
            context.step(1)
        context.step(FoundDone(self._longest - standing.best_epoch))
        progress.save(network, optimizer, standing, now=True)
        return network

    def _beginning(self) -> _Standing:
        """With the inherited weights."""
        answers = answers_of(self._inherited, self._images)
        loss, value = measure(answers, self.labels, self._settings)
        self._progress.keep(answers)
        return _Standing(calibrated=value, best=value, best_loss=loss)

    def _train(
        self,
        network: StaticNetwork,
        optimizer: torch.optim.Optimizer,
        split: Split,
        standing: _Standing,
        *,
        last: int,
    ) -> None:
        """One epoch; the cosine ends after epoch `last`. What is drawn for phase 2 is different from phase 1's."""
        epoch = steps_per_epoch(len(split), self._lesson.batch_size)
        schedule = Schedule(self._lesson.rate, epoch * last, final=1e-8)
        first, part = standing.epochs * epoch, standing.epochs + (standing.phase - 1) * self._longest
        self._lesson.train(network, optimizer, split, schedule, steps=range(first, first + epoch), part=part)


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
        optimizer = optimizer_of(network, settings)
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
