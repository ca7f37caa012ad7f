"""NAT2's loop on a problem whose truth is known and free."""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nat2.errors import ConfigError, Nat2Error, RunError
from nat2.nas.archive import Archive, Evaluation
from nat2.nas.functions import ExactCost, SearchFunctions
from nat2.nas.nat import run_search, search
from nat2.nas.objectives import Objective
from nat2.nas.propose import Model
from nat2.nas.search_result import SearchResult
from nat2.nas.select import hypervolume, non_dominated
from nat2.nas.settings import SearchSettings
from nat2.nas.task import Search
from nat2.processes import ALONE, Processes
from nat2.progress import SILENT, FoundDone, Reporter
from nat2.space import Arch, CostTable, Genomes, IntegerSpace, Macro, SearchSpace, cost
from tests.calls import Calls

MACRO = Macro(classes=10)
SPACE = SearchSpace.of(MACRO, (48, 56, 64))
SETTINGS = SearchSettings(
    archive=24, preprocess="oversample", oversample=2, generations=4, candidates=6, top=10, population=32,
    inner_generations=8, predictor="lgb",
)  # fmt: skip
TABLE = CostTable(SPACE, {1.0: MACRO})
COSTS = {
    "params": Objective(name="params", cost="exact"),
    "macs": Objective(name="macs", cost="exact"),
}
EXACT: dict[str, ExactCost] = {
    "params": lambda genomes: TABLE(genomes)[:, 0],
    "macs": lambda genomes: TABLE(genomes)[:, 1],
}


class World:
    """Errors by formula, better with every adaptation; counts what was asked of it."""

    def __init__(self, *, stop_after: int | None = None, version: int = 0) -> None:
        self.version = version
        self.measured: list[tuple[Arch, int]] = []
        self.parts: list[tuple[Arch, float]] = []
        self.good: list[Genomes] = []
        self._stop_after = stop_after

    def measure(self, arch: Arch, *, share: float = 1.0) -> float:
        self._count()
        if share < 1:
            self.parts.append((arch, share))
            return self.error(arch) + 1e-3 * (sum(arch.depths) % 3)
        self.measured.append((arch, self.version))
        return self.error(arch)

    def error(self, arch: Arch) -> float:
        params, macs, _ = cost(MACRO, arch)
        kernels = np.mean([layer.kernel for stage in arch.stages for layer in stage])
        return float(np.clip(1.6 - 0.06 * np.log(params) - 0.03 * np.log(macs) - 0.01 * kernels, 0, 1)) / (
            1 + 0.05 * self.version
        )

    def adapt(self, generation: int, good: Genomes) -> None:
        self._count()
        self.good.append(good)
        self.version = generation

    def _count(self) -> None:
        if self._stop_after is not None:
            self._stop_after -= 1
            if self._stop_after < 0:
                raise KeyboardInterrupt


def look_for(
    world: World,
    archive: Archive[Arch],
    objectives: str = "error,params",
    *,
    adapts: bool = True,
    progress: Reporter = SILENT,
    processes: Processes = ALONE,
    recorded: tuple[Objective, ...] = (),
    **changes: object,
) -> SearchResult[Arch]:
    """Search the world; `archive` has columns for the error, parameters and MACs."""
    named = {"error": Objective(name="error")} | COSTS
    names = objectives.split(",")
    task = Search(
        SPACE,
        SearchFunctions(world.measure, EXACT, adapt=world.adapt if adapts else None),
        tuple(named[name] for name in names),
        recorded or tuple(cost for name, cost in COSTS.items() if name not in names),
        dataclasses.replace(SETTINGS, **changes),  # type: ignore[arg-type]
        archive,
        seed=0,
        processes=processes,
        progress=progress,
    )
    return SearchResult.of(task, list(run_search(task)))


def new_archive(path: Path) -> Archive[Arch]:
    return Archive(path, ("error", "params", "macs"))


@pytest.fixture
def archive(tmp_path: Path) -> Archive[Arch]:
    return new_archive(tmp_path / "archive.db")


