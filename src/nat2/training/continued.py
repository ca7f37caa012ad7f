"""Continued fine-tuning: on training images first and, once the network has been measured, on all images."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

from nat2.data.dataset import Split
from nat2.data.transform import ResizedImages
from nat2.files import load_tensors, save_tensors
from nat2.progress import FoundDone
from nat2.supernet.static import StaticNetwork
from nat2.training.context import TrainingContext
from nat2.training.distill import Teacher
from nat2.training.finetune import Finetuned, pruned
from nat2.training.lesson import Lesson, answers_of, measure, optimizer_of
from nat2.training.optimise import Schedule, has_state, load_state, save_state
from nat2.training.settings import FinetuneSettings

_AGAIN = 0.5  # the second phase's learning rate, relative to the first's
_WARMUP = 0.05  # of the first phase
_BY_HEART = 0.25  # higher accuracy on training than on validation images


@dataclass(frozen=True)
class _Standing:
    """Where the two phases stand."""

    calibrated: float
    """Validation accuracy of the inherited weights."""
    phase: int = 0
    """Counted from 0; 2 when both are over."""
    parts: int = 0
    """Those of the phase that are done."""
    measured: float = 0.0
    """Validation accuracy after the first phase, once it is over."""
    overfit: float = 0.0
    """How far above it the accuracy on as many training images is; 0 if nothing depends on it."""


class ContinuedFinetuning:
    """The fine-tuning of one network; it can be paused after its first phase and continued in another process.

    Phase 1 trains the inherited weights on the training images along a cosine, and measures the network on the
    validation images. Phase 2 goes on with these weights on training and validation images along a lower cosine; its
    weights are the result, and nothing measures them but the test. A network that has learned the training images by
    heart gets RandAugment in phase 2 (policy `auto`). Several exits are trained jointly (AEP; variant B); which of them
    are kept is decided by their answers after phase 1.
    """

    def __init__(
        self,
        inherited: StaticNetwork,
        val: Split,
        settings: FinetuneSettings,
        context: TrainingContext,
        *,
        teacher: Teacher | None = None,
    ) -> None:
        """Begin, or continue from the resume point.

        Args:
            inherited: Extracted from the super-network with calibrated statistics; left as it is.
            val: Validation images.
            settings: How to train.
            context: Training images, resume point, seed; each phase reports its steps.
            teacher: Distils its answers with the weight `settings.kd_ratio`.
        """
        images = len(context.split)
        self._lesson = Lesson.of(context.pipeline, settings, context.seed, images, teacher)
        self._phases = settings.phases(images)
        self._val, self._images, self._context = val, ResizedImages(val, context.pipeline), context
        self._network = copy.deepcopy(inherited).requires_grad_(True).eval()
        self._optimizer = optimizer_of(self._network, settings)
        path = context.state
        # Beside the resume point, and written before it says that phase 1 is over.
        self._answers = path.with_name(f"{path.stem}-answers{path.suffix}")
        if has_state(path):
            stored = load_state(path, self._network, self._optimizer, progress=context.progress)
            self._standing = _Standing(**stored)
        else:
            self._standing = _Standing(calibrated=self._measure())

    def measured(self) -> float:
        """Make phase 1, or find that it was made before; the accuracy on validation images of all exits together."""
        if self._standing.phase == 0:
            self._train(self._context.split)
            measured = self._measure()
            self._standing = replace(self._standing, measured=measured, overfit=self._overfit(measured))
            self._close()
        else:
            self._context.step(FoundDone(self._phases[0].steps))
        return self._standing.measured

    def finished(self, *, allowed: Callable[[tuple[int, ...]], bool] = lambda exits: True) -> Finetuned:
        """Make both phases, or what is left of them.

        Args:
            allowed: Whether a subset of the exits keeps the budget.
        """
        if self._standing.phase == 0:
            self.measured()
        if self._standing.phase == 1:
            self._train(self._context.split.joined(self._val))
            self._close()
        else:
            self._context.step(FoundDone(self._phases[1].steps))
        answers = load_tensors(self._answers)[0]["answers"].to(self._images.labels.device)
        return pruned(
            self._network,
            answers,
            self._images.labels,
            self._lesson.settings,
            allowed,
            calibrated=self._standing.calibrated,
            epochs=round(sum(length.steps / max(1, length.epoch) for length in self._phases)),
        )

    def _train(self, split: Split) -> None:
        """The parts of the present phase that are not made yet."""
        context, phase = self._context, self._standing.phase
        length = self._phases[phase]
        lesson = self._augmented() if phase else self._lesson
        rate = lesson.rate * (1.0, _AGAIN)[phase]
        schedule = Schedule(rate, length.steps, round(_WARMUP * length.steps) * (phase == 0), 0.1 * rate)
        context.step(FoundDone(length.before(self._standing.parts)))
        saved = time.monotonic()
        for part in range(self._standing.parts, length.parts):
            steps = range(length.before(part), length.before(part + 1))
            number = part + phase * self._phases[0].parts  # phase 2 continues the numbers of phase 1
            lesson.train(self._network, self._optimizer, split, schedule, steps=steps, part=number)
            self._standing = replace(self._standing, parts=part + 1)
            if context.is_due(saved):
                save_state(context.state, self._network, self._optimizer, asdict(self._standing))
                saved = time.monotonic()
            context.step(len(steps))

    def _augmented(self) -> Lesson:
        """The lesson of phase 2."""
        pipeline, more = self._lesson.pipeline, self._standing.overfit
        if more < _BY_HEART:
            return self._lesson
        if self._standing.parts == 0:
            self._context.progress.say(
                f"{self._network.arch.id}: RandAugment from here on, since its accuracy is {100 * more:.0f} points "
                "higher on training than on validation images"
            )
        augmentation = replace(pipeline.augmentation, policy="randaugment")
        return replace(self._lesson, pipeline=replace(pipeline, augmentation=augmentation))

    def _overfit(self, measured: float) -> float:
        """How far the accuracy on training images is above that on validation images."""
        if self._lesson.pipeline.augmentation.policy != "auto":
            return 0.0
        some = ResizedImages(self._context.split.spread(len(self._images)), self._context.pipeline)
        return measure(answers_of(self._network, some), some.labels, self._lesson.settings)[1] - measured

    def _measure(self) -> float:
        """Accuracy on validation images; the answers are kept."""
        answers = answers_of(self._network, self._images)
        save_tensors(self._answers, {"answers": answers})
        return measure(answers, self._images.labels, self._lesson.settings)[1]

    def _close(self) -> None:
        """Write down that the present phase is over."""
        self._standing = replace(self._standing, phase=self._standing.phase + 1, parts=0)
        save_state(self._context.state, self._network, self._optimizer, asdict(self._standing))
