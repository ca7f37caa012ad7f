"""An exported network as a program of torch.export for one image, as converters for devices take it.

Batch norms are folded into the convolutions, as in ``model.onnx``, from which it is read. In 8 bits, the program says
by fake quantisation what is rounded and how.
"""

from __future__ import annotations

import io

import onnx
import torch
from torch import Tensor, nn

from nat2.deploy.export import quiet_exporter
from nat2.deploy.onnx_graph import INPUT
from nat2.deploy.operators import Ranges
from nat2.deploy.rounded import RoundedGraph, Span


class _Exact(nn.Module):
    def __init__(self, graph: RoundedGraph) -> None:
        super().__init__()
        self.rounded = graph  # not `graph`, as the attribute of a traced module is called

    def forward(self, images: Tensor) -> Tensor:
        return self.rounded.exact(images)


def program(model: onnx.ModelProto, ranges: Ranges | None = None) -> bytes:
    """The content of a ``.pt2`` file: ``images`` (1, channels, R, R) of values 0..1 to logits (1, classes).

    Args:
        model: An exported network.
        ranges: Of its activations, to round everything to 8 bits but gates (hard sigmoids); none to round nothing.
    """
    graph = RoundedGraph(model.graph).eval().requires_grad_(False)
    if ranges is not None:
        rounded = [node for node in graph.nodes if node.op_type != "HardSigmoid"]
        names = [node.output[0] for node in rounded if graph.users[node.output[0]] != ["Relu"]]
        graph.spans = {name: Span(min(0.0, ranges[name][0]), max(0.0, ranges[name][1])) for name in names}
    (given,) = (each for each in model.graph.input if each.name == INPUT)
    shape = [each.dim_value for each in given.type.tensor_type.shape.dim]
    content = io.BytesIO()
    with quiet_exporter(), torch.no_grad():
        exported = torch.export.export(_Exact(graph) if ranges is None else graph, (torch.zeros(1, *shape[1:]),))
        torch.export.save(exported, content)
    return content.getvalue()