@pytest.mark.parametrize("objectives", ["error", "error,params", "error,params,macs"])
def test_the_archive_keeps_its_size_and_gets_better(archive: Archive[Arch], objectives: str) -> None:
    result = look_for(World(), archive, objectives)
    found, generations = result.members, result.generations
    assert [generation.number for generation in generations] == [0, 1, 2, 3, 4]
    assert {len(generation.members) for generation in generations} == {SETTINGS.archive}
    assert len({evaluation.arch for evaluation in found}) == SETTINGS.archive
    assert generations[-1].hypervolume > generations[0].hypervolume


def test_the_ends_of_the_space_are_in_the_first_archive(archive: Archive[Arch]) -> None:
    generations = look_for(World(), archive, generations=0).generations
    assert {SPACE.smallest, SPACE.largest} <= set(generations[0].members)
    assert len(archive.evaluations()) == SETTINGS.archive * SETTINGS.oversample


def test_appending_lets_the_archive_grow(archive: Archive[Arch]) -> None:
    found = look_for(World(), archive, update="append", oversample=1)
    assert len(found.members) == SETTINGS.archive + 4 * SETTINGS.candidates


def test_after_each_adaptation_the_whole_archive_is_measured_again(archive: Archive[Arch]) -> None:
    world = World()
    found = look_for(world, archive).members
    assert world.version == 4
    assert all(len(good) == SETTINGS.top for good in world.good)
    assert {arch for arch, version in world.measured if version == 4} == {evaluation.arch for evaluation in found}
    assert len(set(world.measured)) == len(world.measured)  # nothing is measured twice with the same weights
    origins = Counter(record.origin for _, record in archive.evaluations())
    assert origins == {"initial": 48, "candidate": 4 * 6, "re-evaluation": 4 * 24}


def test_with_fixed_weights_only_new_networks_are_measured(archive: Archive[Arch]) -> None:
    world = World()
    look_for(world, archive, adapts=False)
    assert len({arch for arch, _ in world.measured}) == len(world.measured)
    assert len(world.measured) <= SETTINGS.archive * SETTINGS.oversample + 4 * SETTINGS.candidates


def test_predictions_are_judged_on_new_networks_only(archive: Archive[Arch]) -> None:
    generations = look_for(World(), archive).generations
    for generation in generations[1:]:
        assert generation.facts.candidates == SETTINGS.candidates
        assert generation.facts.quality is not None
        assert -1 <= (generation.facts.quality.tau or 0) <= 1
        assert generation.facts.quality.rmse > 0


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


def test_the_search_beats_random_sampling_at_the_same_cost(archive: Archive[Arch]) -> None:
    world = World()
    look_for(world, archive, adapts=False, generations=6)
    everything = [evaluation for evaluation, _ in archive.evaluations()]
    random = [
        Evaluation(arch, {"error": world.measure(arch), "params": cost(MACRO, arch).params})
        for arch in SPACE.sample_distinct(len(everything), np.random.default_rng(5))
    ]
    values, others = (np.array([[e["error"], e["params"]] for e in each]) for each in (everything, random))
    reference = np.maximum(values.max(0), others.max(0)) * 1.01
    assert hypervolume(values[non_dominated(values)], reference) > hypervolume(others, reference)


@pytest.mark.parametrize(
    "change", [{"archive": 4}, {"oversample": 0}, {"generations": -1}, {"candidates": 0}, {"top": 0}, {"population": 2}]
)
def test_impossible_settings_are_refused(change: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=f"`{next(iter(change))}` of the search"):
        SearchSettings(**change)  # type: ignore[arg-type]


