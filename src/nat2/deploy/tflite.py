"""TensorFlow Lite files, written operator by operator: in 8-bit integers, 16-bit or 32-bit floating point.

A file holds the network and nothing else, and the same network gives the same bytes. Equal tables, such as
the zero points of all kernels with the same number of channels, are stored once, which matters in small networks.

In 8 bits input, output and activations have a scale and a zero point each, weights a scale for each channel
(TensorFlow Lite's quantisation specification). An input byte is the pixel's value minus 128.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import flatbuffers
import numpy as np
from numpy.typing import NDArray

from nat2 import __version__
from nat2.deploy.arena import layout, lifetimes
from nat2.deploy.onnx_graph import INPUT
from nat2.deploy.operators import Fused, Kind, Operator, OperatorGraph, Ranges

Precision = Literal["int8", "float16", "float32"]

_TYPES = {np.dtype(np.float32): 0, np.dtype(np.float16): 1, np.dtype(np.int32): 2, np.dtype(np.int8): 9}
_CODES: dict[Kind | Literal["dequantize"], tuple[int, int]] = {  # builtin operator, version with 8 bits
    "add": (0, 2),
    "conv": (3, 3),
    "depthwise": (4, 3),
    "dequantize": (6, 3),
    "max_pool": (17, 2),
    "mul": (18, 2),
    "reshape": (22, 1),
    "mean": (40, 2),
    "hard_swish": (117, 1),
}
_LAYOUT_VERSION = 1
_FUSED: dict[Fused, int] = {"none": 0, "relu": 1, "relu6": 3}


class Scale(NamedTuple):
    """How the integers of an activation are scaled: value = scale x (integer - zero)."""

    scale: float
    zero: int

    @staticmethod
    def of(low: float, high: float) -> Scale:
        """The scale with which -128..127 covers a range, zero exactly."""
        low, high = min(low, 0.0), max(high, 0.0)
        scale = max(high - low, 1e-6) / 255
        return Scale(scale, int(np.clip(round(-128 - low / scale), -128, 127)))


PIXELS = Scale(1 / 255, -128)
"""Of the input: the pixel's value minus 128."""


def tflite(graph: OperatorGraph, precision: Precision, ranges: Ranges | None = None) -> bytes:
    """The content of a ``.tflite`` file: ``images`` (1, R, R, channels) to ``logits`` (1, classes).

    Args:
        graph: The network.
        precision: Of weights and activations; with ``float16`` of the weights alone.
        ranges: Of the activations as in ``model.onnx``, for 8 bits.
    """
    if (precision == "int8") != (ranges is not None):
        raise ValueError("ranges are what 8 bits need, and nothing else")
    writer = _Writer(f"nat2 {__version__}")
    scales = scales_of(graph, ranges) if ranges is not None else {}
    kind = np.int8 if precision == "int8" else np.float32
    numbers = {}

    def activation(name: str) -> int:
        if name not in numbers:
            shape = graph.maps[name]
            dims = (1, shape.channels) if name == graph.output else (1, shape.side, shape.side, shape.channels)
            scale = scales.get(name)
            held = Held(dims, np.dtype(kind), scale=(scale.scale,) if scale else (), zero=scale.zero if scale else 0)
            numbers[name] = writer.tensor(held, name if name in (INPUT, graph.output) else "")
        return numbers[name]

    for operator in graph.operators:
        inputs = [activation(name) for name in operator.inputs]
        if operator.kind == "mean":
            inputs.append(writer.tensor(Held((2,), np.dtype(np.int32), np.array([1, 2], np.int32))))
        for held in _weights(operator, precision, scales):
            inputs.append(writer.half(held) if held.type == np.float16 else writer.tensor(held))
        writer.operator(operator, inputs, activation(operator.output), graph.maps[operator.output].channels)
    if precision == "int8":
        living = lifetimes(graph)
        offsets = dict(zip(living, layout(list(living.values())), strict=True))
        writer.lay_out({numbers[name]: offset for name, offset in offsets.items() if name in numbers})
    return writer.finish([numbers[INPUT]], [numbers[graph.output]])


def scales_of(graph: OperatorGraph, ranges: Ranges) -> dict[str, Scale]:
    """The scale of each activation.

    What is below -3 in front of a hard-swish becomes zero behind it, so those values need no integers.
    """
    scales = {INPUT: PIXELS}
    before_hard_swish = {each.inputs[0] for each in graph.operators if each.kind == "hard_swish"}
    for operator in graph.operators:
        name = operator.output
        if operator.kind in ("max_pool", "reshape"):
            scales[name] = scales[operator.inputs[0]]
            continue
        factor = graph.factors.get(name, 1.0)
        low, high = (factor * value for value in ranges[name])
        if name in before_hard_swish:
            low = max(low, -3.0)
        scales[name] = Scale.of(low, high)
    return scales


@dataclass(frozen=True)
class Held:
    """A tensor as the file describes it."""

    shape: tuple[int, ...]
    type: np.dtype[np.generic]
    content: NDArray[np.generic] | None = None
    """None for an activation."""
    scale: tuple[float, ...] = ()
    """One, or one for each channel; none in floating point."""
    zero: int = 0
    dimension: int = 0
    """That of the channels, if they have a scale each."""


