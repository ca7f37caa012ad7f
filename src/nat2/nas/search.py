"""A search that evaluates what it asks for: one after the other, in batches, or in the workers of an executor."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, Executor, Future, wait
from dataclasses import dataclass
from typing import Any

from nat2.errors import ConfigError, Nat2Error, RunError
from nat2.nas.archive import Evaluation
from nat2.nas.ask import AskTell
from nat2.nas.search_result import SearchResult
from nat2.space.searchable import A

Evaluated = Callable[["Search[A]", Evaluation[A]], object]
"""Called with the search and a new evaluation."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """When a search stops, whichever comes first; what is out for evaluation then is waited for."""

    evaluations: int | None = None
    """Number of evaluations in the archive, failed ones and those of earlier calls included."""
    seconds: float | None = None
    """Of this call."""
    stagnation: int | None = None
    """Number of consecutive evaluations of this call that do not improve the front."""

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: a limit is not above 0.
        """
        for name in ("evaluations", "seconds", "stagnation"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int | float) and value > 0):
                raise ConfigError(f"`{name}` must be above 0; got {value!r}")


class Search(AskTell[A]):
    """A search of any space for any objectives, with evaluations of your own; see `AskTell` for ``ask`` and ``tell``.

    `run` evaluates by itself, in this process or in the workers of an executor.
    """

    stopped: str = ""
    """Why the last `run` ended."""

    def stop(self) -> None:
        """End `run` once everything that is out has been told; for callbacks."""
        self.stopped = "stop() was called"

    def run(
        self,
        evaluate: Callable[[Any], Any],
        *,
        limits: Limits | None = None,
        executor: Executor | None = None,
        workers: int | None = None,
        batch: bool = False,
        callback: Evaluated[A] | None = None,
    ) -> SearchResult[A]:
        """Ask, evaluate and tell until a limit is reached, `stop` is called, or the space is exhausted.

        Args:
            evaluate: Takes an architecture; returns its values as `tell` takes them. What it raises is recorded as the
                failure of that architecture.
            limits: When to stop; by default after the generations of the settings.
            executor: Evaluates in its workers: a `concurrent.futures.ProcessPoolExecutor`, or any executor with that
                interface (joblib's loky, Dask). The workers never wait for the slowest evaluation of a generation, so
                what they find depends on how long evaluations take.
            workers: Evaluations that are out at a time; by default the executor's number of workers.
            batch: Whether `evaluate` takes a list of architectures, the rest of a generation, and returns a list of
                results. An exception in place of a result is a failure.
            callback: Called with the search and each new evaluation, e.g. to log it or to `stop`.

        Returns:
            The result so far; the search can be continued.

        Raises:
            ConfigError: the arguments contradict each other.
            RunError: most of the first evaluations failed, a batch failed as a whole, or the executor broke. The
                results so far are kept, and what was out is handed out again.
        """
        if batch and executor is not None:
            raise ConfigError("`batch` and `executor` exclude each other: a batch function distributes its own work")
        if workers is not None and (executor is None or workers < 1):
            raise ConfigError(f"`workers` must be at least 1 and needs an `executor`; got {workers!r}")
        self.stopped = ""
        if limits is None:
            self._limit(self._task.settings.generations)
        run = _Run(self, limits or Limits(), callback)
        planned = run.limits.evaluations or self._task.settings.networks
        self._task.progress.stage("search", evaluations=max(0, planned - self.evaluated))
        try:
            if executor is not None:
                _run_in(
                    run, evaluate, executor, workers or getattr(executor, "_max_workers", None) or os.cpu_count() or 1
                )
            elif batch:
                _run_batches(run, evaluate)
            else:
                _run_alone(run, evaluate)
        finally:
            for arch in reversed(self.pending):  # those of an evaluation that was interrupted
                self.release(arch)
            if limits is None:
                self._limit(float("inf"))
        return self.result()


