"""Depthwise convolution that skips taps on padding, with a faster backward pass on CPUs.

oneDNN, torch's backend on x86 CPUs, has a depthwise kernel for the weight gradient only if the convolution is at most
three columns wide and no narrower than the stride, on maps no smaller than the kernel. All others use the kernel for
general convolutions, sixteen channels by sixteen, so that 5 x 5 or 7 x 7 takes twenty times as long as 3 x 3.
Their gradient is therefore computed up to three columns at a time: the same numbers up to the order of summation.
``benchmarks/depthwise.py`` measures the gain.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

_COLUMNS = {(5, 1): (3, 2), (5, 2): (3, 2), (7, 1): (3, 1, 3), (7, 2): (3, 2, 2)}
"""How the columns of a kernel are split, by its size and stride: at most three at a time, no fewer than the stride."""
_SMALLEST = 2**16
"""Input values below which the additional calls cost more than they save."""
_CHUNK = 2**21
"""Input values processed at once, so that they are still in the cache for the next columns."""


def depthwise(x: Tensor, weight: Tensor, *, stride: int) -> Tensor:
    """Depthwise convolution padded by half the kernel, shape (N, C, H, W), kernels (C, 1, k, k).

    On a map of H pixels only the 2H - 1 central taps ever meet a pixel; the others only multiply padding. In the last
    stages of small images every map is that small.
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
        not torch.compiler.is_compiling()  # first, because sizes are symbolic during an export
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
        and x.numel() >= _SMALLEST
    )


class _Context(Protocol):
    """What the forward pass saves for the backward pass."""

    stride: int
    padding: int
    needs_input_grad: tuple[bool, ...]
    saved_tensors: tuple[Tensor, Tensor]

    def save_for_backward(self, x: Tensor, weight: Tensor, /) -> None: ...


class _DepthwiseByColumns(torch.autograd.Function):
    """A depthwise convolution whose weight gradient is computed a few columns of the kernel at a time."""

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
    if stride == 1:  # a convolution with flipped kernels, whose forward pass is faster
        return F.conv2d(gradient, weight.flip(2, 3), padding=padding, groups=len(weight))
    return _convolution_backward(gradient, x, weight, stride, (padding, padding), (True, False, False))[0]


def _weights_gradient(gradient: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    size, images = weight.shape[-1], max(1, _CHUNK // max(1, x.shape[1:].numel()))
    below, beside = (stride * (g - 1) - have - padding for g, have in zip(gradient.shape[2:], x.shape[2:], strict=True))
    by_hand = stride > 1 or x.shape[2] < size  # where the depthwise kernel does not pad rows itself
    rows = (padding, below + size) if by_hand else (0, 0)
    padded = (0 if by_hand else padding, 0)
    total = torch.zeros_like(weight)
    for some, some_gradient in zip(torch.split(x, images), torch.split(gradient, images), strict=True):
        first = 0
        for columns in _COLUMNS[size, stride]:
            part = slice(first, first + columns)
            # The part of the map that these columns of the kernel meet, zeros beyond its edges.
            edges = (padding - first, beside + first + columns, *rows)
            met = F.pad(some, edges) if any(edges) else some
            wanted = (False, True, False)
            total[..., part] += _convolution_backward(some_gradient, met, weight[..., part], stride, padded, wanted)[1]
            first += columns
    return total


def _convolution_backward(
    gradient: Tensor, x: Tensor, weight: Tensor, stride: int, padding: tuple[int, int], wanted: tuple[bool, bool, bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """Torch's backward pass: gradients of input, weights and bias, where requested."""
    gradients: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.convolution_backward(
        gradient, x, weight, None, (stride, stride), padding, (1, 1), False, (0, 0), len(weight), wanted
    )
    return gradients
