"""A busy machine: waiting OpenMP threads sleep at once while other processes need the cores.

A waiting OpenMP thread spins, which is fast while every thread has a core. When other processes take the cores, threads
spin through whole time slices that the thread they wait for could have used. GNU OpenMP nearly stops spinning when a
process has more OpenMP threads than there are cores. So idle threads are added while threads of this process wait for
cores, and removed afterwards. The computing threads stay the same, and so does every result.
"""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from pathlib import Path

import torch

_INTERVAL = 0.25  # seconds between two samples
_BUSY = 0.2  # seconds per second that the threads of this process spend waiting for a core, in total
_LOOKS = 2  # consecutive busy samples: at first two threads may share a core until the system spreads them
_CALM = 5.0  # seconds without contention before threads spin again
_PARALLEL = 1 << 20  # elements of a tensor large enough to be summed by several threads
_THREADS = Path("/proc/self/task")

_watch_lock = threading.Lock()
_watching: list[threading.Thread] = []


def watch_contention() -> None:
    """From now on let waiting threads sleep whenever the machine is busy.

    Needs Linux and a torch that uses more than one thread of GNU OpenMP; does nothing elsewhere.
    """
    if sys.platform != "linux" or "OpenMP" not in torch.__config__.parallel_info() or torch.get_num_threads() < 2:
        return
    with _watch_lock:
        if not _watching and delays():
            _watching.append(threading.Thread(target=_watch, name="nat2-contention", daemon=True))
            _watching[0].start()


def delays() -> dict[str, float]:
    """Seconds that each thread of this process has waited for a core so far; empty where that is unknown."""
    found = {}
    for thread in _THREADS.glob("*"):
        try:
            found[thread.name] = int((thread / "schedstat").read_text().split()[1]) / 1e9
        except (OSError, IndexError, ValueError):
            continue  # the thread has ended
    return found


def _watch() -> None:
    idle, before, moment, busy_at, looks = IdleThreads(), delays(), time.monotonic(), -math.inf, 0
    while True:
        time.sleep(_INTERVAL)
        now, current = time.monotonic(), delays()
        waited = sum(seconds - before[name] for name, seconds in current.items() if name in before)
        looks = looks + 1 if waited > _BUSY * (now - moment) else 0
        if looks >= _LOOKS:
            busy_at = now
            idle.add()
        elif now - busy_at > _CALM:
            idle.remove()
        before, moment = current, now


class IdleThreads:
    """Idle OpenMP threads that raise their number in this process above the number of cores."""

    def __init__(self) -> None:
        """Start without any."""
        self._release: threading.Event | None = None
        self._teams: list[threading.Thread] = []

    def __len__(self) -> int:
        """Number of threads, each of which holds a team of OpenMP threads."""
        return len(self._teams)

    def add(self) -> None:
        """Add the threads, unless they exist."""
        threads, cores = torch.get_num_threads(), len(os.sched_getaffinity(0))
        if self._release is not None or threads < 2:
            return
        self._release = threading.Event()
        for _ in range(max(1, math.ceil((cores + 1 - threads) / (threads - 1)))):
            self._teams.append(threading.Thread(target=_hold_team, args=(self._release,), daemon=True))
            self._teams[-1].start()

    def remove(self) -> None:
        """Remove the threads."""
        if self._release is None:
            return
        self._release.set()
        for team in self._teams:
            team.join()
        self._release, self._teams = None, []


def _hold_team(release: threading.Event) -> None:
    torch.ones(_PARALLEL).sum()  # gives this thread a team of OpenMP threads, which end with it
    release.wait()