class _Run:
    """One call of `Search.run`."""

    def __init__(self, search: Search[Any], limits: Limits, callback: Evaluated[Any] | None) -> None:
        self.search, self.limits, self._callback = search, limits, callback
        self._began = time.monotonic()
        self._without_gain = 0

    def ask(self, most: float, *, whole: bool = False) -> list[Any]:
        """What to evaluate next; nothing if it is time to stop."""
        search, limits = self.search, self.limits
        if limits.evaluations is not None:
            most = min(most, limits.evaluations - search.evaluated - len(search.out))
        if not search.stopped:
            search.stopped = self._reason()
        if search.stopped or most < 1:
            return []
        archs = search._take(most, whole=whole)
        if not archs and not search.out:
            search.stopped = search.exhausted or "all generations are done"
        return archs

    def _reason(self) -> str:
        limits = self.limits
        if limits.evaluations is not None and self.search.evaluated >= limits.evaluations:
            return f"{limits.evaluations} evaluations were made"
        if limits.seconds is not None and time.monotonic() - self._began >= limits.seconds:
            return f"{limits.seconds:g} seconds have passed"
        if limits.stagnation is not None and self._without_gain >= limits.stagnation:
            return f"{limits.stagnation} evaluations did not improve the front"
        return ""

    def tell(self, arch: Any, given: object, *, seconds: float = 0.0) -> None:
        """Record what evaluating returned or raised."""
        search = self.search
        if isinstance(given, BaseException):
            made = search._tell(arch, None, f"{type(given).__name__}: {given}", seconds)
        else:
            try:
                made = search._tell(arch, given, "", seconds)
            except ConfigError as error:  # the evaluation's fault, not the caller's
                made = search._tell(arch, None, str(error), seconds)
        self._without_gain = 0 if made is not None and search._improves(made) else self._without_gain + 1
        if made is not None and self._callback is not None:
            self._callback(search, made)


def _run_alone(run: _Run, evaluate: Callable[[Any], Any]) -> None:
    while archs := run.ask(1):
        began = time.monotonic()
        outcome = _outcome(evaluate, archs[0])
        run.tell(archs[0], outcome, seconds=time.monotonic() - began)


def _outcome(evaluate: Callable[[Any], Any], arch: Any) -> object:
    """What evaluating returns, or raises."""
    try:
        return evaluate(arch)
    except Nat2Error:
        raise
    except Exception as error:  # one architecture that cannot be evaluated must not end the search
        return error


def _run_batches(run: _Run, evaluate: Callable[[list[Any]], Sequence[Any]]) -> None:
    while archs := run.ask(float("inf"), whole=True):
        began = time.monotonic()
        try:
            outcomes = list(evaluate(list(archs)))
        except Nat2Error:
            raise
        except Exception as error:
            raise RunError(
                f"the batch function failed ({type(error).__name__}: {error}); none of its {len(archs)} architectures "
                "is recorded, they will be handed out again. To fail single ones, return exceptions in their place"
            ) from error
        if len(outcomes) != len(archs):
            raise RunError(f"the batch function returned {len(outcomes)} results for {len(archs)} architectures")
        seconds = (time.monotonic() - began) / len(archs)
        for arch, outcome in zip(archs, outcomes, strict=True):
            run.tell(arch, outcome, seconds=seconds)


def _run_in(run: _Run, evaluate: Callable[[Any], Any], executor: Executor, workers: int) -> None:
    out: dict[Future[Any], Any] = {}
    try:
        while True:
            for arch in run.ask(workers - len(out)):
                out[executor.submit(evaluate, arch)] = arch
            if not out:
                return
            done, _ = wait(out, return_when=FIRST_COMPLETED)
            for future in [each for each in out if each in done]:  # in the order of submission
                outcome = _result_of(future)
                run.tell(out.pop(future), outcome)
    except BrokenExecutor as error:
        raise RunError(
            f"the executor broke ({type(error).__name__}: {error}); the results so far are kept. A worker was probably "
            "killed for want of memory: use fewer workers and repeat the call"
        ) from error
    finally:
        for future in out:
            future.cancel()


def _result_of(future: Future[Any]) -> object:
    try:
        return future.result()
    except (Nat2Error, BrokenExecutor, CancelledError):
        raise
    except Exception as error:  # as in `_outcome`
        return error
