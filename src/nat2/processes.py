"""One process or many: the same code trains on a laptop and, with one process per device, on several machines.

Every process makes the same decisions; batches, evaluations and the networks to fine-tune are divided among them. All
of them must see the run folder; the first process writes everything except the networks that another has fine-tuned.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Generic, Literal, TypeVar, TypeVarTuple

import torch
import torch.distributed as dist
from torch import Tensor

from nat2.contention import watch_contention
from nat2.environment import Accelerator, Precision, available_cores
from nat2.errors import ConfigError, Nat2Error, RunError

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
S = TypeVar("S")

_ROUND = 4  # evaluations per process between two exchanges of results
_RESTARTS = 3
_CROWD = 4  # processes per core; more only slow the machine down
_UNGUARDED = "unguarded"
_ATTEMPT, _FOLDER = "NAT2_ATTEMPT", "NAT2_LAUNCH"
_PATIENCE = timedelta(days=30)  # one process may fine-tune for hours longer than another; a lost one is noticed anyway


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

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and reports."""
        return self.rank == 0

    def sum(self, x: Tensor) -> Tensor:
        """Sum a tensor over the processes, in place."""
        if self.size > 1:
            dist.all_reduce(x)
        return x

    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Sum the gradients over the processes; parameters without a gradient, the same in all of them, keep none."""
        if self.size == 1:
            return
        _exchanged([parameter.grad for parameter in parameters if parameter.grad is not None], dist.all_reduce)

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Broadcast the first process's tensors: machines that round differently would drift apart."""
        if self.size == 1:
            return
        _exchanged([tensor.detach() for tensor in tensors], partial(dist.broadcast, src=0))

    def part(self, count: int) -> slice:
        """This process's share of a batch of `count` images: whole pairs, so that neighbours stay together."""
        pairs = -(-count // 2)
        bounds = [2 * (pairs * rank // self.size) for rank in range(self.size)] + [count]
        return slice(bounds[self.rank], bounds[self.rank + 1])

    def once(self, work: Callable[[], T]) -> T:
        """Run `work` in the first process once all have reached this point; all return its result, or raise its error.

        Raises:
            Nat2Error: what `work` raised.
        """
        if self.size == 1:
            return work()
        dist.barrier()  # nothing is overwritten while others still read it
        outcome: list[_Done[T] | Nat2Error | None] = [_attempt(work) if self.first else None]
        dist.broadcast_object_list(outcome, device=self._exchange)
        (received,) = outcome
        assert received is not None
        return _unwrap(received)

    def spread(
        self, work: Callable[[S], T], items: Sequence[S], *, costs: Sequence[float]
    ) -> Iterator[tuple[S, T, float]]:
        """Apply `work` to many items, divided among the processes so that each has about as much to do.

        Args:
            work: Called for each item, in one process.
            items: The same in all processes.
            costs: Estimated time of each item, in any unit.

        Yields:
            In all processes, item, result and seconds taken, in order; with one process each as soon as it is done.

        Raises:
            Nat2Error: what `work` raised in any process.
        """
        if self.size == 1:
            for item in items:
                yield item, *_timed(work, item)
            return
        step = _ROUND * self.size
        for start in range(0, len(items), step):
            chosen = items[start : start + step]
            shares = balanced(costs[start : start + step], self.size)
            mine = {number: _attempt(partial(_timed, work, chosen[number])) for number in shares[self.rank]}
            gathered: list[dict[int, _Done[tuple[T, float]] | Nat2Error]] = [{}] * self.size
            dist.all_gather_object(gathered, mine)
            outcomes = {number: outcome for each in gathered for number, outcome in each.items()}
            for number, item in enumerate(chosen):
                yield item, *_unwrap(outcomes[number])

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
        return self.device if self.device.type == "cuda" else None


ALONE = Processes()
"""The only process of a run."""


def _exchanged(tensors: Sequence[Tensor], exchange: Callable[[Tensor], object]) -> None:
    """Run a collective operation on many tensors at once, in place."""
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    exchange(flat)
    first = 0
    for tensor in tensors:
        tensor.copy_(flat[first : first + tensor.numel()].view_as(tensor))
        first += tensor.numel()


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


def launched() -> bool:
    """Whether a launcher (``torchrun``, or ours) has started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def restarted() -> bool:
    """Whether the launcher has restarted this process because one was lost."""
    return any(int(os.environ.get(name, "0")) > 0 for name in (_ATTEMPT, "TORCHELASTIC_RESTART_COUNT"))


def may_restart() -> bool:
    """Whether a launcher other than ours restarts processes by itself."""
    return int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")) > 0


def connect(*, accelerator: Accelerator = "auto", precision: Precision = "auto") -> Processes:
    """Join the processes that a launcher has started, or run alone.

    Raises:
        ConfigError: CUDA was requested and there is none.
    """
    if accelerator == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--accelerator cuda needs an NVIDIA GPU and a CUDA build of torch; found none. Use cpu")
    kind = "cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu"
    _limit_threads()
    watch_contention()
    settled = settled_precision(precision, kind)
    if kind == "cpu" and settled == "32-true" and not launched():
        return Processes()  # the import below takes more than a second
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if kind == "cuda" and torch.cuda.device_count() < here:
        raise ConfigError(
            f"{here} processes need as many GPUs; this machine has {torch.cuda.device_count()}. Use fewer --devices, "
            "or --accelerator cpu"
        )
    from lightning_fabric import Fabric
    from lightning_fabric.strategies.ddp import DDPStrategy

    for name in ("lightning_fabric", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    world = int(os.environ.get("WORLD_SIZE", "1"))
    fabric = Fabric(
        accelerator=kind,
        devices=here,
        num_nodes=world // here,
        strategy=DDPStrategy(timeout=_PATIENCE) if world > 1 else "auto",
        precision=settled,
    )
    fabric.launch()
    return Processes(fabric.global_rank, fabric.world_size, fabric.device, fabric.autocast)


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
    if launched() and _ATTEMPT not in os.environ:  # torchrun sets one thread for each process
        torch.set_num_threads(_threads_each(int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
    elif "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(min(torch.get_num_threads(), available_cores()))


def _threads_each(processes: int) -> int:
    """Threads for each of several processes of this machine."""
    return max(1, available_cores() // processes)


@contextlib.contextmanager
def disconnected() -> Iterator[None]:
    """Shut down the process group at the end."""
    try:
        yield
    finally:
        if dist.is_available() and dist.is_initialized():
            dist.destroy_process_group()


def launch(work: Callable[[*Ts], T], *arguments: *Ts, devices: int) -> T:
    """Call a function in `devices` processes of this machine and return what the first one returned.

    If a process is lost, all are restarted, at most three times; the function should continue where it stopped.

    Raises:
        Nat2Error: what the function raised in any process, RunError if processes were lost too often, or ConfigError if
            `devices` is many times the number of cores of the machine.
        SystemExit: the script calls this at import time.
    """
    _refuse_unguarded()
    most = _CROWD * available_cores()
    if devices > most:
        raise ConfigError(f"--devices must be at most {most}, {_CROWD} for each core of this machine; got {devices}")
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for name in ("launcher.api", "elastic.agent.server.api", "elastic.multiprocessing.api", "elastic.rendezvous"):
        logging.getLogger(f"torch.distributed.{name}").setLevel(logging.CRITICAL)  # what matters is reported below
    logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.CRITICAL)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=devices,
        run_id="nat2",
        max_restarts=0,  # restarts are handled here: an error that the user can correct is no reason for one
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        monitor_interval=0.5,
        start_method="spawn",
    )
    lost = ""
    with tempfile.TemporaryDirectory() as folder:
        for attempt in range(1 + _RESTARTS):
            threads = os.environ.get("OMP_NUM_THREADS", str(_threads_each(devices)))
            variables = {_ATTEMPT: str(attempt), _FOLDER: folder, "OMP_NUM_THREADS": threads}
            try:
                with _environment(variables), _signals():
                    outcomes = elastic_launch(config, _worker)(Path(folder), work, *arguments)
            except ChildFailedError as error:
                failure = error.get_first_failure()[1]
                lost = f"exit code {failure.exitcode}" if failure.exitcode >= 0 else f"signal {-failure.exitcode}"
                if (Path(folder) / _UNGUARDED).exists():
                    sys.exit(
                        "nat2: with several devices each process imports the script, which must therefore call nat2 "
                        'below a line `if __name__ == "__main__":` only'
                    )
                for left in sorted(Path(folder).iterdir()):
                    raise pickle.loads(left.read_bytes()) from None
            except SignalException as error:
                raise KeyboardInterrupt from error
            else:
                result: T = outcomes[0]
                return result
    raise RunError(
        f"a process was lost {1 + _RESTARTS} times ({lost}); give the same command again to continue, or use fewer "
        "--devices"
    )


def _refuse_unguarded() -> None:
    """End a worker that runs the user's script again because it launches at import time."""
    folder = os.environ.get(_FOLDER)
    if folder is None:  # set only for the workers of a launch, which must not launch anything
        return
    (Path(folder) / _UNGUARDED).touch()
    os._exit(2)  # at once and silently: the launcher reports it once


def _worker(folder: Path, work: Callable[[*Ts], object], *arguments: *Ts) -> object:
    """Entry point of each process; an error that the user can correct is left in `folder` for the launcher to raise."""
    try:
        return work(*arguments)
    except Nat2Error as error:
        (folder / os.environ["RANK"]).write_bytes(pickle.dumps(error))
        os._exit(2)  # at once: the others may be waiting for this process


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """Restore the signal handlers of this process: the launcher changes them."""
    changed = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT]
    before = {number: signal.getsignal(number) for number in changed}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None and threading.current_thread() is threading.main_thread():
                signal.signal(number, handler)


@contextlib.contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Set environment variables for the processes that are started meanwhile."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