def test_each_generation_says_what_it_did(archive: Archive[Arch]) -> None:
    found = look_for(World(), archive, recorded=(dataclasses.replace(COSTS["macs"], high=3e7),))
    for generation in found.generations[1:]:
        row = generation.row()
        assert row["predictor"] == "lgb"
        assert 0 < row["feasible"] <= 1  # type: ignore[operator]
        assert 0 <= row["duplicate"] < 1  # type: ignore[operator]
        parts = [row[f"{part}_seconds"] for part in ("predict", "evolve", "select", "evaluate", "adapt", "again")]
        assert 0 < sum(parts) <= row["seconds"] + 0.01  # type: ignore[arg-type, operator]
        assert "within the budget" in generation.summary(4)


@pytest.mark.parametrize("limit", [60_000, 300_000])
def test_a_budget_on_parameters_constrains_the_search(archive: Archive[Arch], limit: int) -> None:
    bound = dataclasses.replace(COSTS["params"], high=limit)
    found = look_for(World(), archive, "error,macs", recorded=(bound,))
    assert found.feasible
    assert all(evaluation["params"] <= limit for evaluation in found.front)
    ends = {SPACE.smallest, SPACE.largest}
    assert all(e["params"] <= limit for e, _ in archive.evaluations() if e.arch not in ends)


def test_a_budget_on_what_is_predicted_is_learned(archive: Archive[Arch]) -> None:
    """At first a third of the networks keep it, at the end nearly all of those that are evaluated."""
    world = World()

    def evaluate(arch: Arch) -> dict[str, float]:
        return {"error": world.error(arch), "heat": cost(MACRO, arch).macs / 1e6}

    heat = Objective(name="heat", high=8.0)
    found = search(
        SPACE, SearchFunctions(evaluate, EXACT), [Objective(name="error"), COSTS["params"]], recorded=[heat],
        settings=SearchSettings(archive=40, generations=5, candidates=10, predictor="bayesian"),
    )  # fmt: skip
    assert found.feasible
    assert all(evaluation["heat"] <= 8 for evaluation in found.front)
    facts = found.generations[-1].facts
    assert facts.quality_of["heat"].rmse < 2  # of values from 2 to 50
    assert facts.proposal is not None
    assert facts.proposal.feasible > 0.8


def test_an_unreachable_bound_returns_the_nearest_and_says_so(archive: Archive[Arch]) -> None:
    world = World()
    error = Objective(name="error", high=1e-6)
    found = search(SPACE, SearchFunctions(world.error, EXACT), [error, COSTS["params"]], settings=SETTINGS)
    assert not found.feasible
    errors = [evaluation["error"] for evaluation in found.members]
    assert [evaluation["error"] for evaluation in found.front] == [min(errors)]


def test_an_impossible_exact_budget_is_refused_before_anything_is_evaluated() -> None:
    world = World()
    with pytest.raises(ConfigError, match="nearest has params"):
        search(
            SPACE, SearchFunctions(world.measure, EXACT),
            [Objective(name="error"), dataclasses.replace(COSTS["params"], high=100)],
        )  # fmt: skip
    assert not world.measured


def test_halving_spends_less_than_oversampling_and_says_what(archive: Archive[Arch]) -> None:
    world, said = World(), list[str]()
    look_for(world, archive, preprocess="halving", oversample=9, generations=0, progress=Calls(say=said.append))
    assert len(world.parts) == (216 - 2) + (72 - 2)
    assert {round(share, 6) for _, share in world.parts} == {round(1 / 9, 6), round(1 / 3, 6)}
    assert len(world.measured) == SETTINGS.archive
    assert "as much as 72 on all images" in said[0]


def test_halving_needs_an_evaluation_that_takes_a_part_of_the_images() -> None:
    settings = SearchSettings(preprocess="halving")
    with pytest.raises(ConfigError, match="must take `share`"):
        search(SPACE, lambda arch: 0.5, [Objective(name="error")], settings=settings)


