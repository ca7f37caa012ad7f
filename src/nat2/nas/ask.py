"""Ask and tell: a search that says what to evaluate, while others evaluate it wherever and whenever they like."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Generic, Self

import numpy as np

from nat2.errors import ArchError, ConfigError, RunError
from nat2.nas.archive import Archive, Evaluation, EvaluationRecord, Origin
from nat2.nas.batch import Batch
from nat2.nas.functions import ExactCost, SearchFunctions
from nat2.nas.generation import Generation
from nat2.nas.measure import reported
from nat2.nas.nat import begin, steps
from nat2.nas.objectives import Objective
from nat2.nas.search_result import SearchResult
from nat2.nas.settings import SearchSettings
from nat2.nas.task import Task, check
from nat2.progress import SILENT, Reporter
from nat2.space.searchable import A, Searchable


class AskTell(Generic[A]):
    """A search that hands out architectures (`ask`) and takes results in any order (`tell`).

    Nothing waits for results: `ask` proposes from what is known so far. The archive remembers what is out, and a search
    that is opened again with the same archive hands it out again, so nothing is lost when a worker or the whole program
    dies. Results that are told before the next `ask` lead to the same search in any order.

    A context manager; `ask` and `tell` belong in one thread.
    """

    def __init__(
        self,
        space: Searchable[A],
        objectives: Sequence[Objective],
        *,
        exact: Mapping[str, ExactCost] | None = None,
        recorded: Sequence[Objective] = (),
        settings: SearchSettings | None = None,
        archive: Path | str | None = None,
        seed: int = 0,
        progress: Reporter = SILENT,
    ) -> None:
        """Begin a search, or continue the one in `archive`.

        Args:
            space: What is searched, e.g. a `NamedSpace`.
            objectives: What is optimised, at least one of cost class ``predicted``; bounds are kept.
            exact: For each ``exact`` objective a function from canonical genomes, shape (n, genes), to values, shape
                (n,). A value that is not finite marks a genome as invalid: it is never handed out.
            recorded: What is only recorded or kept within bounds.
            settings: Policies and sizes; ``generations`` only limits `Search.run`.
            archive: File that keeps the evaluations; in memory by default.
            seed: Decides every random choice.
            progress: Where evaluations and generations are reported.

        Raises:
            ConfigError: the arguments contradict each other, or no architecture keeps the bounds on exact objectives.
            CheckpointError: the archive is damaged.
            RunError: the archive holds another search, or cannot be written.
        """
        settings = settings or SearchSettings()
        told = [each.name for each in (*objectives, *recorded) if each.cost == "measured"]
        functions = SearchFunctions[A](_nobody, exact or {}, dict.fromkeys(told, _nobody))
        check(tuple(objectives), tuple(recorded), settings, functions)  # before there is a file
        names = [each.name for each in (*objectives, *recorded)]
        kept = Archive(None if archive is None else Path(archive), names, key=space.key, parse=space.parse)
        self._task = Task(space, functions, tuple(objectives), tuple(recorded), settings, kept, seed, progress=progress)
        self._steps: Iterator[Batch[A] | Generation[A]] | None = None
        self._last = float("inf")  # generation
        self._open = len(kept.generations())  # number of the generation that new results belong to
        self._queue = deque[tuple[A, Origin | None]]((each.arch, None) for each in kept.pending())
        self._since: dict[str, float] = {}
        self._front = np.empty((0, len(self._task.objectives)))
        for each in kept.known(0):
            self._improves(each)
        try:
            begin(self._task)
        except BaseException:
            kept.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the archive; what is out stays remembered there."""
        self._task.archive.close()

    def ask(self, n: int | None = None) -> list[A]:
        """Architectures to evaluate; each is out from now on until its result is told.

        Args:
            n: How many. By default the rest of the current generation, at least one: everything that can be proposed
                without knowing more.

        Returns:
            Fewer than `n` only if the space has no more (`exhausted` says so), or if nothing can be proposed before
            the results of what is out.

        Raises:
            ConfigError: `n` is below 1.
            RunError: most of the first evaluations failed, or the archive cannot be written.
        """
        if n is not None and n < 1:
            raise ConfigError(f"`n` must be at least 1; got {n}")
        return self._take(float("inf") if n is None else n, whole=n is None)

    def _take(self, most: float, *, whole: bool) -> list[A]:
        """Hand out at most so many; with `whole` no more than the current generation has left."""
        handed: list[A] = []
        while len(handed) < most:
            while not self._queue and not (whole and handed) and self._step():
                pass
            if not self._queue:
                break
            arch, origin = self._queue.popleft()
            if origin is not None:  # else it was out before
                self._task.archive.hand_out(arch, self._open, origin)
            self._since[self._task.space.key(arch)] = time.monotonic()
            handed.append(arch)
        return handed

    def tell(
        self, arch: A, values: Mapping[str, float] | float | None = None, *, failure: str = "", seconds: float = 0.0
    ) -> bool:
        """Report the result of an architecture, asked for or not: known results are told like others.

        Args:
            arch: The architecture.
            values: A value for each objective that is not exact, by name, or the only one. A value that is not finite
                is recorded as a failure.
            failure: Why there are no values; the architecture is then neither learned from nor proposed again.
            seconds: What evaluating took; by default the time since it was handed out.

        Returns:
            Whether the result was recorded; False if there is one already, which stays.

        Raises:
            ArchError: the architecture is not in the space.
            ConfigError: values are missing, unknown or not numbers.
            RunError: the archive cannot be written.
        """
        if (values is None) != bool(failure):
            raise ConfigError("`tell` takes either the values of an architecture or the reason of its failure")
        return self._tell(arch, values, failure, seconds) is not None

    def _tell(self, arch: A, values: object, failure: str, seconds: float) -> Evaluation[A] | None:
        """The new evaluation; None if there was one already."""
        task = self._task
        arch = self._checked(arch)
        if isinstance(values, Mapping) and (unknown := set(values) - {each.name for each in task.quantities}):
            raise ConfigError(f"{', '.join(sorted(map(str, unknown)))}: there are no such objectives in this search")
        try:
            made = Evaluation(arch, {}, failure) if failure else reported(task, arch, values)
        except KeyError as error:
            raise ConfigError(f"the values of {arch} lack {error.args[0]}; got {values!r}") from error
        except (TypeError, ValueError) as error:
            raise ConfigError(f"the values of {arch} must be numbers by objective: {error}") from error
        if task.archive.find(arch, weights=0) is not None:
            return None
        key = task.space.key(arch)
        origin: Origin = next((each.origin for each in task.archive.pending() if each.arch == arch), "given")
        began = self._since.pop(key, time.monotonic())
        row = EvaluationRecord(0, self._open, origin, 1.0, seconds or time.monotonic() - began, task.seed)
        task.archive.add(made, row)
        self._queue = deque(each for each in self._queue if each[0] != arch)
        task.progress.step(1, unit="evaluations")
        return made

    def release(self, arch: A) -> None:
        """Take back an architecture that is out and whose worker is lost; it is handed out again.

        Raises:
            ConfigError: it is not out.
        """
        arch = self._checked(arch)
        if arch not in {each.arch for each in self._task.archive.pending()}:
            raise ConfigError(f"{arch} is not out for evaluation")
        if arch not in {each for each, _ in self._queue}:
            self._queue.appendleft((arch, None))

    def result(self) -> SearchResult[A]:
        """The result of everything that was told so far.

        Raises:
            RunError: no evaluation has succeeded yet.
        """
        archive = self._task.archive
        while not self._queue and not archive.pending() and archive.of_generation(self._open, weights=0):
            if not self._step():  # closes the generation
                break
        return SearchResult.of(self._task, archive.generations())

    @property
    def pending(self) -> list[A]:
        """What is out for evaluation, in the order that it was handed out; after a restart, what was out before too."""
        return [each.arch for each in self._task.archive.pending()]

    @property
    def out(self) -> list[A]:
        """What of it is not going to be handed out again."""
        again = {arch for arch, _ in self._queue}
        return [arch for arch in self.pending if arch not in again]

    @property
    def evaluated(self) -> int:
        """How many results were told, failures among them."""
        return self._task.archive.count()

    @property
    def exhausted(self) -> str:
        """Why nothing is left to hand out; empty if something is."""
        return self._task.archive.noted("exhausted") or ""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.evaluated} evaluated, {len(self.pending)} out, generation {self._open})"

    def _repr_html_(self) -> str:
        try:
            return SearchResult.of(self._task, ())._repr_html_()
        except RunError:
            return repr(self)

    def _checked(self, arch: A) -> A:
        """The architecture as the space knows it."""
        space = self._task.space
        try:
            return space.decode(space.encode(arch))
        except (TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
            raise ArchError(f"{arch!r} is not an architecture of this space ({error})") from error

    def _step(self) -> bool:
        """Go on to the next step of the search; False if nothing can be proposed now."""
        if self._steps is None:
            self._steps = steps(self._task, self._last)
        try:
            step = next(self._steps, None)
        except BaseException:
            self._steps = None  # the next call begins again from the archive
            raise
        if step is None:
            self._steps = None
            return False
        if isinstance(step, Generation):
            if step.number >= self._open:
                self._task.progress.say(step.summary(self._task.settings.generations))
            self._open = max(self._open, step.number + 1)
            return True
        seen = self._task.archive.seen(0)
        self._queue.extend((arch, step.origin) for arch in step.archs if self._task.space.key(arch) not in seen)
        return bool(step.archs)

    def _limit(self, last: float) -> None:
        """Let a generation be the last one; what is queued is queued again by the next step."""
        self._last, self._steps = last, None
        self._queue = deque(each for each in self._queue if each[1] is None)

    def _improves(self, made: Evaluation[A]) -> bool:
        """Whether no evaluation before beats or equals a new one."""
        if made.failure:
            return False
        row = self._task.values([made])[0]
        if self._task.violations([made])[0] > 0 or (self._front <= row).all(axis=1).any():
            return False
        self._front = np.concatenate([self._front[~(row <= self._front).all(axis=1)], row[None]])
        return True


def _nobody(arch: object) -> float:
    raise AssertionError("a search that is told its results evaluates nothing itself")
