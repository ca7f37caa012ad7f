"""A configuration as typed values: what it says about super-networks, and the complete plan of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from nat2.errors import ConfigError
from nat2.nas.objectives import Objective
from nat2.runs.config import ANY_WEIGHTS, DEFAULT_FAMILY, NO_WEIGHTS, RunConfig, parse_resolutions, parse_widths
from nat2.shipped import DEFAULT
from nat2.space import Macro, SearchSpace
from nat2.space.macro import STAGES, FamilyName
from nat2.validation import parts_of

_SMALLEST = 24  # side in pixels; weights trained on photographs are of no use for smaller images
_ENLARGED = 64
_USUAL = 64  # side up to which images are searched unless there is time for more


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What a configuration says about its super-networks; None where it leaves something open."""

    family: FamilyName | None = None
    widths: tuple[float, ...] | None = None
    """Width multipliers, ascending."""
    stem_stride: int | None = None
    resolutions: tuple[int, ...] | None = None
    """Image sides to search, ascending."""
    pretrained: tuple[str, ...] = ()
    """Initial weights, files or names; once `settle` has looked into them, one for each width."""

    @staticmethod
    def of(config: RunConfig) -> Choices:
        """Read the texts of a configuration."""
        return Choices(
            family=None if config.family == "auto" else config.family,
            widths=None if config.width == "auto" else parse_widths(config.width),
            stem_stride=config.stem_stride or None,
            resolutions=None if config.resolutions == "auto" else parse_resolutions(config.resolutions),
            pretrained=() if config.pretrained == NO_WEIGHTS else tuple(parts_of(config.pretrained)),
        )

    def with_weights(self, side: int) -> Choices:
        """The same with `auto` weights decided: those that come with nat2, or none.

        They are taken where family, width and stem stride are open or match, and images and resolutions are within the
        range that the weights suit.

        Args:
            side: Of the images, in pixels.
        """
        if self.pretrained != (ANY_WEIGHTS,):
            return self
        low, high = DEFAULT.sides
        fits = (
            self.family in (None, DEFAULT.family)
            and self.widths in (None, (DEFAULT.width,))
            and self.stem_stride in (None, DEFAULT.stem_stride)
            and side >= _SMALLEST
            and (self.resolutions is None or (low <= self.resolutions[0] and self.resolutions[-1] <= high))
        )
        return replace(self, pretrained=(DEFAULT.name,) if fits else ())


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """What a run will do: its configuration with nothing left open, as typed values for the stages."""

    config: RunConfig
    """As config.yaml holds it. The fields below say what its texts mean; nothing reads those again."""
    macros: tuple[Macro, ...]
    """The macro-architecture of each width, narrowest first."""
    space: SearchSpace
    objectives: tuple[Objective, ...]
    """What is optimised, the error first, with its bounds."""
    recorded: tuple[Objective, ...]
    """What is recorded in addition, and kept within its bounds."""
    pretrained: tuple[str, ...] = ()
    """Initial weights, files or names, one for each width; empty for random weights."""
    side: int = 0
    """Pixels of the images' shorter side as they are; 0 if unknown."""

    @property
    def family(self) -> FamilyName:
        """The family of the super-networks, e.g. ``EE_D``."""
        return self.macros[0].family

    @property
    def widths(self) -> tuple[float, ...]:
        """Width multipliers, ascending."""
        return tuple(macro.width for macro in self.macros)

    @property
    def stem_stride(self) -> int:
        """Stride of the first convolution."""
        return self.macros[0].stem_stride

    @property
    def quantities(self) -> tuple[Objective, ...]:
        """Everything that is recorded for a network."""
        return self.objectives + self.recorded

    @property
    def bounds(self) -> tuple[Objective, ...]:
        """The budget: every quantity with a bound."""
        return tuple(each for each in self.quantities if each.bounded)


def resolutions_for(native: int, *, shipped: bool = False, most: int = _USUAL) -> tuple[int, ...]:
    """Three sides to search for images that are `native` pixels wide or high: up to `most`, at least 14.

    Args:
        native: Of the images as they are.
        shipped: For the weights that come with nat2, whose stem halves the image: small images are enlarged, which
            costs no more than a stem that does not halve them.
        most: The largest side, a multiple of 16.
    """
    if shipped:
        native = max(native, _ENLARGED)
    if native < 16:
        return (14, 16, 18)
    largest = max(24, min(most, native // 4 * 4))
    step = max(4, largest // 32 * 4)
    return (largest - 2 * step, largest - step, largest)


def macros_for(choices: Choices, *, classes: int, channels: int, resolutions: Sequence[int]) -> tuple[Macro, ...]:
    """The macro-architecture of each width, narrowest first; what is open is chosen by the resolutions.

    Raises:
        ConfigError: at the smallest resolution the feature map shrinks to one pixel before the last two stages.
    """
    stride = choices.stem_stride or (1 if resolutions[-1] < 48 else 2)
    macros = tuple(
        Macro.of_family(
            choices.family or DEFAULT_FAMILY, classes=classes, channels=channels, width=width, stem_stride=stride
        )
        for width in choices.widths or (0.35 if resolutions[-1] < 24 else 0.5,)
    )
    if macros[0].feature_sizes(resolutions[0])[STAGES - 2] < 2:
        remedy = "--stem_stride 1 or larger --resolutions" if stride == 2 else "larger --resolutions"
        raise ConfigError(
            f"at {resolutions[0]} pixels with a stem of stride {stride} nothing but one pixel is left "
            f"before the last two stages; use {remedy}"
        )
    return macros
