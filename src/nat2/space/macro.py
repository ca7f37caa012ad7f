"""The part of the network that is not searched: channels, strides, activations and exits of every stage."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple, cast, get_args

from nat2.errors import ArchError, ConfigError
from nat2.space.arch import MBCONV, Arch

Activation = Literal["relu", "hswish"]
FamilyName = Literal["EE_D", "EE_B", "EE_P", "EE_DP", "SE_D", "SE_B", "SE_P", "SE_DP"]
FAMILIES: tuple[FamilyName, ...] = get_args(FamilyName)

STAGES = 5
MAX_DEPTH = 4
KERNELS = (3, 5, 7)
MAX_KERNEL = KERNELS[-1]
MAX_EXPAND = 6


class Stage(NamedTuple):
    """Fixed properties of one of the five elastic stages at width 1.0."""

    channels: int
    stride: int
    activation: Activation
    squeeze_excite: bool


_STEM_CHANNELS = 16
_STAGES = (
    Stage(24, 2, "relu", False),
    Stage(40, 2, "relu", True),
    Stage(80, 2, "hswish", False),
    Stage(112, 1, "hswish", True),
    Stage(160, 2, "hswish", True),
)
_EXIT_EXPAND, _EXIT_MIX = 6, 8


class LayerShape(NamedTuple):
    """What an inverted bottleneck is built from, apart from kernel size and expand ratio."""

    in_channels: int
    out_channels: int
    stride: int
    activation: Activation
    squeeze_excite: bool

    @property
    def residual(self) -> bool:
        """Whether an identity shortcut goes around the layer."""
        return self.stride == 1 and self.in_channels == self.out_channels

    def mid_channels(self, expand: int) -> int:
        """Channels of the depthwise convolution at an expand ratio."""
        return make_divisible(round(self.in_channels * expand))


class ExitShape(NamedTuple):
    """Channels of an exit: 1x1 convolution, pooling, 1x1 convolution, classifier."""

    in_channels: int
    expand_channels: int
    mix_channels: int


def make_divisible(value: float, divisor: int = 8) -> int:
    """Round `value` to a multiple of `divisor`, never down by more than a tenth."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


