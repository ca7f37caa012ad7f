"""The process environment: what libraries read when they are loaded, and the share of the processor there is."""

from __future__ import annotations

import os
from collections.abc import MutableMapping
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
