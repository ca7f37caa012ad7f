"""The operators of a network as small runtimes execute them: channels last, activations fused into convolutions.

They are read from ``model.onnx``, so whatever was checked or improved there holds here as well. Three changes keep the
files small and the activations few, without changing the function:

- The gate of a squeeze-and-excite block is ``relu6(x + 3)``, which a convolution computes by itself; the missing
  division by 6 is moved into the weights of the convolution that follows.
- Convolutions of stride 2 pad as ``SAME`` does in TensorFlow Lite. On maps with an even side this is asymmetric, so the
  kernel gets a row and a column of zeros instead of the map getting a padded copy.
- The mean of the training images is subtracted by a depthwise convolution, because a padded border has to be zero
  after the subtraction, not before.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from nat2.deploy.onnx_graph import INPUT, OUTPUT
from nat2.errors import CheckpointError
from nat2.space.macro import reduced

Kind = Literal["conv", "depthwise", "hard_swish", "mean", "add", "mul", "max_pool", "reshape"]
Fused = Literal["none", "relu", "relu6"]
Weights = NDArray[np.float64]

Ranges = Mapping[str, tuple[float, float]]
"""Smallest and largest value of each activation, by name."""
SCORES = "scores"
"""The logits before they are reshaped."""
GATE = 6.0
"""Factor between ``relu6(x + 3)`` and a hard sigmoid."""


@dataclass(frozen=True)
class Map:
    """The shape of a square feature map."""

    side: int
    channels: int

    @property
    def values(self) -> int:
        """How many values it has."""
        return self.side**2 * self.channels


@dataclass(frozen=True)
class Operator:
    """One operator."""

    kind: Kind
    inputs: tuple[str, ...]
    output: str
    weight: Weights | None = None
    """Of a convolution, shape (out, height, width, in); of a depthwise one, (1, height, width, channels)."""
    bias: Weights | None = None
    """Shape (out,)."""
    stride: int = 1
    """Of convolutions and pooling; pooling windows are as large."""
    fused: Fused = "none"
    """Activation applied to the result."""


@dataclass
class OperatorGraph:
    """Operators in order of execution, with the shapes of everything they read and write."""

    operators: list[Operator] = field(default_factory=list)
    maps: dict[str, Map] = field(default_factory=dict)
    """Shape of each activation by name; the names are those of ``model.onnx``."""
    factors: dict[str, float] = field(default_factory=dict)
    """How many times larger an activation is here than in ``model.onnx``; absent if it is the same."""
    classes: tuple[str, ...] = ()

    def add(self, operator: Operator, shape: Map) -> None:
        """Append an operator and the shape of its result."""
        self.operators.append(operator)
        self.maps[operator.output] = shape

    @property
    def output(self) -> str:
        """Name of the logits."""
        return self.operators[-1].output

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the convolutions as they run here, added rows of zeros included."""
        return sum(
            each.weight.size * self.maps[each.output].side ** 2 for each in self.operators if each.weight is not None
        )


def read_model(source: Path) -> onnx.ModelProto:
    """An exported network, checked.

    Args:
        source: Its ``model.onnx``.

    Raises:
        CheckpointError: the file cannot be read.
    """
    try:
        model = onnx.load(source)
        onnx.checker.check_model(model)
    except Exception as error:  # whatever onnx raises for a damaged file
        raise CheckpointError(f"{source} cannot be read ({error}); export the network again") from error
    return model


def read_operators(model: onnx.ModelProto) -> OperatorGraph:
    """The operators of an exported network.

    Raises:
        CheckpointError: the model holds operators that exported networks do not have.
    """
    try:
        return _Reader(model).graph()
    except CheckpointError:
        raise
    except Exception as error:  # whatever a foreign graph lacks
        raise CheckpointError(f"this is no network of nat2 ({error}); export it again") from error


