"""Settings of training: phases of progressive shrinking, adaptation, fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from nat2.errors import ConfigError
from nat2.space.space import SearchSpace
from nat2.training.length import Length, batch_size_for, growth
from nat2.validation import (
    check_at_least,
    check_at_most,
    check_not_negative,
    check_positive,
    check_share,
    check_types,
)

Ramp = Literal["DESC", "ASC", "MIX", "UNIF"]
"""AEP's weights over the exits: descending, ascending, descending for losses and ascending for outputs, uniform."""
Choice = Literal["spread", "trade-off"]
Variant = Literal["auto", "single", "ensemble", "both"]
SyncBatchNorm = Literal["auto", "joint", "per-process"]
"""Whose images batch norms take their statistics from, where several processes divide a batch."""
ScheduleName = Literal["uniform", "short", "ofa", "ofav2", "transfer", "short-transfer"]


_PAIR = 2  # images in a batch: one image has no batch statistics
ENOUGH_FOR_STATISTICS = 32
"""Images of a process from which on batch norms take their statistics from these alone, unless told otherwise."""
_ADAPTATION, _FINETUNING = 50, 1200  # steps of a generation and of a network, at least
_FEWEST_FINETUNING, _PASSES = 400, 100  # for a network: steps that few images get too, and passes over them


