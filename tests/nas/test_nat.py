"""NAT2's loop on a problem whose truth is known and free."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from nat2.errors import ConfigError
from nat2.nas.archive import Archive, Evaluation
from nat2.nas.functions import SearchFunctions
from nat2.nas.nat import search
from nat2.nas.objectives import Objective
from nat2.nas.select import hypervolume, non_dominated
from nat2.nas.settings import SearchSettings
from nat2.space import Arch, cost
from tests.calls import Calls
from tests.nas.worlds import COSTS, EXACT, MACRO, SETTINGS, SPACE, World, look_for, new_archive


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


def test_halving_spends_less_than_oversampling_and_says_what(archive: Archive[Arch]) -> None:
    world, said = World(), list[str]()
    look_for(world, archive, preprocess="halving", oversample=9, generations=0, progress=Calls(say=said.append))
    assert len(world.parts) == (216 - 2) + (72 - 2)
    assert {round(share, 6) for _, share in world.parts} == {round(1 / 9, 6), round(1 / 3, 6)}
    assert len(world.measured) == SETTINGS.archive
    assert "as costly as 72 on all images" in said[0]


def test_halving_needs_an_evaluation_that_takes_a_part_of_the_images() -> None:
    settings = SearchSettings(preprocess="halving")
    with pytest.raises(ConfigError, match="must take `share`"):
        search(SPACE, lambda arch: 0.5, [Objective(name="error")], settings=settings)


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