def test_failed_evaluations_are_kept_and_never_learned_from(archive: Archive[Arch]) -> None:
    world = World()

    def evaluate(arch: Arch) -> float:
        if arch.resolution == 56:
            raise RuntimeError("out of memory")
        return float("nan") if arch.exit == 5 and arch.resolution == 48 else world.error(arch)

    found = search(
        SPACE, SearchFunctions(evaluate, EXACT), [Objective(name="error"), COSTS["params"]], recorded=[COSTS["macs"]],
        settings=SETTINGS, archive=archive,
    )  # fmt: skip
    failures = {evaluation.failure for evaluation, _ in archive.evaluations()}
    assert failures == {"", "RuntimeError: out of memory", "error is nan"}
    assert all(e.arch.resolution != 56 and not e.failure for e in (*found.members, *found.front))
    assert found.generations[0].facts.failed > 0


def test_a_search_whose_evaluations_all_fail_stops_with_the_reason() -> None:
    def evaluate(arch: Arch) -> float:
        raise ValueError("no such layer")

    with pytest.raises(RunError, match=r"evaluations failed, the first, .* with: ValueError: no such layer"):
        search(SPACE, evaluate, [Objective(name="error")], settings=SETTINGS)


def test_mistakes_of_the_user_stop_the_search() -> None:
    def evaluate(arch: Arch) -> float:
        raise Nat2Error("the disk is full")

    with pytest.raises(Nat2Error, match="the disk is full"):
        search(SPACE, evaluate, [Objective(name="error")], settings=SETTINGS)


def test_what_is_measured_of_a_network_is_measured_once(archive: Archive[Arch]) -> None:
    world, asked = World(), list[Arch]()

    def watts(arch: Arch) -> float:
        asked.append(arch)
        return float(arch.resolution * sum(arch.depths))

    found = search(
        SPACE, SearchFunctions(world.measure, measured={"watts": watts}, adapt=world.adapt),
        [Objective(name="error"), Objective(name="watts", cost="measured")], settings=SETTINGS,
    )  # fmt: skip
    assert len(set(asked)) == len(asked) > 0
    assert found.generations[-1].facts.quality_of["watts"].tau is not None
    assert all(e["watts"] == e.arch.resolution * sum(e.arch.depths) for e in found.members)


def counting(arch: tuple[int, ...]) -> dict[str, float]:
    return {"loss": sum((gene - 3) ** 2 for gene in arch) / 100, "gain": float(sum(arch))}


@pytest.mark.parametrize("preset", ["default", "nat2", "nat"])
def test_any_space_can_be_searched_and_more_can_be_better(preset: Any) -> None:
    space = IntegerSpace((8,) * 6)
    gain = Objective(name="gain", direction="max")
    small = {"archive": 16, "generations": 5, "candidates": 8} | ({"oversample": 2} if preset == "nat2" else {})
    settings = SearchSettings.of(preset, **small)
    found = search(space, counting, [Objective(name="loss"), gain], settings=settings)
    assert found.generations[-1].hypervolume > found.generations[0].hypervolume
    front = [(e["loss"], -e["gain"]) for e in found.front]
    assert sorted(front)[0][0] <= 0.1
    assert not any(a[0] <= b[0] and a[1] <= b[1] and a != b for a in front for b in front)
    assert found.best()["loss"] == min(e["loss"] for e in found.front)
    assert found.best("gain>=30")["gain"] >= 30
    with pytest.raises(ConfigError, match="nothing that was evaluated keeps gain >= 100; it has gain from"):
        found.best("gain>=100")
    with pytest.raises(ConfigError, match="latency was not recorded"):
        found.best("latency<=3")


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


def test_the_predictor_learns_from_more_than_the_archive() -> None:
    """With fixed weights what has left a small archive still teaches."""
    errors = {}
    for learn_from in (0, 500):
        settings = dataclasses.replace(SETTINGS, archive=12, oversample=6, generations=6, learn_from=learn_from)
        found = search(
            SPACE,
            SearchFunctions(World().measure, EXACT),
            [Objective(name="error"), COSTS["params"]],
            settings=settings,
        )
        errors[learn_from] = np.mean([g.facts.quality.rmse for g in found.generations if g.facts.quality is not None])
    assert errors[500] < errors[0]


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


