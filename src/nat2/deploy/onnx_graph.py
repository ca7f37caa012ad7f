"""The ONNX graph of a network, built operator by operator so that the file contains nothing but the network.

Batch norms are folded into the convolutions in front of them, in float64. IR version 4 and opset 9 are those of ONNX
1.4 (2019), the first in which weights need not be declared as inputs, so old runtimes read the files too. Hard-swish
became an operator only with opset 14, so it is written as a product with a hard sigmoid, which is also how ONNX Runtime
computes it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from torch import Tensor, nn

from nat2 import __version__
from nat2.deploy.deployable import Deployable
from nat2.space.macro import Activation, reduced
from nat2.supernet.depthwise import useful_padding
from nat2.supernet.static import Exit, MBConv, ParallelBlocks, SqueezeExcite, Stem

IR_VERSION = 4
OPSET = 9
INPUT, OUTPUT = "images", "logits"

Values = NDArray[np.float64]


def onnx_model(model: Deployable, *, classes: Sequence[str] = ()) -> onnx.ModelProto:
    """The ONNX model of a network: ``images`` (N, channels, R, R) of values 0..1 to ``logits`` (N, classes).

    The same network gives the same bytes if it is serialised deterministically.

    Args:
        model: In evaluation mode; the statistics of its batch norms become part of the weights.
        classes: Names of the classes, in the order of the logits; kept as a JSON list in the metadata ``classes``.
    """
    network = model.network
    graph = _Graph()
    _network(graph, model)
    graph.nodes[-1].output[0] = OUTPUT  # what is computed last
    side = network.arch.resolution
    images = helper.make_tensor_value_info(INPUT, onnx.TensorProto.FLOAT, ("batch", network.macro.channels, side, side))
    answers = helper.make_tensor_value_info(OUTPUT, onnx.TensorProto.FLOAT, ("batch", network.macro.classes))
    proto = helper.make_model(
        helper.make_graph(graph.nodes, "network", [images], [answers], graph.tensors),
        opset_imports=[helper.make_opsetid("", OPSET)],
    )
    if classes:
        helper.set_model_props(proto, {"classes": json.dumps(list(classes))})
    set_header(proto, ir_version=IR_VERSION)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def set_header(model: onnx.ModelProto, *, ir_version: int) -> None:
    """Set a model's IR version, and its producer: this package and its version."""
    model.ir_version = ir_version
    model.producer_name, model.producer_version = "nat2", __version__


_Attribute = float | Sequence[int]


class _Map(NamedTuple):
    """A square feature map: the name of its tensor, and its side."""

    name: str
    side: int


@dataclass
class _Graph:
    """Operators in order of execution; each has the name of its result."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    tensors: list[onnx.TensorProto] = field(default_factory=list)

    def add(self, operator: str, name: str, *inputs: str, **attributes: _Attribute) -> str:
        """Append an operator; returns the name of its result."""
        self.nodes.append(helper.make_node(operator, inputs, [name], name, **attributes))
        return name

    def map(self, operator: str, name: str, x: _Map, *others: _Map, **attributes: _Attribute) -> _Map:
        """Append an operator that keeps the side of the map."""
        return _Map(self.add(operator, name, x.name, *(each.name for each in others), **attributes), x.side)

    def hold(self, name: str, values: Values) -> str:
        """Store weights in float32; returns their name."""
        self.tensors.append(numpy_helper.from_array(np.ascontiguousarray(values, dtype=np.float32), name))
        return name

    def conv(
        self, name: str, x: _Map, weight: Values, bias: Values, *, stride: int = 1, padding: int = 0, groups: int = 1
    ) -> _Map:
        """A convolution that keeps the side of the map, or divides it by the stride."""
        stored = self.hold(f"{name}.weight", weight), self.hold(f"{name}.bias", bias)
        kernel = weight.shape[-1]
        shape: dict[str, _Attribute] = {
            "kernel_shape": [kernel] * 2,
            "strides": [stride] * 2,
            "pads": [padding] * 4,
            "group": groups,
        }
        return _Map(self.add("Conv", name, x.name, *stored, **shape), reduced(x.side, stride))


def _values(tensor: Tensor) -> Values:
    values: Values = tensor.detach().double().cpu().numpy()
    return values


def _affine(norm: nn.BatchNorm2d) -> tuple[Values, Values]:
    """Factor and offset per channel of a batch norm in evaluation mode."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    factor = _values(norm.weight) / np.sqrt(_values(norm.running_var) + norm.eps)
    return factor, _values(norm.bias) - _values(norm.running_mean) * factor


