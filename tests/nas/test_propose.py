"""From the archive to the networks worth evaluating."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest

from nat2.nas.archive import Archive, Evaluation, EvaluationRecord
from nat2.nas.functions import ExactCost, SearchFunctions
from nat2.nas.generation import Quality
from nat2.nas.objectives import Objective
from nat2.nas.propose import Model, candidates, choose, foremost, prediction_quality, propose, training_set
from nat2.nas.settings import SearchSettings
from nat2.nas.task import Task
from nat2.space import Arch, Genomes, IntegerSpace, SearchSpace
from nat2.space.space import Sampling

SPACE = IntegerSpace((10, 10))
LOSS = Objective(name="loss")
SIZE = Objective(name="size", cost="exact")
EXACT: dict[str, ExactCost] = {"size": lambda genomes: genomes.sum(1)}
Vector = tuple[int, ...]


def task_of(
    objectives: Sequence[Objective] = (LOSS, SIZE),
    *,
    recorded: Sequence[Objective] = (),
    exact: Mapping[str, ExactCost] = EXACT,
    **settings: Any,
) -> Task[Vector]:
    """A search with the quickest predictor."""
    names = [each.name for each in (*objectives, *recorded)]
    chosen = SearchSettings(**{"predictor": "ridge", "features": "integer", **settings})
    archive = Archive[Vector](None, names, key=SPACE.key, parse=SPACE.parse)
    functions = SearchFunctions[Vector](lambda arch: 0.5, exact, {"watts": lambda arch: 0.0})
    return Task(SPACE, functions, tuple(objectives), tuple(recorded), chosen, archive, 0)


def member(arch: Vector, loss: float, **more: float) -> Evaluation[Vector]:
    return Evaluation(arch, {"loss": loss, "size": sum(arch), **more})


class Foretold:
    """A model whose predictions of the loss are known by genome."""

    def __init__(self, losses: Mapping[Any, float], doubt: float = 0.0, **more: Callable[[Genomes], Any]) -> None:
        self.doubts = {"loss": doubt}
        self._losses, self._more = losses, more

    def __call__(self, genomes: Genomes) -> dict[str, Any]:
        found = {name: np.asarray(function(genomes), dtype=float) for name, function in self._more.items()}
        losses = np.array([self._losses[tuple(map(int, genome))] for genome in genomes])
        return {"loss": losses, "size": genomes.sum(1).astype(float)} | found


def chosen(task: Task[Vector], members: Sequence[Evaluation[Vector]], model: Foretold) -> list[Vector]:
    """What `choose` takes of all that the model knows."""
    pool = np.array(list(model._losses), dtype=np.int64)
    return [tuple(map(int, genome)) for genome in choose(task, members, pool, model)]  # type: ignore[arg-type]


def test_optimism_believes_in_networks_as_far_as_the_predictor_errs() -> None:
    """As bad as the front but over a wide gap of costs, or somewhat better over a narrow one."""
    members = [member((0, 0), 1.0), member((5, 0), 0.8), member((9, 1), 0.2)]
    narrow, wide = (9, 0), (1, 0)  # just before the third member, and behind the first
    model = Foretold({narrow: 0.5, wide: 1.0}, doubt=0.3)
    assert chosen(task_of(candidates=1, optimism=0.0), members, model) == [narrow]
    assert chosen(task_of(candidates=1, optimism=0.5), members, model) == [wide]
    # Nothing is gained by optimism about a predictor that does not err.
    assert chosen(task_of(candidates=1, optimism=5.0), members, Foretold(model._losses)) == [narrow]


def test_a_pool_that_is_not_larger_than_asked_for_is_evaluated_as_it_is() -> None:
    losses = {(n, 0): 0.1 * n for n in range(4)}
    assert chosen(task_of(candidates=4), [member((0, 0), 0.0)], Foretold(losses)) == list(losses)


def test_for_one_objective_the_best_predicted_are_evaluated() -> None:
    losses = {(n, 0): abs(n - 6) / 10 for n in range(10)}
    task = task_of([LOSS], recorded=[SIZE], candidates=3)
    assert set(chosen(task, [member((0, 0), 0.5)], Foretold(losses))) == {(5, 0), (6, 0), (7, 0)}


def test_networks_that_are_predicted_to_break_the_budget_are_evaluated_only_for_want_of_others() -> None:
    losses = {(n, 0): 0.9 - 0.1 * n for n in range(9)}  # the larger the better
    bounded = Objective(name="size", cost="exact", high=4)
    found = {
        count: sorted(
            map(
                sum,
                chosen(task_of([LOSS], recorded=[bounded], candidates=count), [member((0, 0), 1)], Foretold(losses)),
            )
        )
        for count in (3, 5, 7)
    }
    # Five keep it; then come those that break it least.
    assert found == {3: [2, 3, 4], 5: [0, 1, 2, 3, 4], 7: [0, 1, 2, 3, 4, 5, 6]}


def test_a_front_that_breaks_the_budget_is_no_reason_to_leave_out_what_keeps_it() -> None:
    """Members that break the budget beat every candidate, so beside them none would gain anything."""
    heat = Objective(name="heat", high=1.0)
    task = task_of([LOSS, SIZE], recorded=[heat], candidates=1, optimism=0.0)
    model = Foretold({(1, 0): 0.9, (2, 0): 0.7, (3, 0): 0.69}, heat=lambda genomes: np.zeros(len(genomes)))
    hot = [member((0, 0), 0.1, heat=2.0)]
    assert chosen(task, hot, model) == [(2, 0)]
    cold = [member((2, 0), 0.7, heat=0.5), member((1, 0), 0.89, heat=0.5)]
    assert chosen(task, cold, model) == [(3, 0)]


def test_spread_fills_the_gaps_between_costs_whatever_is_predicted() -> None:
    task = task_of(candidates=2, selection="spread")
    members = [member((0, 0), 1.0), member((9, 0), 0.0)]
    losses = {(n, 0): 0.5 for n in (1, 2, 3, 6, 8)}
    assert chosen(task, members, Foretold(losses)) == [(3, 0), (6, 0)]
    assert chosen(task, members, Foretold({arch: sum(arch) ** 2 for arch in losses})) == [(3, 0), (6, 0)]


def linear(count: int = 40, seed: int = 0) -> list[Evaluation[Vector]]:
    """Members whose loss a linear predictor learns, the larger the better."""
    drawn = SPACE.sample(count, np.random.default_rng(seed))
    return [member(arch, 1 - sum(arch) / 20, watts=sum(arch) + 3.0) for arch in dict.fromkeys(map(SPACE.decode, drawn))]


WATTS = Objective(name="watts", cost="measured")


@pytest.mark.parametrize("features", ["integer", "one-hot", "structure"])
def test_a_model_knows_costs_and_predicts_what_is_optimised_or_bounded(features: str) -> None:
    bounded = Objective(name="watts", cost="measured", high=9)
    for recorded, predicted in (((), {"loss"}), ((WATTS,), {"loss"}), ((bounded,), {"loss", "watts"})):
        model = Model(task_of(recorded=recorded, features=features), linear(), 1)
        genomes = SPACE.sample(30, np.random.default_rng(9))
        table = model(genomes)
        assert model.choices == dict.fromkeys(predicted, "ridge")
        assert table.keys() == {"size"} | predicted
        assert table["size"].tolist() == genomes.sum(1).tolist()
        np.testing.assert_allclose(table["loss"], 1 - genomes.sum(1) / 20, atol=0.17)
        # What a network is predicted to be does not depend on which others are asked about.
        np.testing.assert_allclose(model(genomes[3:5])["loss"], table["loss"][3:5])
        assert model.doubts.keys() == predicted
        assert 0 < model.doubts["loss"] < 0.2
        if predicted == {"loss", "watts"}:
            np.testing.assert_allclose(table["watts"], genomes.sum(1) + 3, atol=3.4)


def test_structure_sees_costs_by_their_logarithms() -> None:
    """A loss that falls with the logarithm of a cost over five orders of magnitude is linear in what is seen."""
    cost, zero = Objective(name="cost", cost="exact"), Objective(name="zero", cost="exact")
    exact: dict[str, ExactCost] = {
        "cost": lambda genomes: 10.0 ** (genomes.sum(1) / 3),
        "zero": lambda genomes: np.maximum(genomes.sum(1) - 9.0, 0),
    }
    drawn = list(dict.fromkeys(map(SPACE.decode, SPACE.sample(40, np.random.default_rng(0)))))
    members = [
        Evaluation(
            arch, {"loss": (9 - sum(arch)) ** 2 / 100, "cost": 10 ** (sum(arch) / 3), "zero": max(sum(arch) - 9, 0)}
        )
        for arch in drawn
    ]
    model = Model(task_of([LOSS, cost, zero], exact=exact, features="structure"), members, 1)
    genomes = SPACE.sample(30, np.random.default_rng(9))
    np.testing.assert_allclose(model(genomes)["loss"], (9 - genomes.sum(1)) ** 2 / 100, atol=0.05)


def decoded(genomes: Genomes) -> set[Vector]:
    return set(map(SPACE.decode, genomes))


def test_the_inner_evolution_begins_at_the_front_if_asked() -> None:
    members = linear()
    model = Foretold({(a, b): 1 - (a + b) / 20 for a in range(10) for b in range(10)})
    settings: dict[str, Any] = {"population": 60, "inner_generations": 1}  # the first generation is the start
    task = task_of(start="front", **settings)
    front = {members[number].arch for number in task.front(members)}
    assert 20 < len(front) < 50
    begun = propose(task, members, model, 1)  # type: ignore[arg-type]
    assert front <= decoded(begun)
    assert len(begun) > len(front) + 5
    assert not front <= decoded(propose(task_of(start="random", **settings), members, model, 1))  # type: ignore[arg-type]
    few = propose(task_of(start="front", population=4, inner_generations=1), members, model, 1)  # type: ignore[arg-type]
    assert len(few) == 4
    assert decoded(few) <= front


def test_the_inner_evolution_finds_the_predicted_front_and_keeps_the_budget() -> None:
    model = Foretold({(a, b): 1 - (a + 2 * b) / 30 for a in range(10) for b in range(10)})
    found = propose(task_of(population=40, inner_generations=15), linear(), model, 1)  # type: ignore[arg-type]
    best = {(0, b) for b in range(10)} | {(a, 9) for a in range(10)}  # the second gene is worth more and costs as much
    assert len(decoded(found) & best) >= 15
    bounded = Objective(name="size", cost="exact", low=3, high=12)
    task = task_of([LOSS, bounded], population=20, inner_generations=15)
    kept = propose(task, linear(), model, 1)  # type: ignore[arg-type]
    assert ((kept.sum(1) >= 3) & (kept.sum(1) <= 12)).all()
    again = propose(task, linear(), model, 1)  # type: ignore[arg-type]
    assert decoded(again) == decoded(kept)
    random = task_of(population=20, inner_generations=1, start="random")
    starts = [decoded(propose(random, linear(), model, number)) for number in (1, 1, 2)]  # type: ignore[arg-type]
    assert starts[0] == starts[1] != starts[2]


@pytest.mark.parametrize("sampling", ["balanced", "uniform"])
def test_random_networks_of_the_start_are_drawn_as_asked(sampling: Sampling) -> None:
    space = SearchSpace(resolutions=(32,), depths=(2, 3, 4))
    drawn = list[tuple[int, Sampling]]()

    class Recording(SearchSpace):
        def sample(self, count: int, *rest: Any, **options: Any) -> Genomes:
            drawn.append((count, options["sampling"]))
            return space.sample(count, *rest, **options)

    settings = SearchSettings(population=12, inner_generations=1, start="random", sampling=sampling)
    archive = Archive[Arch](None, ("loss",), key=space.key, parse=space.parse)
    functions = SearchFunctions[Arch](lambda arch: 0.5)
    task = Task(Recording(resolutions=(32,)), functions, (LOSS,), (), settings, archive, 0)
    propose(task, [], lambda genomes: {"loss": np.zeros(len(genomes))}, 1)  # type: ignore[arg-type]
    assert (12, sampling) in drawn


def test_candidates_are_new_and_how_they_were_found_is_told() -> None:
    bounded = Objective(name="size", cost="exact", high=9)
    task = task_of([LOSS, bounded], recorded=[WATTS], candidates=5, population=30, inner_generations=6)
    seen = {(0, b) for b in range(10)}
    genomes, table, facts = candidates(task, linear(), 1, lambda arch: arch in seen)
    assert len(genomes) == 5
    assert not decoded(genomes) & seen
    assert (genomes.sum(1) <= 9).all()
    assert table["size"].tolist() == genomes.sum(1).tolist()
    np.testing.assert_allclose(table["loss"], 1 - genomes.sum(1) / 20, atol=0.05)
    assert (facts.predictor, facts.predictors, facts.bounded) == ("ridge", {"loss": "ridge"}, True)
    assert facts.feasible == 1.0
    assert 0 < facts.duplicate < 1
    assert min(facts.predict_seconds, facts.evolve_seconds, facts.select_seconds) > 0
    none, nothing, facts = candidates(task, linear(), 1, lambda arch: True)
    assert (len(none), nothing, facts.duplicate) == (0, {}, 1.0)
    free = candidates(task_of(candidates=5, population=30, inner_generations=6), linear(), 1, lambda arch: False)[2]
    assert (free.bounded, free.feasible, free.duplicate) == (False, 1.0, 0.0)


def test_of_three_objectives_candidates_come_from_all_that_was_visited(monkeypatch: pytest.MonkeyPatch) -> None:
    """A last population of eight cannot hold twenty candidates; what the evolution visited can."""
    monkeypatch.setattr("nat2.nas.propose.widen", lambda *arguments: 1 / 0)
    objectives = (LOSS, SIZE, Objective(name="first", cost="exact"))
    sizes: dict[str, Any] = {"candidates": 20, "population": 8, "inner_generations": 20, "patience": 0}
    members = [member(each.arch, each["loss"], first=each.arch[0]) for each in linear()]
    known = {each.arch for each in members}

    def found(**changes: Any) -> Genomes:
        task = task_of(objectives, exact=EXACT | {"first": lambda genomes: genomes[:, 0]}, **sizes, **changes)
        return candidates(task, members, 1, lambda arch: arch in known)[0]

    chosen = found()
    assert len(decoded(chosen)) == 20
    assert not decoded(chosen) & known
    with pytest.raises(ZeroDivisionError):
        found(diversity="directions")


def test_the_foremost_are_predicted_fronts_within_the_budget() -> None:
    losses = {(0, 0): 0.9, (0, 1): 0.5, (1, 1): 0.6, (2, 2): 0.1, (2, 3): 0.2}
    model: Any = Foretold(losses)
    genomes = np.array([*losses, *losses], dtype=np.int64)  # each twice
    task = task_of()
    assert decoded(foremost(task, genomes, model, 1)) == {(0, 0), (0, 1), (2, 2)}
    assert decoded(foremost(task, genomes, model, 4)) == {*losses}
    small = task_of([LOSS, Objective(name="size", cost="exact", high=2)])
    assert decoded(foremost(small, genomes, model, 1)) == {(0, 0), (0, 1)}
    least = foremost(small, genomes, model, 4)
    assert (len(least), decoded(least)) == (4, {(0, 0), (0, 1), (1, 1), (2, 2)})


def test_the_predictor_learns_from_the_archive_and_the_best_of_the_rest() -> None:
    task = task_of(learn_from=4)
    everything = [member((n, 0), 0.9 - 0.1 * n) for n in range(6)] + [member((n, 1), 0.95) for n in range(3, 7)]
    for number, evaluation in enumerate(everything):
        task.archive.add(evaluation, EvaluationRecord(0 if number < 9 else 1, 0, "initial", 1.0, 0.1, 0))
    members = everything[:2]
    taught = training_set(task, members, 0)
    assert taught[:2] == members
    assert len(taught) == 4
    assert {each.arch for each in taught[2:]} < {(n, 0) for n in range(2, 6)}  # the others are beaten
    assert {each.arch for each in training_set(task_of(learn_from=2), members, 0)} == {(0, 0), (1, 0)}
    assert {each.arch for each in training_set(task_of(learn_from=0), members, 0)} == {(0, 0), (1, 0)}
    task = dataclasses.replace(task, settings=SearchSettings(learn_from=500), recorded=())
    assert training_set(task, members, 0) == everything[:9]  # not what was evaluated with other weights
    assert training_set(task, everything[9:], 1) == everything[9:]


def test_what_keeps_the_budget_teaches_before_what_is_better_and_breaks_it() -> None:
    bounded = Objective(name="size", cost="exact", high=4)
    task = task_of([LOSS], recorded=[bounded], learn_from=3)
    everything = [member((n, 0), 0.9 - 0.1 * n) for n in range(8)]
    for evaluation in everything:
        task.archive.add(evaluation, EvaluationRecord(0, 0, "initial", 1.0, 0.1, 0))
    assert {each.arch for each in training_set(task, everything[:1], 0)} == {(0, 0), (3, 0), (4, 0)}


def test_predictions_are_compared_with_what_was_measured() -> None:
    task = task_of([LOSS, SIZE, WATTS])
    evaluated = [
        member((0, 1), 0.4, watts=1.0), Evaluation[Vector]((5, 5), {}, "broken"), member((0, 3), 0.2, watts=5.0),
        member((0, 4), 0.3, watts=3.0),
    ]  # fmt: skip
    predicted = {"loss": np.array([0.5, 9.0, 0.3, 0.4]), "watts": np.array([5.0, 9.0, 1.0, 3.0])}
    archs = [each.arch for each in evaluated]
    found = prediction_quality(task, archs, [member((9, 9), 0.0), *evaluated], predicted)
    assert list(found) == ["loss", "watts"]
    assert found["loss"] == pytest.approx(Quality(1, 1, 0.1))
    assert found["watts"] == pytest.approx(Quality(-1, -1, (32 / 3) ** 0.5))
    assert (
        prediction_quality(task, archs[1:2], evaluated, {name: column[1:2] for name, column in predicted.items()}) == {}
    )


def test_the_share_of_proposals_within_the_budget_is_told() -> None:
    """Of those that were known as well; any violation counts, however small."""
    bounded = Objective(name="size", cost="exact", high=9)
    task = task_of([LOSS], recorded=[bounded], candidates=5, population=30, inner_generations=1, start="random")
    pool: list[Vector] = []

    def known(arch: Vector) -> bool:
        pool.append(arch)
        return arch[0] == 0

    facts = candidates(task, linear(), 1, known)[2]
    assert facts.feasible == pytest.approx(np.mean([sum(arch) <= 9 for arch in pool]))
    assert 0 < facts.feasible < 1
    assert any(9 < sum(arch) <= 18 for arch in pool)
    assert facts.duplicate == pytest.approx(np.mean([arch[0] == 0 for arch in pool]))


def test_a_cost_of_nothing_is_less_than_any_other() -> None:
    """It has no logarithm; where all members cost something, a network that costs nothing has to be the cheapest."""
    cost, exact = Objective(name="cost", cost="exact"), {"cost": lambda genomes: genomes.sum(1) / 1000}
    members = [
        Evaluation(each.arch, {"loss": np.log(sum(each.arch)) / 3, "cost": sum(each.arch) / 1000})
        for each in linear()
        if sum(each.arch)
    ]
    model = Model(task_of([LOSS, cost], exact=exact, features="structure"), members, 1)
    nothing, little, more = model(np.array([[0, 0], [0, 1], [1, 1]]))["loss"]
    assert nothing < little < more


def scaled(genomes: Genomes, *, lowest: int, unit: float) -> Any:
    return (genomes.sum(1) + lowest) * unit


@pytest.mark.parametrize("lowest", [0, 1])
def test_units_of_costs_decide_nothing(lowest: int) -> None:
    """Bytes or megabytes; costs of which some are 0 have no logarithms."""
    predicted = []
    for unit in (1.0, 1e3):
        exact: dict[str, ExactCost] = {
            "cost": partial(scaled, lowest=lowest, unit=unit),
            "other": lambda genomes: genomes[:, 0],
        }
        cost, other = Objective(name="cost", cost="exact"), Objective(name="other", cost="exact")
        members = [
            Evaluation(
                each.arch, {"loss": each["loss"], "cost": (sum(each.arch) + lowest) * unit, "other": each.arch[0]}
            )
            for each in [*linear(), member((0, 0), 1.0)]
        ]
        model = Model(task_of([LOSS, cost, other], exact=exact, features="structure"), members, 1)
        predicted.append(model(SPACE.sample(10, np.random.default_rng(9)))["loss"])
    np.testing.assert_allclose(predicted[1], predicted[0])
