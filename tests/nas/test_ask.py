"""Ask and tell: results in any order, from anywhere, through kills; and the same search as without."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nat2.errors import ArchError, ConfigError, Nat2Error, RunError
from nat2.nas.archive import Archive, Evaluation
from nat2.nas.nat import search
from nat2.nas.objectives import Objective
from nat2.nas.search import Limits, Search
from nat2.nas.search_result import SearchResult
from nat2.nas.settings import SearchSettings
from nat2.space import Genomes, IntegerSpace
from tests.nas.worlds import counting

Vector = tuple[int, ...]
SPACE = IntegerSpace((8,) * 6)
OBJECTIVES = (Objective(name="loss"), Objective(name="gain", direction="max"))
SETTINGS = SearchSettings(
    archive=12, drawn=12, generations=3, candidates=4, predictor="ridge", inner_generations=4, population=16,
)  # fmt: skip


def made(path: Path | None = None, space: Any = SPACE, **options: Any) -> Search[Vector]:
    return Search[Vector](space, OBJECTIVES, settings=SETTINGS, archive=path, **options)


@pytest.fixture(scope="module")
def alone() -> SearchResult[Vector]:
    return search(SPACE, counting, OBJECTIVES, settings=SETTINGS)


def outcome(result: SearchResult[Vector]) -> object:
    volumes = [generation.hypervolume for generation in result.generations]
    return result.members, result.front, result.evaluated, volumes


def told(searched: Search[Vector], archs: Sequence[Vector]) -> None:
    for arch in archs:
        assert searched.tell(arch, counting(arch))


@pytest.mark.parametrize("seed", range(3))
def test_results_in_any_order_make_the_same_search(alone: SearchResult[Vector], seed: int) -> None:
    searched = made()
    sizes = []
    for _ in range(1 + SETTINGS.generations):
        archs = searched.ask()
        sizes.append(len(archs))
        random.Random(seed).shuffle(archs)
        told(searched, archs)
    assert sizes == [12, 4, 4, 4]
    assert outcome(searched.result()) == outcome(alone)


@pytest.mark.parametrize("how", ["alone", "batch", "one at a time"])
def test_every_way_to_evaluate_in_step_makes_the_same_search(alone: SearchResult[Vector], how: str) -> None:
    searched = made()
    if how == "alone":
        result = searched.run(counting)
    elif how == "batch":
        result = searched.run(lambda archs: [counting(arch) for arch in archs], batch=True)
    else:
        for _ in range(24):
            told(searched, searched.ask(1))
        result = searched.result()
    assert outcome(result) == outcome(alone)


def test_nobody_waits_for_the_slowest() -> None:
    """All that is asked for is handed out, never twice, whatever is still out."""
    searched = made()
    first = searched.ask(20)  # more than the first archive
    assert len(set(first)) == 20
    told(searched, first[:9])
    later = searched.ask(5)
    assert len({*first, *later}) == 25
    assert searched.pending == [*first[9:], *later]
    told(searched, later)
    told(searched, first[9:])
    assert searched.result().generations[-1].number >= 1
    assert searched.evaluated == 25


@pytest.mark.parametrize("stop_after", [0, 5, 12, 14, 17])
def test_what_was_out_is_handed_out_again_by_a_restart(
    tmp_path: Path, alone: SearchResult[Vector], stop_after: int
) -> None:
    path = tmp_path / "a.db"
    lost: list[Vector] = []
    with made(path) as searched:
        for number in range(stop_after + 1):
            (arch,) = searched.ask(1)
            if number < stop_after:
                told(searched, [arch])
            lost = [arch]
    with made(path) as searched:
        assert searched.pending == lost
        assert searched.ask(1) == lost
        told(searched, lost)
        assert outcome(searched.run(counting)) == outcome(alone)


def test_a_restart_far_ahead_of_its_results_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with made(path) as searched:
        archs = searched.ask(12)
        told(searched, archs[:8])
        out = [*archs[8:], *searched.ask(3)]
    with made(path) as searched:
        assert searched.ask(7) == out
        more = searched.ask(2)
        assert not set(more) & {*archs, *out}
        told(searched, [*more, *out])
        assert searched.result().history[-1][1].generation >= 1
        assert len(searched.result().evaluated) == 17


def test_known_results_take_the_place_of_random_ones() -> None:
    searched = made()
    known = [tuple(map(int, genome)) for genome in SPACE.sample(8, np.random.default_rng(5))]
    told(searched, known)
    first = searched.ask()
    assert len(first) == SETTINGS.archive - len(known)
    told(searched, first)
    assert not set(searched.ask()) & {*known, *first}
    origins = [record.origin for _, record in searched.result().history]
    assert origins.count("given") == 8


def test_the_first_result_stays() -> None:
    searched = made()
    (arch,) = searched.ask(1)
    assert searched.tell(arch, {"loss": 1.0, "gain": 2.0})
    assert not searched.tell(arch, {"loss": 9.0, "gain": 9.0})
    assert searched.result().evaluated[0].values == {"loss": 1.0, "gain": 2.0}


def test_failures_are_told_and_replaced() -> None:
    searched = made()
    archs = searched.ask()
    told(searched, archs[3:])
    for arch in archs[:2]:
        assert searched.tell(arch, failure="out of memory")
    searched.tell(archs[2], {"loss": float("nan"), "gain": 1.0})
    replaced = searched.ask()
    assert len(replaced) == 3
    told(searched, replaced)
    searched.ask(1)
    result = SearchResult.of(searched._task, searched._task.archive.generations())
    assert len(result.generations[0].members) == SETTINGS.archive
    assert [each.failure for each, _ in result.history if each.failure] == ["out of memory"] * 2 + ["loss is nan"]


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        (None, {}, "either the values"),
        ({"loss": 1.0, "gain": 1.0}, {"failure": "no"}, "either the values"),
        ({"loss": 1.0}, {}, "lack gain"),
        ({"loss": 1.0, "gain": 1.0, "size": 3}, {}, "size: there are no such objectives"),
        ({"loss": "low", "gain": 1.0}, {}, "must be numbers"),
        (0.5, {}, "a value for each of loss, gain"),
    ],
)
def test_results_that_say_nothing_are_refused_and_stay_out(values: Any, options: Any, message: str) -> None:
    searched = made()
    (arch,) = searched.ask(1)
    with pytest.raises(ConfigError, match=message):
        searched.tell(arch, values, **options)
    assert searched.pending == [arch]
    assert not searched.evaluated


def test_what_is_not_in_the_space_is_refused() -> None:
    searched = made()
    for arch in [(9,) * 6, (1, 2), None, "r64"]:
        with pytest.raises(ArchError):
            searched.tell(arch, {"loss": 1.0, "gain": 1.0})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="`n` must be at least 1"):
        searched.ask(0)
    with pytest.raises(ConfigError, match="is not out"):
        searched.release((0,) * 6)


def test_a_lost_worker_gives_its_architecture_back() -> None:
    searched = made()
    archs = searched.ask(3)
    searched.release(archs[1])
    assert searched.ask(2)[0] == archs[1]


def test_exact_objectives_are_computed_and_invalid_genomes_never_handed_out() -> None:
    def size(genomes: Genomes) -> Any:
        return np.where(genomes[:, 0] == genomes[:, 1], np.nan, genomes.sum(axis=1))

    space = IntegerSpace((4, 4, 4))
    objectives = [Objective(name="size", cost="exact", direction="max"), Objective(name="loss")]
    searched = Search[Vector](space, objectives, exact={"size": size}, settings=SETTINGS)
    result = searched.run(lambda arch: (arch[2] - arch[0]) ** 2, limits=Limits(evaluations=60))
    assert {each.arch for each in result.evaluated} == {
        arch for arch in np.ndindex(4, 4, 4) if arch[0] != arch[1]
    }  # all 48 valid ones, and then the space is exhausted
    assert "exhausted" in searched.stopped
    assert all(each["size"] == sum(each.arch) for each in result.evaluated)
    assert not searched.tell((1, 0, 0), 3.0)
    assert searched.tell((1, 1, 0), 3.0)
    assert searched.result().history[-1][0].failure == "size is nan"


def evaluated_in_a_worker(arch: Vector) -> dict[str, float]:
    if arch[0] == 7:
        raise ValueError("too deep")
    return counting(arch)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_process_pool_evaluates() -> None:
    searched = made()
    with ProcessPoolExecutor(2, mp_context=get_context("fork")) as pool:
        result = searched.run(evaluated_in_a_worker, executor=pool, limits=Limits(evaluations=26))
    assert searched.stopped == "26 evaluations were made"
    assert searched.evaluated == 26
    assert not searched.pending
    failures = {each.failure for each, _ in result.history}
    assert failures <= {"", "ValueError: too deep"}
    assert result.generations[-1].number >= 2


def test_all_workers_are_kept_busy() -> None:
    """One evaluation blocks until nearly all others are made; a generation would end with it."""
    others, released = list[Vector](), threading.Event()

    def evaluate(arch: Vector) -> dict[str, float]:
        if not others:
            others.append(arch)
            assert released.wait(60)
        others.append(arch)
        if len(others) >= 20:
            released.set()
        return counting(arch)

    searched = made()
    with ThreadPoolExecutor(3) as pool:
        searched.run(evaluate, executor=pool, limits=Limits(evaluations=22))
    assert searched.evaluated == 22


def test_an_executor_that_breaks_loses_nothing() -> None:
    class Breaking(ThreadPoolExecutor):
        def submit(self, *args: Any, **kwargs: Any) -> Any:
            future = super().submit(*args, **kwargs)
            if searched.evaluated > 5:
                future.result()
                future._exception = BrokenProcessPool("killed")
            return future

    searched = made()
    with Breaking(2) as pool, pytest.raises(RunError, match="the executor broke"):
        searched.run(counting, executor=pool)
    out = searched.pending
    assert out
    assert searched.ask(len(out)) == out


def test_a_batch_function_fails_single_architectures_or_as_a_whole() -> None:
    searched = made()

    def some(archs: list[Vector]) -> list[Any]:
        return [ValueError("odd") if sum(arch) % 4 == 1 else counting(arch) for arch in archs]

    result = searched.run(some, batch=True)
    assert {each.failure for each, _ in result.history} == {"", "ValueError: odd"}

    def broken(archs: list[Vector]) -> list[Any]:
        raise OSError("no GPU")

    other = made()
    with pytest.raises(RunError, match="none of its 12 architectures"):
        other.run(broken, batch=True)
    with pytest.raises(RunError, match="returned 0 results for 12"):
        other.run(lambda archs: [], batch=True)
    assert outcome(other.run(lambda archs: [counting(arch) for arch in archs], batch=True)) == outcome(
        search(SPACE, counting, OBJECTIVES, settings=SETTINGS)
    )


def test_a_search_stops_by_its_limits_and_goes_on() -> None:
    searched = made()
    assert len(searched.run(counting, limits=Limits(evaluations=14)).evaluated) == 14
    assert searched.stopped == "14 evaluations were made"
    assert len(searched.run(counting, limits=Limits(evaluations=14)).evaluated) == 14

    def slowly(arch: Vector) -> dict[str, float]:
        time.sleep(0.02)
        return counting(arch)

    searched.run(slowly, limits=Limits(seconds=0.01))
    assert (searched.evaluated, searched.stopped) == (15, "0.01 seconds have passed")
    searched.run(lambda arch: {"loss": 10.0, "gain": 0.0}, limits=Limits(stagnation=3))
    assert (searched.evaluated, searched.stopped) == (18, "3 evaluations did not improve the front")


def test_a_callback_sees_each_evaluation_and_stops_without_an_exception() -> None:
    seen: list[Evaluation[Vector]] = []

    def callback(searched: Search[Vector], evaluation: Evaluation[Vector]) -> None:
        seen.append(evaluation)
        if len(seen) == 5:
            searched.stop()

    searched = made()
    result = searched.run(counting, callback=callback)
    assert tuple(seen) == result.evaluated
    assert (len(seen), searched.stopped) == (5, "stop() was called")


def test_interrupted_evaluations_are_handed_out_again() -> None:
    searched = made()

    def evaluate(arch: Vector) -> dict[str, float]:
        if searched.evaluated == 3:
            raise KeyboardInterrupt
        return counting(arch)

    with pytest.raises(KeyboardInterrupt):
        searched.run(evaluate)
    assert searched.ask(1) == searched.pending

    def stopped(arch: Vector) -> float:
        raise Nat2Error("the disk is full")

    with pytest.raises(Nat2Error, match="the disk is full"):
        made().run(stopped)


def test_a_search_most_of_which_fails_stops_with_the_reason_and_repeats_it() -> None:
    searched = made()
    with pytest.raises(RunError, match=r"12 of 12 evaluations failed, .* the evaluation returned None"):
        searched.run(lambda arch: None)
    assert searched.evaluated == 0
    assert len(searched.run(counting).evaluated) == 24


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": True, "executor": ThreadPoolExecutor(1)}, "exclude each other"),
        ({"workers": 2}, "needs an `executor`"),
        ({"workers": 0, "executor": ThreadPoolExecutor(1)}, "at least 1"),
    ],
)
def test_contradicting_ways_to_run_are_refused(options: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        made().run(counting, **options)


@pytest.mark.parametrize("limit", [{"evaluations": 0}, {"seconds": -1.0}, {"stagnation": "many"}])
def test_limits_of_nothing_are_refused(limit: Any) -> None:
    with pytest.raises(ConfigError, match=f"`{next(iter(limit))}` must be above 0"):
        Limits(**limit)


def test_an_archive_of_another_search_is_refused_at_once_and_in_words_of_python(tmp_path: Path) -> None:
    made(tmp_path / "a.db").close()
    with pytest.raises(RunError, match="seed differ") as refused:
        made(tmp_path / "a.db", seed=1)
    assert "--" not in str(refused.value)
    with pytest.raises(Nat2Error, match="delete it, or name another file"):
        Search(SPACE, OBJECTIVES[:1], archive=tmp_path / "a.db")
    (tmp_path / "b.db").write_text("nothing of the kind" * 100)
    with pytest.raises(Nat2Error, match="delete it, or name another file"):
        made(tmp_path / "b.db")


def test_a_search_shows_itself() -> None:
    searched = made()
    assert repr(searched) == searched._repr_html_() == "Search(0 evaluated, 0 out, generation 0)"
    with pytest.raises(RunError, match="no evaluation has succeeded"):
        searched.result()
    told(searched, searched.ask(5)[:3])
    assert repr(searched) == "Search(3 evaluated, 2 out, generation 0)"
    assert searched._repr_html_().startswith("<table>")


def test_other_processes_see_what_is_out(tmp_path: Path) -> None:
    with made(tmp_path / "a.db") as searched:
        archs = searched.ask(2)
        with Archive[Vector](tmp_path / "a.db", ("loss", "gain"), key=SPACE.key, parse=SPACE.parse) as other:
            assert [(each.arch, each.generation, each.origin) for each in other.pending()] == [
                (arch, 0, "initial") for arch in archs
            ]