class _Reader:
    """Goes through the nodes of an ONNX graph once, in order."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._nodes = list(model.graph.node)
        self._stored = {each.name: numpy_helper.to_array(each).astype(np.float64) for each in model.graph.initializer}
        self._readers = Counter(name for node in self._nodes for name in node.input)
        self._by_output = {node.output[0]: node for node in self._nodes}
        self._renamed: dict[str, str] = {}  # flattened maps are the maps themselves
        self._graph = OperatorGraph()
        dims = model.graph.input[0].type.tensor_type.shape.dim
        self._graph.maps[INPUT] = Map(dims[2].dim_value, dims[1].dim_value)
        names = {each.key: each.value for each in model.metadata_props}
        self._graph.classes = tuple(json.loads(names.get("classes", "[]")))

    def graph(self) -> OperatorGraph:
        """The whole graph; the logits are reshaped to (1, classes) at the end."""
        position = 0
        while position < len(self._nodes):
            node = self._nodes[position]
            following = self._nodes[position + 1] if position + 1 < len(self._nodes) else None
            position += self._take(node, following)
        logits = self._graph.operators[-1]
        assert logits.output == OUTPUT
        self._graph.operators[-1] = replace(logits, output=SCORES)
        self._graph.maps[SCORES] = self._graph.maps[OUTPUT]
        self._graph.add(Operator("reshape", (SCORES,), OUTPUT), self._graph.maps[OUTPUT])
        return self._graph

    def _take(self, node: onnx.NodeProto, following: onnx.NodeProto | None) -> int:
        """Translate a node; returns how many nodes were used up."""
        inputs = tuple(self._renamed.get(name, name) for name in node.input)
        output, kind = node.output[0], node.op_type
        first = self._graph.maps.get(inputs[0])
        if first is None:
            raise CheckpointError(
                f"operator {kind} reads {inputs[0]}, which no operator writes; export the network again"
            )
        match kind:
            case "Sub":
                mean = self._stored[inputs[1]].reshape(-1)
                ones = np.ones((1, 1, 1, len(mean)))
                self._graph.add(Operator("depthwise", inputs[:1], output, ones, -mean), first)
            case "Conv":
                return self._conv(node, inputs, first, following)
            case "HardSigmoid":  # times its own input
                assert following is not None
                if following.op_type != "Mul" or set(following.input) != {inputs[0], output}:
                    raise CheckpointError("a hard sigmoid is used in an unknown way; export the network again")
                self._graph.add(Operator("hard_swish", inputs, following.output[0]), first)
                return 2
            case "Mul":
                self._graph.factors[output] = self._graph.factors.get(inputs[1], 1.0)
                self._graph.add(Operator("mul", inputs, output), first)
            case "Add":
                self._graph.add(Operator("add", inputs, output), first)
            case "GlobalAveragePool":
                self._graph.add(Operator("mean", inputs, output), Map(1, first.channels))
            case "MaxPool":
                (stride,) = {*_ints(node, "strides")}
                shape = Map(reduced(first.side, stride), first.channels)
                self._graph.add(Operator("max_pool", inputs, output, stride=stride), shape)
            case "Flatten":
                self._renamed[output] = inputs[0]
            case "MatMul":
                weight = self._stored[inputs[1]].T
                bias = np.zeros(len(weight))
                self._graph.add(_dense(inputs[0], output, weight, bias), Map(1, len(weight)))
            case "Gemm":
                weight, bias = self._stored[inputs[1]], self._stored[inputs[2]]
                self._graph.add(_dense(inputs[0], output, weight, bias), Map(1, len(weight)))
            case _:
                raise CheckpointError(f"operator {kind} is not one that exported networks have")
        return 1

    def _conv(self, node: onnx.NodeProto, inputs: tuple[str, ...], first: Map, following: onnx.NodeProto | None) -> int:
        """A convolution with the activation after it, if that can be fused."""
        weight, bias, output = self._stored[inputs[1]], self._stored[inputs[2]], node.output[0]
        stride, padding = _ints(node, "strides")[0], _ints(node, "pads")[0]
        depthwise = _ints(node, "group")[0] > 1 or (weight.shape[:2] == (1, 1) and first.channels == 1)
        weight = weight.transpose(1, 2, 3, 0) if depthwise else weight.transpose(0, 2, 3, 1)
        weight = _as_same(weight / self._graph.factors.get(inputs[0], 1.0), first.side, stride, padding)
        fused: Fused = "none"
        used = 1
        if following is not None and list(following.input) == [output] and self._readers[output] == 1:
            if following.op_type == "Relu":
                fused, output, used = "relu", following.output[0], 2
            elif following.op_type == "HardSigmoid":  # read once: a gate
                fused, output, used, bias = "relu6", following.output[0], 2, bias + GATE / 2
                self._graph.factors[output] = GATE
        kind: Kind = "depthwise" if depthwise else "conv"
        shape = Map(reduced(first.side, stride), len(bias))
        self._graph.add(Operator(kind, inputs[:1], output, weight, bias, stride, fused), shape)
        return used


def _ints(node: onnx.NodeProto, name: str) -> list[int]:
    (found,) = (each for each in node.attribute if each.name == name)
    return list(found.ints) or [found.i]


def _dense(source: str, output: str, weight: Weights, bias: Weights) -> Operator:
    """A linear layer as a convolution of a single pixel, which every runtime quantises per channel."""
    return Operator("conv", (source,), output, weight[:, None, None, :], bias)


def _as_same(weight: Weights, side: int, stride: int, padding: int) -> Weights:
    """A kernel that does with ``SAME`` padding what it did with `padding` on all sides."""
    if _before(side, stride, weight.shape[1]) != padding:
        weight = np.pad(weight, ((0, 0), (0, 1), (0, 1), (0, 0)))
    if _before(side, stride, weight.shape[1]) != padding:
        raise CheckpointError(
            f"a kernel of {weight.shape[1]} with padding {padding} and stride {stride} on {side} pixels is unknown; "
            "export the network again"
        )
    return weight


def _before(side: int, stride: int, kernel: int) -> int:
    """Rows that ``SAME`` padding adds in front."""
    return max(0, (reduced(side, stride) - 1) * stride + kernel - side) // 2
