"""A pretended GPU: tensors that say ``cuda:7`` and compute on the CPU.

What would fail on a GPU fails here: tensors of different devices in one operation, a generator of the CPU for numbers
of the GPU. Kernel launches, copies between host and device, and the moments at which the host waits for the device are
counted. It says what would be launched, not how long anything takes.

No compiler is needed. Torch itself sees `meta` tensors, whose autograd works in every build of torch; only Python sees
``cuda:7``. The values lie in a CPU tensor that each of them holds, and a dispatch mode computes with those.
"""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils import _foreach_utils
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

DEVICE = torch.device("cuda", 7)  # of which no real one has that number, so that nothing is mistaken for it
MEMORY = 2**30  # bytes that the pretended GPU has
_CPU, _META = torch.device("cpu"), torch.device("meta")


@dataclass
class Counts:
    """What a GPU would have been asked for since the counts began."""

    launches: Counter[str] = field(default_factory=Counter)
    """Kernels by operation."""
    copies: Counter[str] = field(default_factory=Counter)
    """Copies between host and device, by direction."""
    waits: Counter[str] = field(default_factory=Counter)
    """Moments at which the host waits for the device, by reason."""


class GpuTensor(torch.Tensor):
    """A tensor of the pretended GPU; `held` has its values."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> GpuTensor:
        made: GpuTensor = torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device=_META,
        )
        made.held = held
        return made

    device = property(lambda self: DEVICE)
    is_cuda = property(lambda self: True)
    is_meta = property(lambda self: False)

    def new_tensor(self, data: Any, **kwargs: Any) -> Tensor:  # type: ignore[override]
        return torch.tensor(data, **{"dtype": self.dtype, "device": DEVICE, **kwargs})

    def tolist(self) -> Any:
        return self.cpu().tolist()

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        raise RuntimeError(f"{func} on a tensor of the pretended GPU, which has been switched off")

    def __deepcopy__(self, memo: dict[int, object]) -> GpuTensor:
        copied = GpuTensor(self.held.detach().clone()).requires_grad_(self.requires_grad)
        if isinstance(self, torch.nn.Parameter):
            copied._is_param = True
        memo[id(self)] = copied
        return copied  # type: ignore[return-value]

    def __repr__(self) -> str:  # type: ignore[override]
        return f"GpuTensor({self.held!r})"


class PretendedGpu(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Computes what is asked of the pretended GPU, and counts it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.device = DEVICE
        self.counts = Counts()
        self.recording: Recording | None = None

    def count(self, work: Callable[[], object]) -> Counts:
        """What a call asks for."""
        before, self.counts = self.counts, Counts()
        try:
            work()
            return self.counts
        finally:
            self.counts = before

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        flat, spec = tree_flatten((args, kwargs))
        ours = {id(each.held): each for each in flat if isinstance(each, GpuTensor)}
        asked = kwargs.get("device")
        here = bool(ours) if asked is None else asked.type == "cuda" or (asked.type == "meta" and bool(ours))
        if not ours and not here:
            return func(*args, **kwargs)
        name = func._schema.name.partition("::")[2]
        before, waits = self.counts.copies.total(), self.counts.waits.total()
        self._refuse(name, flat, here)
        self._count_copies(name, args, kwargs, here)
        inner_args, inner_kwargs = tree_unflatten([_inside(each) for each in flat], spec)
        result = func(*inner_args, **inner_kwargs)
        if name.startswith("_foreach") and not name.endswith("_") and _in_few_launches(name, _lists(inner_args)):
            # The results of a multi-tensor kernel have the layout of its inputs, those of the CPU may not.
            result = [_laid_out_like(like, made) for like, made in zip(inner_args[0], result, strict=True)]
        if self.recording is not None:
            if self.counts.waits.total() + self.counts.copies.total() > waits + before:
                raise RuntimeError(f"operation not permitted when stream is capturing ({name})")
            self.recording.calls.append((func, inner_args, inner_kwargs, result))
        moved = name in _COPYING and self.counts.copies.total() > before
        same = name == "_to_copy" and _stays(flat[0], kwargs)
        self.counts.launches[name] += 0 if moved or same else _launches(func, inner_args, result)

        def outside(tensor: Tensor) -> Tensor:
            known = ours.get(id(tensor))
            return known if known is not None else GpuTensor(tensor) if here else tensor

        return tree_map_only(Tensor, outside, result)

    def _refuse(self, name: str, flat: Sequence[object], here: bool) -> None:
        """Raise what a GPU would raise."""
        host = [each for each in flat if isinstance(each, Tensor) and not isinstance(each, GpuTensor)]
        if here and any(isinstance(each, torch.Generator) for each in flat):
            raise RuntimeError(f"Expected a 'cuda' device type for generator but found 'cpu' ({name})")
        if name in _INDEXING:
            indexed, values = flat[0], [each for each in flat[1:] if isinstance(each, Tensor)]
            if not isinstance(indexed, GpuTensor) or (name != "index" and _is_host(values[-1])):
                raise RuntimeError(f"indices and values should be on the device of the indexed tensor ({name})")
        elif name not in _COPYING and any(isinstance(each, GpuTensor) for each in flat) and any(map(_is_host, host)):
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but found two: {DEVICE} and cpu ({name})"
            )

    def _count_copies(self, name: str, args: Sequence[Any], kwargs: dict[str, Any], here: bool) -> None:
        """Count copies between host and device, and waits."""
        counts = self.counts
        if name in _WAITING:
            counts.waits[name] += 1
            counts.copies["to the host"] += 1
        elif name in _INDEXING:
            for index in args[1]:
                if isinstance(index, Tensor) and not isinstance(index, GpuTensor):
                    counts.waits["index on the host"] += 1
                    counts.copies["to the device"] += 1
                if isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8):
                    counts.waits["index of booleans"] += 1
        elif name in _COPYING:
            source, target = (args[1], isinstance(args[0], GpuTensor)) if name == "copy_" else (args[0], here)
            if isinstance(source, GpuTensor) and not target:
                counts.copies["to the host"] += 1
                counts.waits["copy to the host"] += 1
            elif target and not isinstance(source, GpuTensor):
                counts.copies["to the device"] += 1
                blocking = not (kwargs.get("non_blocking") or (name == "copy_" and len(args) > 2 and args[2]))
                if blocking or not getattr(source, "pretends_to_be_pinned", False):
                    counts.waits["copy to the device"] += 1


class Recording:
    """A CUDA graph of the pretended GPU: calls that are made again, with the same memory."""

    def __init__(self, gpu: PretendedGpu) -> None:
        self.gpu = gpu
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    @contextlib.contextmanager
    def capture(self) -> Iterator[None]:
        """Record what is asked for; as on a GPU nothing is computed, the results are there after a replay."""
        counts, self.gpu.counts, self.gpu.recording = self.gpu.counts, Counts(), self
        try:
            yield
        finally:
            self.gpu.counts, self.gpu.recording = counts, None
        for _, args, kwargs, result in self.calls:
            for made in _fresh(args, kwargs, result):
                made.fill_(float("nan") if made.is_floating_point() else 0)

    def replay(self) -> None:
        """Make the calls again."""
        self.gpu.counts.launches["graph"] += 1
        for func, args, kwargs, result in self.calls:
            again, _ = tree_flatten(func(*args, **kwargs))
            for old, new in zip(tree_flatten(result)[0], again, strict=True):
                if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


def _fresh(args: Any, kwargs: Any, result: Any) -> list[Tensor]:
    """The results that lie in memory of their own."""
    given = {each.untyped_storage().data_ptr() for each in tree_flatten((args, kwargs))[0] if isinstance(each, Tensor)}
    made = [each for each in tree_flatten(result)[0] if isinstance(each, Tensor)]
    return [each for each in made if each.untyped_storage().data_ptr() not in given]


class _Stream:
    """A stream of the pretended GPU, which computes in the order of the calls."""

    def __init__(self, device: object = None) -> None:
        pass

    def wait_stream(self, other: _Stream) -> None:
        pass


def _is_host(value: object) -> bool:
    """Whether it is a tensor of the host that cannot stand for a number."""
    return isinstance(value, Tensor) and not isinstance(value, GpuTensor) and value.dim() > 0


def _stays(source: object, kwargs: dict[str, Any]) -> bool:
    """Whether a conversion changes nothing, and is made only because torch sees another device."""
    given = (kwargs.get("dtype"), kwargs.get("memory_format"))
    return (
        isinstance(source, GpuTensor) and given[0] in (None, source.dtype) and given[1] in (None, torch.preserve_format)
    )


def _inside(value: object) -> object:
    """What the computation on the CPU gets in place of a value."""
    if isinstance(value, GpuTensor):
        return value.held
    return _CPU if isinstance(value, torch.device) and value.type in ("cuda", "meta") else value


_COPYING = ("copy_", "_to_copy")
_INDEXING = ("index", "index_put", "index_put_", "_index_put_impl_")
_WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "_unique2", "unique_dim", "equal")
_FREE = ("_unsafe_view", "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "is_pinned")
_IN_ONE_LAUNCH = {1: 110, 2: 64, 3: 48, 4: 36}  # tensors, by the number of lists (MultiTensorApply.cuh)
_CHUNK, _BLOCKS = 65536, 320  # values of a block of a multi-tensor kernel, blocks in a launch


def _launches(func: Any, args: Sequence[Any], result: object) -> int:
    """Kernels that an operation launches on a GPU."""
    name = func._schema.name.partition("::")[2]
    returned = [each.alias_info for each in func._schema.returns]
    is_view = bool(returned) and all(alias is not None and not alias.is_write for alias in returned)
    if is_view or name in (*_FREE, *_WAITING):
        return 0
    if name == "convolution":
        return 1 if args[2] is None else 2  # cuDNN's bias is added by a kernel of its own
    if name == "convolution_backward":
        return sum(map(bool, args[-1]))
    if name in ("native_batch_norm", "_native_batch_norm_legit"):
        return 2 if args[5] is True else 1
    if name == "native_batch_norm_backward":
        return 2
    if name.startswith("_foreach"):
        return _of_foreach(name, _lists(args))
    return 1


def _lists(args: Sequence[Any]) -> list[Sequence[Tensor]]:
    """The lists of tensors among the arguments of a multi-tensor operation."""
    return [each for each in args if isinstance(each, list | tuple) and len(each) and isinstance(each[0], Tensor)]


def _in_few_launches(name: str, tensors: Sequence[Sequence[Tensor]]) -> bool:
    """Whether a multi-tensor kernel takes them: none has gaps, or another type or layout than its partners."""
    alike = name == "_foreach_copy_" or len({each.dtype for group in tensors for each in group}) == 1
    for partners in zip(*tensors, strict=True):
        same = all(each.size() == partners[0].size() and each.stride() == partners[0].stride() for each in partners)
        alike &= same and _is_dense(partners[0])
    return alike


def _laid_out_like(like: Tensor, tensor: Tensor) -> Tensor:
    """The tensor, or a copy that has the strides of another."""
    same = tensor.stride() == like.stride() or tensor.dim() != like.dim()
    return tensor if same else torch.empty_like(like).copy_(tensor)


def _of_foreach(name: str, tensors: Sequence[Sequence[Tensor]]) -> int:
    """Kernels of a multi-tensor operation."""
    if not _in_few_launches(name, tensors):
        return len(tensors[0])
    depth = len(tensors) + (not name.endswith("_") and name != "_foreach_norm")
    blocks = sum(-(-each.numel() // _CHUNK) for each in tensors[0])
    return max(-(-len(tensors[0]) // _IN_ONE_LAUNCH[depth]), -(-blocks // _BLOCKS)) + (name == "_foreach_norm")


def _is_dense(tensor: Tensor) -> bool:
    """Whether it has neither gaps nor overlaps: then, and only then, a tensor made like it has the same strides."""
    return torch.empty_like(tensor).stride() == tensor.stride()


class _Autocast(TorchFunctionMode):
    """What bfloat16 autocast does to the operations that this package uses in forward passes."""

    def __init__(self) -> None:
        super().__init__()
        self._weights: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kind = {**dict.fromkeys(_IN_BFLOAT16, torch.bfloat16), **dict.fromkeys(_IN_FLOAT32, torch.float32)}.get(func)
        if kind is not None:
            args, kwargs = tree_map_only(Tensor, lambda tensor: self._cast(tensor, kind), (args, kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _cast(self, tensor: Tensor, kind: torch.dtype) -> Tensor:
        if not isinstance(tensor, GpuTensor) or not tensor.is_floating_point() or tensor.dtype == kind:
            return tensor
        if not (tensor.requires_grad and tensor.is_leaf):
            return tensor.to(kind)
        # As torch does, each weight is converted once.
        return self._weights.setdefault(id(tensor), (tensor, tensor.to(kind)))[1]


_IN_BFLOAT16 = (F.conv2d, F.linear, torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.einsum)
_IN_FLOAT32 = (F.softmax, torch.softmax, Tensor.softmax, F.cross_entropy)


@contextlib.contextmanager
def autocast() -> Iterator[None]:
    """bfloat16 autocast of the pretended GPU; torch's own looks for a real one."""
    enabled, kind = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
    torch.set_autocast_enabled("cuda", True)
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    try:
        with _Autocast():
            yield
    finally:
        torch.set_autocast_enabled("cuda", enabled)
        torch.set_autocast_dtype("cuda", kind)


