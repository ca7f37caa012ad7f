"""Runs the operators of a graph with torch, as TensorFlow Lite would."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from nat2.deploy.onnx_graph import INPUT
from nat2.deploy.operators import Operator, OperatorGraph


def run(graph: OperatorGraph, images: Tensor) -> dict[str, Tensor]:
    """Every activation, shape (N, channels, side, side), in double precision."""
    values = {INPUT: images.double()}
    for operator in graph.operators:
        inputs = [values[name] for name in operator.inputs]
        values[operator.output] = _fused(operator, _run(operator, inputs))
    return values


def _run(operator: Operator, inputs: list[Tensor]) -> Tensor:
    x = inputs[0]
    match operator.kind:
        case "conv" | "depthwise":
            assert operator.weight is not None
            assert operator.bias is not None
            weight, bias = torch.from_numpy(operator.weight), torch.from_numpy(operator.bias)
            depthwise = operator.kind == "depthwise"
            weight = weight.permute(3, 0, 1, 2) if depthwise else weight.permute(0, 3, 1, 2)
            x = F.pad(x, same(x.shape[-1], weight.shape[-1], operator.stride) * 2)
            return F.conv2d(x, weight, bias, operator.stride, groups=len(weight) if depthwise else 1)
        case "hard_swish":
            return F.hardswish(x)
        case "mean":
            return x.mean((2, 3), keepdim=True)
        case "add":
            return x + inputs[1]
        case "mul":
            return x * inputs[1]
        case "max_pool":
            padded = F.pad(x, same(x.shape[-1], operator.stride, operator.stride) * 2, value=-torch.inf)
            return F.max_pool2d(padded, operator.stride)
        case "reshape":
            return x


def _fused(operator: Operator, x: Tensor) -> Tensor:
    return {"none": x, "relu": x.relu(), "relu6": x.clamp(0, 6)}[operator.fused]


def same(side: int, kernel: int, stride: int) -> tuple[int, int]:
    """Rows of padding in front and behind, as ``SAME`` in TensorFlow Lite."""
    total = max(0, (-(-side // stride) - 1) * stride + kernel - side)
    return total // 2, total - total // 2
