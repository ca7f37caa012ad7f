"""Objectives: what is optimised, and what is only kept within bounds."""

from __future__ import annotations

import importlib
import importlib.util
import math
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal, SupportsFloat, TypeVar, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nat2.errors import ConfigError
from nat2.validation import parts_of

Values = NDArray[np.float64]
StandardError = Callable[[Values], ArrayLike]
"""Takes values, shape (n,); gives the standard error of each, shape (n,)."""
Direction = Literal["min", "max"]
CostClass = Literal["exact", "predicted", "measured"]
Unit = Literal["", "share", "bytes", "ms"]
UserFunction = Callable[..., SupportsFloat]
F = TypeVar("F", bound=UserFunction)

_NAME = re.compile(r"[a-z][a-z0-9_]*")
RESERVED = (
    "id", "arch", "weights", "generation", "origin", "share", "seconds", "seed", "failure", "accuracy",
    "inherited_val_accuracy", "val_accuracy", "test_accuracy", "finetune_epochs", "others", "files",
    "val_images", "test_images", "val_chance", "test_chance", "val_standard_error", "test_standard_error",
)  # fmt: skip
"""Columns of the archive and of pareto.csv that no objective can be called."""


@dataclass(frozen=True)
class ShareNoise:
    """Standard error of a share, e.g. of errors among some images: ``sqrt(p (1 - p) / n)``.

    Half an image is added to each side (Agresti and Coull), because a share of 0 is not known without error either.
    """

    count: int
    """Of how many images, at least 1."""

    def __post_init__(self) -> None:
        """Check the count.

        Raises:
            ConfigError: it is less than 1.
        """
        if self.count < 1:
            raise ConfigError(f"a share is one of at least 1 image; got {self.count}")

    def __call__(self, shares: Values) -> Values:
        """Standard errors of shares (0..1), shape (n,)."""
        p = (np.clip(shares, 0, 1) * self.count + 0.5) / (self.count + 1)
        errors: Values = np.sqrt(p * (1 - p) / (self.count + 1))
        return errors


@dataclass(frozen=True, kw_only=True)
class Objective:
    """One quantity of a network: optimised, or only recorded and kept within its bounds."""

    name: str
    """Lower-case letters, digits and underscores; a column of the archive."""
    direction: Direction = "min"
    """Whether less or more of it is better."""
    cost: CostClass = "predicted"
    """``exact``: known in closed form for any network; ``predicted``: returned by the evaluation, depends on the
    weights; ``measured``: depends on the network alone, measured once. The last two have predictors."""
    low: float = -math.inf
    """Lower bound that the search keeps to."""
    high: float = math.inf
    """Upper bound that the search keeps to."""
    unit: Unit = ""
    """A count, a share (0..1), bytes or milliseconds."""
    noise: float | StandardError = 0.0
    """Standard error of a value that would be another one if it were measured again, e.g. on other images or with
    another seed: a number, or a function of the values such as `ShareNoise`. What is only lucky is then not taken for
    good. 0: values are taken as they are."""
    function: UserFunction | None = None
    """The function that ``--objectives`` names, see `objective`; None for built-in objectives, and in a search of your
    own, whose functions are passed separately (`SearchFunctions`)."""

    def __post_init__(self) -> None:
        """Check the name and the bounds.

        Raises:
            ConfigError: the name cannot be a column, or no value lies within the bounds.
        """
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name) or self.name in RESERVED:
            raise ConfigError(
                "an objective's name consists of lower-case letters, digits and underscores and is none of "
                f"{', '.join(RESERVED)}; got {self.name!r}"
            )
        for name, choices in (("direction", Direction), ("cost", CostClass), ("unit", Unit)):
            if getattr(self, name) not in get_args(choices):
                shown = ", ".join(map(repr, get_args(choices)))
                raise ConfigError(f"`{name}` of {self.name} must be one of {shown}; got {getattr(self, name)!r}")
        if not all(isinstance(bound, int | float) for bound in (self.low, self.high)):
            raise ConfigError(f"the bounds of {self.name} must be numbers; got {self.low!r} and {self.high!r}")
        if not callable(self.noise) and not (isinstance(self.noise, int | float) and 0 <= self.noise < math.inf):
            raise ConfigError(
                f"`noise` of {self.name} must be a standard error of at least 0, or a function that "
                f"gives it; got {self.noise!r}"
            )
        if self.noise and self.cost == "exact":
            raise ConfigError(f"{self.name} is exact and has no noise; declare it as predicted or measured")
        if not self.low <= self.high:
            raise ConfigError(f"no {self.name} is at least {self.low:g} and at most {self.high:g}; widen the budget")

    @property
    def bounded(self) -> bool:
        """Whether it has a bound."""
        return self.low > -math.inf or self.high < math.inf

    def standard_errors(self, values: Values) -> Values:
        """Standard errors of values, shape (n,).

        Raises:
            ConfigError: the function of `noise` gives something else.
        """
        if not callable(self.noise):
            return np.full(len(values), float(self.noise))
        errors = np.asarray(self.noise(values), dtype=np.float64)
        if errors.shape != values.shape or not ((errors >= 0) & (errors < math.inf)).all():
            raise ConfigError(
                f"`noise` of {self.name} must give a finite standard error of at least 0 for each of {len(values)} "
                f"values; got {errors}"
            )
        return errors

    def minimised(self, values: Values) -> Values:
        """The values with their sign such that less is better."""
        return values if self.direction == "min" else -values

    def violation(self, values: Values) -> Values:
        """How far values lie outside the bounds, relative to the bound; 0 within."""
        over = (values - self.high) / (abs(self.high) or 1.0) if self.high < math.inf else np.zeros(len(values))
        under = (self.low - values) / (abs(self.low) or 1.0) if self.low > -math.inf else np.zeros(len(values))
        return np.maximum(0, over) + np.maximum(0, under)


