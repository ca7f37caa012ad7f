"""Slices of shared weights, whose gradients are accumulated in place, all those of a sub-network together.

Torch's own backward pass of a slice fills a tensor of the whole weight with zeros, copies the slice's gradient into it
and adds all of it to the gradient so far: three kernels, and three passes over weights of which most are not used, for
every weight of every sub-network. Under autocast, one more converts it forwards, and one backwards. Here one autograd
function makes all slices, and a few multi-tensor kernels convert them and add their gradients.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

Index = tuple[int | slice, ...]


class Part(NamedTuple):
    """The part of a weight that a forward pass uses."""

    weight: Tensor
    place: Index = ()
    """Which part; all of it by default."""
    exact: bool = False
    """Whether it remains in float32 under autocast, as scale and shift of a batch norm do."""


def first(*counts: int) -> Index:
    """The index of the first entries of the leading dimensions."""
    return tuple(slice(count) for count in counts)


def autocast_type(device: torch.device) -> torch.dtype | None:
    """What autocast computes in on a device; None where it is off."""
    return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None


def sliced(parts: Sequence[Part]) -> Iterator[Tensor]:
    """The parts of parameters for a forward pass, in order: ``weight[place]`` of each.

    Those that are not exact have the type that autocast computes in. In the backward pass their gradients are added to
    ``weight.grad`` directly, the same numbers in the same order as torch adds them; ``torch.autograd.grad`` therefore
    does not see these weights.

    Args:
        parts: Of distinct weights, all on one device.
    """
    if not (torch.is_grad_enabled() and any(part.weight.requires_grad for part in parts)):
        return iter([part.weight[part.place] for part in parts])
    kind = autocast_type(parts[0].weight.device)
    made: tuple[Tensor, ...] = _Slices.apply(parts, kind, *[part.weight for part in parts])  # type: ignore[no-untyped-call]
    return iter(made)


class _Slices(torch.autograd.Function):
    """Slices of leaves, whose gradients are added in place."""

    @staticmethod
    def forward(ctx: Any, parts: Sequence[Part], kind: torch.dtype | None, *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.parts = parts
        ctx.set_materialize_grads(False)
        made = [weight[part.place] for part, weight in zip(parts, weights, strict=True)]
        if kind is not None:
            numbers = [number for number, part in enumerate(parts) if not part.exact]
            converted = _converted([made[number] for number in numbers], kind)
            for number, tensor in zip(numbers, converted, strict=True):
                made[number] = tensor
        return tuple(made)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[None, ...]:
        trained = [
            (part, gradient)
            for part, gradient, needed in zip(ctx.parts, gradients, ctx.needs_input_grad[2:], strict=True)
            if needed and gradient is not None
        ]
        fresh = [part.weight for part, _ in trained if part.weight.grad is None]
        zeros = [torch.empty_like(weight) for weight in fresh]
        if zeros:
            torch._foreach_zero_(zeros)
        for weight, gradient in zip(fresh, zeros, strict=True):
            weight.grad = gradient
        _add([(_gradient(part), gradient) for part, gradient in trained])
        return (None,) * (2 + len(gradients))


def _gradient(part: Part) -> Tensor:
    """The place of its gradient."""
    assert part.weight.grad is not None
    return part.weight.grad[part.place]


def _converted(tensors: Sequence[Tensor], kind: torch.dtype) -> list[Tensor]:
    """The tensors in another floating point type."""
    results = [torch.empty_like(tensor, dtype=kind) for tensor in tensors]
    for targets, sources in _together(list(zip(results, tensors, strict=True))):
        torch._foreach_copy_(targets, sources)
    return results


def _add(pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
    """Add to the first of each pair the second."""
    for targets, values in _together(pairs):
        kind = targets[0].dtype  # a multi-tensor kernel adds tensors of one type only
        torch._foreach_add_(targets, values if values[0].dtype == kind else _converted(values, kind))


def _together(pairs: Sequence[tuple[Tensor, Tensor]]) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
    """The pairs in groups: those that a multi-tensor kernel takes (one type and layout, no gaps), and the rest."""
    groups: dict[object, list[tuple[Tensor, Tensor]]] = {}
    for target, value in pairs:
        if target.stride() != value.stride():  # those of dimensions of one entry say nothing
            target, value = target.squeeze(), value.squeeze()
        alike = target.stride() == value.stride() and target.is_contiguous()
        groups.setdefault((value.dtype, alike), []).append((target, value))
    for group in groups.values():
        targets, values = zip(*group, strict=True)
        yield list(targets), list(values)