def _weights(operator: Operator, precision: Precision, scales: dict[str, Scale]) -> Iterable[Held]:
    weight, bias = operator.weight, operator.bias
    if weight is None or bias is None:
        return ()
    if precision != "int8":
        stored = np.dtype(np.float16 if precision == "float16" else np.float32)
        return [Held(each.shape, stored, each.astype(stored)) for each in (weight, bias)]
    dimension = 3 if operator.kind == "depthwise" else 0
    axes = tuple(axis for axis in range(4) if axis != dimension)
    source = scales[operator.inputs[0]].scale
    # The second term keeps the bias of a channel without weights within 32 bits.
    scale = np.maximum(np.abs(weight).max(axes) / 127, np.maximum(np.abs(bias) / source / 2**30, 1e-12))
    scale = scale.astype(np.float32).astype(np.float64)
    shape = [-1 if axis == dimension else 1 for axis in range(4)]
    integers = np.rint(weight / scale.reshape(shape)).clip(-127, 127).astype(np.int8)
    sums = np.rint(bias / (scale * np.float32(source))).astype(np.int32)
    return (
        Held(weight.shape, integers.dtype, integers, tuple(scale), dimension=dimension),
        Held(bias.shape, sums.dtype, sums, tuple(scale * source)),
    )


class _Writer:
    """Builds the FlatBuffer of a model from its end to its beginning, as FlatBuffers are built.

    The numbers of the fields are those of TensorFlow Lite's schema, version 3.
    """

    def __init__(self, description: str) -> None:
        self._builder = flatbuffers.Builder(2**16)
        self._stored: dict[tuple[object, ...], int] = {}
        self._buffers = [self._table(1)]  # the first is empty: activations
        self._tensors: list[int] = []
        self._constants: dict[tuple[object, ...], int] = {}
        self._operators: list[int] = []
        self._codes: list[Kind | Literal["dequantize"]] = []
        self._metadata: list[int] = []
        self._description = self._builder.CreateString(description)

    def tensor(self, held: Held, name: str = "") -> int:
        """Add a tensor; returns its number. Equal constants without a scale are stored once."""
        key = (held.shape, held.type, held.content.tobytes()) if held.content is not None and not held.scale else None
        if key in self._constants:
            return self._constants[key]
        builder = self._builder
        buffer = 0
        if held.content is not None:
            buffer = len(self._buffers)
            self._buffers.append(self._buffer(np.ascontiguousarray(held.content).tobytes()))
        shape = self._vector(np.array(held.shape, np.int32))
        called = builder.CreateString(name) if name else 0
        quantisation = self._quantisation(held) if held.scale else 0
        self._tensors.append(
            self._table(
                9,
                (0, builder.PrependUOffsetTRelativeSlot, shape),
                (1, builder.PrependInt8Slot, _TYPES[held.type]),
                (2, builder.PrependUint32Slot, buffer),
                (3, builder.PrependUOffsetTRelativeSlot, called),
                (4, builder.PrependUOffsetTRelativeSlot, quantisation),
            )
        )
        number = len(self._tensors) - 1
        if key is not None:
            self._constants[key] = number
        return number

    def half(self, held: Held) -> int:
        """Add a tensor in 16-bit floating point and the operator that widens it; returns the number of the result."""
        source = self.tensor(held)
        result = self.tensor(Held(held.shape, np.dtype(np.float32)))
        self._operation("dequantize", [source], result)
        return result

    def operator(self, operator: Operator, inputs: Sequence[int], output: int, channels: int) -> None:
        """Add an operator whose result has `channels`."""
        builder = self._builder
        stride, fused = operator.stride, _FUSED[operator.fused]
        slots: list[tuple[int, Callable[[int, int, int], None], int]]
        match operator.kind:  # padding is SAME, which is the default
            case "conv":
                slots = [(1, builder.PrependInt32Slot, stride), (2, builder.PrependInt32Slot, stride)]
                slots.append((3, builder.PrependInt8Slot, fused))
                self._operation("conv", inputs, output, 1, self._table(6, *slots))
            case "depthwise":
                slots = [(slot, builder.PrependInt32Slot, stride) for slot in (1, 2)]
                slots += [(3, builder.PrependInt32Slot, 1), (4, builder.PrependInt8Slot, fused)]
                self._operation("depthwise", inputs, output, 2, self._table(7, *slots))
            case "max_pool":
                slots = [(slot, builder.PrependInt32Slot, stride) for slot in (1, 2, 3, 4)]
                self._operation("max_pool", inputs, output, 5, self._table(6, *slots))
            case "mean":
                keep = self._table(1, (0, builder.PrependBoolSlot, 1))
                self._operation("mean", inputs, output, 27, keep)
            case "add":
                self._operation("add", inputs, output, 11, self._table(2))
            case "mul":
                self._operation("mul", inputs, output, 21, self._table(1))
            case "reshape":
                wanted = self._vector(np.array([1, channels], np.int32))
                shape = self._table(1, (0, builder.PrependUOffsetTRelativeSlot, wanted))
                self._operation("reshape", inputs, output, 17, shape)
            case "hard_swish":
                self._operation("hard_swish", inputs, output)

    def lay_out(self, offsets: Mapping[int, int]) -> None:
        """Say where TensorFlow Lite Micro puts each activation; the offsets are by number of the tensor."""
        content = [_LAYOUT_VERSION, 0, len(self._tensors), *(offsets.get(n, -1) for n in range(len(self._tensors)))]
        self._buffers.append(self._buffer(np.array(content, np.int32).tobytes()))
        name, builder = self._builder.CreateString("OfflineMemoryAllocation"), self._builder
        self._metadata.append(
            self._table(
                2,
                (0, builder.PrependUOffsetTRelativeSlot, name),
                (1, builder.PrependUint32Slot, len(self._buffers) - 1),
            )
        )

    def finish(self, inputs: Sequence[int], outputs: Sequence[int]) -> bytes:
        """The file."""
        builder = self._builder
        ends = [self._vector(np.array(numbers, np.int32)) for numbers in (inputs, outputs)]
        tensors, operators = self._offsets(self._tensors), self._offsets(self._operators)
        graph = self._table(
            5,
            *(
                (slot, builder.PrependUOffsetTRelativeSlot, offset)
                for slot, offset in enumerate((tensors, *ends, operators))
            ),
        )
        graphs = self._offsets([graph])
        codes = self._offsets([self._code(*_CODES[kind]) for kind in self._codes])
        buffers = self._offsets(self._buffers)
        metadata = self._offsets(self._metadata) if self._metadata else 0
        model = self._table(
            8,
            (0, builder.PrependUint32Slot, 3),
            (1, builder.PrependUOffsetTRelativeSlot, codes),
            (2, builder.PrependUOffsetTRelativeSlot, graphs),
            (3, builder.PrependUOffsetTRelativeSlot, self._description),
            (4, builder.PrependUOffsetTRelativeSlot, buffers),
            (6, builder.PrependUOffsetTRelativeSlot, metadata),
        )
        builder.Finish(model, b"TFL3")
        return bytes(builder.Output())

    def _operation(
        self, kind: Kind | Literal["dequantize"], inputs: Sequence[int], output: int, union: int = 0, options: int = 0
    ) -> None:
        if kind not in self._codes:
            self._codes.append(kind)
        builder = self._builder
        ends = [self._vector(np.array(numbers, np.int32)) for numbers in (inputs, [output])]
        self._operators.append(
            self._table(
                5,
                (0, builder.PrependUint32Slot, self._codes.index(kind)),
                (1, builder.PrependUOffsetTRelativeSlot, ends[0]),
                (2, builder.PrependUOffsetTRelativeSlot, ends[1]),
                (3, builder.PrependUint8Slot, union),
                (4, builder.PrependUOffsetTRelativeSlot, options),
            )
        )

    def _code(self, number: int, version: int) -> int:
        builder = self._builder
        return self._table(
            4,
            (0, builder.PrependInt8Slot, number),
            (2, lambda slot, value, _: builder.PrependInt32Slot(slot, value, 1), version),
            (3, builder.PrependInt32Slot, number),
        )

    def _quantisation(self, held: Held) -> int:
        builder = self._builder
        scale = self._vector(np.array(held.scale, np.float32))
        zero = self._vector(np.full(len(held.scale), held.zero, np.int64))
        key = ("quantisation", scale, zero, held.dimension)
        if key not in self._stored:
            self._stored[key] = self._table(
                7,
                (2, builder.PrependUOffsetTRelativeSlot, scale),
                (3, builder.PrependUOffsetTRelativeSlot, zero),
                (6, builder.PrependInt32Slot, held.dimension),
            )
        return self._stored[key]

    def _table(self, fields: int, *slots: tuple[int, Callable[[int, int, int], None], int]) -> int:
        """Write a table of `fields` fields; those that are absent or 0 take no space."""
        self._builder.StartObject(fields)
        for slot, write, value in slots:
            write(slot, value, 0)
        return int(self._builder.EndObject())

    def _vector(self, values: NDArray[np.generic]) -> int:
        key = (values.dtype.str, values.tobytes())
        if key not in self._stored:
            self._stored[key] = int(self._builder.CreateNumpyVector(values))
        return self._stored[key]

    def _buffer(self, content: bytes) -> int:
        """Weights, which runtimes use where they lie and want aligned to 16 bytes."""
        builder = self._builder
        builder.StartVector(1, len(content), 16)
        builder.head -= len(content)
        builder.Bytes[builder.head : builder.head + len(content)] = content
        vector = builder.EndVector()
        return self._table(1, (0, builder.PrependUOffsetTRelativeSlot, vector))

    def _offsets(self, tables: Sequence[int]) -> int:
        builder = self._builder
        builder.StartVector(4, len(tables), 4)
        for table in reversed(tables):
            builder.PrependUOffsetTRelative(table)
        return int(builder.EndVector())
