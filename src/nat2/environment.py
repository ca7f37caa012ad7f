"""The process environment: what libraries read when they are loaded, and the share of cores and memory there is."""

from __future__ import annotations

import os
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Literal

Accelerator = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "32-true", "bf16-mixed"]

SPIN_COUNT = 50_000
"""How often a waiting OpenMP thread looks for work before it sleeps, about a millisecond.

GNU OpenMP's own default, 300,000, keeps cores busy for nothing whenever another process holds back one of the threads.
Sleeping at once (``OMP_WAIT_POLICY=PASSIVE``) costs more than half on an idle machine, because the layers are small.
``benchmarks/busy.py`` compares them; `nat2.contention` does the rest while the machine is busy.
"""
_WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
_OPT_OUT = {
    "ORT_DISABLE_TELEMETRY": "1",  # ONNX Runtime
    "HF_HUB_DISABLE_TELEMETRY": "1",  # Hugging Face hub and datasets
    "DO_NOT_TRACK": "1",  # whatever else follows https://consoledonottrack.com
}


def set_defaults(environment: MutableMapping[str, str] | None = None) -> None:
    """Set what has to be set before libraries are loaded, except what the user has set.

    OpenMP threads stop spinning soon (`SPIN_COUNT`), and no library reports its use to its makers. Libraries that were
    loaded before have read their variables already and are not changed by this.

    Args:
        environment: Changed in place; that of this process by default.
    """
    environment = os.environ if environment is None else environment
    if not any(name in environment for name in _WAITING):
        environment["GOMP_SPINCOUNT"] = str(SPIN_COUNT)
    for name, value in _OPT_OUT.items():
        environment.setdefault(name, value)


def available_cores() -> int:
    """Cores that this process may use, at least 1: those of its affinity, and of its container's quota."""
    from joblib import cpu_count  # loading it takes longer than `nat2 --help` needs it

    return int(cpu_count())


def available_memory(root: Path = Path("/")) -> int:
    """Bytes of memory that this process can still get, at least 0.

    That is what the machine has available, within the limits of the process's control groups (v1 or v2) and of the
    groups above them. Page cache that the system would drop counts as available.

    Args:
        root: Where ``proc`` and ``sys`` are mounted.
    """
    return max(0, min(_machine_memory(root), *_group_memory(root)))


def _machine_memory(root: Path) -> int:
    try:
        for line in (root / "proc/meminfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name == "MemAvailable":
                return 1024 * int(value.split()[0])
    except (OSError, ValueError, IndexError):
        pass  # not Linux
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


_V1 = (("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_inactive_file")
_V2 = (("memory.max", "memory.high"), "memory.current", "inactive_file")
_NO_LIMIT = 2**63


def _group_memory(root: Path) -> Iterator[int]:
    """What each memory control group of this process leaves it; always yields something."""
    yield _NO_LIMIT
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        base = root / ("sys/fs/cgroup/memory" if controllers else "sys/fs/cgroup")
        folder = base / path.strip("/")
        # In a container the path may be that of the host, which does not exist here: then the base is the group.
        for group in (folder, *(each for each in folder.parents if each.is_relative_to(base))):
            yield _left_in(group, *(_V1 if controllers else _V2))


def _left_in(group: Path, limits: tuple[str, ...], usage: str, droppable: str) -> int:
    def read(name: str) -> int:
        try:
            text = (group / name).read_text().strip()
            return _NO_LIMIT if text == "max" else int(text)
        except (OSError, ValueError):
            return _NO_LIMIT

    limit = min(map(read, limits))
    used = read(usage)
    if limit >= _NO_LIMIT or used >= _NO_LIMIT:
        return limit
    try:
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return limit - used + int(stat.get(droppable, 0))
    except (OSError, ValueError):
        return limit - used
