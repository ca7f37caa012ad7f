"""An exported network in 8-bit integers: smaller, and on many devices faster."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from torch import Tensor

from nat2.deploy.export import answer, open_session
from nat2.deploy.onnx_graph import INPUT, OUTPUT, set_header
from nat2.errors import CheckpointError, Nat2Error
from nat2.files import write_bytes

IR_VERSION = 7
OPSET = 13  # the first whose QuantizeLinear has a scale for each channel


def quantise(source: Path, target: Path, batches: Iterable[Tensor]) -> None:
    """Write an ONNX file with weights and activations in 8 bits (static quantisation, by channel, QDQ format).

    Args:
        source: ``model.onnx`` of an exported network.
        target: Where to.
        batches: Training images (N, channels, R, R) of values 0..1 that calibrate the ranges of activations.

    Raises:
        CheckpointError: the source cannot be read.
        Nat2Error: the outputs of the result are not finite.
    """
    batches = list(batches)
    model = _at_opset_13(source)
    classes = [each for each in model.metadata_props if each.key == "classes"]
    with tempfile.TemporaryDirectory() as folder, _quiet():
        prepared, quantised = Path(folder) / "prepared.onnx", Path(folder) / "quantised.onnx"
        onnx.save(model, prepared)
        quantize_static(
            str(prepared),
            str(quantised),
            _Batches(batches),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            weight_type=QuantType.QInt8,
            activation_type=QuantType.QUInt8,
        )
        result = onnx.load(quantised)
    _shorten(result.graph)
    del result.metadata_props[:]
    result.metadata_props.extend(classes)
    set_header(result, ir_version=IR_VERSION)
    onnx.checker.check_model(result)
    write_bytes(target, result.SerializeToString(deterministic=True))
    if not torch.isfinite(answer(open_session(target), batches[0])).all():
        raise Nat2Error(f"{target} answers with numbers that are not finite; do without the 8-bit network")


def _at_opset_13(source: Path) -> onnx.ModelProto:
    """The network of an exported file with the opset that quantisation by channel needs.

    The operators of our networks are the same in both opsets.
    """
    try:
        model = onnx.load(source)
        onnx.checker.check_model(model)
    except Exception as error:  # whatever onnx makes of a damaged file
        raise CheckpointError(f"{source} cannot be read ({error}); export the network again") from error
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


class _Batches(CalibrationDataReader):  # type: ignore[misc]
    """Feeds batches to the quantiser."""

    def __init__(self, batches: Iterable[Tensor]) -> None:
        self._next: Callable[[], dict[str, NDArray[np.float32]] | None]
        inputs = iter([{"images": batch.contiguous().cpu().numpy()} for batch in batches])
        self._next = lambda: next(inputs, None)

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        return self._next()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the quantiser: it recommends on the root logger what has already been done."""
    root = logging.getLogger()
    level, root.level = root.level, logging.ERROR
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        root.level = level
