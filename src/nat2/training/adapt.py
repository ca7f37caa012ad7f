"""Adaptation in the search: the super-network learns the sub-networks that the good part of the archive suggests."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import scipy.stats
from numpy.typing import NDArray
from torch import Tensor

from nat2.errors import CheckpointError
from nat2.progress import FoundDone
from nat2.space.arch import Arch
from nat2.space.space import Genomes, SearchSpace
from nat2.supernet.network import SuperNetworks
from nat2.training.context import TrainingContext
from nat2.training.distill import Teacher, distillation_loss
from nat2.training.length import batch_size_for
from nat2.training.optimise import ElasticEpoch, Schedule, has_state, load_state, save_state, sgd, train_epoch
from nat2.training.rate import rate_for
from nat2.training.settings import AdaptSettings

Distributions = list[NDArray[np.float64]]
"""For each gene, the probability of each of its values from the smallest to the largest."""


def estimate_distributions(space: SearchSpace, genomes: Genomes, *, smoothing: float = 1.0) -> Distributions:
    """The smoothed histogram of each gene over good networks (NAT, adaptation).

    A gene is counted only in the networks that express it: stages beyond a network's exit say nothing.

    Args:
        space: The search space.
        genomes: Canonical genomes of the good networks, shape (n, genes).
        smoothing: Added to the count of every value; values that share the layer of a smaller one are counted with it.
    """
    distinct = space.canonical_codes == np.arange(len(space.canonical_codes))
    distributions = []
    for gene, (values, low, high) in enumerate(_expressed_values(space, genomes)):
        possible = distinct[low : high + 1] if gene >= space.first_layer_gene else np.ones(high - low + 1)
        counts = np.bincount(values - low, minlength=high - low + 1) + smoothing * possible
        distributions.append(counts / counts.sum())
    return distributions


def uniform_distributions(space: SearchSpace) -> Distributions:
    """Every value of a gene as likely as the others: what adaptation would be without an archive."""
    return estimate_distributions(space, space.lower[None][:0], smoothing=1.0)


def fit_distributions(space: SearchSpace, genomes: Genomes) -> Distributions:
    """For each gene the continuous distribution that fits its histogram best, cut into the gene's values.

    What NAT's authors intended: of the distributions of SciPy the one with the least squared error between its density
    and the histogram; a draw is rounded, and clipped to the gene's range. Genes with one value only keep it.

    Args:
        space: The search space.
        genomes: Canonical genomes of the good networks, shape (n, genes).
    """
    fitted = []
    for values, low, high in _expressed_values(space, genomes):
        shares = np.bincount(values - low, minlength=high - low + 1) / max(1, len(values))
        if np.count_nonzero(shares) > 1:
            shares = _best_fit(values, low, high)
        elif not len(values):  # no good network reaches this place
            shares = np.full(high - low + 1, 1 / (high - low + 1))
        fitted.append(shares)
    return fitted


def _expressed_values(space: SearchSpace, genomes: Genomes) -> Iterator[tuple[Genomes, int, int]]:
    """For each gene its values in the networks that express it, and its smallest and largest value."""
    expressed = space.expressed(genomes)
    for gene, (low, high) in enumerate(zip(space.lower, space.upper, strict=True)):
        yield genomes[expressed[:, gene], gene], int(low), int(high)


def _best_fit(values: Genomes, low: int, high: int) -> NDArray[np.float64]:
    density, edges = np.histogram(values, bins="auto", density=True)
    centres = (edges[:-1] + edges[1:]) / 2
    borders = np.arange(low, high) + 0.5
    best, least = np.full(high - low + 1, 1 / (high - low + 1)), np.inf
    for name in _FITTED:
        distribution = getattr(scipy.stats, name)
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")  # a distribution that does not fit says so in many ways
            try:
                parameters = distribution.fit(values)
                error = float(np.sum((distribution.pdf(centres, *parameters) - density) ** 2))
                shares = np.diff(distribution.cdf(borders, *parameters), prepend=0, append=1)
            except (ValueError, RuntimeError, FloatingPointError, OverflowError, ZeroDivisionError, TypeError):
                continue
        if error < least and np.isfinite(shares).all() and (shares >= 0).all():
            best, least = shares / shares.sum(), error
    return best


_FITTED = (
    "norm", "uniform", "expon", "gamma", "beta", "lognorm", "triang", "logistic", "laplace", "cauchy", "gumbel_l",
    "gumbel_r", "weibull_min", "weibull_max", "powerlaw", "t", "rayleigh", "halfnorm", "arcsine", "semicircular",
)  # fmt: skip
"""SciPy's distributions that are fitted in milliseconds; the rest take minutes a gene and are kin to these."""


