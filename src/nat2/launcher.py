"""Several processes of this machine that work on one run: they are started, and started again if one is lost."""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn, TypeVar, TypeVarTuple

from nat2.environment import available_cores
from nat2.errors import ConfigError, LostProcessError, Nat2Error, RunError

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_RESTARTS = 3
_CROWD = 4  # processes per core; more only slow the machine down
_UNGUARDED, _LOST = "unguarded", "lost"
_ENDED = 2  # exit code of a process that ends because another was lost, or for what the user can correct
ATTEMPT, _FOLDER = "NAT2ATTEMPT", "NAT2_LAUNCH"


def launched() -> bool:
    """Whether a launcher (``torchrun``, or ours) has started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def restarted() -> bool:
    """Whether the launcher has restarted this process because one was lost."""
    return any(int(os.environ.get(name, "0")) > 0 for name in (ATTEMPT, "TORCHELASTIC_RESTART_COUNT"))


def may_restart() -> bool:
    """Whether a launcher other than ours restarts processes by itself."""
    return int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")) > 0


def threads_each(processes: int) -> int:
    """Threads for each of several processes of this machine."""
    return max(1, available_cores() // processes)


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
            threads = os.environ.get("OMP_NUM_THREADS", str(threads_each(devices)))
            variables = {ATTEMPT: str(attempt), _FOLDER: folder, "OMP_NUM_THREADS": threads}
            try:
                with _environment(variables), _signals():
                    outcomes = elastic_launch(config, _worker)(Path(folder), work, *arguments)
            except ChildFailedError as error:
                failure = error.get_first_failure()[1]
                lost = f"exit code {failure.exitcode}" if failure.exitcode >= 0 else f"signal {-failure.exitcode}"
                noticed = Path(folder) / _LOST
                if noticed.exists():
                    if failure.exitcode == _ENDED:  # it is not the one that was lost
                        lost = noticed.read_text(encoding="utf-8").partition(". ")[0]
                    noticed.unlink()
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
    except LostProcessError as error:
        end_lost("" if error.reported else str(error))
    except Nat2Error as error:
        (folder / os.environ["RANK"]).write_bytes(pickle.dumps(error))
        os._exit(2)  # at once: the others may be waiting for this process


def end_lost(reason: str) -> NoReturn:
    """End this process at once because another was lost, and report it: to our launcher, which starts all again."""
    folder = os.environ.get(_FOLDER)
    if reason and folder is None:
        print(f"nat2: {reason}", file=sys.stderr, flush=True)
    elif reason and folder is not None:
        (Path(folder) / _LOST).write_text(reason, encoding="utf-8")
    os._exit(_ENDED)


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