def check_length(settings: Phase | AdaptSettings | FinetuneSettings, of: str, *, minimum: int = 0) -> None:
    """Check that a training is counted in epochs or in steps.

    Raises:
        ConfigError: both are given, or one is below the minimum.
    """
    check = check_positive if minimum else check_not_negative
    check(settings, of, "epochs", "steps")
    if settings.epochs is not None and settings.steps is not None:
        raise ConfigError(
            f"{of} is counted in `epochs` or in `steps`, not in both; got {settings.epochs} and {settings.steps}: set "
            "one of them to null"
        )


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One phase of extended progressive shrinking: which choices are open, and how long and fast it learns."""

    name: str
    """Name shown and logged."""
    lr: float
    """Base learning rate for batches of 64; proportional to the batch size."""
    kernels: tuple[int, ...] = (7,)
    """Kernel sizes that are open."""
    expands: tuple[int, ...] = (6,)
    """Expand ratios that are open."""
    depths: tuple[int, ...] = (4,)
    """Depths that are open."""
    exits: tuple[int, ...] = (5,)
    """Exits that are open; ignored by the single-exit families."""
    levels: tuple[int, ...] = (3,)
    """How many of a layer's parallel blocks may be active; ignored by the families without them."""
    subnets: int = 1
    """Sub-networks per step, whose gradients are added."""
    joint: bool = False
    """Train all exits of the largest network at once instead of sampled sub-networks."""
    epochs: int | None = None
    """Passes over the training images, at least 1; or give `steps`."""
    steps: int | None = None
    """Gradient steps, at least 1; or give `epochs`."""
    warmup_epochs: float = 0.0
    """Epochs at the start in which the learning rate rises from a tenth of the base."""
    warmup_steps: int | None = None
    """The same in steps; instead of `warmup_epochs`."""

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: a number is not positive, or a choice does not exist.
        """
        for name in ("kernels", "expands", "depths", "exits", "levels"):
            given = getattr(self, name)
            given = (given,) if type(given) is int else given
            object.__setattr__(self, name, tuple(given) if isinstance(given, list) else given)
        check_types(self, f"phase {self.name!r}")
        check_positive(self, f"phase {self.name!r}", "lr", "subnets")
        check_not_negative(self, f"phase {self.name!r}", "warmup_epochs", "warmup_steps")
        check_length(self, f"phase {self.name!r}", minimum=1)
        if self.epochs is None and self.steps is None:
            raise ConfigError(f"phase {self.name!r} must say how long it is; give it `steps` or `epochs`")
        # The search space knows which choices exist.
        SearchSpace(
            resolutions=(32,),
            kernels=self.kernels,
            expands=self.expands,
            depths=self.depths,
            exits=self.exits,
            levels=self.levels,
            parallel_blocks=True,
        )

    def length(self, images: int, batch_size: int) -> Length:
        """How long it is, with this number of training images in batches of this size."""
        return Length.of(images, batch_size, epochs=self.epochs, steps=self.steps)

    def longer(self, factor: float) -> Phase:
        """The same with `factor` times its steps, if it is counted in them."""
        if self.steps is None:
            return self
        warmup = None if self.warmup_steps is None else round(factor * self.warmup_steps)
        return replace(self, steps=round(factor * self.steps), warmup_steps=warmup)


_KERNELS, _EXITS, _DEPTHS, _LEVELS = (3, 5, 7), (1, 2, 3, 4, 5), (2, 3, 4), (1, 2, 3)
_BRIEF = Phase(name="height", steps=125, lr=0.03, subnets=2, kernels=_KERNELS, levels=_LEVELS, exits=_EXITS)
SHORT: tuple[Phase, ...] = (
    Phase(name="full", steps=150, lr=0.08, joint=True, warmup_steps=25),
    Phase(name="kernel", steps=50, lr=0.03, kernels=_KERNELS),
    Phase(name="level", steps=75, lr=0.03, subnets=2, kernels=_KERNELS, levels=_LEVELS),
    _BRIEF,
    replace(_BRIEF, name="depth", steps=100, depths=_DEPTHS),
    replace(_BRIEF, name="expand 1", steps=75, depths=_DEPTHS, expands=(4, 6)),
    replace(_BRIEF, name="expand 2", steps=200, lr=0.04, depths=_DEPTHS, expands=(3, 4, 6)),
)
"""A short form of the published schedule (OFAv2), for small data sets and machines; many images get more steps."""

_HEIGHT = replace(_BRIEF, steps=None, epochs=5)
_DEPTH = replace(_HEIGHT, name="depth", epochs=25, lr=2.5e-3, depths=_DEPTHS)
OFAV2: tuple[Phase, ...] = (
    Phase(name="full", epochs=180, lr=0.08, joint=True),
    Phase(name="kernel", epochs=120, lr=0.03, kernels=_KERNELS, warmup_epochs=5),
    Phase(name="level 1", epochs=25, lr=2.5e-3, subnets=2, kernels=_KERNELS, levels=(2, 3)),
    Phase(name="level 2", epochs=120, lr=7.5e-3, subnets=2, kernels=_KERNELS, levels=_LEVELS, warmup_epochs=5),
    replace(_HEIGHT, name="height 1", epochs=25, lr=1.875e-3, exits=(4, 5)),
    replace(_HEIGHT, name="height 2", epochs=60, lr=3.75e-3, exits=(3, 4, 5), warmup_epochs=5),
    replace(_HEIGHT, name="height 3", epochs=90, lr=7.5e-3, exits=(2, 3, 4, 5), warmup_epochs=5),
    replace(_HEIGHT, name="height 4", epochs=120, lr=1.5e-2, warmup_epochs=5),
    replace(_DEPTH, name="depth 1", depths=(3, 4)),
    replace(_DEPTH, name="depth 2", epochs=120, lr=7.5e-3, warmup_epochs=5),
    replace(_DEPTH, name="expand 1", subnets=4, expands=(4, 6)),
    replace(_DEPTH, name="expand 2", epochs=120, lr=7.5e-3, subnets=4, expands=(3, 4, 6), warmup_epochs=5),
)
"""The published schedule of OFAv2, extended progressive shrinking."""


OFA: tuple[Phase, ...] = tuple(phase for phase in OFAV2 if phase.name.partition(" ")[0] not in ("level", "height"))
OFA = tuple(replace(phase, exits=(5,), levels=(3,)) for phase in OFA)
"""The published schedule of OFA, for single-exit families without parallel blocks."""
_EVERYTHING = replace(_HEIGHT, depths=_DEPTHS, expands=(3, 4, 6))
TRANSFER: tuple[Phase, ...] = (
    Phase(name="largest", epochs=100, lr=7.5e-3 / 4, joint=True, warmup_epochs=5),
    replace(_EVERYTHING, name="uniform", epochs=150, lr=7.5e-3 / 4, subnets=4, warmup_epochs=10),
)
"""The published warm-up of a trained super-network on new images (NAT), its rates for batches of 256."""
SHORT_TRANSFER: tuple[Phase, ...] = (
    replace(_BRIEF, name="uniform", steps=300, lr=0.06, warmup_steps=30, depths=_DEPTHS, expands=(3, 4, 6)),
)
"""A short form of it, for small data sets and machines; many images get more steps. Training the largest network first,
as published, gained nothing in two thirds more time."""
UNIFORM: tuple[Phase, ...] = (
    replace(_BRIEF, name="uniform", steps=400, lr=0.08, warmup_steps=40, depths=_DEPTHS, expands=(3, 4, 6)),
)
"""No shrinking: sub-networks of all sizes from the first step on, without a teacher. Its steps cost a fraction of those
of the largest network, and small networks, which small data sets ask for, are trained all the time."""
SCHEDULES: dict[ScheduleName, tuple[Phase, ...]] = {
    "uniform": UNIFORM,
    "short": SHORT,
    "ofa": OFA,
    "ofav2": OFAV2,
    "transfer": TRANSFER,
    "short-transfer": SHORT_TRANSFER,
}


@dataclass(frozen=True, kw_only=True)
class ShrinkSettings:
    """What the phases have in common."""

    batch_size: int | None = None
    """Images per step; by default 16 for up to 150 training images, 32 up to 1,500, else 64."""
    weight_decay: float = 3e-5
    """Weight decay of SGD; batch norms and biases have none."""
    label_smoothing: float = 0.1
    """Smoothing of the labels' cross entropy, from 0 to below 1."""
    kd_ratio: float = 1.0
    """Weight of the distillation from the teacher; 0 for none."""
    ramp: Ramp = "DESC"
    """Weights of the exits' losses and outputs in the joint phase and in the teacher's ensemble: descending from the
    first exit, which needs it when training is short, or ascending (published for OFAv2)."""
    teacher: Literal["progressive", "fixed", "widest"] | None = None
    """The largest network as each phase finds it (OFAv2), as the first phase leaves it (OFA), or, for all widths, that
    of the widest after its first phase (NAT's warm-up); by default `widest` in a transfer, else `progressive`."""
    clip: float | None = None
    """Largest norm of the gradient, applied after each sub-network, 0 for none; by default 5 in a transfer
    (published), else none."""
    sampling: Literal["uniform", "sandwich"] = "uniform"
    """Random sub-networks in each step, or the largest and the smallest open ones in addition."""
    corners: int = 0
    """Networks with every choice at an end, whose mean validation accuracy chooses each phase's epoch; 0: the last."""
    calibration_images: int = 512
    """Training images for batch-norm statistics, at most as many as there are."""

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: a number is outside its range.
        """
        check_types(self, "the shrinking")
        check_at_least(self, "the shrinking", _PAIR, "batch_size", "calibration_images")
        check_share(self, "the shrinking", "label_smoothing")
        check_not_negative(self, "the shrinking", "weight_decay", "kd_ratio", "corners", "clip")


@dataclass(frozen=True, kw_only=True)
class AdaptSettings:
    """How the super-network is adapted between two generations."""

    epochs: int | None = None
    """Passes over the training images per generation; 0 leaves the weights as they are. Or give `steps`."""
    steps: int | None = None
    """Gradient steps per generation; by default 50, up to four times as many with more than 2,000 training images."""
    lr: float = 0.01
    """Largest learning rate, for batches of 64; proportional to the batch size. One cosine spans the whole search."""
    warmup_epochs: float = 1.0
    """Epochs at the very start in which the learning rate rises from 1e-4."""
    subnets: int = 2
    """Sub-networks per step, whose gradients are added."""
    batch_size: int | None = None
    """Images per step; by default 16 for up to 150 training images, 32 up to 1,500, else 64."""
    weight_decay: float = 3e-4
    """Weight decay of SGD; batch norms and biases have none."""
    kd_ratio: float = 1.0
    """Weight of the distillation from the largest network."""
    clip: float = 5.0
    """Largest norm of the gradient."""
    distributions: Literal["histogram", "best-fit", "uniform"] = "histogram"
    """Sub-networks are drawn gene by gene: from the smoothed histogram of the good networks, from SciPy's best-fitting
    distribution (what NAT intended), or every value alike."""
    smoothing: float = 1.0
    """Added to the count of every value that changes the network, so that none dies out."""

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: a number is outside its range.
        """
        check_types(self, "the adaptation")
        check_length(self, "the adaptation")
        check_not_negative(self, "the adaptation", "warmup_epochs", "weight_decay", "kd_ratio")
        check_at_least(self, "the adaptation", _PAIR, "batch_size")
        check_positive(self, "the adaptation", "lr", "subnets", "clip", "smoothing")

    @property
    def adapts(self) -> bool:
        """Whether there is any."""
        return self.epochs != 0 and self.steps != 0

    def settled(self, images: int) -> AdaptSettings:
        """With the batch size and the steps that suit the number of training images, where they are left open."""
        steps = self.length(images).steps if self.epochs is None else None
        return replace(self, batch_size=self.batch_size or batch_size_for(None, images), steps=steps)

    def length(self, images: int) -> Length:
        """Of a generation's adaptation."""
        steps = round(_ADAPTATION * growth(images)) if self.epochs is None and self.steps is None else self.steps
        return Length.of(images, batch_size_for(self.batch_size, images), epochs=self.epochs, steps=steps)


