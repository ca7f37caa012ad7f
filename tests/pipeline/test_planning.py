"""The lengths of a run that is planned for a time."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import nat2
from nat2.errors import ConfigError, RunError
from nat2.pipeline import planning, remaining
from nat2.pipeline.context import RunContext
from nat2.pipeline.planning import account, preview, recall_lengths, scaled_phase
from nat2.pipeline.prepare import prepare
from nat2.pipeline.speed import Speed, stage_seconds
from nat2.processes import ALONE
from nat2.runs.config import Preset, RunConfig, parse_time
from nat2.runs.folder import RunFolder
from nat2.runs.plan import RunPlan
from nat2.runs.read import read_run
from nat2.training.settings import OFAV2, SHORT, Phase
from nat2.training.shrink import phases_for
from tests.tiny import write_corners

IMAGES = 1600
SPEED = Speed(phases=((0.2,),), evaluation=0.3, measuring=0.0, adaptation=0.3, finetuning=(0.08,))


@pytest.fixture(scope="module")
def plans() -> dict[Preset, RunPlan]:
    presets: tuple[Preset, ...] = ("quick", "nat2", "nat")
    return {preset: prepare(RunConfig.of(preset))[0] for preset in presets}


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("15m", 900), ("1h30m", 5400), ("1.5h", 5400), ("2H", 7200)]
)
def test_times_are_read_with_their_units(text: str, seconds: float) -> None:
    assert parse_time(text) == seconds
    assert RunConfig(time=text).seconds == seconds


@pytest.mark.parametrize("text", ["30", "m", "-5m", "1..5h", "5 minutes", "30m1h", "3s", "900h", "nan", "1e3s"])
def test_other_times_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--time must be hours, minutes or seconds like 2h, 15m or 90s"):
        RunConfig(time=text)


@settings(max_examples=25, deadline=None)
@given(minutes=st.integers(6, 240))
def test_a_plan_fills_the_time_and_not_more(plans: dict[Preset, RunPlan], minutes: int) -> None:
    _, planned = preview(RunConfig(), plans["quick"], IMAGES, SPEED, [f"{minutes}m"])
    assert 0.9 * 60 * minutes <= planned.seconds <= 60 * minutes


@pytest.mark.parametrize("preset", ["nat2", "nat"])
@pytest.mark.parametrize("time", ["4m", "20m", "2h"])
def test_published_presets_keep_their_proportions(plans: dict[Preset, RunPlan], preset: Preset, time: str) -> None:
    plan = plans[preset]
    phases = ((1e-3,) * len(phases_for(plan.space, plan.config.phases)),)
    fast = Speed(phases=phases, evaluation=2e-3, measuring=0.0, adaptation=1e-3, finetuning=(4e-4,) * 2)
    usual, planned = preview(RunConfig.of(preset), plan, IMAGES, fast, [time])
    assert planned.seconds <= parse_time(time)
    if parse_time(time) < 0.5 * usual.seconds:
        for mine, theirs in zip(planned.stages, usual.stages, strict=True):
            assert mine.seconds / planned.seconds == pytest.approx(theirs.seconds / usual.seconds, abs=0.15)


def test_more_time_makes_nothing_shorter(plans: dict[Preset, RunPlan]) -> None:
    config = RunConfig()
    lengths = []
    for minutes in (3, 6, 12, 25, 50, 100):
        made = planning._lengthened(config, plans["quick"], IMAGES, SPEED, 60.0 * minutes)
        lengths.append(
            (
                sum(phase.steps or 0 for phase in made.phases),
                made.search.networks,
                made.search.generations,
                made.networks,
                made.networks * (made.finetune.steps or 0),
            )
        )
    for column in zip(*lengths, strict=True):
        assert list(column) == sorted(column)
    assert lengths[0] < lengths[-1]


def test_what_the_user_gives_is_kept(plans: dict[Preset, RunPlan]) -> None:
    config = RunConfig.of("quick", networks=7, search={"generations": 3}, adapt={"steps": 7})
    plan = replace(
        plans["quick"],
        config=replace(
            plans["quick"].config, networks=7, search=config.search, adapt=replace(config.adapt, batch_size=32)
        ),
    )
    made = planning._lengthened(config, plan, IMAGES, SPEED, 100.0)
    assert (made.networks, made.search, made.adapt.steps) == (7, config.search, 7)
    long = planning._lengthened(config, plan, IMAGES, SPEED, 10_000.0)
    assert long.search == config.search
    assert (long.finetune.steps or 0) > (made.finetune.steps or 0)


def test_few_networks_are_returned_where_there_is_no_time_for_more(plans: dict[Preset, RunPlan]) -> None:
    made = planning._lengthened(RunConfig(), plans["quick"], IMAGES, SPEED, 120.0)
    assert made.networks == 4
    chosen = RunConfig(networks=9)
    plan = replace(plans["quick"], config=replace(plans["quick"].config, networks=9))
    assert planning._lengthened(chosen, plan, IMAGES, SPEED, 120.0).networks == 9


def test_an_adaptation_too_short_to_matter_is_left_out(plans: dict[Preset, RunPlan]) -> None:
    assert not planning._lengthened(RunConfig(), plans["quick"], IMAGES, SPEED, 90.0).adapt.adapts
    assert planning._lengthened(RunConfig(), plans["quick"], IMAGES, SPEED, 1800.0).adapt.adapts
    given = RunConfig.of("quick", adapt={"steps": 3})
    plan = replace(plans["quick"], config=replace(plans["quick"].config, adapt=given.adapt))
    assert planning._lengthened(given, plan, IMAGES, SPEED, 90.0).adapt.steps == 3


@given(factor=st.floats(0.01, 20))
@settings(max_examples=30, deadline=None)
def test_scaled_phases_differ_in_length_alone(factor: float) -> None:
    for phase in (*SHORT, *OFAV2):
        before = phase.length(IMAGES, 64)
        after = scaled_phase(phase, factor, IMAGES, 64)
        assert after.length(IMAGES, 64).steps == max(1, round(factor * before.steps))
        same = {"epochs": phase.epochs, "steps": phase.steps, "warmup_epochs": phase.warmup_epochs}
        assert replace(after, warmup_steps=phase.warmup_steps, **same) == phase  # type: ignore[arg-type]


def test_the_warmup_is_scaled_with_its_phase() -> None:
    phase = Phase(name="x", lr=0.1, epochs=10, warmup_epochs=2.0)
    assert scaled_phase(phase, 0.5, 640, 64).warmup_steps == 10


def test_a_plan_says_what_is_done(plans: dict[Preset, RunPlan]) -> None:
    plan = account(plans["quick"], IMAGES)
    assert plan.sentence == (
        "train 400 steps (16 passes); search 104 networks in 4 generations, 50 steps of adaptation in each; "
        "fine-tune and export 5 networks, 1,200 steps each in the mean (24 passes)"
    ).replace("24 passes", f"{1200 / (IMAGES // 32):.0f} passes").replace(
        "16 passes", f"{400 / (IMAGES // 32):.1f} passes"
    )


def test_larger_photographs_are_searched_where_the_time_allows(plans: dict[Preset, RunPlan]) -> None:
    plan = replace(plans["quick"], side=100, space=replace(plans["quick"].space, resolutions=(48, 56, 64)))
    larger = planning._larger_sides
    default = sum(stage_seconds(plan, IMAGES, SPEED).values())
    assert larger(RunConfig(), plan, default, default) is None
    assert larger(RunConfig(), plan, default, 20 * default) == (72, 84, 96)
    assert larger(RunConfig(), plan, default, 2.5 * default) == (64, 72, 80)
    assert larger(RunConfig(resolutions="48,56,64"), plan, default, 20 * default) is None
    assert larger(RunConfig(), replace(plan, side=64), default, 20 * default) is None


def test_the_speed_of_this_machine_is_measured(tmp_path: Path) -> None:
    data = write_corners(tmp_path / "corners")
    plan, dataset = prepare(RunConfig.of("quick", data=str(data), width=0.25, resolutions="12,16"))
    speed = planning._speed(plan, dataset, ALONE)
    assert all(0 < each < 10 for each in (*speed.phases[0], speed.evaluation, speed.adaptation, *speed.finetuning))


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunConfig, Path]:
    """A run that was planned for a time, after its training."""
    place = tmp_path_factory.mktemp("planned")
    data = write_corners(place / "corners")
    search = {"archive": 8, "generations": 1, "candidates": 2, "population": 12}
    config = RunConfig.of(
        "quick",
        data=str(data),
        time="40s",
        width=0.25,
        resolutions="12,16",
        networks=2,
        search=search,
        adapt={"steps": 2},
    )
    slow = Speed(phases=((0.3,),), evaluation=0.1, measuring=0.0, adaptation=0.1, finetuning=(0.05,))
    with pytest.MonkeyPatch.context() as patched:  # on a busy machine the test would have to be long
        patched.setattr(planning, "_speed", lambda *anything: slow)
        nat2.train(config, out=place / "run", quiet=True)
    return config, place / "run"


def test_the_plan_is_written_down_as_ordinary_settings(begun: tuple[RunConfig, Path]) -> None:
    config, out = begun
    held = yaml.safe_load((out / "config.yaml").read_text())
    assert held["time"] == "40s"
    (phase,) = held["phases"]
    assert phase["steps"] > 0
    assert held["finetune"]["steps"] > 0
    with RunFolder(out) as folder:
        plan = folder.time_plan()
    assert plan is not None
    assert plan.time == "40s"
    assert not plan.settled
    assert plan.seconds <= 1.15 * 40
    assert f"{phase['steps']:,} steps" in plan.stages[1].amount
    # The same settings with the same time leave nothing to plan.
    from nat2.runs.config import read_config

    assert not planning.left_open(read_config(out / "config.yaml"))
    assert planning.left_open(config)


def test_a_run_that_was_planned_goes_on_as_planned(begun: tuple[RunConfig, Path]) -> None:
    config, out = begun
    before = (out / "config.yaml").read_text()
    nat2.train(config, out=out, quiet=True)
    assert (out / "config.yaml").read_text() == before
    recalled = recall_lengths(config, out / "config.yaml")
    assert recalled.phases
    assert recalled.finetune.steps
    for time, said in (("", "no --time"), ("50s", "--time 50s")):
        with pytest.raises(RunError, match=f"planned with --time 40s; got {said}"):
            nat2.train(replace(config, time=time), out=out, quiet=True)


def test_the_finetuning_is_decided_again_by_the_time_that_is_left(
    begun: tuple[RunConfig, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, out = begun

    def left(context: RunContext) -> float:
        plan = context.folder.time_plan()
        assert plan is not None
        if context.config.finetune.most_macs is None:
            return 8.0  # 400 steps of two networks would take 45 s: the smallest of the front have to do
        return 20.0 if plan.settled else 12.0

    monkeypatch.setattr(remaining, "_seconds_of_steps", lambda context, networks, works: [0.05] * len(works))
    monkeypatch.setattr(remaining, "_left", left)
    results = nat2.run(config, out=out, quiet=True)
    recalled = recall_lengths(config, out / "config.yaml")
    sizes = sorted({int(each["macs"]) for each in read_run(out).members()})
    most = recalled.finetune.most_macs
    assert most is not None
    assert most < sizes[-1]
    assert all(each.macs <= most for each in results)
    first, second = (phase.steps for phase in recalled.finetune.phases(72))
    assert first == round(0.6 * 76)  # two networks of 76 steps take 12 s
    assert second == int((20.0 - 2.5 * len(results)) / (0.05 * len(results)))
    with RunFolder(out) as folder:
        plan = folder.time_plan()
    assert plan is not None
    assert (plan.settled, plan.extended) == (True, True)


def test_a_time_in_which_no_run_ends_is_refused(begun: tuple[RunConfig, Path], tmp_path: Path) -> None:
    config, _ = begun
    with pytest.raises(ConfigError, match=r"--time must be at least .* got 10s"):
        nat2.train(dataclasses.replace(config, time="10s", networks=50), out=tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()
