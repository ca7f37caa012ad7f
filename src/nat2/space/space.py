"""The search space: genes, sampling, repair, encoding and size (NAT2's encodings)."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from nat2.errors import ArchError, ConfigError
from nat2.space.arch import MBCONV, Arch, Layer
from nat2.space.features import one_hot, structure
from nat2.space.macro import KERNELS, MAX_DEPTH, MAX_EXPAND, MAX_KERNEL, STAGES, Macro

Genomes = NDArray[np.int64]
Sampling = Literal["balanced", "uniform"]
Repair = Literal["push", "fill"]
FeatureKind = Literal["integer", "one-hot", "structure"]

_LAYERS = STAGES * MAX_DEPTH
_BLOCKS = (1, 2, 4, 3, 5, 6, 7)  # the order of the published encoding: by the number of active blocks


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """Every sub-network that can be searched, and the integer vectors that encode them.

    A genome is ``[resolution, width, exit, 20 layers]`` (no exit gene in the single-exit families), each an index.
    A layer gene of 0 skips the layer; ``1 + 3 * expand index + kernel index`` is an inverted bottleneck, 1..9. In the
    parallel families 1..63 are ``1 + 9 * blocks index + 3 * expand index + kernel index``, the active blocks in the
    order 1, 2, 4, 3, 5, 6, 7 (NAT2, wide encoding). A genome is canonical if skipped layers come last in each stage
    and genes that have no effect hold the smallest values (stages beyond the exit, kernel and expand ratio without an
    inverted bottleneck); decoding and encoding are then inverse to each other.
    """

    resolutions: tuple[int, ...]
    """Sides of the input image, ascending."""
    widths: tuple[float, ...] = (1.0,)
    """Width multipliers, ascending; each has a separate super-network."""
    early_exits: bool = True
    """Whether the exit is searched; otherwise it is the last one."""
    kernels: tuple[int, ...] = (3, 5, 7)
    """Kernel sizes of the depthwise convolutions."""
    expands: tuple[int, ...] = (3, 4, 6)
    """Expand ratios."""
    depths: tuple[int, ...] = (2, 3, 4)
    """Numbers of layers in a stage, consecutive."""
    exits: tuple[int, ...] = ()
    """Exits that can be chosen, consecutive; by default 1 to 5 with early exits, else 5."""
    parallel_blocks: bool = False
    """Whether the active blocks of a layer are searched; otherwise each is an inverted bottleneck."""
    levels: tuple[int, ...] = ()
    """How many blocks of a layer can be active at once; by default 1 to 3 with parallel blocks, else 1."""

    def __post_init__(self) -> None:
        """Check the choices.

        Raises:
            ConfigError: a list of choices is empty, unsorted, or has a value that the super-network does not hold.
        """
        for name in ("resolutions", "widths", "kernels", "expands", "depths", "exits", "levels"):
            kind = float if name == "widths" else operator.index
            object.__setattr__(self, name, tuple(map(kind, getattr(self, name))))
        if not self.exits:
            object.__setattr__(self, "exits", tuple(range(1, STAGES + 1)) if self.early_exits else (STAGES,))
        if not self.levels:
            object.__setattr__(self, "levels", (1, 2, 3) if self.parallel_blocks else (1,))
        _check_choices("resolutions", self.resolutions, minimum=8, maximum=None)
        _check_choices("widths", self.widths, minimum=0.1, maximum=8)
        _check_choices("kernels", self.kernels, minimum=3, maximum=MAX_KERNEL, allowed=KERNELS)
        _check_choices("expands", self.expands, minimum=2, maximum=MAX_EXPAND)
        _check_choices("depths", self.depths, minimum=1, maximum=MAX_DEPTH, allowed=range(1, MAX_DEPTH + 1))
        _check_choices("exits", self.exits, minimum=1, maximum=STAGES, allowed=range(1, STAGES + 1))
        for name in ("depths", "exits"):
            values = getattr(self, name)
            if values != tuple(range(values[0], values[-1] + 1)):
                raise ConfigError(f"`{name}` must be consecutive; got {values}")
        if not self.early_exits and self.exits != (STAGES,):
            raise ConfigError(f"without early exits only exit {STAGES} exists; got `exits` {self.exits}")
        _check_choices("levels", self.levels, minimum=1, maximum=3, allowed=(1, 2, 3))
        if not self.parallel_blocks and self.levels != (1,):
            raise ConfigError(f"without parallel blocks a layer is one block; got `levels` {self.levels}")

    @staticmethod
    def of(macros: Macro | Iterable[Macro], resolutions: Iterable[int]) -> SearchSpace:
        """The whole space of a super-network, or of several that differ in width, at the given resolutions.

        Raises:
            ConfigError: the super-networks differ in more than their width, or the widths do not ascend.
        """
        macros = [macros] if isinstance(macros, Macro) else list(macros)
        kinds = {replace(macro, width=1.0) for macro in macros}
        if len(kinds) != 1:
            shown = ", ".join(sorted(macro.family for macro in kinds)) or "none"
            raise ConfigError(f"super-networks that are searched together may differ only in width; got {shown}")
        return SearchSpace(
            resolutions=tuple(resolutions),
            widths=tuple(macro.width for macro in macros),
            early_exits=macros[0].early_exits,
            parallel_blocks=macros[0].parallel_blocks,
        )

    # -- genes

    @property
    def first_layer_gene(self) -> int:
        """Position of the first of the 20 layer genes."""
        return 3 if self.early_exits else 2

    @property
    def n_genes(self) -> int:
        """Length of a genome: 23 with early exits, else 22."""
        return self.first_layer_gene + _LAYERS

    @property
    def gene_names(self) -> tuple[str, ...]:
        """A name for each gene, e.g. ``stage 2 layer 3``."""
        head = ("resolution", "width", "exit")[: self.first_layer_gene]
        return head + tuple(f"stage {s + 1} layer {p + 1}" for s in range(STAGES) for p in range(MAX_DEPTH))

    @cached_property
    def settings(self) -> tuple[Layer, ...]:
        """The layers of the layer genes 1, 2, ...; without an inverted bottleneck several genes mean the same layer."""
        return tuple(
            Layer(kernel, expand, blocks).canonical
            for blocks in (_BLOCKS if self.parallel_blocks else (MBCONV,))
            if blocks.bit_count() in self.levels
            for expand in self.expands
            for kernel in self.kernels
        )

    @cached_property
    def codes(self) -> dict[Layer, int]:
        """The layer gene of each layer, the smallest if there are several."""
        return {layer: code for code, layer in reversed(tuple(enumerate(self.settings, start=1)))}

    @cached_property
    def canonical_codes(self) -> Genomes:
        """For each value of a layer gene the smallest that stands for the same layer, shape (1 + settings,)."""
        return np.array([0, *(self.codes[layer] for layer in self.settings)])

    @property
    def lower(self) -> Genomes:
        """Smallest value of each gene."""
        layers = [int(position < self.depths[0]) for position in range(MAX_DEPTH)] * STAGES
        return np.array([0] * self.first_layer_gene + layers)

    @property
    def upper(self) -> Genomes:
        """Largest value of each gene."""
        layers = [len(self.settings) * (position < self.depths[-1]) for position in range(MAX_DEPTH)] * STAGES
        head = [len(self.resolutions) - 1, len(self.widths) - 1, len(self.exits) - 1]
        return np.array(head[: self.first_layer_gene] + layers)

    @property
    def smallest(self) -> Arch:
        """Every dimension at its smallest."""
        return self.decode(self.lower)

    @property
    def largest(self) -> Arch:
        """Every dimension at its largest."""
        return self.decode(self.upper)

    @property
    def size(self) -> int:
        """How many different networks there are."""
        per_stage = sum(len(self.codes) ** depth for depth in self.depths)
        networks: int = sum(per_stage**number for number in self.exits)
        return len(self.resolutions) * len(self.widths) * networks

    # -- encoding

    def stage_genes(self, genomes: Genomes) -> Genomes:
        """View of the layer genes, shape (n, 5 stages, 4 layers)."""
        return genomes[:, self.first_layer_gene :].reshape(len(genomes), STAGES, MAX_DEPTH)

    def exit_numbers(self, genomes: Genomes) -> Genomes:
        """The exit of each genome, counted from 1, shape (n,)."""
        if not self.early_exits:
            return np.full(len(genomes), STAGES)
        return np.asarray(self.exits)[genomes[:, 2]]

    def expressed(self, genomes: Genomes) -> NDArray[np.bool_]:
        """Which genes of canonical genomes have an effect on the network, shape (n, genes)."""
        mask = np.ones(genomes.shape, dtype=bool)
        executed = np.arange(STAGES)[None, :, None] < self.exit_numbers(genomes)[:, None, None]
        mask[:, self.first_layer_gene :] = np.broadcast_to(executed, (len(genomes), STAGES, MAX_DEPTH)).reshape(
            len(genomes), _LAYERS
        )
        return mask

    def canonical(self, genomes: Genomes, *, repair: Repair = "push") -> Genomes:
        """Map all genomes of the same network to the same values, shape (n, genes).

        ``push`` moves the zeros of a stage to its end; ``fill`` skips everything after the first zero. Genes
        of stages beyond the exit become the smallest values, and so does a mandatory layer that is skipped; of several
        genes for the same layer the smallest is used.
        """
        genomes = genomes.copy()
        stages = self.canonical_codes[self.stage_genes(genomes)]
        if repair == "push":
            order = np.argsort(stages == 0, axis=2, kind="stable")
            stages[:] = np.take_along_axis(stages, order, axis=2)
        else:
            stages[np.logical_or.accumulate(stages == 0, axis=2)] = 0
        lower = self.stage_genes(self.lower[None])
        np.maximum(stages, lower, out=stages)
        beyond = np.arange(STAGES)[None, :] >= self.exit_numbers(genomes)[:, None]
        stages[beyond] = np.broadcast_to(lower, stages.shape)[beyond]
        genomes[:, self.first_layer_gene :] = stages.reshape(len(genomes), _LAYERS)
        return genomes

    def decode(self, genome: Genomes) -> Arch:
        """The network that a genome encodes."""
        genome = self.canonical(np.asarray(genome)[None])[0]
        layers = genome[self.first_layer_gene :].reshape(STAGES, MAX_DEPTH)
        executed = self.exits[genome[2]] if self.early_exits else STAGES
        return Arch(
            resolution=self.resolutions[genome[0]],
            width=self.widths[genome[1]],
            stages=tuple(tuple(self.settings[gene - 1] for gene in stage if gene) for stage in layers[:executed]),
        )

    def encode(self, arch: Arch) -> Genomes:
        """The canonical genome of a network, shape (genes,).

        Raises:
            ArchError: the network is not in the space.
        """
        self.validate(arch)
        genome = self.lower
        genome[0] = self.resolutions.index(arch.resolution)
        genome[1] = self.widths.index(arch.width)
        if self.early_exits:
            genome[2] = self.exits.index(arch.exit)
        for stage, layers in enumerate(arch.stages):
            start = self.first_layer_gene + stage * MAX_DEPTH
            genome[start : start + len(layers)] = [self.codes[layer] for layer in layers]
        return genome

    def key(self, arch: Arch) -> str:
        """The network as one string, its identity."""
        return arch.key

    def parse(self, key: str) -> Arch:
        """Read what `key` gives.

        Raises:
            ArchError: the string is not an architecture's key.
        """
        return Arch.from_key(key)

    def encode_all(self, archs: Sequence[Arch]) -> Genomes:
        """Canonical genomes of several networks, shape (n, genes)."""
        return np.array([self.encode(arch) for arch in archs]).reshape(len(archs), self.n_genes)

    def validate(self, arch: Arch) -> None:
        """Check that a network is in the space.

        Raises:
            ArchError: naming the gene, its value and what is allowed.
        """
        _check_member("resolution", arch.resolution, self.resolutions)
        _check_member("width", arch.width, self.widths)
        _check_member("exit", arch.exit, self.exits)
        for stage, layers in enumerate(arch.stages, start=1):
            _check_member(f"depth of stage {stage}", len(layers), self.depths)
            for position, layer in enumerate(layers, start=1):
                place = f"stage {stage} layer {position}"
                if layer.blocks & MBCONV:
                    _check_member(f"kernel of {place}", layer.kernel, self.kernels)
                    _check_member(f"expand ratio of {place}", layer.expand, self.expands)
                if layer not in self.codes:
                    allowed = sorted({code.blocks for code in self.codes})
                    _check_member(f"sum of active blocks of {place}", layer.blocks, allowed)

    def features(self, genomes: Genomes, kind: FeatureKind = "integer") -> NDArray[np.float64]:
        """Inputs of an accuracy predictor for canonical genomes, shape (n, features).

        ``integer``: the genome itself (NAT2); ``one-hot``: one column per gene and value (NAT); ``structure``:
        properties of each layer, each stage and the network (ours).
        """
        if kind == "integer":
            return genomes.astype(np.float64)
        return one_hot(genomes, self.lower, self.upper) if kind == "one-hot" else structure(self, genomes)

    # -- sampling

    def sample(self, count: int, generator: np.random.Generator, *, sampling: Sampling = "balanced") -> Genomes:
        """Draw canonical genomes, shape (count, genes); the same network can occur twice.

        ``balanced`` is NAT2's initialisation: an optional layer is skipped with probability 1/3 and all layers
        after it in the stage are skipped too, so every depth is common. ``uniform`` is NAT's: every value of every gene
        is equally likely and zeros are moved to the end, so shallow stages are rare.
        """
        lower, upper = self.lower, self.upper
        genomes = generator.integers(lower, upper + 1, size=(count, self.n_genes))
        if sampling == "uniform":
            return self.canonical(genomes, repair="push")
        optional = (lower == 0) & (upper > 0)
        optional[: self.first_layer_gene] = False
        genomes[:, optional] = generator.integers(1, upper[optional] + 1, size=(count, int(optional.sum())))
        genomes[:, optional] *= generator.random((count, int(optional.sum()))) >= 1 / 3
        return self.canonical(genomes, repair="fill")

    def sample_distinct(
        self,
        count: int,
        generator: np.random.Generator,
        *,
        sampling: Sampling = "balanced",
        exclude: Iterable[Arch] = (),
    ) -> list[Arch]:
        """Draw different networks, none of them in `exclude`; fewer than `count` if the space has no more."""
        seen = set(exclude)
        drawn: list[Arch] = []
        for _ in range(100):
            for genome in self.sample(count, generator, sampling=sampling):
                arch = self.decode(genome)
                if arch not in seen and len(drawn) < count:
                    seen.add(arch)
                    drawn.append(arch)
            if len(drawn) == count:
                break
        return drawn

    def sample_elastic(self, generator: np.random.Generator, *, resolution: int) -> Arch:
        """Draw a network for a training step: exit, depths and the layers' choices uniform and independent.

        This is the sampling of progressive shrinking; the batch decides the resolution.
        """
        choose = generator.integers
        exit_number = self.exits[choose(len(self.exits))]
        settings = self.settings
        return Arch(
            resolution=resolution,
            width=self.widths[choose(len(self.widths))],
            stages=tuple(
                tuple(settings[index] for index in choose(len(settings), size=self.depths[choose(len(self.depths))]))
                for _ in range(exit_number)
            ),
        )


def _check_member(name: str, value: float, allowed: Sequence[float]) -> None:
    if value not in allowed:
        raise ArchError(f"{name} must be one of {', '.join(map(str, allowed))}; got {value}")


def _check_choices(
    name: str,
    values: Sequence[float],
    *,
    minimum: float,
    maximum: float | None,
    allowed: Iterable[float] | None = None,
) -> None:
    if not values or list(values) != sorted(set(values)):
        raise ConfigError(f"`{name}` must be a list of different values in ascending order; got {list(values)}")
    if allowed is not None and not set(values) <= set(allowed):
        raise ConfigError(f"`{name}` must be among {', '.join(map(str, allowed))}; got {list(values)}")
    if values[0] < minimum or (maximum is not None and values[-1] > maximum):
        limit = f"at least {minimum}" if maximum is None else f"between {minimum} and {maximum}"
        raise ConfigError(f"`{name}` must be {limit}; got {list(values)}")
