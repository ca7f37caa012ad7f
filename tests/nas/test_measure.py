"""Evaluating networks once, and drawing those that a search begins with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from nat2.errors import ConfigError, Nat2Error, RunError
from nat2.nas.archive import Archive, Evaluation, EvaluationRecord
from nat2.nas.batch import Batch
from nat2.nas.functions import Adapt, ExactCost, Measurement, SearchFunctions
from nat2.nas.initialise import draw, initial_archive
from nat2.nas.measure import check_failures, measure, succeeded
from nat2.nas.objectives import Objective
from nat2.nas.settings import SearchSettings
from nat2.nas.task import Task
from nat2.nas.task import check as check_search
from nat2.progress import FoundDone
from nat2.space import IntegerSpace
from tests.calls import Calls

SPACE = IntegerSpace((10, 10))
LOSS = Objective(name="loss")
SIZE = Objective(name="size", cost="exact")
Vector = tuple[int, ...]
EXACT: dict[str, ExactCost] = {"size": lambda genomes: genomes.sum(1)}


def task_of(
    evaluate: Callable[..., Any] = lambda arch: 0.5,
    objectives: Sequence[Objective] = (LOSS, SIZE),
    *,
    recorded: Sequence[Objective] = (),
    exact: Mapping[str, ExactCost] = EXACT,
    measured: Mapping[str, Measurement[Vector]] | None = None,
    adapt: Adapt | None = None,
    space: IntegerSpace = SPACE,
    **options: Any,
) -> Task[Vector]:
    names = [each.name for each in (*objectives, *recorded)]
    settings = SearchSettings(**{"predictor": "ridge", **options.pop("settings", {})})
    archive = Archive[Vector](None, names, key=space.key, parse=space.parse)
    functions = SearchFunctions(evaluate, exact, measured or {}, adapt)
    return Task(space, functions, tuple(objectives), tuple(recorded), settings, archive, 3, **options)


def made(task: Task[Vector], archs: Sequence[Vector], **options: Any) -> list[Evaluation[Vector]]:
    batch: dict[str, Any] = {"weights": 0, "generation": 0, "origin": "initial", **options}
    return measure(task, Batch(archs=tuple(archs), **batch))


def begun(task: Task[Vector]) -> list[Evaluation[Vector]]:
    """The initial archive, evaluated as it is asked for."""
    steps = initial_archive(task)
    while True:
        try:
            measure(task, next(steps))
        except StopIteration as end:
            members: list[Evaluation[Vector]] = end.value
            return members


def test_what_the_archive_holds_is_not_measured_again() -> None:
    asked: list[Vector] = []
    ticks: list[int] = []

    def evaluate(arch: Vector) -> float:
        asked.append(arch)
        return arch[0] / 10

    task = task_of(evaluate, progress=Calls(tick=ticks.append))
    first = made(task, [(3, 0), (1, 0)])
    assert [each["loss"] for each in first] == [0.3, 0.1]  # in the order in which they were asked for
    again = made(task, [(1, 0), (2, 5), (3, 0)])
    assert again == [first[1], Evaluation((2, 5), {"loss": 0.2, "size": 7}), first[0]]
    assert sorted(asked) == [(1, 0), (2, 5), (3, 0)]
    assert [(type(tick), int(tick)) for tick in ticks] == [
        (FoundDone, 0), (int, 1), (int, 1), (FoundDone, 2), (int, 1),
    ]  # fmt: skip
    assert made(task, [(1, 0)], weights=1) == [first[1]]  # other weights have to be asked again
    assert len(asked) == 4


def test_how_an_evaluation_came_about_is_recorded() -> None:
    task = task_of(lambda arch, *, share=1.0: share)
    made(task, [(1, 2)], weights=2, generation=4, origin="candidate", share=0.25)
    ((evaluation, row),) = task.archive.evaluations()
    assert evaluation == Evaluation((1, 2), {"loss": 0.25, "size": 3})
    assert row._replace(seconds=0) == EvaluationRecord(2, 4, "candidate", 0.25, 0, 3)
    assert 0 < row.seconds < 5


@pytest.mark.parametrize(
    ("given", "failure"),
    [
        (None, "the evaluation returned None, not a value for each of loss, heat"),
        (0.5, "the evaluation returned 0.5, not a value for each of loss, heat"),
        ({"loss": 0.5}, "KeyError: 'heat'"),
        ({"loss": "much", "heat": 1.0}, "ValueError: could not convert string to float: 'much'"),
        ({"loss": float("nan"), "heat": -2e100}, "loss is nan, heat is -2e+100"),
        ({"loss": float("inf"), "heat": 1.0}, "loss is inf"),
        ({"loss": 1e100, "heat": -1e100, "other": "ignored"}, ""),
    ],
)
def test_an_evaluation_that_gives_no_numbers_fails_with_the_reason(given: object, failure: str) -> None:
    heat = Objective(name="heat")
    (evaluation,) = made(task_of(lambda arch: given, [LOSS, SIZE], recorded=[heat]), [(1, 2)])
    assert evaluation.failure == failure
    assert evaluation.values == ({} if failure else {"loss": 1e100, "heat": -1e100, "size": 3})


def test_whole_numbers_stay_whole_as_far_as_they_are_known() -> None:
    values = {0: 7.0, 1: 7.5, 2: 2.0**53 - 1, 3: 2.0**53, 4: -(2.0**60)}
    cost = Objective(name="cost", cost="exact")
    task = task_of(objectives=[LOSS, cost], exact={"cost": lambda genomes: [values[gene] for gene in genomes[:, 0]]})
    found = [each["cost"] for each in made(task, [(n, 0) for n in range(5)])]
    assert found == list(values.values())
    assert [type(value) for value in found] == [int, float, int, float, float]


def test_a_network_is_measured_once_for_all_weights_and_fails_with_the_name_of_what_failed() -> None:
    asked: list[Vector] = []

    def watts(arch: Vector) -> float:
        asked.append(arch)
        if arch[1] == 9:
            raise ValueError("no sensor")
        return float("nan") if arch[1] == 8 else 2.5 * arch[0]

    task = task_of(recorded=[Objective(name="watts", cost="measured")], measured={"watts": watts})
    archs = [(4, 0), (2, 9), (2, 8)]
    found = made(task, archs)
    assert [each.failure for each in found] == ["", "watts: ValueError: no sensor", "watts is nan"]
    assert (found[0].values, found[1].values, found[2].values) == ({"loss": 0.5, "size": 4, "watts": 10.0}, {}, {})
    assert succeeded(found) == found[:1]
    assert made(task, [(4, 0)], weights=1) == found[:1]
    assert asked == archs

    def broken(arch: Vector) -> float:
        raise Nat2Error("the disk is full")

    task = task_of(recorded=[Objective(name="watts", cost="measured")], measured={"watts": broken})
    with pytest.raises(Nat2Error, match="the disk is full"):
        made(task, [(1, 1)])


def test_a_search_goes_on_as_long_as_half_of_its_evaluations_succeed() -> None:
    task = task_of(lambda arch: 1 / arch[0])
    half = made(task, [(first, second) for first in (0, 1) for second in range(6)])
    check_failures(task, half)
    check_failures(task, half[:8])  # six of eight may be chance
    assert task.archive.failed((0, 0))
    more = [*half, *made(task, [(0, 6)])]
    with pytest.raises(RunError, match=r"7 of 13 evaluations failed, the first, \(0, 0\), with: ZeroDivisionError"):
        check_failures(task, more)
    assert not any(task.archive.failed((0, n)) for n in range(7))  # they are made again
    assert len(task.archive.evaluations()) == 6


def members(*losses: float, sizes: Sequence[int] = ()) -> list[Evaluation[Vector]]:
    return [
        Evaluation((n, 0), {"loss": loss, "size": size})
        for n, (loss, size) in enumerate(zip(losses, sizes, strict=True))
    ]


def test_the_box_of_the_hypervolume_reaches_one_percent_behind_the_worst() -> None:
    task = task_of()
    assert task.box(members(0.5, 0.2, sizes=[10, 30])) == (  # type: ignore[comparison-overlap]
        [0.0, 0.0],
        pytest.approx([0.505, 30.3]),
    )
    # What is better the larger it is, or falls below 0, has no natural origin: it is as far off as the worst.
    gain = Objective(name="loss", direction="max")
    task = task_of(objectives=[LOSS, SIZE])
    assert task.box(members(0.5, -0.1, sizes=[1, 2]))[0] == pytest.approx([-0.7, 0.0])
    values = members(0.5, 0.2, sizes=[10, 30])
    origin, reference = task_of(objectives=[gain, SIZE]).box(values)
    assert origin == pytest.approx([-0.8, 0.0])
    assert reference == pytest.approx([-0.2 + 0.01 * 0.6, 30.3])
    volume = task_of(objectives=[gain, SIZE]).hypervolume(values[:1], (origin, reference))
    assert volume == pytest.approx((0.5 - 0.194) / (0.8 - 0.194) * (30.3 - 10) / 30.3)


@pytest.mark.parametrize("within", [7, 8])
def test_the_box_is_of_what_keeps_the_budget_if_enough_does(within: int) -> None:
    bounded = Objective(name="size", cost="exact", high=10)
    task = task_of(objectives=[LOSS, bounded])
    found = members(*[0.5] * within, 0.9, sizes=[10] * within + [15])
    assert task.box(found)[1] == pytest.approx([0.505, 10.1] if within == 8 else [0.909, 15.15])
    alone = task.hypervolume(found[:-1], task.box(found))
    assert task.hypervolume(found, task.box(found)) == alone > 0
    assert task.hypervolume(found[-1:], task.box(found)) == 0


def test_a_search_knows_what_it_optimises_bounds_and_predicts() -> None:
    watts = Objective(name="watts", cost="measured")
    bounded = Objective(name="heat", low=1)
    task = task_of(objectives=[LOSS, SIZE], recorded=[watts, bounded])
    assert [each.name for each in task.quantities] == ["loss", "size", "watts", "heat"]
    assert [each.name for each in task.modelled] == ["loss", "heat"]
    assert [each.name for each in task.of_class("measured", "exact")] == ["size", "watts"]
    assert (task.bounded, task_of(recorded=[watts]).bounded) == (True, False)
    assert (task.version(3), task_of(adapt=print).version(3)) == (0, 3)
    assert task.values([]).shape == (0, 2)
    assert task.violations([]).shape == (0,)
    assert task.encode_all([]).shape == (0, 2)
    assert task_of(objectives=[LOSS, Objective(name="size", direction="max")]).values(
        members(0.5, sizes=[3])
    ).tolist() == [[0.5, -3.0]]


class Follower:
    """A process beside the first."""

    first = False

    def __init__(self) -> None:
        self.order: list[str] = []

    def once(self, act: Callable[[], None]) -> None:
        self.order.append("first")


def test_every_process_keeps_its_archive_and_the_first_writes_before_the_others() -> None:
    follower, written = Follower(), list[str]()
    task = task_of(processes=follower)
    task.record(lambda: follower.order.append("copy"))
    assert follower.order == ["first", "copy"]
    task_of().record(lambda: written.append("disk"))
    assert written == ["disk"]


def test_halving_asks_whether_the_evaluation_takes_a_share() -> None:
    check: Any = check_search
    halving = SearchSettings(preprocess="halving", predictor="ridge")
    functions: Any = SearchFunctions
    check([LOSS], [], halving, functions(lambda arch, *, share: 1.0))
    check([LOSS], [], halving, functions(lambda arch, **options: 1.0))
    check([LOSS], [], halving, functions(min))  # it does not say
    with pytest.raises(
        ConfigError, match="loss is predicted, so it takes no function in `measured` of SearchFunctions"
    ):
        check([LOSS], [], halving, functions(min, measured={"loss": len}))
    with pytest.raises(ConfigError, match="size is exact, so it needs a function in `exact`"):
        check([LOSS], [SIZE], halving, functions(min))
    check([LOSS], [], halving, functions(min, EXACT))  # which may serve other searches
    with pytest.raises(ConfigError, match="must take `share`"):
        check([LOSS], [], halving, functions(lambda arch, part=1.0: 1.0))
    check([LOSS], [], SearchSettings(predictor="ridge"), functions(lambda arch: 1.0))


def test_networks_are_drawn_once_each_without_those_that_are_there() -> None:
    task = task_of()
    drawn = draw(task, 40, exclude=[(0, 0), (9, 9)])
    assert len(drawn) == len(set(drawn)) == 40
    assert not {(0, 0), (9, 9)} & set(drawn)
    assert draw(task, 40, exclude=[(0, 0), (9, 9)]) == drawn
    assert len(draw(task, 500, exclude=[(0, 0)])) == 99  # there are no more


def test_networks_within_the_budget_are_drawn_before_others() -> None:
    bounded = Objective(name="size", cost="exact", high=4)
    task = task_of(objectives=[LOSS, bounded])
    within = draw(task, 14, exclude=[(0, 0)])
    assert {sum(arch) for arch in within} == {1, 2, 3, 4}
    more = draw(task, 30, exclude=[(0, 0)])
    assert set(more[:14]) == set(within)  # fifteen keep it; then come some that do not
    assert len(more) == 30
    assert len(set(more)) == 30


def test_a_budget_that_few_networks_keep_is_filled_with_their_relatives() -> None:
    """One in a million keeps it, too few to be drawn by chance; what differs in a gene or two keeps it too."""
    space = IntegerSpace((10,) * 9)
    bounded = Objective(name="size", cost="exact", high=4)
    task = task_of(objectives=[LOSS, bounded], space=space)
    drawn = draw(task, 60, exclude=[space.decode(space.lower)])
    assert len(set(drawn)) == 60
    assert max(map(sum, drawn)) <= 4


def test_the_first_archive_is_of_the_best_and_the_ends_of_the_space() -> None:
    said: list[str] = []
    shares: list[float] = []

    def evaluate(arch: Vector, *, share: float = 1.0) -> float:
        shares.append(share)
        return 1 - (2 * arch[0] + arch[1]) / 30

    settings = {"archive": 8, "preprocess": "halving", "oversample": 4}
    task = task_of(evaluate, settings=settings, progress=Calls(say=said.append))
    found = begun(task)
    assert len(found) == 8
    assert [each.arch for each in found[-2:]] == [(0, 0), (9, 9)]
    assert shares.count(0.25) == 30
    assert shares.count(1.0) == 8
    rows = [row._replace(seconds=0, share=0) for _, row in task.archive.evaluations()]
    assert set(rows) == {EvaluationRecord(0, 0, "initial", 0, 0, 3)}
    assert said[0].startswith("initial archive of 8 networks: evaluated 30 on 25 % of them in ")
    assert ", then 6 on all images in " in said[0]
    assert said[0].endswith("; as costly as 16 on all images")
    drawn = [each for each, row in task.archive.evaluations() if row.share < 1]
    front = {drawn[number].arch for number in task.front(drawn)}
    kept = {each.arch for each in found[:-2]}
    assert kept <= front if len(front) > 6 else front <= kept


@pytest.mark.parametrize(("space", "count"), [(SPACE, 6), (IntegerSpace((2,)), 2)])
def test_a_search_does_not_begin_with_evaluations_most_of_which_failed(space: IntegerSpace, count: int) -> None:
    """A space of two networks has nothing but its ends."""
    task = task_of(lambda arch: 1 / 0, settings={"archive": 8}, space=space)
    with pytest.raises(RunError, match=f"{count} of {count} evaluations failed, the first, .* with: ZeroDivisionError"):
        begun(task)
    assert not task.archive.evaluations()  # they are made again
