"""Exact parameters and multiply-accumulates in closed form, for one network or a whole population at once.

The convention is the field's: parameters are the trainable ones of the extracted network, batch norm included; MACs
are those of convolutions and linear layers (squeeze-and-excite too), for one image, without additions, activations,
pooling and normalisation.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nat2.space.arch import Arch, Layer
from nat2.space.macro import MAX_DEPTH, STAGES, LayerShape, Macro, reduced, squeeze_channels
from nat2.space.space import Genomes, SearchSpace


class Cost(NamedTuple):
    """What a network costs."""

    params: int
    """Trainable parameters."""
    macs: int
    """Multiply-accumulates for one image."""

    def plus(self, other: Cost) -> Cost:
        """The cost of both."""
        return Cost(self.params + other.params, self.macs + other.macs)


def layer_cost(shape: LayerShape, layer: Layer, size: int) -> Cost:
    """Cost of an inverted bottleneck whose input is `size` pixels wide and high."""
    mid = shape.mid_channels(layer.expand)
    out_size = reduced(size, shape.stride)
    expand = shape.in_channels * mid if layer.expand != 1 else 0
    depthwise = mid * layer.kernel**2
    project = mid * shape.out_channels
    norms = 2 * (mid * (2 if layer.expand != 1 else 1) + shape.out_channels)
    macs = expand * size**2 + (depthwise + project) * out_size**2
    params = expand + depthwise + project + norms
    if shape.squeeze_excite:
        squeeze = squeeze_channels(mid)
        macs += 2 * mid * squeeze
        params += 2 * mid * squeeze + squeeze + mid
    return Cost(params, macs)


def stem_cost(macro: Macro, resolution: int) -> Cost:
    """Cost of the first convolution and the static block behind it."""
    size = reduced(resolution, macro.stem_stride)
    weights = macro.channels * macro.stem_channels * 9
    convolution = Cost(weights + 2 * macro.stem_channels, weights * size**2)
    return convolution.plus(layer_cost(macro.first_shape, Layer(3, 1), size))


def exit_cost(macro: Macro, exit_number: int, size: int) -> Cost:
    """Cost of the exit behind stage `exit_number`, whose feature map is `size` pixels wide and high."""
    channels, expand, mix = macro.exit_shape(exit_number)
    head = expand * mix + mix * macro.classes
    return Cost(
        channels * expand + 2 * expand + head + macro.classes,
        channels * expand * size**2 + head,
    )


def cost(macro: Macro, arch: Arch, *, exits: tuple[int, ...] | None = None) -> Cost:
    """Cost of one network, with its own exit or with those in `exits`."""
    sizes = macro.feature_sizes(arch.resolution)
    total = stem_cost(macro, arch.resolution)
    for shapes, layers, size_in, size_out in zip(macro.layer_shapes, arch.stages, sizes, sizes[1:], strict=False):
        for shape, layer in zip(shapes, layers, strict=False):
            total = total.plus(layer_cost(shape, layer, size_out if shape.stride == 1 else size_in))
    for exit_number in exits or (arch.exit,):
        total = total.plus(exit_cost(macro, exit_number, sizes[exit_number]))
    return total


class CostTable:
    """Costs of every layer in every place of a space, tabulated once, so that populations cost a few gathers."""

    def __init__(self, space: SearchSpace, macros: dict[float, Macro]) -> None:
        """Tabulate; `macros` holds the macro-architecture of each width multiplier of the space."""
        self._space = space
        shape = (2, len(space.resolutions), len(space.widths))
        self._stem = np.zeros(shape, dtype=np.int64)
        self._exits = np.zeros((*shape, STAGES + 1), dtype=np.int64)
        self._layers = np.zeros((*shape, STAGES, MAX_DEPTH, len(space.settings) + 1), dtype=np.int64)
        for r, resolution in enumerate(space.resolutions):
            for w, width in enumerate(space.widths):
                macro = macros[width]
                sizes = macro.feature_sizes(resolution)
                self._stem[:, r, w] = stem_cost(macro, resolution)
                for number in macro.exits:
                    self._exits[:, r, w, number] = exit_cost(macro, number, sizes[number])
                for s, shapes in enumerate(macro.layer_shapes):
                    for p, layer_shape in enumerate(shapes):
                        size = sizes[s + 1] if layer_shape.stride == 1 else sizes[s]
                        for gene, layer in enumerate(space.settings, start=1):
                            self._layers[:, r, w, s, p, gene] = layer_cost(layer_shape, layer, size)

    def __call__(self, genomes: Genomes) -> NDArray[np.int64]:
        """Parameters and MACs of canonical genomes, shape (n, genes) to shape (n, 2)."""
        r, w = genomes[:, 0], genomes[:, 1]
        exits = self._space.exit_numbers(genomes)
        total = self._stem[:, r, w] + self._exits[:, r, w, exits]
        stages = self._space.stage_genes(genomes)
        flat = self._layers.reshape(*self._layers.shape[:3], -1)
        places = np.arange(STAGES * MAX_DEPTH).reshape(1, STAGES, MAX_DEPTH) * self._layers.shape[-1]
        executed = np.arange(STAGES)[None, :, None] < exits[:, None, None]
        index = places + np.where(executed, stages, 0)  # column 0 of a place is a skipped layer and costs nothing
        total += flat[:, r[:, None], w[:, None], index.reshape(len(genomes), -1)].sum(axis=2)
        return total.T
