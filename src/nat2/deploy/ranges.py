"""Ranges of the activations of a network on real images, which 8-bit integers have to cover."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import onnx
from torch import Tensor

from nat2.deploy.export import open_session
from nat2.deploy.onnx_graph import INPUT, OUTPUT
from nat2.deploy.operators import SCORES, Ranges
from nat2.errors import CheckpointError, Nat2Error


def activation_ranges(source: Path, batches: Iterable[Tensor]) -> Ranges:
    """Smallest and largest value of each activation of an exported network.

    Args:
        source: Its ``model.onnx``.
        batches: Training images (N, channels, R, R) of values 0..1.

    Raises:
        CheckpointError: the file cannot be read.
        Nat2Error: an activation is not finite.
    """
    try:
        model = onnx.load(source)
        names = [node.output[0] for node in model.graph.node]
        for name in names:
            if name != OUTPUT:
                model.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
        session = open_session(model.SerializeToString())
    except Exception as error:  # whatever onnx and ONNX Runtime raise for a damaged file
        raise CheckpointError(f"{source} cannot be read ({error}); export the network again") from error
    ranges: dict[str, tuple[float, float]] = {}
    for batch in batches:
        values = session.run(names, {INPUT: batch.contiguous().cpu().numpy()})
        for name, each in zip(names, values, strict=True):
            low, high = ranges.get(name, (float("inf"), float("-inf")))
            ranges[name] = min(low, float(each.min())), max(high, float(each.max()))
    if not all(abs(bound) < float("inf") for ends in ranges.values() for bound in ends):
        raise Nat2Error(f"{source}: activations are not finite; its training diverged")
    return ranges | {SCORES: ranges[OUTPUT]}
