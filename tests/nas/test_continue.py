"""A search that is interrupted, killed or continued ends like one that is not."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nat2.errors import RunError
from nat2.nas.archive import Archive
from nat2.nas.functions import SearchFunctions
from nat2.nas.nat import run_search, search
from nat2.nas.objectives import Objective
from nat2.nas.search_result import SearchResult
from nat2.nas.settings import SearchSettings
from nat2.nas.task import Task
from nat2.space import Arch, IntegerSpace
from tests.nas.worlds import World, counting, look_for, new_archive

OURS: dict[str, object] = {"preprocess": "halving", "oversample": 3, "predictor": "auto", "features": "structure"}


@dataclasses.dataclass(frozen=True)
class Uninterrupted:
    """How a search ends that nothing interrupts."""

    found: SearchResult[Arch]
    logged: list[tuple[object, ...]]


def logged_in(archive: Archive[Arch]) -> list[tuple[object, ...]]:
    return [(each.members, each.hypervolume, each.facts.quality) for each in archive.generations()]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bool], Uninterrupted]:
    """The whole search with NAT2's policies or with ours, made once."""

    @functools.cache
    def whole(ours: bool) -> Uninterrupted:
        with new_archive(tmp_path_factory.mktemp("whole") / "archive.db") as archive:
            found = look_for(World(), archive, **OURS if ours else {})  # type: ignore[arg-type]
            return Uninterrupted(found, logged_in(archive))

    return whole


# 48 initial evaluations, then in each generation 6 candidates, an adaptation, and 24 networks again.
@pytest.mark.parametrize(
    ("ours", "stop_after"),
    [(False, n) for n in (0, 30, 48, 54, 55, 60, 79, 140)]
    + [pytest.param(False, n, marks=pytest.mark.slow) for n in (1, 47, 50, 80, 100)]
    + [(True, n) for n in (40, 80, 95, 130)],
)
def test_an_interrupted_search_ends_like_an_uninterrupted_one(
    tmp_path: Path, uninterrupted: Callable[[bool], Uninterrupted], ours: bool, stop_after: int
) -> None:
    whole, policies = uninterrupted(ours), OURS if ours else {}
    killed = World(stop_after=stop_after)
    with new_archive(tmp_path / "killed.db") as archive:
        with pytest.raises(KeyboardInterrupt):
            look_for(killed, archive, **policies)  # type: ignore[arg-type]
        kept = len(archive.evaluations())
        assert kept == len(killed.measured) + len(killed.parts)
        resumed = World(version=killed.version)
        ended = look_for(resumed, archive, **policies)  # type: ignore[arg-type]
        assert (ended.members, ended.front) == (whole.found.members, whole.found.front)
        assert logged_in(archive) == whole.logged
        assert not set(resumed.measured) & set(killed.measured)
        assert not set(resumed.parts) & set(killed.parts)


def test_an_archive_on_disk_is_gone_on_with(tmp_path: Path) -> None:
    space, path = IntegerSpace((8,) * 6), tmp_path / "a.db"
    objectives = [Objective(name="loss"), Objective(name="gain", direction="max")]
    settings = SearchSettings(archive=16, generations=2, candidates=4, predictor="ridge", inner_generations=5)
    search(space, counting, objectives, settings=settings, archive=path)
    asked: list[tuple[int, ...]] = []

    def evaluate(arch: tuple[int, ...]) -> dict[str, float]:
        asked.append(arch)
        return counting(arch)

    longer = search(space, evaluate, objectives, settings=dataclasses.replace(settings, generations=3), archive=path)
    assert len(asked) == 4
    whole = search(space, counting, objectives, settings=dataclasses.replace(settings, generations=3))
    assert longer.front == whole.front


def test_an_archive_of_another_search_is_refused(tmp_path: Path) -> None:
    space, path = IntegerSpace((8,) * 3), tmp_path / "a.db"
    objectives = [Objective(name="loss"), Objective(name="gain", direction="max")]
    settings = SearchSettings(archive=8, generations=0)
    search(space, counting, objectives, settings=settings, archive=path)
    with pytest.raises(RunError, match="seed differ"):
        search(space, counting, objectives, settings=settings, archive=path, seed=1)
    objectives[1] = dataclasses.replace(objectives[1], low=3)
    with pytest.raises(RunError, match="gain differ"):
        search(space, counting, objectives, settings=settings, archive=path)
    adapting = SearchFunctions(counting, adapt=lambda number, good: None)
    with pytest.raises(RunError, match="adapts, gain differ"):
        search(space, adapting, objectives, settings=settings, archive=path)
    with pytest.raises(RunError, match="space, gain differ"):
        search(IntegerSpace((9,) * 3), counting, objectives, settings=settings, archive=path)