def squeeze_channels(channels: int) -> int:
    """Hidden units of a squeeze-and-excite block on `channels`."""
    return make_divisible(channels // 4)


def reduced(size: int, stride: int) -> int:
    """Side of the feature map after a convolution with `stride`, padded by half its kernel."""
    return (size - 1) // stride + 1


@dataclass(frozen=True, kw_only=True)
class Macro:
    """The macro-architecture of a super-network: OFAMobileNetV3 with the extensions of OFAv2 as switches.

    The paper's families are named by them: EE with early exits, SE with a single one; D with dense skips, P with
    parallel blocks, DP with both, B with neither. SE_B is the same function as OFAMobileNetV3.
    """

    classes: int
    """Number of classes, at least 2."""
    channels: int = 3
    """Channels of the input images."""
    width: float = 1.0
    """Width multiplier on every channel count; 1.0 and 1.2 are the published ones."""
    early_exits: bool = True
    """An exit after each of the five stages, instead of one after the last."""
    dense_skips: bool = True
    """Add the outputs of earlier layers of a stage to those of its third and fourth layer."""
    parallel_blocks: bool = False
    """A 1x1 convolution and a transformation beside each inverted bottleneck, each of the three optional."""
    stem_stride: int = 2
    """Stride of the first convolution; 1 suits images below about 48 pixels."""
    doubled_exit_widths: bool = False
    """Multiply the exits' channels by the width twice, for parity with the authors' code."""

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: a value is outside its range.
        """
        object.__setattr__(self, "width", float(self.width))
        if self.classes < 2:
            raise ConfigError(f"a classifier needs at least 2 classes; got {self.classes}")
        if self.channels < 1:
            raise ConfigError(f"images need at least 1 channel; got {self.channels}")
        if not 0 < self.width <= 8:
            raise ConfigError(f"the width multiplier must be above 0 and at most 8; got {self.width}")
        if self.stem_stride not in (1, 2):
            raise ConfigError(f"the stem's stride must be 1 or 2; got {self.stem_stride}")

    @staticmethod
    def of_family(family: str, *, classes: int, channels: int, width: float, stem_stride: int) -> Macro:
        """The macro-architecture of a family as the paper names it, e.g. ``EE_D``; see `family`.

        Raises:
            ConfigError: there is no such family, or a value is outside its range.
        """
        if family not in FAMILIES:
            raise ConfigError(f"the family must be one of {', '.join(FAMILIES)}; got {family!r}")
        exits, _, body = family.partition("_")
        return Macro(
            classes=classes,
            channels=channels,
            width=width,
            early_exits=exits == "EE",
            dense_skips="D" in body,
            parallel_blocks="P" in body,
            stem_stride=stem_stride,
        )

    def check(self, arch: Arch, exits: Iterable[int] | None = None) -> tuple[int, ...]:
        """The exits to compute, ascending and without duplicates: those asked for, or the architecture's own.

        Raises:
            ArchError: the architecture is not a part of this super-network, or does not reach an exit.
        """
        if arch.width != self.width:
            raise ArchError(f"{arch} is of width {arch.width}, the super-network of width {self.width}")
        for layer in set().union(*arch.stages):
            mbconv = layer.blocks & MBCONV
            if mbconv and (layer.kernel not in KERNELS or not 1 < layer.expand <= MAX_EXPAND):
                raise ArchError(f"{arch}: a layer has a kernel of 3, 5 or 7 and an expand ratio of 2..6; got {layer}")
            if layer.blocks != MBCONV and not self.parallel_blocks:
                raise ArchError(f"{arch} has parallel blocks ({layer}), which the family {self.family} does not have")
        wanted = tuple(sorted({arch.exit} if exits is None else set(exits)))
        if not wanted or not set(wanted) <= {*self.exits[: arch.exit]} or wanted[-1] > arch.exit:
            raise ArchError(
                f"{arch} can answer at exits {', '.join(str(n) for n in self.exits if n <= arch.exit) or 'none'} of "
                f"{self.family}; got {', '.join(map(str, wanted)) or 'none'}"
            )
        return wanted

    @property
    def family(self) -> FamilyName:
        """The family's name in the paper, e.g. ``EE_D``."""
        body = "D" * self.dense_skips + "P" * self.parallel_blocks
        return cast("FamilyName", f"{'EE' if self.early_exits else 'SE'}_{body or 'B'}")

    @property
    def exits(self) -> tuple[int, ...]:
        """The exits that exist, counted from 1."""
        return tuple(range(1, STAGES + 1)) if self.early_exits else (STAGES,)

    @property
    def stem_channels(self) -> int:
        """Output channels of the stem."""
        return make_divisible(_STEM_CHANNELS * self.width)

    @property
    def first_shape(self) -> LayerShape:
        """The static block after the stem's convolution: kernel 3, expand ratio 1."""
        return LayerShape(self.stem_channels, self.stem_channels, 1, "relu", False)

    @property
    def layer_shapes(self) -> tuple[tuple[LayerShape, ...], ...]:
        """Shapes of the layers, by stage and position in it."""
        shapes, channels = [], self.stem_channels
        for stage in _STAGES:
            out = make_divisible(stage.channels * self.width)
            shapes.append(
                tuple(
                    LayerShape(
                        out if position else channels,
                        out,
                        1 if position else stage.stride,
                        stage.activation,
                        stage.squeeze_excite,
                    )
                    for position in range(MAX_DEPTH)
                )
            )
            channels = out
        return tuple(shapes)

    def exit_shape(self, exit_number: int) -> ExitShape:
        """Channels of the exit behind stage `exit_number` (1..5)."""
        base = _STAGES[exit_number - 1].channels
        channels = make_divisible(base * self.width)
        if self.doubled_exit_widths:
            base = channels
        return ExitShape(
            channels,
            make_divisible(base * _EXIT_EXPAND * self.width),
            make_divisible(base * _EXIT_MIX * self.width),
        )

    def feature_sizes(self, resolution: int) -> tuple[int, ...]:
        """Side of the feature map after the stem and after each stage, for a square input."""
        sizes = [reduced(resolution, self.stem_stride)]
        for stage in _STAGES:
            sizes.append(reduced(sizes[-1], stage.stride))
        return tuple(sizes)
