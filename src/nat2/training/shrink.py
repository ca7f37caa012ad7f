"""Extended progressive shrinking: the super-network learns its largest network first, then ever smaller ones."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from nat2.errors import ConfigError
from nat2.files import load_tensors
from nat2.progress import FoundDone
from nat2.seeds import numpy_generator
from nat2.space.arch import Arch, Layer
from nat2.space.cost import cost
from nat2.space.macro import Macro
from nat2.space.space import SearchSpace
from nat2.supernet.network import SuperNetwork
from nat2.supernet.sort import sort_channels
from nat2.supernet.static import channels_last
from nat2.training.context import TrainingContext
from nat2.training.distill import Teacher, distillation_loss, exit_weights, joint_loss
from nat2.training.length import Length, batch_size_for
from nat2.training.optimise import ElasticEpoch, Schedule, has_state, load_state, save_state, sgd, train_epoch
from nat2.training.rate import rate_for
from nat2.training.settings import Phase, ShrinkSettings
from nat2.training.teacher import largest_as_teacher


def opened_by(phase: Phase, whole: SearchSpace) -> SearchSpace:
    """The part of a search space that is open in a phase."""
    return dataclasses.replace(
        whole,
        kernels=phase.kernels,
        expands=phase.expands,
        depths=phase.depths,
        exits=phase.exits if whole.early_exits else (),
        levels=phase.levels if whole.parallel_blocks else (),
    )


def phases_for(space: SearchSpace, phases: Sequence[Phase]) -> list[Phase]:
    """The phases that mean something to a family: without early exits there is no height to open, nor a level
    without parallel blocks.

    Raises:
        ConfigError: something that the space holds is opened by no phase, and would be searched untrained.
    """
    foreign = {"exits"} if not space.early_exits else set()
    foreign |= {"levels"} if not space.parallel_blocks else set()
    kept: list[Phase] = []
    before: Phase | None = None
    for phase in phases:
        changed = {
            name for name in (*_DIMENSIONS, "joint") if before is None or getattr(phase, name) != getattr(before, name)
        }
        if before is None or not changed or changed - foreign:
            kept.append(phase)
        before = phase
    parts = [opened_by(phase, space) for phase in kept]
    for name in _DIMENSIONS:
        never = sorted(set(getattr(space, name)).difference(*(getattr(part, name) for part in parts)))
        if never:
            raise ConfigError(
                f"the phases never open {name} {', '.join(map(str, never))}, which the search may "
                "choose; open them in a phase, or choose another family or --schedule"
            )
    return kept


_DIMENSIONS = ("kernels", "expands", "depths", "exits", "levels")


@dataclass(frozen=True)
class PhaseOutcome:
    """What is reported of a phase when it is done."""

    phase: Phase
    learning_rate: float
    """The base, scaled to the batch."""
    loss: float
    """Mean loss of the last part."""
    length: Length
    kept: int
    """The part whose weights go on, counted from 1; an epoch is a part where phases are counted in epochs."""


def shrink(
    network: SuperNetwork,
    space: SearchSpace,
    phases: Sequence[Phase],
    settings: ShrinkSettings,
    context: TrainingContext,
    *,
    supported: tuple[int, ...] = (),
    teacher_of: TeacherSource | None = None,
    validate: Callable[[SuperNetwork, Arch], float] | None = None,
) -> Iterator[PhaseOutcome]:
    """Train a super-network by extended progressive shrinking (OFAv2), in place and phase by phase.

    Training goes on while outcomes are asked for: ``for outcome in shrink(...)``, or ``list(shrink(...))``.

    Before each phase but the first, the largest network with all its exits is extracted with calibrated statistics
    and becomes the teacher; before phases that open expand ratios, channels are sorted by importance.

    Args:
        network: Changed in place; holds the result at the end.
        space: The whole search space; phases open parts of it.
        phases: In order; those without meaning to the family are left out.
        settings: What the phases have in common.
        context: Images, resume point, seed; its processes divide each batch and the validation of corner networks.
        supported: Expand ratios for which the network was trained before, if it was; their channels stay together.
        teacher_of: Where the network that teaches instead of this one's largest is found, if another does.
        validate: Accuracy of a sub-network on validation images; needed if `settings.corners` is not 0.

    Yields:
        What came of each phase that was not done before, while the network holds the weights that the phase ends with.
    """
    phases = phases_for(space, phases)
    task = _Shrinking(
        network=network,
        space=space,
        settings=settings,
        context=context,
        files=_Files(context.state),
        supported=supported,
        teacher_of=teacher_of or TeacherSource(network.macro, teacher_file(context.state)),
        validate=validate,
    )
    first, done = task.resume()
    lengths = [task.length(phase) for phase in phases]
    context.step(FoundDone(sum(length.steps for length in lengths[:first])))
    if done:
        context.step(FoundDone(lengths[first].before(done)))
    for number, phase in enumerate(phases[first:], start=first):
        if done == 0:
            task.begin(number, phases)
        yield task.train(number, phase, done)
        done = 0


@dataclass(frozen=True)
class TeacherSource:
    """Where the weights of a teacher are written down, and of which super-network they are."""

    macro: Macro
    path: Path


def teacher_file(state: Path) -> Path:
    """Where a training with this resume point writes down what teaches it."""
    return state.with_name(f"{state.stem}-teacher{state.suffix}")


@dataclass(kw_only=True)
class _Shrinking:
    """A super-network on its way through the phases."""

    network: SuperNetwork
    space: SearchSpace
    settings: ShrinkSettings
    context: TrainingContext
    files: _Files
    supported: tuple[int, ...]
    teacher_of: TeacherSource
    validate: Callable[[SuperNetwork, Arch], float] | None

    def __post_init__(self) -> None:
        self.optimizer = sgd(self.network, weight_decay=self.settings.weight_decay)
        self.batch_size = batch_size_for(self.settings.batch_size, len(self.context.split))

    def length(self, phase: Phase) -> Length:
        """How long a phase is, and its parts."""
        return phase.length(len(self.context.split), self.batch_size)

    def resume(self) -> tuple[int, int]:
        """The phase to go on with and how many of its parts are done."""
        if not has_state(self.files.state):
            return 0, 0
        metadata = load_state(self.files.state, self.network, self.optimizer, progress=self.context.progress)
        return metadata["phase"], metadata["epochs"]

    def save(self, path: Path, **metadata: float) -> None:
        """Write down weights and optimiser; of the resume point the one before is kept."""
        kept = path == self.files.state
        self.context.processes.once(
            lambda: save_state(path, self.network, self.optimizer, metadata, keep_previous=kept)
        )

    def begin(self, number: int, phases: Sequence[Phase]) -> None:
        """Sort the channels if expand ratios open, and keep what will teach."""
        before = phases[max(0, number - 1)].expands
        if phases[number].expands != before:
            sort_channels(self.network, supported={*before, *self.supported})
        self.optimizer.state.clear()
        own = self.teacher_of.path == self.files.teacher
        if own and (number == 1 or (number and self.settings.teacher in (None, "progressive"))):
            self.save(self.files.teacher, phase=number)  # written down, because the network moves on
        self.save(self.files.state, phase=number, epochs=0)

    def train(self, number: int, phase: Phase, done: int) -> PhaseOutcome:
        """The parts of a phase that are not done yet."""
        length = self.length(phase)
        opened = opened_by(phase, self.space)
        teacher = self.teacher() if number and self.settings.kd_ratio else None
        epoch_settings = _epoch_of(phase, opened, self.batch_size, self.context.pipeline.device, self.settings, teacher)
        rate = rate_for(phase.lr, self.batch_size)
        warmup = round(length.epoch * phase.warmup_epochs) if phase.warmup_steps is None else phase.warmup_steps
        schedule = Schedule(rate, length.steps, warmup, 0.1 * rate)
        count = self.settings.corners if length.passes > 1 else 0  # of a single pass there is nothing to choose
        corners = corner_networks(opened, count, numpy_generator(self.context.seed, "corners", number))
        best = _Best.read(self.files.best, number, done)
        saved, loss = time.monotonic(), float("nan")
        for part in range(done, length.parts):
            loss = train_epoch(
                self.network,
                self.optimizer,
                dataclasses.replace(epoch_settings, steps=length.within(part)),
                self.context,
                purpose=("shrink", number, part),
                schedule=schedule,
                first_step=length.before(part),
            )
            if self.validate is not None and corners and length.ends_epoch(part):
                accuracy = self.mean_accuracy(corners)
                if accuracy > best.accuracy:
                    best = _Best(number, part + 1, accuracy)
                    self.save(self.files.best, **asdict(best))
            due = self.context.processes.once(partial(self.context.is_due, saved))
            if due and part + 1 < length.parts:
                self.save(self.files.state, phase=number, epochs=part + 1)
                saved = time.monotonic()
        if 0 < best.epoch < length.parts:
            load_state(self.files.best, self.network, self.optimizer)
        self.save(self.files.state, phase=number + 1, epochs=0)
        return PhaseOutcome(phase, rate, loss, length, best.epoch or length.parts)

    def mean_accuracy(self, archs: Sequence[Arch]) -> float:
        """Of networks on validation images, each measured by one of the processes."""
        validate = self.validate
        assert validate is not None
        costs = [cost(self.network.macro, arch).macs for arch in archs]
        measured = self.context.processes.spread(lambda arch: validate(self.network, arch), archs, costs=costs)
        return float(np.mean([accuracy for _, accuracy, _ in measured]))

    def teacher(self) -> Teacher:
        """The largest network with all its exits, as it was when it was written down."""
        source = channels_last(SuperNetwork(self.teacher_of.macro), self.context.pipeline.device)
        load_state(self.teacher_of.path, source, sgd(source, weight_decay=0))
        space = dataclasses.replace(self.space, widths=(self.teacher_of.macro.width,))
        return largest_as_teacher(source, space, self.context.split, self.context.pipeline, self.settings)


@dataclass(frozen=True)
class _Files:
    """Where a training that was interrupted finds what it needs."""

    state: Path

    @property
    def teacher(self) -> Path:
        return teacher_file(self.state)

    @property
    def best(self) -> Path:
        return self.state.with_name(f"{self.state.stem}-best{self.state.suffix}")


@dataclass(frozen=True)
class _Best:
    """The best part of a phase so far, counted from 1; 0 if there is none."""

    phase: int
    epoch: int = 0
    accuracy: float = -1.0

    @staticmethod
    def read(path: Path, phase: int, done: int) -> _Best:
        """What was written in this phase, unless the parts after the resume point wrote it: those are repeated."""
        if path.exists():
            written = _Best(**load_tensors(path)[1])
            if written.phase == phase and written.epoch <= done:
                return written
        return _Best(phase)


def corner_networks(space: SearchSpace, count: int, generator: np.random.Generator) -> list[Arch]:
    """Networks with each choice at its smallest or largest, the same in all layers; at most `count`, by lot (OFA)."""

    def ends(values: Sequence[int]) -> list[int]:
        return sorted({values[0], values[-1]})

    blocks = [layer.blocks for layer in space.settings]
    layers = [Layer(*choice) for choice in itertools.product(ends(space.kernels), ends(space.expands), ends(blocks))]
    archs = [
        Arch(resolution, width, ((layer,) * depth,) * exit_number)
        for resolution in ends(space.resolutions)
        for width in sorted({space.widths[0], space.widths[-1]})
        for layer in layers
        for depth in ends(space.depths)
        for exit_number in ends(space.exits)
    ]
    distinct = list(dict.fromkeys(archs))
    return [distinct[index] for index in sorted(generator.permutation(len(distinct))[:count])]


def _epoch_of(
    phase: Phase,
    opened: SearchSpace,
    batch_size: int,
    device: torch.device,
    settings: ShrinkSettings,
    teacher: Teacher | None,
) -> ElasticEpoch:
    exits = opened.largest.exit if phase.joint and opened.early_exits else None
    losses = exit_weights(settings.ramp, exits or 1)[0].to(device)

    def loss(logits: torch.Tensor, labels: torch.Tensor, targets: torch.Tensor | None) -> torch.Tensor:
        if exits is not None:
            return joint_loss(logits, labels, losses, label_smoothing=settings.label_smoothing)
        return distillation_loss(
            logits, labels, targets, ratio=settings.kd_ratio, label_smoothing=settings.label_smoothing
        )

    def sample(generator: np.random.Generator, resolution: int, number: int) -> Arch:
        ends = [opened.largest, opened.smallest] if settings.sampling == "sandwich" else []
        if phase.joint:
            return dataclasses.replace(opened.largest, resolution=resolution)
        if number < len(ends):
            return dataclasses.replace(ends[number], resolution=resolution)
        return opened.sample_elastic(generator, resolution=resolution)

    sandwich = settings.sampling == "sandwich" and not phase.joint
    return ElasticEpoch(
        batch_size=batch_size,
        resolutions=opened.resolutions,
        sample=sample,
        loss=loss,
        subnets=phase.subnets + 2 * sandwich,
        exits=tuple(range(1, exits + 1)) if exits else None,
        teacher=teacher,
        clip=settings.clip or None,
    )
