"""Flash and RAM that a network takes on a microcontroller, in closed form, for one network or a population.

Flash is the size of the 8-bit ``.tflite`` file that `nat2.deploy.tflite` writes: one byte per weight, twelve per output
channel of a convolution (bias, scale of the bias, scale of the weights), eight per zero point, and the description of
operators and tensors.

RAM is the smallest arena with which TensorFlow Lite Micro runs that file, as its interpreter for 64-bit processors
measures it; on a 32-bit microcontroller structures with pointers are about half as large. It has two parts: the
activations that live at once, and what the interpreter keeps per tensor, operator and channel. At start it plans where
activations go, which takes memory in the place that the activations will use later.

The constants below are those of TensorFlow Lite Micro and of the file format. ``benchmarks/device.py`` compares the
formulas with the file and the interpreter.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nat2.space.arch import CONVOLUTION, MBCONV, TRANSFORMATION, Arch, Layer
from nat2.space.macro import MAX_DEPTH, STAGES, Activation, LayerShape, Macro, reduced, squeeze_channels
from nat2.space.space import Genomes, SearchSpace

_ALIGNMENT = 16  # of activations in the arena, and of weights in the file
_FILE = 660  # bytes: the model, its input and output
_FILE_OPERATOR = 34
_FILE_CONVOLUTION = 319
_FILE_CHANNEL = 12
_FILE_ZERO_POINT = 8
_KEPT = 790  # bytes of the arena: the interpreter itself
_KEPT_OPERATOR = 140
_KEPT_CONVOLUTION = 250
_KEPT_CHANNEL = 8
_PLANNED_TENSOR = 32  # bytes of the arena while activations are laid out
_PLANNED_ACTIVATION = 60


class DeviceCost(NamedTuple):
    """What a network takes on a microcontroller, in bytes."""

    flash: int
    ram: int


class Part(NamedTuple):
    """What a part of a network adds."""

    flash: int
    """Bytes of the file, without zero points."""
    kept: int
    """Bytes that the interpreter keeps in the arena."""
    planned: int
    """Bytes of the arena while activations are laid out."""
    peak: int
    """Bytes of the activations that live at once."""
    channels: frozenset[int]
    """Channel counts of its convolutions; the zero points of all with the same count are stored once."""

    def then(self, other: Part) -> Part:
        """What two parts add together, one after the other."""
        return Part(
            self.flash + other.flash,
            self.kept + other.kept,
            self.planned + other.planned,
            max(self.peak, other.peak),
            self.channels | other.channels,
        )


@dataclass(frozen=True)
class _Map:
    """A feature map in the arena."""

    side: int
    channels: int

    @property
    def bytes(self) -> int:
        return aligned(self.side**2 * self.channels)


class _Step(NamedTuple):
    inputs: tuple[int, ...]
    output: int
    weights: int
    """0 if it is no convolution."""


@dataclass
class _Tape:
    """Operators of a part of a network in the order in which they run; maps are numbered."""

    maps: list[_Map] = field(default_factory=list)
    steps: list[_Step] = field(default_factory=list)

    def given(self, shape: _Map) -> int:
        """A map that earlier parts have computed."""
        self.maps.append(shape)
        return len(self.maps) - 1

    def operator(self, shape: _Map, *inputs: int, weights: int = 0) -> int:
        """Append an operator; returns the number of its result."""
        self.steps.append(_Step(inputs, self.given(shape), weights))
        return len(self.maps) - 1

    def convolution(
        self, x: int, channels: int, *, kernel: int = 1, stride: int = 1, groups: bool = False, hswish: bool = False
    ) -> int:
        """Append a convolution, and a hard-swish behind it; other activations are part of it."""
        source = self.maps[x]
        weights = channels * kernel_side(source.side, kernel, stride) ** 2 * (1 if groups else source.channels)
        shape = _Map(reduced(source.side, stride), channels)
        y = self.operator(shape, x, weights=weights)
        return self.operator(shape, y) if hswish else y

    def sum(self, *parts: int) -> int:
        """Append additions."""
        total = parts[0]
        for part in parts[1:]:
            total = self.operator(self.maps[total], total, part)
        return total

    def part(self, *, kept: Iterable[int] = (), given: bool = False) -> Part:
        """What the operators add.

        Args:
            kept: Maps that are needed behind them, the last result aside.
            given: Count the first map too, because no part has computed it.
        """
        last = {number: place for place, step in enumerate(self.steps) for number in step.inputs}
        for number in (*kept, self.steps[-1].output):
            last[number] = len(self.steps)
        live = {number for number in range(len(self.maps)) if number in last} - {s.output for s in self.steps}
        peak, flash, counts = 0, 0, []
        for place, step in enumerate(self.steps):
            live.add(step.output)
            peak = max(peak, sum(self.maps[number].bytes for number in live))
            live = {number for number in live if last[number] > place}
            if step.weights:
                counts.append(self.maps[step.output].channels)
                flash += aligned(step.weights)
        convolutions, channels = len(counts), sum(counts)
        others = len(self.steps) - convolutions
        return Part(
            flash + _FILE_CONVOLUTION * convolutions + _FILE_OPERATOR * others + _FILE_CHANNEL * channels,
            _KEPT_CONVOLUTION * convolutions + _KEPT_OPERATOR * others + _KEPT_CHANNEL * channels,
            (_PLANNED_TENSOR + _PLANNED_ACTIVATION) * (len(self.steps) + given) + 2 * _PLANNED_TENSOR * convolutions,
            peak,
            frozenset(counts),
        )


def aligned(size: int) -> int:
    """A size in bytes, rounded up to the alignment."""
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def kernel_side(side: int, kernel: int, stride: int) -> int:
    """Side of a kernel in the file: without taps that meet no pixel, with a row of zeros where ``SAME`` needs one."""
    padding = min(kernel // 2, side - 1)
    kernel = 2 * padding + 1
    before = max(0, (reduced(side, stride) - 1) * stride + kernel - side) // 2
    return kernel + (before != padding)


def stem_part(macro: Macro, resolution: int) -> Part:
    """What normalisation, the first convolution and the block behind it add."""
    tape = _Tape()
    x = tape.convolution(tape.given(_Map(resolution, macro.channels)), macro.channels, groups=True)
    x = tape.convolution(x, macro.stem_channels, kernel=3, stride=macro.stem_stride, hswish=True)
    _mbconv(tape, x, macro.first_shape, Layer(3, 1))
    return tape.part(given=True)


def layer_part(macro: Macro, shape: LayerShape, layer: Layer, size: int, position: int) -> Part:
    """What the layer at `position` (from 0) of a stage adds, and the sum of dense skips behind it."""
    tape = _Tape()
    x = tape.given(_Map(size, shape.in_channels))
    skipped = max(0, position - 1) if macro.dense_skips else 0
    held = [tape.given(_Map(size, shape.out_channels)) for _ in range(skipped)]
    parts = []
    if layer.blocks & MBCONV:
        parts.append(_mbconv(tape, x, shape, layer))
    hswish = _is_hswish(shape.activation)
    if layer.blocks & CONVOLUTION:
        parts.append(tape.convolution(x, shape.out_channels, stride=shape.stride, hswish=hswish))
    if layer.blocks & TRANSFORMATION:
        pooled = x
        if shape.stride > 1:
            pooled = tape.operator(_Map(reduced(size, shape.stride), shape.in_channels), x)
        groups = shape.in_channels == shape.out_channels
        parts.append(tape.convolution(pooled, shape.out_channels, groups=groups, hswish=hswish))
    tape.sum(tape.sum(*parts), *held)
    needed = [*held, x] if macro.dense_skips and 0 < position < MAX_DEPTH - 1 else []
    return tape.part(kept=needed)


def exit_part(macro: Macro, exit_number: int, size: int) -> Part:
    """What the classifier behind a stage adds, whose feature map is `size` pixels wide and high."""
    tape = _Tape()
    channels, expand, mix = macro.exit_shape(exit_number)
    x = tape.convolution(tape.given(_Map(size, channels)), expand, hswish=True)
    x = tape.operator(_Map(1, expand), x)  # mean
    x = tape.convolution(tape.convolution(x, mix, hswish=True), macro.classes)
    tape.operator(_Map(1, macro.classes), x)  # reshape
    return tape.part()


def _mbconv(tape: _Tape, x: int, shape: LayerShape, layer: Layer) -> int:
    hswish = _is_hswish(shape.activation)
    mid, y = shape.mid_channels(layer.expand), x
    if layer.expand != 1:
        y = tape.convolution(y, mid, hswish=hswish)
    y = tape.convolution(y, mid, kernel=layer.kernel, stride=shape.stride, groups=True, hswish=hswish)
    if shape.squeeze_excite:
        gate = tape.operator(_Map(1, mid), y)  # mean
        gate = tape.convolution(tape.convolution(gate, squeeze_channels(mid)), mid)
        y = tape.operator(tape.maps[y], y, gate)
    y = tape.convolution(y, shape.out_channels)
    return tape.sum(x, y) if shape.residual else y


def _is_hswish(activation: Activation) -> bool:
    return activation == "hswish"


def _total(part: Part) -> DeviceCost:
    zeros = _FILE_ZERO_POINT * sum(part.channels)
    return DeviceCost(_FILE + part.flash + zeros, _KEPT + part.kept + max(part.peak, part.planned))


def device_cost(macro: Macro, arch: Arch) -> DeviceCost:
    """What one network with its own exit takes.

    Raises:
        ArchError: it is not a network of this macro-architecture, or does not reach an exit.
    """
    return _total(device_part(macro, arch))


def device_part(macro: Macro, arch: Arch) -> Part:
    """What all of one network with its own exit adds.

    Raises:
        ArchError: it is not a network of this macro-architecture, or does not reach an exit.
    """
    macro.check(arch)
    sizes = macro.feature_sizes(arch.resolution)
    total = stem_part(macro, arch.resolution)
    for number, layers in enumerate(arch.stages):
        for position, (shape, layer) in enumerate(zip(macro.layer_shapes[number], layers, strict=False)):
            total = total.then(layer_part(macro, shape, layer, sizes[number + (position > 0)], position))
    return total.then(exit_part(macro, arch.exit, sizes[arch.exit]))


class DeviceCostTable:
    """What every layer in every place of a space adds, tabulated once, so that populations cost a few gathers."""

    def __init__(self, space: SearchSpace, macros: dict[float, Macro]) -> None:
        """Tabulate; `macros` holds the macro-architecture of each width multiplier of the space."""
        self._space = space
        shape = (len(space.resolutions), len(space.widths))
        parts: dict[tuple[int, ...], Part] = {}
        for r, resolution in enumerate(space.resolutions):
            for w, width in enumerate(space.widths):
                macro = macros[width]
                sizes = macro.feature_sizes(resolution)
                parts[0, r, w] = stem_part(macro, resolution)
                for number in macro.exits:
                    parts[1, r, w, number] = exit_part(macro, number, sizes[number])
                for s, shapes in enumerate(macro.layer_shapes):
                    for p, layer_shape in enumerate(shapes):
                        for gene, layer in enumerate(space.settings, start=1):
                            size = sizes[s + (p > 0)]
                            parts[2, r, w, s, p, gene] = layer_part(macro, layer_shape, layer, size, p)
        self._counts = np.array(sorted(set[int]().union(*(part.channels for part in parts.values()))))
        self._ends = [np.zeros((*shape, 4), np.int64), np.zeros((*shape, STAGES + 1, 4), np.int64)]
        self._layers = np.zeros((*shape, STAGES, MAX_DEPTH, len(space.settings) + 1, 4), np.int64)
        self._met = [np.zeros((*each.shape[:-1], len(self._counts)), np.bool_) for each in (*self._ends, self._layers)]
        values = (*self._ends, self._layers)
        for (kind, *place), part in parts.items():
            values[kind][tuple(place)] = part[:4]
            self._met[kind][tuple(place)] = np.isin(self._counts, list(part.channels))

    def __call__(self, genomes: Genomes) -> NDArray[np.int64]:
        """The fields of `DeviceCost` for canonical genomes, shape (n, genes) to shape (n, 2)."""
        r, w = genomes[:, 0], genomes[:, 1]
        exits = self._space.exit_numbers(genomes)
        executed = np.arange(STAGES)[None, :, None] < exits[:, None, None]
        genes = np.where(executed, self._space.stage_genes(genomes), 0)  # a skipped layer adds nothing
        stages, positions = np.arange(STAGES)[None, :, None], np.arange(MAX_DEPTH)[None, None]
        places = ((r, w), (r, w, exits), (r[:, None, None], w[:, None, None], stages, positions, genes))
        stem, exit_, layers = (
            values[place].reshape(len(genomes), -1, 4)
            for values, place in zip((*self._ends, self._layers), places, strict=True)
        )
        parts = np.concatenate([stem, exit_, layers], axis=1)
        met = [
            each[place].reshape(len(genomes), -1, len(self._counts)).any(1)
            for each, place in zip(self._met, places, strict=True)
        ]
        zeros = _FILE_ZERO_POINT * (np.logical_or.reduce(met) @ self._counts)
        flash, kept, planned = parts[:, :, :3].sum(axis=1).T
        return np.stack([_FILE + flash + zeros, _KEPT + kept + np.maximum(parts[:, :, 3].max(axis=1), planned)], axis=1)
