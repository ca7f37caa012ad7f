"""A network with everything in 8 bits: the ranges that integers cover, and weights that make up for the rounding."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import onnx
from torch import Tensor

from nat2.deploy.export import open_session
from nat2.deploy.onnx_graph import INPUT, OUTPUT
from nat2.deploy.operators import SCORES, Ranges, read_model
from nat2.deploy.rounded import RoundedGraph
from nat2.errors import Nat2Error


def in_integers(
    source: Path, batches: Iterable[Tensor], *, training: Iterable[Tensor] = (), steps: int = 0
) -> tuple[onnx.ModelProto, Ranges]:
    """An exported network made ready for integers alone, as microcontrollers compute.

    Ranges are narrowed where that brings the logits nearer (`RoundedGraph.refine`), and biases give every channel the
    mean that it has in floating point.

    Args:
        source: Its ``model.onnx``.
        batches: Training images (N, channels, R, R) of values 0..1.
        training: Such batches for the steps, at least as many.
        steps: Gradient steps of quantisation-aware fine-tuning.

    Returns:
        The network, whose weights are still in floating point, and the ranges of its activations.

    Raises:
        CheckpointError: the file cannot be read.
        Nat2Error: an activation is not finite.
    """
    model, held = read_model(source), [batch.cpu() for batch in batches]
    ranges = activation_ranges(model, held)
    graph = RoundedGraph(model.graph)
    graph.make_whole(held)
    graph.tune(training, steps=steps)
    graph.store(model)
    return model, {**ranges, **{name: (span.low, span.high) for name, span in graph.spans.items()}}


def activation_ranges(model: onnx.ModelProto, batches: Iterable[Tensor]) -> Ranges:
    """Smallest and largest value of each activation of an exported network.

    Args:
        model: The network.
        batches: Training images (N, channels, R, R) of values 0..1.

    Raises:
        Nat2Error: an activation is not finite.
    """
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    names = [node.output[0] for node in watched.graph.node]
    for name in names:
        if name != OUTPUT:
            watched.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    session = open_session(watched.SerializeToString())
    ranges: dict[str, tuple[float, float]] = {}
    for batch in batches:
        values = session.run(names, {INPUT: batch.contiguous().cpu().numpy()})
        for name, each in zip(names, values, strict=True):
            low, high = ranges.get(name, (float("inf"), float("-inf")))
            ranges[name] = min(low, float(each.min())), max(high, float(each.max()))
    if not all(abs(bound) < float("inf") for ends in ranges.values() for bound in ends):
        raise Nat2Error("activations are not finite; the training of this network diverged")
    return ranges | {SCORES: ranges[OUTPUT]}
