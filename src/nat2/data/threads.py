"""Threads that decode images: Pillow works without the interpreter lock."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from nat2.environment import available_cores


@contextlib.contextmanager
def workers() -> Iterator[ThreadPoolExecutor]:
    """A thread per core; work that has not begun is cancelled when the program is interrupted."""
    pool = ThreadPoolExecutor(available_cores())
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