def _folded(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Values, Values]:
    """Weights and bias of a convolution with the batch norm after it."""
    factor, summand = _affine(norm)
    bias = summand if conv.bias is None else summand + factor * _values(conv.bias)
    return _values(conv.weight) * factor[:, None, None, None], bias


def _relu(graph: _Graph, name: str, x: _Map) -> _Map:
    return graph.map("Relu", f"{name}.relu", x)


def _hardsigmoid(graph: _Graph, name: str, x: _Map) -> _Map:
    return graph.map("HardSigmoid", f"{name}.hardsigmoid", x, alpha=1 / 6, beta=0.5)


def _hardswish(graph: _Graph, name: str, x: _Map) -> _Map:
    return graph.map("Mul", f"{name}.hardswish", x, _hardsigmoid(graph, name, x))


ACTIVATIONS: dict[Activation, Callable[[_Graph, str, _Map], _Map]] = {"relu": _relu, "hswish": _hardswish}


def _network(graph: _Graph, model: Deployable) -> _Map:
    network = model.network
    x = _stem(graph, model)
    answers = []
    for number, stage in enumerate(network.stages, 1):
        x = _stage(graph, f"stages.{number - 1}", x, stage, dense=network.macro.dense_skips)
        if number in network.exit_numbers:
            share = float(model.weights[network.exit_numbers.index(number)])
            answers.append(_exit(graph, f"exits.{number}", x, network.exits[str(number)], share))
    return _sum(graph, "answers", answers)


def _sum(graph: _Graph, name: str, parts: Sequence[_Map]) -> _Map:
    total = parts[0]
    for number, part in enumerate(parts[1:], 1):
        total = graph.map("Add", f"{name}.sum{number}", total, part)
    return total


def _stem(graph: _Graph, model: Deployable) -> _Map:
    """Normalisation, the first convolution and the block after it.

    The deviation is folded into the weights. The mean cannot be, because the convolution pads with zeros, which must
    represent the mean.
    """
    stem: Stem = model.network.stem
    mean = _Map(graph.hold("mean", _values(model.mean)), 1)
    x = graph.map("Sub", "centred", _Map(INPUT, model.network.arch.resolution), mean)
    weight, bias = _folded(stem.conv, stem.bn)
    x = graph.conv("stem.conv", x, weight / _values(model.std), bias, stride=stem.conv.stride[0], padding=1)
    return _mbconv(graph, "stem.block", _hardswish(graph, "stem.conv", x), stem.block)


def _stage(graph: _Graph, name: str, x: _Map, layers: nn.Module, *, dense: bool) -> _Map:
    """The layers of a stage; with dense skips the outputs of all but the last two are added to the last (OFAv2)."""
    outputs: list[_Map] = []
    for position, layer in enumerate(layers.children()):
        part = f"{name}.{position}"
        if isinstance(layer, ParallelBlocks):
            x = _parallel(graph, part, x, layer)
        else:
            assert isinstance(layer, MBConv)
            x = _mbconv(graph, part, x, layer)
        if dense:
            outputs.append(x)
            x = _sum(graph, f"{name}.{position}.dense", [x, *outputs[:-2]])
    return x