def sample_from(
    space: SearchSpace, distributions: Distributions, generator: np.random.Generator, *, resolution: int
) -> Arch:
    """Draw a network gene by gene and repair it; the batch decides the resolution."""
    genome = np.array(
        [
            low + generator.choice(len(probabilities), p=probabilities)
            for low, probabilities in zip(space.lower, distributions, strict=True)
        ]
    )
    drawn = space.decode(genome)
    return Arch(resolution=resolution, width=drawn.width, stages=drawn.stages)


class Adaptation:
    """Super-networks that are trained further between generations; knows which version of the weights they hold.

    Version 0 are the weights that the search begins with, version g those after generation g's adaptation.
    """

    def __init__(
        self,
        networks: SuperNetworks,
        space: SearchSpace,
        teacher: Teacher,
        settings: AdaptSettings,
        context: TrainingContext,
        *,
        generations: int,
    ) -> None:
        """Begin, or continue from the resume point.

        Args:
            networks: Changed in place by `advance`.
            space: The search space.
            teacher: Distilled from; fixed for the whole search.
            settings: How to train.
            context: Images, resume point, seed, processes, and where to report.
            generations: Length of the search, over which the learning rate falls.
        """
        self.networks = networks
        self._space = space
        self._context = context
        self._teacher = teacher
        self._settings = settings
        # One for all widths is one per width: a weight without a gradient does not move, nor does its momentum.
        self._optimizer = sgd(networks, weight_decay=settings.weight_decay, nesterov=False)
        self._batch_size = batch_size_for(settings.batch_size, len(context.split))
        self._length = settings.length(len(context.split))
        total = self._length.steps * generations
        warmup = min(round(self._length.epoch * settings.warmup_epochs), total // 2)
        rate = rate_for(settings.lr, self._batch_size)
        self._schedule = Schedule(rate, total, warmup, min(1e-4, rate))
        self._done = 0
        if has_state(context.state):
            stored = load_state(context.state, networks, self._optimizer, progress=context.progress)
            self._done = stored["epochs"]
        context.step(FoundDone(self._before(self._done)))

    def _before(self, part: int) -> int:
        """Number of steps before a part, counted over all generations."""
        generation, within = divmod(part, max(1, self._length.parts))
        return generation * self._length.steps + self._length.before(within)

    def advance(self, generation: int, good: Genomes) -> None:
        """Train from version `generation` - 1 to version `generation`, or find that this was done before.

        Args:
            generation: Counted from 1.
            good: Canonical genomes of the good networks, shape (n, genes).

        Raises:
            CheckpointError: the weights are older than version `generation` - 1.
        """
        settings = self._settings
        if settings.distributions == "histogram":
            distributions = estimate_distributions(self._space, good, smoothing=settings.smoothing)
        elif settings.distributions == "best-fit":
            distributions = fit_distributions(self._space, good)
        else:
            distributions = uniform_distributions(self._space)

        def sample(generator: np.random.Generator, resolution: int, number: int) -> Arch:
            return sample_from(self._space, distributions, generator, resolution=resolution)

        def loss(logits: Tensor, labels: Tensor, targets: Tensor | None) -> Tensor:
            ratio = settings.kd_ratio
            both = distillation_loss(logits, labels, targets, ratio=ratio)
            # Scaled so that the sum weighs as much as two losses whatever the ratio (method of the reference).
            return both if ratio == 1 else both * 2 / (ratio + 1)

        epoch_settings = ElasticEpoch(
            batch_size=self._batch_size,
            resolutions=self._space.resolutions,
            sample=sample,
            loss=loss,
            subnets=settings.subnets,
            teacher=self._teacher if settings.kd_ratio else None,
            clip=settings.clip,
        )
        saved, parts = time.monotonic(), self._length.parts
        first, last = (generation - 1) * parts, generation * parts
        if self._done < first:
            raise CheckpointError(
                f"{self._context.state} holds the weights of generation {self._done // parts}, the archive those of "
                f"generation {generation - 1}; begin again with --fresh"
            )
        for part in range(max(first, self._done), last):
            train_epoch(
                self.networks,
                self._optimizer,
                replace(epoch_settings, steps=self._length.within(part % parts)),
                self._context,
                purpose=("adapt", part),
                schedule=self._schedule,
                first_step=self._before(part),
            )
            self._done = part + 1
            if part + 1 == last or self._context.processes.once(partial(self._context.is_due, saved)):
                self._context.processes.once(self._save)
                saved = time.monotonic()

    def _save(self) -> None:
        save_state(self._context.state, self.networks, self._optimizer, {"epochs": self._done})
