"""The other processes of a run: waiting for them, however long one of them works, and noticing when one is lost.

A process may fine-tune for hours while the others wait for it, so that a timeout of the wait itself could not tell a
long computation from a lost machine. Each process therefore counts a heartbeat up in the store that torch.distributed
keeps, from a thread of its own, and watches the heartbeats of the others. Collective operations begin only when all
have arrived (`Peers.meet`), so that torch's own timeout can be short.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from nat2.errors import LostProcessError

_NAMED = 8  # lost processes at most
_BEATS, _SILENT = 10, 8  # heartbeats within the timeout, and how many may be missed
_GRACE = 5.0  # seconds in which the main thread may end in order
_LONGEST_NAP, _SHORTEST_NAP = 0.05, 0.0002  # seconds between two looks at the store
_ENDED = "ended: "
_CONTINUE = "What was computed is kept: give the same command again to continue"


class Peers:
    """The other processes, seen through the store that all of them share."""

    def __init__(self, store: Store, rank: int, size: int, *, timeout: float, end: Callable[[str], object]) -> None:
        """Nothing is watched before `watch`.

        Args:
            store: Of all processes; used by nothing else.
            rank: Of this process.
            size: Number of processes.
            timeout: Seconds within which a process that no longer answers is noticed.
            end: Ends this process at once and reports why; nothing if another reports it.
        """
        self._store, self._rank, self._size, self._timeout = store, rank, size, timeout
        self._end = end
        self._keys = [f"beat/{each}" for each in range(size)]
        self._hosts: list[str] = []
        self._threads: list[threading.Thread] = []
        self._meetings = 0
        self._lost = ""
        self._told = False
        self._stopped = threading.Event()
        self._unanswered = 0

    @staticmethod
    def of_environment(rank: int, size: int, *, timeout: float, end: Callable[[str], object]) -> Peers:
        """Those that the launcher has started; their store is reached by a connection of its own.

        The first would be blocked while torch waits in it.
        """
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = TCPStore(
            address, port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=max(10.0, timeout))
        )
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")  # torchrun keeps the store when it restarts
        return Peers(PrefixStore(f"nat2/{attempt}", store), rank, size, timeout=timeout, end=end)

    def watch(self) -> None:
        """Begin to send heartbeats and to watch those of the others, when all have arrived."""
        self._store.set(self._keys[self._rank], "0")
        self._store.set(f"host/{self._rank}", socket.gethostname())
        self.meet()
        hosts = self._store.multi_get([f"host/{each}" for each in range(self._size)])
        self._hosts = [each.decode() for each in hosts]
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._send_beats, self._watch_contact)]
        for thread in self._threads:
            thread.start()

    def meet(self) -> None:
        """Wait until every process has called this as often as this one; for hours, if need be.

        Raises:
            LostProcessError: one of them was lost meanwhile.
        """
        self._meetings += 1
        began = time.monotonic()
        with self.connected():
            arrived = self._store.add(f"met/{self._meetings}", 1)
            while arrived < self._size:
                if self._lost:
                    raise self._error(self._lost)
                time.sleep(min(_LONGEST_NAP, max(_SHORTEST_NAP, (time.monotonic() - began) / 20)))
                arrived = self._store.add(f"met/{self._meetings}", 0)
            if self._rank == 0:  # all have left the one before
                self._store.delete_key(f"met/{self._meetings - 1}")

    @contextmanager
    def connected(self) -> Iterator[None]:
        """Translate the errors of an exchange.

        Raises:
            LostProcessError: the connection to another process broke, or it did not answer in time.
        """
        try:
            yield
        except LostProcessError:
            raise
        except RuntimeError as error:  # of gloo, NCCL, or the store; torch has no common class for them
            reason = str(error).partition("\n")[0].partition(". This is")[0]
            raise self._error(
                self._lost or f"the connection to another process broke ({reason}). {_CONTINUE}"
            ) from error

    def leave(self, error: BaseException | None = None) -> None:
        """End together with the others or, after an error, alone; they are told of it once they miss this process."""
        if self._lost or isinstance(error, LostProcessError):
            return  # the watching threads make sure that this process ends
        if error is None:
            self.meet()
        self._stopped.set()
        for thread in self._threads:
            thread.join(1)
        try:
            if error is not None:
                self._store.set(self._keys[self._rank], f"{_ENDED}{error}"[:500])
            elif self._store.add("left", 1) < self._size and self._rank == 0:  # the store may be in this process
                until = time.monotonic() + _GRACE
                while self._store.add("left", 0) < self._size and time.monotonic() < until:
                    time.sleep(_SHORTEST_NAP)
        except RuntimeError:  # the process that keeps the store has ended before
            pass

    def _error(self, reason: str) -> LostProcessError:
        error = LostProcessError(reason)
        error.reported = not self._first_to_tell()
        return error

    def _first_to_tell(self) -> bool:
        """Whether this process is the one that reports: the first to notice, or one that cannot ask."""
        if self._told:
            return False
        self._told = True
        try:
            return bool(self._store.add("told", 1) == 1)
        except RuntimeError:
            return True

    def _send_beats(self) -> None:
        """Send heartbeats, and count for each process how many of this one's have passed without one of its own.

        Counting, rather than a clock, because a machine that was suspended wakes up with clocks that have moved on.
        """
        seen, silent, count = [b""] * self._size, [0] * self._size, 0
        while not self._stopped.wait(self._timeout / _BEATS):
            count += 1
            try:
                self._store.set(self._keys[self._rank], str(count))
                beats = self._store.multi_get(self._keys)
            except RuntimeError:  # `_watch_contact` counts these
                continue
            self._unanswered = 0
            for other, beat in enumerate(beats):
                silent[other] = 0 if beat != seen[other] else silent[other] + 1
            seen = beats
            late = [other for other, missed in enumerate(silent) if missed >= _SILENT]
            if late:
                self._notice(self._missing(late, [beats[other].decode() for other in late]))
                return

    def _missing(self, late: list[int], beats: list[str]) -> str:
        names = ", ".join(f"{other} on {self._hosts[other]}" for other in late[:_NAMED])
        more = f" and {len(late) - _NAMED} more" if len(late) > _NAMED else ""
        who = f"process {names}{more} (counted from 0, of {self._size})"
        errors = [beat.removeprefix(_ENDED) for beat in beats if beat.startswith(_ENDED)]
        if errors:
            return f"{who} ended with an error: {errors[0]}"
        return (
            f"{who} did not answer for {self._timeout:g} seconds: it was killed or stopped, or its machine is down. "
            f"{_CONTINUE}"
        )

    def _watch_contact(self) -> None:
        """Notice that the store no longer answers, even if a call of it never returns."""
        while not self._stopped.wait(self._timeout / _BEATS):
            self._unanswered += 1
            if self._unanswered > _SILENT:
                self._notice(
                    f"the store at {os.environ.get('MASTER_ADDR')}, which connects the {self._size} processes, did not "
                    f"answer for {self._timeout:g} seconds: its process was killed, or the machine is down. {_CONTINUE}"
                )
                return

    def _notice(self, reason: str) -> None:
        """Let the main thread end in order if it is waiting in `meet`; it may be in a call that never returns."""
        self._lost = reason
        time.sleep(_GRACE)
        self._end(reason if self._first_to_tell() else "")
