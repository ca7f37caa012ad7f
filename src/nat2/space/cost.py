"""Exact parameters, multiply-accumulates and activation memory in closed form, for one network or a population.

The convention is the field's: parameters are the trainable ones of the extracted network, batch norm included; MACs
are those of convolutions and linear layers (squeeze-and-excite too), for one image, without additions, activations,
pooling and normalisation. Activation memory is the peak over convolutions and linear layers of what has to be held
while one runs: its input, its output, and whatever a later layer still needs (shortcuts, dense skips, the sum of the
parallel blocks so far, the logits of earlier exits); normalisation and activation are assumed to work in place.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nat2.space.arch import CONVOLUTION, MBCONV, TRANSFORMATION, Arch, Layer
from nat2.space.macro import MAX_DEPTH, STAGES, LayerShape, Macro, reduced, squeeze_channels
from nat2.space.space import Genomes, SearchSpace


class Cost(NamedTuple):
    """What a network costs."""

    params: int
    """Trainable parameters."""
    macs: int
    """Multiply-accumulates for one image."""
    memory: int
    """Peak of the activations held at once for one image, in values (four bytes each in float32)."""

    def then(self, other: Cost) -> Cost:
        """The cost of one after the other."""
        return Cost(self.params + other.params, self.macs + other.macs, max(self.memory, other.memory))


def layer_cost(shape: LayerShape, layer: Layer, size: int, *, held: int = 0) -> Cost:
    """Cost of a layer whose input is `size` pixels wide and high, while `held` other activations stay in memory."""
    pixels, out_pixels = size**2, reduced(size, shape.stride) ** 2
    values_in, values_out = shape.in_channels * pixels, shape.out_channels * out_pixels
    total = Cost(0, 0, 0)
    if layer.blocks & MBCONV:
        waiting = held + (values_in if shape.residual or layer.blocks != MBCONV else 0)
        total = _mbconv_cost(shape, layer, (pixels, out_pixels), held=held, waiting=waiting)
    if layer.blocks & CONVOLUTION:
        weights = shape.in_channels * shape.out_channels
        partial = values_out if layer.blocks & MBCONV else 0
        total = total.then(
            Cost(
                weights + 2 * shape.out_channels,
                weights * out_pixels,
                held + values_in + values_out + partial,
            )
        )
    if layer.blocks & TRANSFORMATION:
        weights = shape.in_channels * shape.out_channels if shape.in_channels != shape.out_channels else 0
        bias = shape.out_channels if weights else 0
        partial = values_out if layer.blocks != TRANSFORMATION else 0
        # The pooling in front leaves as many pixels as the convolution has to read.
        memory = held + shape.in_channels * out_pixels + values_out + partial if weights else 0
        total = total.then(Cost(weights + bias + 2 * shape.out_channels, weights * out_pixels, memory))
    return total


def _mbconv_cost(shape: LayerShape, layer: Layer, pixels: tuple[int, int], *, held: int, waiting: int) -> Cost:
    """Cost of an inverted bottleneck, given its input and output `pixels`; `waiting` includes the input if needed."""
    before, after = pixels
    mid = shape.mid_channels(layer.expand)
    expand = shape.in_channels * mid if layer.expand != 1 else 0
    depthwise, project = mid * layer.kernel**2, mid * shape.out_channels
    norms = 2 * (mid * (2 if expand else 1) + shape.out_channels)
    params = expand + depthwise + project + norms
    macs = expand * before + (depthwise + project) * after
    if expand:
        peaks = [held + shape.in_channels * before + mid * before, waiting + mid * (before + after)]
    else:
        peaks = [held + mid * (before + after)]
    peaks.append(waiting + mid * after + shape.out_channels * after)
    if shape.squeeze_excite:
        squeeze = squeeze_channels(mid)
        macs += 2 * mid * squeeze
        params += 2 * mid * squeeze + squeeze + mid
        peaks.append(waiting + mid * after + mid + squeeze)
    return Cost(params, macs, max(peaks))


def stem_cost(macro: Macro, resolution: int) -> Cost:
    """Cost of the first convolution and the static block after it."""
    size = reduced(resolution, macro.stem_stride)
    weights = macro.channels * macro.stem_channels * 9
    memory = macro.channels * resolution**2 + macro.stem_channels * size**2
    convolution = Cost(weights + 2 * macro.stem_channels, weights * size**2, memory)
    return convolution.then(layer_cost(macro.first_shape, Layer(3, 1), size))


def exit_cost(macro: Macro, exit_number: int, size: int, *, held: int = 0, last: bool = True) -> Cost:
    """Cost of the exit behind stage `exit_number`, whose feature map is `size` pixels wide and high.

    While it runs, `held` other activations stay in memory, and so does the feature map unless this is the `last` exit.
    """
    channels, expand, mix = macro.exit_shape(exit_number)
    features, head = channels * size**2, expand * mix + mix * macro.classes
    waiting = held + (0 if last else features)
    return Cost(
        channels * expand + 2 * expand + head + macro.classes,
        channels * expand * size**2 + head,
        max(held + features + expand * size**2, waiting + expand + mix, waiting + mix + macro.classes),
    )


def held_by_skips(macro: Macro, position: int, shape: LayerShape, size: int) -> int:
    """Activations that dense skips keep while the layer at `position` (from 0) of a stage runs, without its input."""
    return max(0, position - 1) * shape.out_channels * size**2 if macro.dense_skips else 0


def cost(macro: Macro, arch: Arch, *, exits: tuple[int, ...] | None = None) -> Cost:
    """Cost of one network, with its own exit or with those in `exits`.

    Raises:
        ArchError: it is not a network of this macro-architecture, or does not reach an exit.
    """
    wanted, held = macro.check(arch, exits), 0
    sizes = macro.feature_sizes(arch.resolution)
    total = stem_cost(macro, arch.resolution)
    for number, layers in enumerate(arch.stages[: max(wanted)], start=1):
        for position, (shape, layer) in enumerate(zip(macro.layer_shapes[number - 1], layers, strict=False)):
            size = sizes[number - 1] if position == 0 else sizes[number]
            skips = held_by_skips(macro, position, shape, size)
            total = total.then(layer_cost(shape, layer, size, held=held + skips))
        if number in wanted:
            total = total.then(exit_cost(macro, number, sizes[number], held=held, last=number == max(wanted)))
            held += macro.classes
    return total


class CostTable:
    """Costs of every layer at every position of a space, tabulated once, so that a population takes a few gathers."""

    def __init__(self, space: SearchSpace, macros: dict[float, Macro]) -> None:
        """Tabulate; `macros` holds the macro-architecture of each width multiplier of the space."""
        self._space = space
        shape = (len(Cost._fields), len(space.resolutions), len(space.widths))
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
                        size = sizes[s] if p == 0 else sizes[s + 1]
                        held = held_by_skips(macro, p, layer_shape, size)
                        for gene, layer in enumerate(space.settings, start=1):
                            self._layers[:, r, w, s, p, gene] = layer_cost(layer_shape, layer, size, held=held)

    def __call__(self, genomes: Genomes) -> NDArray[np.int64]:
        """The fields of `Cost` for canonical genomes, shape (n, genes) to shape (n, 3)."""
        r, w = genomes[:, 0], genomes[:, 1]
        exits = self._space.exit_numbers(genomes)
        stages = self._space.stage_genes(genomes)
        flat = self._layers.reshape(*self._layers.shape[:3], -1)
        places = np.arange(STAGES * MAX_DEPTH).reshape(1, STAGES, MAX_DEPTH) * self._layers.shape[-1]
        executed = np.arange(STAGES)[None, :, None] < exits[:, None, None]
        index = places + np.where(executed, stages, 0)  # column 0 of a position is a skipped layer and costs nothing
        layers = flat[:, r[:, None], w[:, None], index.reshape(len(genomes), -1)]
        ends = self._stem[:, r, w], self._exits[:, r, w, exits]
        memory = np.maximum(np.maximum(ends[0][2], ends[1][2]), layers[2].max(axis=1))
        return np.stack([*(ends[0][:2] + ends[1][:2] + layers[:2].sum(axis=2)), memory], axis=1)
