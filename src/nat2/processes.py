"""One process or many: the same code trains on a laptop and, with one process per device, on several machines.

Every process makes the same decisions; batches, evaluations and the networks to fine-tune are divided among them. All
of them must see the run folder; the first process writes everything except the networks that another has fine-tuned.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from typing import Generic, Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from nat2.contention import watch_contention
from nat2.environment import Accelerator, Precision, available_cores
from nat2.errors import ConfigError, LostProcessError, Nat2Error
from nat2.launcher import ATTEMPT, end_lost, launched, threads_each
from nat2.peers import Peers

T = TypeVar("T")
S = TypeVar("S")

LOST_AFTER = 60.0
"""Seconds within which a process that no longer answers is noticed, by default."""
_ROUND = 4  # evaluations per process between two exchanges of results
_STUCK = timedelta(minutes=30)  # of a collective operation in which all have arrived, or whose steps are alike


@dataclass(frozen=True)
class Processes:
    """The processes of a run, of which this is one."""

    rank: int = 0
    """This process, counted from 0."""
    size: int = 1
    """Number of processes on all machines."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    """Device of this process."""
    autocast: Callable[[], contextlib.AbstractContextManager[object]] = contextlib.nullcontext
    """Context in which forward passes run: bfloat16 autocast if that was requested."""
    graphs: bool = False
    """Whether a teacher runs as a CUDA graph."""

    peers: Peers | None = None
    """The other processes; None if there are none, or for a part of them."""
    team: Processes | None = None
    """The processes that divide the batches of a training, this one's place among them included; None for all."""
    group: dist.ProcessGroup | None = None
    """Those that exchange tensors; None for all."""

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and reports."""
        return self.rank == 0

    @property
    def trainers(self) -> Processes:
        """The processes that divide each batch: all, or one for each device. Others have the rank -1 among them."""
        return self.team or self

    def meet(self) -> None:
        """Wait for all processes, for hours if need be.

        Raises:
            LostProcessError: one of them was lost meanwhile.
        """
        if self.peers is not None:
            self.peers.meet()

    def sum(self, x: Tensor) -> Tensor:
        """Sum a tensor over the processes, in place.

        Raises:
            LostProcessError: a process was lost, or did not take part for half an hour.
        """
        if self.size > 1:
            with self._connected():
                dist.all_reduce(x, group=self.group)
        return x

    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Sum the gradients over the processes; parameters without a gradient, the same in all of them, keep none."""
        if self.size == 1:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        self._exchange_all(gradients, partial(dist.all_reduce, group=self.group))

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Broadcast the first process's tensors once all have reached this point.

        Machines that round differently would drift apart.
        """
        if self.size == 1:
            return
        self.meet()
        self._exchange_all([tensor.detach() for tensor in tensors], partial(dist.broadcast, src=0))

    def part(self, count: int) -> slice:
        """This process's share of a batch of `count` images: whole pairs, so that neighbours stay together."""
        return self.parts(count)[self.rank]

    def parts(self, count: int) -> list[slice]:
        """The shares of all processes."""
        pairs = -(-count // 2)
        bounds = [2 * (pairs * rank // self.size) for rank in range(self.size)] + [count]
        return [slice(first, last) for first, last in itertools.pairwise(bounds)]

    def once(self, work: Callable[[], T]) -> T:
        """Run `work` in the first process once all have reached this point; all return its result, or raise its error.

        Raises:
            Nat2Error: what `work` raised.
        """
        if self.size == 1:
            return work()
        self.meet()  # nothing is overwritten while others still read it
        outcome: list[_Done[T] | Nat2Error | None] = [_attempt(work) if self.first else None]
        self.meet()  # work may take long
        with self._connected():
            dist.broadcast_object_list(outcome, device=self._exchange)
        (received,) = outcome
        assert received is not None
        return _unwrap(received)

    def spread(
        self, work: Callable[[S], T], items: Sequence[S], *, costs: Sequence[float]
    ) -> Iterator[tuple[S, T, float]]:
        """What `rounds` yields, one by one."""
        for made in self.rounds(work, items, costs=costs):
            yield from made

    def rounds(
        self, work: Callable[[S], T], items: Sequence[S], *, costs: Sequence[float]
    ) -> Iterator[list[tuple[S, T, float]]]:
        """Apply `work` to many items, divided among the processes so that each has about as much to do.

        Args:
            work: Called for each item, in one process.
            items: The same in all processes.
            costs: Estimated time of each item, in any unit.

        Yields:
            In all processes, items, results and seconds taken, in order: some whenever results are exchanged; with one
            process each as soon as it is done.

        Raises:
            Nat2Error: what `work` raised in any process, once the results that came with it have been yielded.
        """
        if self.size == 1:
            for item in items:
                yield [(item, *_timed(work, item))]
            return
        step = _ROUND * self.size
        for start in range(0, len(items), step):
            chosen = items[start : start + step]
            shares = balanced(costs[start : start + step], self.size)
            mine = {number: _attempt(partial(_timed, work, chosen[number])) for number in shares[self.rank]}
            gathered: list[dict[int, _Done[tuple[T, float]] | Nat2Error]] = [{}] * self.size
            self.meet()
            with self._connected():
                dist.all_gather_object(gathered, mine)
            outcomes = {number: outcome for each in gathered for number, outcome in each.items()}
            done = [(item, outcomes[number]) for number, item in enumerate(chosen)]
            yield [(item, *each.result) for item, each in done if isinstance(each, _Done)]
            for _, each in done:
                _unwrap(each)

    def check_batch(self, size: int) -> None:
        """Refuse a batch that is too small to be divided.

        Raises:
            ConfigError: a process would get less than two images.
        """
        if size < 2 * self.size:
            raise ConfigError(
                f"a batch needs at least two images for each of the {self.size} processes; got {size}. Use fewer "
                "processes (--devices) or larger batches (--shrink.batch_size, --adapt.batch_size)"
            )

    @property
    def _exchange(self) -> torch.device | None:
        return self.device if dist.get_backend() == "nccl" else None

    def _exchange_all(self, tensors: Sequence[Tensor], exchange: Callable[[Tensor], object]) -> None:
        """Run one collective operation on many tensors at once, in place."""
        # Seen in the order of their memory, the same in all processes: then a GPU copies all of them in a few kernels.
        seen = [_in_memory_order(tensor) for tensor in tensors]
        flat = torch.cat([tensor.reshape(-1) for tensor in seen])
        sent = flat.cpu() if dist.get_backend(self.group) == "gloo" else flat
        with self._connected():
            exchange(sent)
        parts = torch.split(sent.to(flat.device), [tensor.numel() for tensor in seen])
        torch._foreach_copy_(seen, [part.view_as(tensor) for part, tensor in zip(parts, seen, strict=True)])

    def _connected(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext() if self.peers is None else self.peers.connected()


ALONE = Processes()
"""The only process of a run."""


def _in_memory_order(tensor: Tensor) -> Tensor:
    """A view of a tensor whose last dimension is the one that is closest in memory."""
    strides = tensor.stride()
    return tensor.permute(sorted(range(tensor.dim()), key=lambda dimension: -strides[dimension]))


def _timed(work: Callable[[S], T], item: S) -> tuple[T, float]:
    began = time.monotonic()
    return work(item), time.monotonic() - began


@dataclass(frozen=True)
class _Done(Generic[T]):
    """The result of work that did not fail."""

    result: T


def _attempt(work: Callable[[], T]) -> _Done[T] | Nat2Error:
    try:
        return _Done(work())
    except LostProcessError:
        raise
    except Nat2Error as error:
        return error


def _unwrap(outcome: _Done[T] | Nat2Error) -> T:
    if isinstance(outcome, Nat2Error):
        raise outcome
    return outcome.result


def balanced(costs: Sequence[float], count: int) -> list[list[int]]:
    """Divide items among `count` workers: the most expensive first, each to the worker with the least load so far."""
    shares: list[list[int]] = [[] for _ in range(count)]
    loads = [0.0] * count
    for number in sorted(range(len(costs)), key=lambda each: -costs[each]):
        least = loads.index(min(loads))
        shares[least].append(number)
        loads[least] += costs[number]
    return shares


def connect(
    *,
    accelerator: Accelerator = "auto",
    precision: Precision = "auto",
    per_gpu: int = 1,
    cuda_graphs: bool = False,
    timeout: float = LOST_AFTER,
) -> Processes:
    """Join the processes that a launcher has started, or run alone.

    Args:
        accelerator: What to compute on.
        precision: Of the super-network's training.
        per_gpu: Processes that share each GPU.
        cuda_graphs: Whether a teacher runs as a CUDA graph.
        timeout: Seconds within which a process that no longer answers is noticed.

    Raises:
        ConfigError: CUDA or its graphs were requested and there is no GPU, or there are fewer than the processes need.
        LostProcessError: the others cannot be reached.
    """
    here, world = (int(os.environ.get(name, "1")) for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"))
    kind = checked_kind(accelerator, here, per_gpu)
    if cuda_graphs and kind != "cuda":
        raise ConfigError("--cuda_graphs needs an NVIDIA GPU, and none is used; leave it out")
    _limit_threads()
    watch_contention()
    settled = settled_precision(precision, kind)
    if kind == "cpu" and settled == "32-true" and not launched():
        return Processes()  # the import below takes more than a second
    from lightning_fabric import Fabric
    from lightning_fabric.strategies.ddp import DDPStrategy

    for name in ("lightning_fabric", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    if per_gpu > 1:
        processes = _sharing_gpus(per_gpu, settled)
    else:
        fabric = Fabric(
            accelerator=kind,
            devices=here,
            num_nodes=world // here,
            strategy=DDPStrategy(timeout=_STUCK) if world > 1 else "auto",
            precision=settled,
        )
        fabric.launch()
        processes = Processes(fabric.global_rank, fabric.world_size, fabric.device, fabric.autocast)
    processes = replace(processes, graphs=cuda_graphs)
    if world == 1:
        return processes
    peers = Peers.of_environment(processes.rank, world, timeout=timeout, end=end_lost)
    peers.watch()
    return with_helpers(replace(processes, peers=peers), per_gpu)


def _sharing_gpus(per_gpu: int, precision: Literal["32-true", "bf16-mixed"]) -> Processes:
    """Join processes of which several have the same GPU; Fabric would give each one of its own."""
    dist.init_process_group("gloo", timeout=_STUCK)  # NCCL refuses two processes on one GPU
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"]) // per_gpu)
    torch.cuda.set_device(device)
    half = partial(torch.autocast, "cuda", dtype=torch.bfloat16)
    autocast = half if precision == "bf16-mixed" else contextlib.nullcontext
    return Processes(dist.get_rank(), dist.get_world_size(), device, autocast)


def checked_kind(accelerator: Accelerator, here: int, per_gpu: int) -> Literal["cuda", "cpu"]:
    """What the processes of this machine compute on.

    Args:
        accelerator: As the user has chosen.
        here: Processes on this machine.
        per_gpu: How many of them share a GPU.

    Raises:
        ConfigError: there is no GPU, or not as many as the processes need.
    """
    gpus = torch.cuda.device_count() if accelerator != "cpu" and torch.cuda.is_available() else 0
    if accelerator == "cuda" and not gpus:
        raise ConfigError("--accelerator cuda needs an NVIDIA GPU and a CUDA build of torch; found none. Use cpu")
    if per_gpu > 1 and not gpus:
        raise ConfigError(
            f"--processes_per_gpu {per_gpu} needs a GPU to be shared, and none is used; leave it out, and give "
            "--devices the number of processes"
        )
    if here % per_gpu:
        raise ConfigError(
            f"with --processes_per_gpu {per_gpu} the number of processes on a machine must be a multiple of {per_gpu}; "
            f"got {here}"
        )
    if gpus and gpus * per_gpu < here:
        which = "" if per_gpu == 1 else f"with --processes_per_gpu {per_gpu} "
        raise ConfigError(
            f"{which}{here} processes need {here // per_gpu} GPUs; this machine has {gpus}. Use fewer --devices, let "
            "several processes share a GPU (--processes_per_gpu), or use --accelerator cpu"
        )
    return "cuda" if gpus else "cpu"


def with_helpers(processes: Processes, per_device: int) -> Processes:
    """The same, where only one of the processes that share a device trains the super-network; all evaluate.

    Args:
        processes: All of them.
        per_device: How many share a device, in the order of their ranks.
    """
    if per_device == 1:
        return processes
    ranks = range(0, processes.size, per_device)
    backend = "nccl" if processes.device.type == "cuda" else "gloo"
    group = dist.new_group(ranks, timeout=_STUCK, backend=backend) if len(ranks) > 1 else None
    rank = processes.rank // per_device if processes.rank in ranks else -1
    return replace(processes, team=replace(processes, rank=rank, size=len(ranks), group=group))


def settled_precision(precision: Precision, kind: str) -> Literal["32-true", "bf16-mixed"]:
    """The precision that will be used; float32 on a GPU is float32, and never TF32.

    Raises:
        ConfigError: bfloat16 was requested of a GPU that only emulates it.
    """
    if kind != "cuda":
        return "32-true" if precision == "auto" else precision
    torch.backends.cudnn.allow_tf32 = False  # matrix products do not use it unless they are told to
    native = torch.cuda.is_bf16_supported(including_emulation=False)
    if precision == "bf16-mixed" and not native:
        raise ConfigError(
            f"--precision bf16-mixed needs a GPU that computes in bfloat16 (NVIDIA Ampere or later); "
            f"{torch.cuda.get_device_name()} only emulates it, which is slower than float32. Use 32-true"
        )
    if precision == "auto":
        return "bf16-mixed" if native else "32-true"
    return precision


def _limit_threads() -> None:
    """Use as many threads as this process's share of the cores, unless the user has chosen their number."""
    if launched() and ATTEMPT not in os.environ:  # torchrun sets one thread for each process
        torch.set_num_threads(threads_each(int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
    elif "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(min(torch.get_num_threads(), available_cores()))


@contextlib.contextmanager
def disconnected(processes: Processes) -> Iterator[None]:
    """At the end, leave the other processes."""
    try:
        yield
    except BaseException as error:
        if processes.peers is not None:
            processes.peers.leave(error)
        raise
    if processes.peers is not None:
        processes.peers.leave()
        dist.destroy_process_group()
