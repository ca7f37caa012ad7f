"""The configuration and its presets."""

from __future__ import annotations

from typing import get_args

import pytest
import yaml

from nat2.cli import build_parser
from nat2.config import (
    PRESETS,
    Family,
    RunConfig,
    macros_for,
    parse_resolutions,
    parse_widths,
    resolutions_for,
)
from nat2.errors import ConfigError
from nat2.settings import SCHEDULES, ScheduleName


@pytest.mark.parametrize(
    ("native", "sides"),
    [(8, (14, 16, 18)), (28, (20, 24, 28)), (32, (24, 28, 32)), (64, (48, 56, 64)), (3000, (48, 56, 64))],
)
def test_resolutions_follow_the_images(native: int, sides: tuple[int, ...]) -> None:
    assert resolutions_for(native) == sides


@pytest.mark.parametrize("native", range(1, 400))
def test_automatic_resolutions_never_collapse_the_feature_map(native: int) -> None:
    sides = resolutions_for(native)
    (macro,) = macros_for(RunConfig(), classes=10, channels=3, resolutions=sides)
    assert macro.feature_sizes(sides[0])[3] >= 2


def test_families_and_widths_are_those_asked_for() -> None:
    for family in get_args(Family):
        config = RunConfig(family=family, width="1.0,1.2")
        macros = macros_for(config, classes=10, channels=3, resolutions=(64,))
        assert [macro.width for macro in macros] == [1.0, 1.2]
        assert {macro.family for macro in macros} == {family}
    assert parse_widths(0.25) == (0.25,)


@pytest.mark.parametrize("text", ["", "64,48", "48,48", "4,8", "a", "48;56", "48.5"])
def test_unusable_resolutions_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--resolutions"):
        parse_resolutions(text)


def test_a_collapsed_feature_map_is_reported_with_the_remedy() -> None:
    with pytest.raises(ConfigError, match=r"one pixel.*--stem_stride 1 or larger --resolutions"):
        macros_for(RunConfig(stem_stride=2), classes=10, channels=1, resolutions=(16, 20))


@pytest.mark.parametrize(
    "change",
    [
        {"objectives": "speed"},
        {"networks": 0},
        {"width": -1.0},
        {"width": "1.2,1.0"},
        {"width": "wide"},
        {"stem_stride": 3},
        {"dropout": 1.0},
        {"val_fraction": 0.0},
        {"test_fraction": 1.5},
        {"val_fraction": 0.5, "test_fraction": 0.5},
        {"resolutions": "0"},
    ],
)
def test_values_outside_their_range_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=f"--{next(iter(change))}"):
        RunConfig(**change)  # type: ignore[arg-type]


def test_the_configuration_is_plain_data() -> None:
    plain = RunConfig(phases=SCHEDULES["short"]).to_dict()
    assert yaml.safe_load(yaml.safe_dump(plain)) == plain
    assert plain["phases"][-1]["expands"] == [3, 4, 6]


def test_presets_are_the_published_settings() -> None:
    nat, nat2 = RunConfig.of("nat"), RunConfig.of("nat2")
    assert (nat.search.archive, nat.search.candidates, nat.search.generations) == (100, 8, 30)
    assert (nat2.search.archive, nat2.search.candidates, nat2.search.generations) == (300, 25, 30)
    assert (nat2.search.oversample, nat2.search.top, nat2.adapt.batch_size, nat2.adapt.subnets) == (10, 150, 256, 4)
    assert (nat.search.update, nat.search.features, nat.search.sampling) == ("append", "one-hot", "uniform")
    assert (nat.family, nat2.family, nat2.finetune.optimizer, nat.finetune.optimizer) == (
        "SE_B",
        "EE_D",
        "adamw",
        "sgd",
    )
    assert (nat.schedule, nat2.schedule, nat2.shrink.corners) == ("ofa", "ofav2", 32)


def test_schedules_are_the_published_tables() -> None:
    def table(name: ScheduleName) -> list[tuple[int, float, int]]:
        return [(phase.epochs, phase.lr, phase.subnets) for phase in SCHEDULES[name]]

    assert table("ofav2") == [
        (180, 0.08, 1), (120, 0.03, 1),
        (25, 2.5e-3, 2), (120, 7.5e-3, 2),
        (25, 1.875e-3, 2), (60, 3.75e-3, 2), (90, 7.5e-3, 2), (120, 1.5e-2, 2),
        (25, 2.5e-3, 2), (120, 7.5e-3, 2), (25, 2.5e-3, 4), (120, 7.5e-3, 4),
    ]  # fmt: skip
    assert table("ofa") == table("ofav2")[:2] + table("ofav2")[8:]
    assert {phase.exits for phase in SCHEDULES["ofa"]} == {(5,)}
    order = ("kernels", "levels", "exits", "depths", "expands")
    for name in ("short", "ofav2"):
        opened = [
            tuple(len(getattr(phase, dimension)) > 1 for dimension in order)
            for phase in SCHEDULES[name]  # type: ignore[index]
        ]
        assert opened == sorted(opened)  # each dimension opens behind the one before, and stays open
        assert opened[-1] == (True,) * 5


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_is_the_same_from_python_and_on_the_command_line(preset: str) -> None:
    given = build_parser(preset).parse_args(["run"])["run"]  # type: ignore[arg-type]
    config = RunConfig.of(preset)  # type: ignore[arg-type]
    for group in ("search", "adapt", "finetune", "shrink", "augmentation"):
        assert given[group].as_dict() == vars(getattr(config, group)), group
    for name in ("family", "width", "networks", "preset", "objectives", "schedule", "phases"):
        assert given[name] == getattr(config, name)


def test_changes_go_over_a_preset() -> None:
    config = RunConfig.of("nat2", seed=3, search={"generations": 2})
    assert (config.seed, config.search.generations, config.search.archive) == (3, 2, 300)
    with pytest.raises(ConfigError, match="preset must be one of quick, nat2, nat; got 'big'"):
        RunConfig.of("big")  # type: ignore[arg-type]


def test_public_names_stay_what_they_are() -> None:
    import nat2
    import nat2.stages

    assert nat2.run is nat2.verbs.run
    assert nat2.run is nat2.verbs.run  # and again: no module of that name takes its place
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = nat2.nothing
