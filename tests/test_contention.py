"""On a busy machine waiting threads sleep; the computing threads and their results stay as they are."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from nat2 import contention
from nat2.contention import IdleThreads, delays, watch_contention

pytestmark = pytest.mark.skipif(sys.platform != "linux" or not delays(), reason="the system does not say who waits")


def openmp_threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


@pytest.fixture
def two_threads() -> object:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    torch.ones(1 << 20).sum()
    yield
    torch.set_num_threads(before)


def test_idle_threads_outnumber_the_cores_and_end(two_threads: None) -> None:
    idle, before = IdleThreads(), openmp_threads()
    idle.add()
    idle.add()  # once is enough
    deadline = time.monotonic() + 20
    while openmp_threads() <= max(before, len(os.sched_getaffinity(0))) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert openmp_threads() > max(before, len(os.sched_getaffinity(0)))
    assert len(idle) >= 1
    idle.remove()
    idle.remove()
    assert len(idle) == 0
    while openmp_threads() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert openmp_threads() <= before


def test_results_do_not_depend_on_idle_threads(two_threads: None) -> None:
    x, weight = torch.rand(32, 16, 24, 24), torch.rand(32, 16, 3, 3)
    expected = torch.nn.functional.conv2d(x, weight)
    idle = IdleThreads()
    idle.add()
    try:
        assert torch.equal(torch.nn.functional.conv2d(x, weight), expected)
    finally:
        idle.remove()


def test_one_thread_needs_no_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contention, "_watching", [])
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    watch_contention()
    assert not contention._watching
    idle = IdleThreads()
    idle.add()
    assert len(idle) == 0


BUSY = """
import os, threading, time
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import torch
torch.set_num_threads(2)
from nat2 import contention
contention.watch_contention()
assert len(contention._watching) == 1

def held():
    return len([each for each in threading.enumerate() if each._target is contention._hold_team])

rival = os.fork()
if not rival:
    while True:
        pass
try:
    until = time.monotonic() + 30
    while not held() and time.monotonic() < until:
        sum(range(10_000))
    assert held() == 1
finally:
    os.kill(rival, 9)
    os.waitpid(rival, 0)
print("busy")
"""


def test_threads_sleep_while_another_process_takes_the_core() -> None:
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", BUSY], env=environment, capture_output=True, text=True
    )
    assert ended.stdout == "busy\n", ended.stderr
