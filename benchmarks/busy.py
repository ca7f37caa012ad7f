"""How much a busy machine slows a training step, and what that protection costs on a quiet one.

python benchmarks/busy.py --json busy.json

Each setting trains in a process of its own, because OpenMP reads its variables when torch is loaded. Beside it run
twice as many busy processes as there are cores, each in its own session, so that all have the same priority: this one
then gets a fifth of every core, and a step cannot take less than 2.5 times its processor time on two cores. What counts
as its processor time is what it takes on the quiet machine, because threads that spin take more. Run it on a machine
that does nothing else.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

from table import Row, parser, show

from nat2.environment import SPIN_COUNT, available_cores

WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
POLICIES: dict[str, dict[str, str]] = {
    "OpenMP's own": {"GOMP_SPINCOUNT": "300000"},
    "nat2": {},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}


def step_seconds(steps: int, *, protected: bool) -> tuple[float, float]:
    """Median wall and processor seconds of a training step of the largest network, with what nat2 does or without."""
    import torch
    from torch.nn import functional as F

    from nat2.allocator import keep_freed_memory
    from nat2.processes import connect
    from nat2.space import Macro, SearchSpace
    from nat2.supernet import SuperNetwork
    from nat2.supernet.static import channels_last
    from nat2.training.optimise import sgd

    keep_freed_memory()
    if protected:
        connect(accelerator="cpu")
    macro = Macro(classes=10, channels=3, width=0.5, early_exits=True, dense_skips=True, stem_stride=1)
    largest = SearchSpace.of(macro, (32,)).largest
    network = channels_last(SuperNetwork(macro, generator=torch.Generator().manual_seed(0)))
    optimizer = sgd(network, weight_decay=3e-5)
    images = torch.rand(64, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(64) % 10
    walls, processors = [], []
    for _ in range(2 + steps):
        wall, processor = time.perf_counter(), time.process_time()
        optimizer.zero_grad()
        F.cross_entropy(network(images, largest), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        walls.append(time.perf_counter() - wall)
        processors.append(time.process_time() - processor)
    return statistics.median(walls[2:]), statistics.median(processors[2:])


def measure(policy: str, steps: int) -> tuple[float, float]:
    """`step_seconds` in a process of its own."""
    environment = {name: value for name, value in os.environ.items() if name not in (*WAITING, "OMP_NUM_THREADS")}
    ended = subprocess.run(
        [sys.executable, __file__, "--step", str(steps), *(["--protected"] if policy.startswith("nat2") else [])],
        env=environment | POLICIES[policy],
        stdout=subprocess.PIPE,
        check=True,
        start_new_session=True,
    )
    wall, processor = json.loads(ended.stdout)
    return wall, processor


@contextlib.contextmanager
def busy(count: int) -> Iterator[None]:
    """Keep processors busy with `count` processes."""
    command = [sys.executable, "-c", "while True: pass"]
    others = [subprocess.Popen(command, start_new_session=True) for _ in range(count)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def rounds(policies: Sequence[str], repeats: int, steps: int) -> dict[str, list[tuple[float, float]]]:
    """Alternate between the policies."""
    measured: dict[str, list[tuple[float, float]]] = {policy: [] for policy in policies}
    for _ in range(repeats):
        for policy in policies:
            measured[policy].append(measure(policy, steps))
    return measured


def main() -> None:
    arguments = parser(__doc__ or "")
    arguments.add_argument("--repeats", type=int, default=5, help="processes of each setting")
    arguments.add_argument("--step", type=int, help="measure this many steps here and print seconds")
    arguments.add_argument("--protected", action="store_true", help="with what nat2 does beside the spin count")
    arguments.add_argument("--spins", type=int, nargs="*", default=[], help="further spin counts to try")
    given = arguments.parse_args()
    if given.step:
        print(json.dumps(step_seconds(given.step, protected=given.protected)))
        return
    for spins in given.spins:
        POLICIES[f"nat2, {spins:,} spins"] = {"GOMP_SPINCOUNT": str(spins)}
    cores = available_cores()
    rows = []
    quiet = rounds(list(POLICIES), given.repeats, 20)
    for policy in POLICIES:
        pairs = zip(quiet[policy], quiet["OpenMP's own"], strict=True)
        ratio = statistics.median(ours[0] / theirs[0] for ours, theirs in pairs)
        rows.append(Row(f"quiet: {policy} over OpenMP's own", ratio, 1.12 if policy == "nat2" else None))
    with busy(2 * cores):
        loaded = rounds(list(POLICIES), given.repeats, 5)
    for policy in POLICIES:
        needed = statistics.median(processor for _, processor in quiet[policy])
        ratio = statistics.median(wall / needed for wall, _ in loaded[policy])
        rows.append(Row(f"busy: {policy}, wall over processor time", ratio, 4 if policy == "nat2" else None))
        rows.append(Row(f"busy: {policy}, step", statistics.median(wall for wall, _ in loaded[policy]), unit="s"))
    show(f"{cores} cores, {2 * cores} busy processes, {SPIN_COUNT:,} spins", rows, given.json)


if __name__ == "__main__":
    main()
