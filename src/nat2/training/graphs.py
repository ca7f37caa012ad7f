"""CUDA graphs: what a GPU is asked for by a fixed function, recorded once and asked for again in one launch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from nat2.supernet.slices import autocast_type

_WARM_UP = 3  # calls before recording, in which libraries choose algorithms and allocate what they keep
_MOST = 8  # shapes of inputs that are recorded; each holds the memory of its intermediate results


class Replayed:
    """A function of one tensor on a GPU, recorded as a CUDA graph for each shape and layout of its input.

    The function must do the same whatever the values are, wait for nothing, copy nothing from or to the host, and need
    no gradients; what it reads besides its input must stay at its place in memory. After eight shapes, others are
    computed as usual.
    """

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        """Record nothing yet."""
        self._function = function
        self._recorded: dict[object, tuple[torch.cuda.CUDAGraph, Tensor, Tensor]] = {}

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        """The function's result, which later calls leave as it is."""
        device = x.device
        key = (x.shape, x.stride(), x.dtype, device, autocast_type(device))
        if key not in self._recorded:
            if len(self._recorded) == _MOST:
                return self._function(x)
            with torch.cuda.device(device):
                self._recorded[key] = self._record(x)
        graph, given, result = self._recorded[key]
        given.copy_(x)
        graph.replay()
        return result.clone()  # the next replay overwrites it

    def _record(self, x: Tensor) -> tuple[torch.cuda.CUDAGraph, Tensor, Tensor]:
        """The graph for inputs like this one, and where it reads its input and leaves its result."""
        given = x.clone()
        beside = torch.cuda.Stream(x.device)  # type: ignore[no-untyped-call]
        current = torch.cuda.current_stream(x.device)
        beside.wait_stream(current)
        with torch.cuda.stream(beside):
            for _ in range(_WARM_UP):
                self._function(given)
        current.wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        # Threads that read images may allocate pinned memory meanwhile.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            result = self._function(given)
        return graph, given, result
