"""Settings of the search: the policies and sizes of NAT and NAT2, and ours."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from nat2.errors import ConfigError
from nat2.space.space import FeatureKind, Sampling
from nat2.validation import check_at_least, check_at_most, check_not_negative, check_types

PredictorName = Literal[
    "auto", "rbf", "rbfs", "mlp", "e2epp", "carts", "gp", "svr", "ridge", "knn", "bayesian", "lgb", "catboost", "gp-rbf"
]
SearchPreset = Literal["default", "nat2", "nat"]
Preprocess = Literal["none", "oversample", "halving"]
Update = Literal["replace", "append"]
Start = Literal["front", "random"]
Selection = Literal["gain", "spread"]
Diversity = Literal["crowding", "directions"]
_MOST = 10**6  # networks at a time
_HALVING = 3  # growth of the share of the images from one rung to the next


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """The policies of the search; NAT2's published values are the preset ``nat2``, NAT's are ``nat``."""

    archive: int = 40
    """Networks in the archive."""
    drawn: int = 6
    """Networks of the initial archive that are drawn at random, if `preprocess` is `none`; the predictor proposes the
    others, a few at a time. 0: all are drawn (NAT, NAT2)."""
    sampling: Sampling = "balanced"
    """How initial networks are drawn: by depth (NAT2), or every gene alike (NAT)."""
    preprocess: Preprocess = "none"
    """How the initial archive is made: the networks as drawn (`none`, NAT), the survivors of many more (`oversample`,
    NAT2), or `halving`: many more on part of the validation images, their survivors on a larger part, and so on up
    to all images."""
    oversample: int = 4
    """How many times the archive is drawn at first, unless `preprocess` is `none`."""
    update: Update = "replace"
    """Keep the archive at its size by survival (NAT2), or let it grow (NAT)."""
    predictor: PredictorName = "auto"
    """What predicts the error: `lgb` (LightGBM, published), any other of the published study, `gp-rbf`,
    or `auto`, which chooses by cross-validation in each generation; `catboost` is an extra."""
    features: FeatureKind = "structure"
    """What the predictor sees of a network: its genome (`integer`, NAT2), one column per gene and value
    (`one-hot`, NAT), or layers, stages and costs (`structure`)."""
    learn_from: int = 500
    """How many evaluations with the current weights the predictor learns from at most, the best ones; 0: those of the
    archive (NAT, NAT2)."""
    start: Start = "front"
    """Where the inner evolution begins: at the archive's front and random networks, or at random ones alone (NAT,
    NAT2)."""
    generations: int = 4
    """Rounds of prediction, evolution, evaluation and adaptation."""
    candidates: int = 16
    """New networks evaluated in a generation."""
    val_images: int = 10_000
    """Validation images that a network is evaluated on at most, evenly spread over all of them; 0: all."""
    top: int = 20
    """Best networks of the archive, whose genes are sampled in the adaptation."""
    selection: Selection = "gain"
    """Which of the networks found are evaluated: those that together would add most to the front's hypervolume, or
    those that fill the gaps between its costs (MSuNAS, NAT, NAT2)."""
    optimism: float = 1.0
    """With `gain`, how much better than predicted networks are taken to be, in errors of the predictor."""
    population: int = 100
    """Networks in the inner evolution."""
    inner_generations: int = 20
    """Generations of the inner evolution, at most."""
    diversity: Diversity = "crowding"
    """How the inner evolution spreads over more than two objectives: by crowding distance (NSGA-II), and candidates are
    chosen among all networks that it visited; or along reference directions (NSGA-III), and they are chosen from its
    last population (NAT, NAT2)."""
    patience: int = 5
    """Generations in a row without a change of the predicted front after which the inner evolution ends; 0: it never
    ends early (NAT, NAT2)."""

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: a number is below its minimum.
        """
        check_types(self, "the search")
        check_at_least(self, "the search", 1, "oversample", "candidates", "top", "inner_generations")
        sizes = ("archive", "oversample", "generations", "candidates", "top", "population", "inner_generations")
        check_at_most(self, "the search", _MOST, *sizes)
        check_at_least(self, "the search", 4, "population")
        check_not_negative(
            self, "the search", "generations", "learn_from", "optimism", "patience", "drawn", "val_images"
        )
        if self.archive < 8:
            raise ConfigError(f"`archive` of the search must be at least 8, to fit a predictor; got {self.archive}")

    @staticmethod
    def of(preset: SearchPreset = "default", **changes: Any) -> SearchSettings:
        """The settings of a preset with changes, e.g. ``SearchSettings.of("nat2", candidates=10)``.

        Raises:
            ConfigError: there is no such preset, or a value is outside its range.
        """
        if preset not in SEARCH_PRESETS:
            raise ConfigError(f"the preset must be one of {', '.join(SEARCH_PRESETS)}; got {preset!r}")
        return SearchSettings(**SEARCH_PRESETS[preset] | changes)

    @property
    def rungs(self) -> tuple[tuple[int, float], ...]:
        """How many networks are evaluated on which share of the images to make the initial archive."""
        many = self.archive * self.oversample
        if self.preprocess == "none" or self.oversample == 1:
            return ((self.archive, 1.0),)
        if self.preprocess == "oversample":
            return ((many, 1.0),)
        steps = max(1, round(math.log(self.oversample, _HALVING)))
        shares = [self.oversample ** (step / steps - 1) for step in range(steps)]
        return (*((round(self.archive / share), share) for share in shares), (self.archive, 1.0))

    def evaluations(self, *, adapts: bool) -> int:
        """How many networks are evaluated, if every generation finds all its candidates."""
        again = 0
        if adapts:
            grown = self.candidates if self.update == "append" else 0
            again = sum(self.archive + grown * number for number in range(1, self.generations + 1))
        return sum(count for count, _ in self.rungs) + self.generations * self.candidates + again

    @property
    def guided(self) -> bool:
        """Whether the predictor proposes a part of the initial archive."""
        return self.rungs == ((self.archive, 1.0),) and 0 < self.drawn < self.archive

    @property
    def networks(self) -> int:
        """How many different networks are evaluated, if every generation finds all its candidates."""
        return self.rungs[0][0] + self.generations * self.candidates


SEARCH_PRESETS: dict[SearchPreset, dict[str, Any]] = {
    "default": {},
    "nat2": {
        "archive": 300, "sampling": "balanced", "preprocess": "oversample", "oversample": 10, "update": "replace",
        "predictor": "lgb", "features": "integer", "learn_from": 0, "start": "random", "selection": "spread",
        "generations": 30, "candidates": 25, "top": 150, "population": 100, "inner_generations": 20, "patience": 0,
        "drawn": 0, "diversity": "directions",
    },
    "nat": {
        "archive": 100, "sampling": "uniform", "preprocess": "none", "oversample": 1, "update": "append",
        "predictor": "lgb", "features": "one-hot", "learn_from": 0, "start": "random", "selection": "spread",
        "generations": 30, "candidates": 8, "top": 150, "population": 100, "inner_generations": 20, "patience": 0,
        "drawn": 0, "diversity": "directions",
    },
}  # fmt: skip
"""The policies and sizes of NAT2 and of NAT; ``default`` are ours, in sizes for small machines."""