def _mbconv(graph: _Graph, name: str, x: _Map, block: MBConv) -> _Map:
    activate, y = ACTIVATIONS[block.activation], x
    if isinstance(block.expand, nn.Conv2d):
        y = activate(graph, f"{name}.expand", graph.conv(f"{name}.expand", y, *_folded(block.expand, block.expand_bn)))
    weight, bias = _folded(block.depthwise, block.depthwise_bn)
    half = weight.shape[-1] // 2
    padding = useful_padding(half, y.side)
    met = slice(half - padding, half + padding + 1)
    y = graph.conv(
        f"{name}.depthwise", y, weight[:, :, met, met], bias, stride=block.stride, padding=padding, groups=len(weight)
    )
    y = activate(graph, f"{name}.depthwise", y)
    if block.se is not None:
        y = _squeeze_excite(graph, f"{name}.se", y, block.se)
    y = graph.conv(f"{name}.project", y, *_folded(block.project, block.project_bn))
    return graph.map("Add", f"{name}.residual", x, y) if block.residual else y


def _squeeze_excite(graph: _Graph, name: str, x: _Map, block: SqueezeExcite) -> _Map:
    gate = _mean(graph, name, x)
    for part, conv, activate in (("reduce", block.reduce, _relu), ("expand", block.expand, _hardsigmoid)):
        assert conv.bias is not None
        gate = graph.conv(f"{name}.{part}", gate, _values(conv.weight), _values(conv.bias))
        gate = activate(graph, f"{name}.{part}", gate)
    return graph.map("Mul", f"{name}.scaled", x, gate)


def _mean(graph: _Graph, name: str, x: _Map) -> _Map:
    return _Map(graph.add("GlobalAveragePool", f"{name}.mean", x.name), 1)


def _parallel(graph: _Graph, name: str, x: _Map, layer: ParallelBlocks) -> _Map:
    activate, stride, parts = ACTIVATIONS[layer.shape.activation], layer.shape.stride, []
    if layer.mbconv is not None:
        parts.append(_mbconv(graph, f"{name}.mbconv", x, layer.mbconv))
    if isinstance(layer.conv, nn.Conv2d):
        y = graph.conv(f"{name}.conv", x, *_folded(layer.conv, layer.conv_bn), stride=stride)
        parts.append(activate(graph, f"{name}.conv", y))
    if layer.transforms:
        y = _pool(graph, f"{name}.pool", x, stride)
        if isinstance(layer.transform, nn.Conv2d):
            y = graph.conv(f"{name}.transform", y, *_folded(layer.transform, layer.transform_bn))
        else:  # a batch norm alone, as a convolution of each channel with itself
            factor, summand = _affine(layer.transform_bn)
            y = graph.conv(f"{name}.transform", y, factor[:, None, None, None], summand, groups=len(factor))
        parts.append(activate(graph, f"{name}.transform", y))
    return _sum(graph, name, parts)


def _pool(graph: _Graph, name: str, x: _Map, stride: int) -> _Map:
    """Max pooling with rounded-up size, by padding at the end: ceil_mode needs opset 10."""
    if stride == 1:
        return x
    beyond = -x.side % stride
    shape = {"kernel_shape": [stride] * 2, "strides": [stride] * 2, "pads": [0, 0, beyond, beyond]}
    return _Map(graph.add("MaxPool", name, x.name, **shape), reduced(x.side, stride))


def _exit(graph: _Graph, name: str, x: _Map, module: nn.Module, share: float) -> _Map:
    """A classifier; its share in the joint answer is folded into its weights."""
    assert isinstance(module, Exit)
    y = graph.conv(f"{name}.expand", x, *_folded(module.expand, module.expand_bn))
    y = graph.map("Flatten", f"{name}.flat", _mean(graph, name, _hardswish(graph, f"{name}.expand", y)))
    weight = graph.hold(f"{name}.mix.weight", _values(module.mix.weight).T)
    y = _hardswish(graph, f"{name}.mix", _Map(graph.add("MatMul", f"{name}.mix", y.name, weight), 1))
    stored = (
        graph.hold(f"{name}.classifier.weight", share * _values(module.classifier.weight)),
        graph.hold(f"{name}.classifier.bias", share * _values(module.classifier.bias)),
    )
    return _Map(graph.add("Gemm", f"{name}.classifier", y.name, *stored, transB=1), 1)