@pytest.mark.parametrize(
    ("objectives", "message"),
    [
        ([], "cost class predicted"),
        ([COSTS["params"]], "cost class predicted"),
        ([Objective(name="error"), Objective(name="error")], "different names"),
        ([Objective(name="error"), Objective(name="size", cost="exact")], "needs a function in `exact`"),
        ([Objective(name="error"), Objective(name="watts", cost="measured")], "needs a function in `measured`"),
        (
            [Objective(name="error"), Objective(name="macs", cost="measured")],
            "macs is measured, so it takes no .*`exact`",
        ),
        ([Objective(name="params")], "params is predicted, so it takes no function in `exact`"),
    ],
)
def test_objectives_that_contradict_each_other_are_refused(objectives: list[Objective], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        search(SPACE, SearchFunctions(lambda arch: 0.5, EXACT), objectives)


@pytest.mark.parametrize("preset", ["default", "nat2", "nat"])
@pytest.mark.parametrize("choices", [(1,), (2,), (3,), (1, 1, 1), (2, 2)])
def test_spaces_smaller_than_the_archive_are_searched_to_the_end(preset: Any, choices: tuple[int, ...]) -> None:
    space = IntegerSpace(choices)
    objectives = [Objective(name="loss"), Objective(name="gain", direction="max")]
    settings = SearchSettings.of(
        preset, archive=8, oversample=1, generations=3, candidates=2, population=8, inner_generations=3
    )
    found = search(space, counting, objectives, settings=settings)
    assert len(found.evaluated) == space.size


def test_what_failed_is_made_again_when_it_was_mended(tmp_path: Path) -> None:
    space, path = IntegerSpace((4, 4)), tmp_path / "a.db"
    objectives = [Objective(name="loss"), Objective(name="gain", direction="max")]
    settings = SearchSettings(archive=8, generations=2, candidates=2, predictor="ridge", inner_generations=3)
    working = [False]

    def evaluate(arch: tuple[int, ...]) -> dict[str, float]:
        if not working[0]:
            raise OSError("no GPU")
        return counting(arch)

    with pytest.raises(RunError, match=r"no GPU\. Fix what evaluates and repeat the call"):
        search(space, evaluate, objectives, settings=settings, archive=path)
    working[0] = True
    found = search(space, evaluate, objectives, settings=settings, archive=path)
    assert found.front == search(space, counting, objectives, settings=settings).front


def test_one_network_that_cannot_be_evaluated_is_told() -> None:
    with pytest.raises(RunError, match="ZeroDivisionError"):
        search(IntegerSpace((1,)), lambda arch: 1 / 0, [Objective(name="loss")])


@pytest.mark.parametrize(
    ("measure", "message"),
    [
        (lambda genomes: [None] * len(genomes), "fails|not finite"),
        (lambda genomes: 1 / 0, "ZeroDivisionError"),
        (lambda genomes: genomes[:, 0] * np.nan, "not finite"),
        (lambda genomes: 3.0, r"shape \(\)"),
        (lambda genomes: genomes, "shape"),
    ],
)
def test_exact_objectives_that_do_not_work_are_refused_before_anything_is_evaluated(
    measure: Callable[[Genomes], Any], message: str
) -> None:
    asked: list[object] = []

    def evaluate(arch: object) -> float:
        asked.append(arch)
        return 0.5

    objectives = [Objective(name="loss"), Objective(name="size", cost="exact", high=1e9)]
    with pytest.raises(ConfigError, match=f"size.*({message})"):
        search(IntegerSpace((4, 4)), SearchFunctions[tuple[int, ...]](evaluate, {"size": measure}), objectives)
    assert not asked


def test_costs_of_nothing_are_no_harder_to_learn_from() -> None:
    """What a predictor sees of a network does not depend on which others it sees."""
    space = IntegerSpace((6, 6, 6))
    size = Objective(name="size", cost="exact")
    functions = SearchFunctions[tuple[int, ...]](
        lambda arch: 1 / (1 + sum(arch)), {"size": lambda genomes: genomes.sum(1)}
    )
    found = search(
        space, functions, [Objective(name="loss"), size],
        settings=SearchSettings(archive=20, generations=1, predictor="bayesian", inner_generations=2),
    )  # fmt: skip
    task = Search(
        space, functions, (Objective(name="loss"), size), (), SearchSettings(predictor="bayesian"),
        Archive(None, ("loss", "size"), key=space.key, parse=space.parse), 0,
    )  # fmt: skip
    model = Model(task, found.members, 1)
    genomes = space.sample(20, np.random.default_rng(0)) + 0
    genomes[:, 0] = np.maximum(genomes[:, 0], 1)
    alone = model(genomes)["loss"]
    together = model(np.concatenate([genomes, space.lower[None]]))["loss"]
    np.testing.assert_allclose(together[:-1], alone)


def test_progress_shows_under_a_tight_budget() -> None:
    space = IntegerSpace((8,) * 6)
    gain = Objective(name="gain", direction="max", low=30)
    settings = SearchSettings(archive=16, generations=4, candidates=8, predictor="lgb", inner_generations=10)
    found = search(space, counting, [Objective(name="loss"), gain], settings=settings)
    volumes = [generation.hypervolume for generation in found.generations]
    assert volumes[-1] > volumes[0]
    assert found.feasible


def test_the_best_is_looked_for_beyond_the_front() -> None:
    """The front is of what is optimised; a budget may bound what is only recorded."""
    space = IntegerSpace((8,) * 3)
    last = Objective(name="last", cost="exact")
    functions = SearchFunctions[tuple[int, ...]](lambda arch: 1 - arch[2] / 10, {"last": lambda genomes: genomes[:, 2]})
    settings = SearchSettings(archive=30, generations=2, candidates=8, predictor="ridge")
    found = search(space, functions, [Objective(name="loss")], recorded=[last], settings=settings)
    assert found.best("last<=2")["last"] <= 2
    assert found.best()["last"] == 7


def test_a_search_goes_on_as_long_as_its_generations_are_asked_for(tmp_path: Path) -> None:
    space, objectives = IntegerSpace((4,) * 4), (Objective(name="loss"), Objective(name="gain", direction="max"))
    settings = SearchSettings(archive=8, generations=3, candidates=3, population=12, predictor="bayesian")
    whole = search(space, counting, objectives, settings=settings)
    with Archive[tuple[int, ...]](tmp_path / "a.db", ("loss", "gain"), key=space.key, parse=space.parse) as archive:
        task = Search(space, SearchFunctions(counting), objectives, (), settings, archive, 0)
        for generation in run_search(task):
            assert archive.generations()[-1] == generation  # it is kept before anybody hears of it
            if generation.number == 1:
                break
        assert [generation.number for generation in archive.generations()] == [0, 1]
        generations = list(run_search(task))
        assert [generation.number for generation in generations] == [0, 1, 2, 3]
        assert SearchResult.of(task, generations).front == whole.front


def test_a_search_reports_its_stage_its_evaluations_and_its_generations() -> None:
    class Shown(Calls):
        def stage(self, name: str, **totals: int) -> None:
            stages.append((name, totals))

    stages, ticks, said = list[tuple[str, dict[str, int]]](), list[int](), list[str]()
    objectives = [Objective(name="loss"), Objective(name="gain", direction="max")]
    settings = SearchSettings(archive=8, oversample=1, generations=2, candidates=3, population=12, predictor="bayesian")
    found = search(
        IntegerSpace((6,) * 4), counting, objectives, settings=settings, progress=Shown(said.append, ticks.append)
    )
    assert stages == [("search", {"evaluations": 14})]
    assert sum(tick for tick in ticks if not isinstance(tick, FoundDone)) == len(found.evaluated) == 14
    assert said[0].startswith("initial archive")
    assert [line.split(",")[0] for line in said[1:]] == [f"generation {number} of 2" for number in range(3)]


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
        for name in ("add", "note", "close_generation"):
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
