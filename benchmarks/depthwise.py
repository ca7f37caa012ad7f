"""Gradients of depthwise convolutions: ours beside torch's, for the shapes that occur in training.

About two minutes: ``python benchmarks/depthwise.py --json depthwise.json``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from table import Row, parser, ratio, show
from torch import Tensor
from torch.nn import functional as F

from nat2.allocator import keep_freed_memory
from nat2.supernet.depthwise import depthwise

SHAPES = ((48, 32, 1), (72, 16, 2), (144, 16, 1), (240, 8, 1), (480, 4, 1), (672, 4, 2))
"""Channels, side of the map, stride; batches of 128."""


def backward_of(convolve: Callable[[Tensor, Tensor, int], Tensor], shape: tuple[int, int, int], size: int) -> object:
    """A function that computes both gradients of a convolution, and has no other work."""
    channels, side, stride = shape
    x = torch.randn(128, channels, side, side).to(memory_format=torch.channels_last).requires_grad_()
    weight = torch.randn(channels, 1, size, size, requires_grad=True)
    y = convolve(x, weight, stride)
    factor = torch.randn_like(y)
    return lambda: torch.autograd.grad(y, (x, weight), factor, retain_graph=True)


def by_columns(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """Our depthwise convolution."""
    return depthwise(x, weight, stride=stride)


def plain(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """Torch's depthwise convolution."""
    return F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2, groups=len(weight))


def main() -> None:
    """Measure, print, write."""
    arguments = parser(str(__doc__).partition("\n")[0]).parse_args()
    keep_freed_memory()
    rows = []
    for shape in SHAPES:
        for size in (5, 7):
            ours, theirs = (backward_of(convolve, shape, size) for convolve in (by_columns, plain))
            value, seconds = ratio(ours, theirs, repeats=9)  # type: ignore[arg-type]
            channels, side, stride = shape
            name = f"backward, ours / torch ({size} x {size}, {channels} channels, {side} x {side}, stride {stride})"
            rows.append(Row(name, value, 0.8 if stride == 1 else None, detail=f"{1000 * seconds:.1f} ms"))
    show("Gradients of depthwise convolutions, batches of 128, float32", rows, arguments.json)


if __name__ == "__main__":
    main()