def test_failures_are_repeated_once_their_cause_is_fixed(tmp_path: Path) -> None:
    space, path = IntegerSpace((4, 4)), tmp_path / "a.db"
    objectives = [Objective(name="loss"), Objective(name="gain", direction="max")]
    settings = SearchSettings(archive=8, generations=2, candidates=2, predictor="ridge", inner_generations=3)
    working = [False]

    def evaluate(arch: tuple[int, ...]) -> dict[str, float]:
        if not working[0]:
            raise OSError("no GPU")
        return counting(arch)

    with pytest.raises(RunError, match=r"no GPU\. Fix the evaluation and repeat the call"):
        search(space, evaluate, objectives, settings=settings, archive=path)
    working[0] = True
    found = search(space, evaluate, objectives, settings=settings, archive=path)
    assert found.front == search(space, counting, objectives, settings=settings).front


def test_a_search_goes_on_as_long_as_its_generations_are_asked_for(tmp_path: Path) -> None:
    space, objectives = IntegerSpace((4,) * 4), (Objective(name="loss"), Objective(name="gain", direction="max"))
    settings = SearchSettings(archive=8, generations=3, candidates=3, population=12, predictor="bayesian")
    whole = search(space, counting, objectives, settings=settings)
    with Archive[tuple[int, ...]](tmp_path / "a.db", ("loss", "gain"), key=space.key, parse=space.parse) as archive:
        task = Task(space, SearchFunctions(counting), objectives, (), settings, archive, 0)
        for generation in run_search(task):
            assert archive.generations()[-1] == generation  # it is kept before anybody hears of it
            if generation.number == 1:
                break
        assert [generation.number for generation in archive.generations()] == [0, 1]
        generations = list(run_search(task))
        assert [generation.number for generation in generations] == [0, 1, 2, 3]
        assert SearchResult.of(task, generations).front == whole.front


class Killed(BaseException):
    """A kill at a write."""


def search_with_writes(path: Path) -> SearchResult[tuple[int, ...]]:
    """A search of moments that writes some forty times."""
    settings = SearchSettings(
        archive=8, generations=3, candidates=3, population=12, inner_generations=3, predictor="ridge"
    )
    objectives = [Objective(name="loss"), Objective(name="gain", direction="max")]
    return search(IntegerSpace((4,) * 4), counting, objectives, settings=settings, archive=path)


@pytest.fixture(scope="module")
def unkilled(tmp_path_factory: pytest.TempPathFactory) -> SearchResult[tuple[int, ...]]:
    return search_with_writes(tmp_path_factory.mktemp("unkilled") / "a.db")


@pytest.mark.parametrize("written", [False, True])
@pytest.mark.parametrize("place", [0, 1, 4, 9, 10, 11, 12, 15, 16, 17, 20, 21])
def test_a_kill_at_any_write_changes_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    unkilled: SearchResult[tuple[int, ...]],
    place: int,
    written: bool,
) -> None:
    """Just before a write to the archive, or just behind it."""
    left = [place]
    with monkeypatch.context() as patched:
        for name in ("add_all", "note", "close_generation"):
            write = getattr(Archive, name)

            def stop(self: Archive[Any], *arguments: object, write: Callable[..., None] = write) -> None:
                left[0] -= 1
                if left[0] < 0 and not written:
                    raise Killed
                write(self, *arguments)
                if left[0] < 0:
                    raise Killed

            patched.setattr(Archive, name, stop)
        with pytest.raises(Killed):
            search_with_writes(tmp_path / "killed.db")
    resumed, whole = search_with_writes(tmp_path / "killed.db"), unkilled
    assert (resumed.members, resumed.front, resumed.evaluated) == (whole.members, whole.front, whole.evaluated)
    volumes = [[generation.hypervolume for generation in found.generations] for found in (whole, resumed)]
    assert volumes[0] == volumes[1]