def violation(objectives: Sequence[Objective], values: NDArray[np.float64]) -> Values:
    """Sum of the networks' violations, shape (n, objectives) to (n,); 0 means that all bounds are kept."""
    return np.sum(
        [each.violation(column) for each, column in zip(objectives, values.T, strict=True)], axis=0, dtype=np.float64
    ) + np.zeros(len(values))


OBJECTIVES = {
    each.name: each
    for each in (
        Objective(name="error", cost="predicted", unit="share"),
        Objective(name="int8_error", cost="predicted", unit="share"),
        Objective(name="params", cost="exact"),
        Objective(name="macs", cost="exact"),
        Objective(name="memory", cost="exact", unit="bytes"),
        Objective(name="flash", cost="exact", unit="bytes"),
        Objective(name="ram", cost="exact", unit="bytes"),
        Objective(name="latency", cost="measured", unit="ms"),
    )
}
"""The built-in ones: share of misclassified validation images, the same in 8-bit integers, trainable parameters,
multiply-accumulates for one image, peak of the activations in float32, size of the 8-bit file and arena of TensorFlow
Lite Micro on a microcontroller, median time for one image on this machine."""


ERRORS = ("error", "int8_error")
"""Of these, the first that a run optimises comes before its other objectives."""


def objective(
    *, name: str = "", direction: Direction = "min", cost: CostClass = "measured", unit: Unit = ""
) -> Callable[[F], F]:
    """Declare what kind of objective a function is; without it a function is ``measured`` and minimised.

    A ``measured`` or ``predicted`` function takes the network as a torch module (its architecture is ``.arch``), an
    ``exact`` one an `Arch`; each returns a number. The module is a copy of the function's own, on the CPU in evaluation
    mode, also where the run uses a GPU.
    """

    def declare(function: F) -> F:
        declared = Objective(name=name or function.__name__, direction=direction, cost=cost, unit=unit)
        function.objective = declared  # type: ignore[attr-defined]
        return function

    return declare


def parse_objectives(text: str) -> tuple[Objective, ...]:
    """Read a comma-separated list, e.g. ``error,params,energy.py:joules``; the error always comes first, or that in 8
    bits.

    Besides the built-in names it takes functions: ``package.module:function`` or ``file.py:function``, see
    `objective`.

    Raises:
        ConfigError: an objective is unknown, named twice, cannot be imported, or the error is missing.
    """
    found = [_find(part) for part in parts_of(text)]
    names = [each.name for each in found]
    if len(set(names)) != len(names):
        raise ConfigError(f"--objectives must name each objective once; got {text!r}")
    first = next((name for name in ERRORS if name in names), None)
    if first is None:
        raise ConfigError(f"--objectives must include error or int8_error, e.g. error,params; got {text!r}")
    return tuple(sorted(found, key=lambda each: each.name != first))


def _find(text: str) -> Objective:
    if ":" in text:
        function = _load(_absolute(text))
        declared: Objective = getattr(function, "objective", None) or Objective(
            name=function.__name__.lower(), cost="measured"
        )
        if declared.name in OBJECTIVES or declared.name == "latency_spread":
            raise ConfigError(f"{text} has the name of a built-in objective, {declared.name}; choose another one")
        return replace(declared, function=function)
    if text not in OBJECTIVES:
        raise ConfigError(
            f"--objectives must be among {', '.join(OBJECTIVES)}, separated by commas, or functions like "
            f"energy.py:joules; got {text!r}"
        )
    return OBJECTIVES[text]


def _absolute(text: str) -> str:
    """The text with the file's path resolved, so that a file is run once however it is spelled."""
    place, colon, name = text.rpartition(":")
    if not place.endswith(".py"):
        return text
    if not Path(place).is_file():
        raise ConfigError(f"--objectives names {text!r}, but there is no file {place}")
    return f"{Path(place).resolve()}{colon}{name}"


@cache
def _load(text: str) -> UserFunction:
    """The function that ``package.module:name`` or ``file.py:name`` names."""
    place, _, name = text.rpartition(":")
    try:
        if place.endswith(".py"):
            spec = importlib.util.spec_from_file_location(Path(place).stem, place)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules.setdefault(spec.name, module)  # dataclasses look their module up
            sys.path.insert(0, str(Path(place).resolve().parent))  # as if it had been run
            try:
                spec.loader.exec_module(module)
            finally:
                sys.path.pop(0)
        else:
            module = importlib.import_module(place)
        function = getattr(module, name)
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:  # the user's file may raise anything
        raise ConfigError(
            f"--objectives names {text!r}, which cannot be read ({type(error).__name__}: {error})"
        ) from error
    if not callable(function) or not hasattr(function, "__name__"):
        raise ConfigError(f"--objectives names {text!r}, which is not a function")
    return function  # type: ignore[no-any-return]
