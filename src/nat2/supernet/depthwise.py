"""Depthwise convolution that does not compute what cannot count, and learns faster on processors.

oneDNN, with which torch computes on x86 processors, has a depthwise form of the weights' gradient for kernels up to
three columns wide only, no narrower than the stride, on maps no smaller than the kernel. Others take the form for
general convolutions, sixteen channels by sixteen, and a 5 x 5 or 7 x 7 kernel costs twenty times what a 3 x 3 does.
Their gradient is therefore computed up to three columns at a time: the same numbers but for the order of summation.
``benchmarks/depthwise.py`` measures what that gains.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

_COLUMNS = {(5, 1): (3, 2), (5, 2): (3, 2), (7, 1): (3, 1, 3), (7, 2): (3, 2, 2)}
"""How the columns of a kernel are split, by its size and stride: at most three at a time, no fewer than the stride."""
_SMALLEST = 2**16
"""Values of an input below which the additional calls cost more than they gain."""
_CHUNK = 2**21
"""Values of the input worked on at once, so that they are still in the cache for the next columns."""


def depthwise(x: Tensor, weight: Tensor, *, stride: int) -> Tensor:
    """Depthwise convolution padded by half the kernel, shape (N, C, H, W), kernels (C, 1, k, k).

    On a map of H pixels only the 2H - 1 central taps ever meet a pixel; the others would multiply padding, and the
    last stages of small images are all such maps.
    """
    size = weight.shape[-1]
    padding = useful_padding(size // 2, max(x.shape[2:]))
    unused = size // 2 - padding
    if unused:
        weight = weight[:, :, unused:-unused, unused:-unused]
    if weight.requires_grad and (weight.shape[-1], stride) in _COLUMNS and _columns_pay(x):
        result: Tensor = _DepthwiseByColumns.apply(x, weight, stride, padding)  # type: ignore[no-untyped-call]
        return result
    return F.conv2d(x, weight, stride=stride, padding=padding, groups=len(weight))


def useful_padding(padding: int, side: int) -> int:
    """The padding, half the kernel, beyond which no tap of the kernel ever meets a pixel of a map."""
    return min(padding, side - 1)


def _columns_pay(x: Tensor) -> bool:
    return (
        not torch.compiler.is_compiling()  # first: while a network is exported its sizes are not numbers
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
        and x.numel() >= _SMALLEST
    )


class _Context(Protocol):
    """What the forward pass leaves for the backward pass."""

    stride: int
    padding: int
    needs_input_grad: tuple[bool, ...]
    saved_tensors: tuple[Tensor, Tensor]

    def save_for_backward(self, x: Tensor, weight: Tensor, /) -> None: ...


class _DepthwiseByColumns(torch.autograd.Function):
    """A depthwise convolution whose weights' gradient is computed a few columns of the kernel at a time."""

    @staticmethod
    def forward(ctx: _Context, x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(x, weight, stride=stride, padding=padding, groups=len(weight))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: _Context, gradient: Tensor) -> tuple[Tensor | None, Tensor, None, None]:
        x, weight = ctx.saved_tensors
        of_input = _input_gradient(gradient, x, weight, ctx.stride, ctx.padding) if ctx.needs_input_grad[0] else None
        return of_input, _weights_gradient(gradient, x, weight, ctx.stride, ctx.padding), None, None


def _input_gradient(gradient: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    if stride == 1:  # a convolution with the kernels turned around, for which the forward pass is the faster one
        return F.conv2d(gradient, weight.flip(2, 3), padding=padding, groups=len(weight))
    return _convolution_backward(gradient, x, weight, stride, (padding, padding), (True, False, False))[0]


def _weights_gradient(gradient: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    size, images = weight.shape[-1], max(1, _CHUNK // max(1, x.shape[1:].numel()))
    below, beside = (stride * (g - 1) - have - padding for g, have in zip(gradient.shape[2:], x.shape[2:], strict=True))
    by_hand = stride > 1 or x.shape[2] < size  # where the depthwise form does not pad rows itself
    rows = (padding, below + size) if by_hand else (0, 0)
    padded = (0 if by_hand else padding, 0)
    total = torch.zeros_like(weight)
    for some, some_gradient in zip(torch.split(x, images), torch.split(gradient, images), strict=True):
        first = 0
        for columns in _COLUMNS[size, stride]:
            part = slice(first, first + columns)
            # What these columns of the kernel meet of the map, zeros beyond its edges.
            edges = (padding - first, beside + first + columns, *rows)
            met = F.pad(some, edges) if any(edges) else some
            wanted = (False, True, False)
            total[..., part] += _convolution_backward(some_gradient, met, weight[..., part], stride, padded, wanted)[1]
            first += columns
    return total


def _convolution_backward(
    gradient: Tensor, x: Tensor, weight: Tensor, stride: int, padding: tuple[int, int], wanted: tuple[bool, bool, bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """Torch's own backward pass: gradients of input, weights and bias, as far as they are wanted."""
    gradients: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.convolution_backward(
        gradient, x, weight, None, (stride, stride), padding, (1, 1), False, (0, 0), len(weight), wanted
    )
    return gradients
