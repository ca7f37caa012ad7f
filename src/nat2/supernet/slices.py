"""Slices of shared weights, whose gradients are accumulated in place.

Torch's own backward pass of a slice fills a tensor of the whole weight with zeros, copies the slice's gradient into it
and adds all of it to the gradient so far: three kernels, and three passes over weights of which most are not used, for
every weight of every sub-network. Here only the slices are added, all slices of a layer in one call.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

Index = tuple[int | slice, ...]


def first(*counts: int) -> Index:
    """The index of the first entries of the leading dimensions."""
    return tuple(slice(count) for count in counts)


def sliced(wanted: Sequence[tuple[Tensor, Index]]) -> Sequence[Tensor]:
    """Parts of parameters for a forward pass: ``parameter[index]`` of each pair.

    In the backward pass their gradients are added to ``parameter.grad`` directly, the same numbers in the same order as
    torch adds them; ``torch.autograd.grad`` therefore does not see these parameters.
    """
    if not (torch.is_grad_enabled() and wanted[0][0].requires_grad):
        return [parameter[index] for parameter, index in wanted]
    parameters, indices = zip(*wanted, strict=True)
    parts: tuple[Tensor, ...] = _Slices.apply(indices, *parameters)  # type: ignore[no-untyped-call]
    return parts


class _Slices(torch.autograd.Function):
    """Slices of leaves, whose gradients are added in place."""

    @staticmethod
    def forward(ctx: Any, indices: Sequence[Index], *parameters: Tensor) -> tuple[Tensor, ...]:
        ctx.parameters, ctx.indices = parameters, indices
        return tuple([parameter[index] for parameter, index in zip(parameters, indices, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, ...]:
        totals = []
        for parameter, index in zip(ctx.parameters, ctx.indices, strict=True):
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            totals.append(parameter.grad[index])
        torch._foreach_add_(totals, gradients)
        return (None,) * (1 + len(gradients))
