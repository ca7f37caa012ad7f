"""How accurate a network is that computes in 8-bit integers alone, simulated."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import Tensor

from nat2.deploy.deployable import Deployable
from nat2.deploy.onnx_graph import onnx_model
from nat2.deploy.rounded import RoundedGraph
from nat2.supernet.static import StaticNetwork


@torch.no_grad()
def error_in_integers(network: StaticNetwork, calibration: Tensor, batches: Iterable[Tensor], labels: Tensor) -> float:
    """Share of images that a network misclassifies in 8 bits, without any fine-tuning for them.

    Ranges and biases are chosen as for a file for microcontrollers (`nat2.deploy.ranges.in_integers`).

    Args:
        network: With statistics in its batch norms.
        calibration: Normalised training images (N, channels, R, R), by which ranges are chosen; some dozens.
        batches: Such images to classify.
        labels: Their classes, in order.
    """
    channels = calibration.shape[1]
    model = Deployable(copy.deepcopy(network).cpu().eval(), [0.0] * channels, [1.0] * channels)
    graph = RoundedGraph(onnx_model(model).graph).to(calibration.device)
    graph.make_whole([calibration])
    answers = torch.cat([graph(batch).argmax(1) for batch in batches])
    return float((answers != labels.to(answers.device)).double().mean())