@dataclass(frozen=True, kw_only=True)
class FinetuneSettings:
    """How a returned network is fine-tuned."""

    epochs: int | None = None
    """Passes over the training images; 0 leaves the networks as the search found them. Or give `steps`."""
    steps: int | None = None
    """Gradient steps; by default 1,200, up to four times as many with more than 2,000 training images, and with few
    images 100 passes over them, but at least 400 steps."""
    choice: Choice = "spread"
    """Which networks of the front are returned: the most accurate, and those that together cover all sizes best
    (`spread`), or the best in each objective, and those of the highest trade-off (`trade-off`, published)."""
    most_macs: int | None = None
    """Multiply-accumulates beyond which networks of the front are not returned, unless there are no others; `--time`
    leaves out those that are too large to learn enough in the time."""
    cost_exponent: float = 0.5
    """How much longer cheap networks are trained than costly ones, without `restart`: steps are in proportion to a
    network's multiply-accumulates to the power of minus this, and `steps` is their mean, weighted by those. With 0 all
    get the same steps, with 1 about the same time."""
    measured_at: float = 0.6
    """Share of the steps after which a network is measured on the validation images, from which on it learns from them
    too; networks that others beat stop there."""
    restart: bool = False
    """Instead (published), train twice from the inherited weights: on training images to find the best epoch, then on
    all images for as many epochs."""
    patience: int = 30
    """With `restart`, epochs without a lower validation loss after which the first training stops."""
    anneal: bool = True
    """With `restart`, let the learning rate fall to its end in the second training too, however short it is; where
    rates are as small as the published ones it may follow the first one's and be cut off (published)."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """AdamW (published for early-exit families) or SGD with momentum 0.9 (for single-exit ones)."""
    lr: float = 1e-2
    """Learning rate at the start, for batches of 64; proportional to the batch size with SGD, to its square root with
    AdamW. It falls along a cosine."""
    weight_decay: float | None = None
    """Weight decay of all weights; by default 0.01 with AdamW and 5e-4 with SGD (published)."""
    batch_size: int | None = None
    """Images per step; by default 16 for up to 150 training images, 32 up to 1,500, else 64."""
    label_smoothing: float = 0.1
    """Smoothing of the labels while training, from 0 (published) to below 1."""
    variant: Variant = "auto"
    """What is made of each network: the one with its own exit (`single`, NAT2's variant A), the one whose exits up to
    there were trained jointly and answer together (`ensemble`, variant B), or `both`; by default `single`, and with
    `restart` both for families with early exits."""
    ramp: Ramp = "UNIF"
    """Weights of the losses and outputs of an ensemble's exits (AEP)."""
    prune: bool = True
    """Keep the exits of an ensemble that are best together on validation images, and cut the network after the last
    of them (AEP)."""
    kd_ratio: float = 0.0
    """Weight of the distillation from the largest network; 0 for none (published)."""

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: a number is outside its range.
        """
        check_types(self, "the fine-tuning")
        check_length(self, "the fine-tuning")
        check_not_negative(self, "the fine-tuning", "kd_ratio", "weight_decay")
        check_at_least(self, "the fine-tuning", _PAIR, "batch_size")
        check_not_negative(self, "the fine-tuning", "cost_exponent")
        check_at_most(self, "the fine-tuning", 1, "cost_exponent")
        check_positive(self, "the fine-tuning", "patience", "lr", "most_macs")
        check_share(self, "the fine-tuning", "label_smoothing")
        if not 0 < self.measured_at <= 1:
            raise ConfigError(f"`measured_at` of the fine-tuning must be above 0 and at most 1; got {self.measured_at}")

    def length(self, images: int) -> Length:
        """How long a network is trained, given the number of training images; with `restart`, at most twice that."""
        batch_size, steps = batch_size_for(self.batch_size, images), self.steps
        if self.epochs is None and steps is None:
            most = Length.of(images, batch_size, epochs=_PASSES, steps=None).steps
            steps = max(_FEWEST_FINETUNING, min(round(_FINETUNING * growth(images)), most))
        return Length.of(images, batch_size, epochs=self.epochs, steps=steps)

    def phases(self, images: int) -> tuple[Length, Length]:
        """The parts before and after a network is measured, without `restart`."""
        total = self.length(images).steps
        first = min(total, max(1, round(self.measured_at * total)))
        batch_size = batch_size_for(self.batch_size, images)
        return (
            Length.of(images, batch_size, epochs=None, steps=first),
            Length.of(images, batch_size, epochs=None, steps=total - first),
        )

    def scaled(self, factor: float, images: int) -> FinetuneSettings:
        """With `factor` times the steps before and after a network is measured."""
        if factor == 1 or not self.length(images).steps:
            return self
        first, second = (round(factor * part.steps) for part in self.phases(images))
        first = max(1, first)
        return replace(self, epochs=None, steps=first + second, measured_at=first / (first + second))

    def settled(self, images: int) -> FinetuneSettings:
        """With the batch size and the steps that suit the number of training images, where they are left open."""
        steps = self.length(images).steps if self.epochs is None else None
        return replace(self, batch_size=self.batch_size or batch_size_for(None, images), steps=steps)

    @property
    def decay(self) -> float:
        """The weight decay of the optimiser."""
        return {"adamw": 0.01, "sgd": 5e-4}[self.optimizer] if self.weight_decay is None else self.weight_decay