@contextlib.contextmanager
def pretended_gpu() -> Iterator[PretendedGpu]:
    """Switch the pretended GPU on."""
    overwrites, lifts = torch.__future__.get_overwrite_module_params_on_conversion(), torch._C._only_lift_cpu_tensors()
    supported = _foreach_utils._get_foreach_kernels_supported_devices
    gpu = PretendedGpu()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "_lazy_init", lambda: None)
        patch.setattr(torch.cuda, "mem_get_info", lambda device=None: (MEMORY, MEMORY))
        patch.setattr(Tensor, "pin_memory", _pinned)
        patch.setattr(torch.cuda, "CUDAGraph", lambda: Recording(gpu))
        patch.setattr(torch.cuda, "graph", lambda recording, capture_error_mode: recording.capture())
        patch.setattr(torch.cuda, "Stream", _Stream)
        patch.setattr(torch.cuda, "current_stream", _Stream)
        for name in ("stream", "device"):
            patch.setattr(torch.cuda, name, lambda which: contextlib.nullcontext())
        patch.setattr(_foreach_utils, "_get_foreach_kernels_supported_devices", lambda: [*supported(), "meta"])
        for module in (_foreach_utils, sys.modules[torch.optim.Optimizer.__module__]):
            types = module._foreach_supported_types
            patch.setattr(module, "_foreach_supported_types", [*types, GpuTensor])
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        torch._C._set_only_lift_cpu_tensors(True)
        try:
            with gpu:
                yield gpu
        finally:
            torch._C._set_only_lift_cpu_tensors(lifts)
            torch.__future__.set_overwrite_module_params_on_conversion(overwrites)


def _pinned(tensor: Tensor) -> Tensor:
    copied = tensor.clone()
    copied.pretends_to_be_pinned = True  # type: ignore[attr-defined]
    return copied
