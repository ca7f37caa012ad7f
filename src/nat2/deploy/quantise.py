"""An exported network in 8-bit integers: smaller, and on many devices faster."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from torch import Tensor

from nat2.deploy.export import answer, open_session
from nat2.deploy.onnx_graph import INPUT, OUTPUT, set_header
from nat2.deploy.operators import read_model
from nat2.deploy.rounded import JUDGED_BY, LARGEST, WEIGHTED, RoundedGraph, axis_of, scales_of
from nat2.errors import CheckpointError, Nat2Error
from nat2.files import write_bytes

IR_VERSION = 7
OPSET = 13  # the first whose QuantizeLinear has a scale for each channel


def quantise(
    source: Path, target: Path, batches: Iterable[Tensor], *, training: Iterable[Tensor] = (), steps: int = 0
) -> None:
    """Write an ONNX file with weights and activations in 8 bits (static quantisation, by channel, QDQ format).

    Args:
        source: ``model.onnx`` of an exported network.
        target: Where to.
        batches: Training images (N, channels, R, R) of values 0..1 that calibrate the ranges of activations.
        training: Such batches for the steps, at least as many.
        steps: Gradient steps of quantisation-aware fine-tuning.

    Raises:
        CheckpointError: the source cannot be read.
        Nat2Error: the outputs of the result are not finite.
    """
    batches = [batch.cpu() for batch in batches]
    model = _at_opset_13(source)
    graph = RoundedGraph(model.graph)
    graph.calibrate(batches)
    some = torch.cat(batches)[:JUDGED_BY]
    graph.refine(some)
    graph.spare(some)
    graph.correct_biases(some)
    graph.tune(training, steps=steps)
    result = _in_8_bits(model, graph)
    onnx.checker.check_model(result)
    write_bytes(target, result.SerializeToString(deterministic=True))
    if not torch.isfinite(answer(open_session(target), batches[0])).all():
        raise Nat2Error(f"{target} answers with numbers that are not finite; do without the 8-bit network")


def _in_8_bits(model: onnx.ModelProto, graph: RoundedGraph) -> onnx.ModelProto:
    """The model with rounded weights, and operators that round activations (QDQ format)."""
    rounding = _Rounding(graph)
    for node in graph.nodes:
        rounding.add(node)
    result = helper.make_model(
        helper.make_graph(rounding.nodes, "network", model.graph.input, model.graph.output, rounding.tensors),
        opset_imports=[helper.make_opsetid("", OPSET)],
    )
    _shorten(result.graph)
    result.metadata_props.extend(each for each in model.metadata_props if each.key == "classes")
    set_header(result, ir_version=IR_VERSION)
    return result


class _Rounding:
    """Operators of a graph, with those around them that convert between integers and floats."""

    def __init__(self, graph: RoundedGraph) -> None:
        """Start without operators."""
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[onnx.TensorProto] = []
        self._graph = graph

    def add(self, node: onnx.NodeProto) -> None:
        """Append an operator; not a ReLU that is rounded behind, because a range from 0 does the same."""
        name = node.output[0]
        span = self._graph.spans.get(name)
        if node.op_type != "Relu" or span is None:
            inputs = self._inputs(node)
            self.nodes.append(helper.make_node(node.op_type, inputs, [name], node.name))
            self.nodes[-1].attribute.extend(node.attribute)
        if span is None:
            return
        self.nodes[-1].output[0] = f"{name}.exact"
        scale = self._hold(f"{name}.scale", np.array(span.scale, np.float32))
        zero = self._hold(f"{name}.zero", np.array(span.zero, np.uint8))
        self._append("QuantizeLinear", f"{name}.rounded", f"{name}.exact", scale, zero)
        self._append("DequantizeLinear", name, f"{name}.rounded", scale, zero)

    def _inputs(self, node: onnx.NodeProto) -> list[str]:
        """The names of what an operator takes; weights become integers, and biases where the input is one."""
        graph, (first, *others) = self._graph, node.input
        stored = [graph.weight(name) for name in others]
        if node.op_type not in WEIGHTED:
            return [
                first,
                *(
                    name if each is None else self._hold(name, _array(each))
                    for name, each in zip(others, stored, strict=True)
                ),
            ]
        weight, *biases = [_array(each) for each in stored if each is not None]
        axis, span = axis_of(node.op_type), graph.spans.get(first)
        scales = _array(scales_of(torch.from_numpy(weight), axis))
        if biases and span is not None:  # an integer of a bias must not be too large for 32 bits
            scales = np.maximum(scales, np.abs(biases[0]) / (span.scale * 2**30)).astype(np.float32)
        shape = [-1 if place == axis else 1 for place in range(weight.ndim)]
        rounded = np.rint(weight / scales.reshape(shape)).clip(-LARGEST, LARGEST).astype(np.int8)
        inputs = [first, self._dequantised(others[0], rounded, scales, axis)]
        for name, bias in zip(others[1:], biases, strict=True):
            if span is None:
                inputs.append(self._hold(name, bias))
            else:
                steps = np.float32(span.scale) * scales
                inputs.append(self._dequantised(name, np.rint(bias / steps).astype(np.int32), steps, 0))
        return inputs

    def _dequantised(self, name: str, values: NDArray[np.generic], scales: NDArray[np.float32], axis: int) -> str:
        parts = (values, scales, np.zeros(len(scales), values.dtype))
        inputs = [
            self._hold(f"{name}.{part}", each)
            for part, each in zip(("integers", "scales", "zeros"), parts, strict=True)
        ]
        return self._append("DequantizeLinear", name, *inputs, axis=axis)

    def _append(self, operator: str, name: str, *inputs: str, **attributes: int) -> str:
        self.nodes.append(helper.make_node(operator, inputs, [name], **attributes))
        return name

    def _hold(self, name: str, values: NDArray[np.generic]) -> str:
        self.tensors.append(numpy_helper.from_array(values, name))
        return name


def _array(tensor: Tensor) -> NDArray[np.float32]:
    values: NDArray[np.float32] = tensor.detach().numpy()
    return values


def _at_opset_13(source: Path) -> onnx.ModelProto:
    """The network of an exported file with the opset that quantisation by channel needs.

    The operators of our networks are the same in both opsets.
    """
    model = read_model(source)
    if any(imported.version > OPSET for imported in model.opset_import):
        raise CheckpointError(f"{source} was written by an older version of nat2; export the network again")
    del model.opset_import[:]
    model.opset_import.append(onnx.helper.make_opsetid("", OPSET))
    return model


def _shorten(graph: onnx.GraphProto) -> None:
    """Number the tensors and store equal ones once: the quantiser's names take more bytes than a small network.

    Operators keep their names, except those that only convert between integers and floats.
    """
    del graph.value_info[:]
    names = {name: name for name in (INPUT, OUTPUT)}
    stored: dict[bytes, str] = {}
    tensors = list(graph.initializer)
    del graph.initializer[:]
    for tensor in tensors:
        name, tensor.name = tensor.name, ""
        content = tensor.SerializeToString(deterministic=True)
        if content not in stored:
            stored[content] = tensor.name = str(len(stored))
            graph.initializer.append(tensor)
        names[name] = stored[content]
    for node in graph.node:
        for place in (node.input, node.output):
            place[:] = [names.setdefault(name, str(len(names))) if name else "" for name in place]
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            node.name = ""


def accuracy_of(path: Path, batches: Iterable[Tensor], labels: Tensor) -> float:
    """Accuracy (0..1) of an ONNX file, given batches of values 0..1."""
    session = open_session(path)
    predicted = torch.cat([answer(session, batch).argmax(1) for batch in batches])
    return int((predicted == labels.cpu()).sum()) / len(labels)
