"""The configuration and its presets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from nat2.cli import main
from nat2.cli.parser import build_parser, parsed
from nat2.cli.words import expanded
from nat2.data.settings import Augmentation
from nat2.errors import ConfigError
from nat2.runs.config import (
    PRESETS,
    RunConfig,
    absolute,
    parse_resolutions,
    read_config,
    same,
)
from nat2.training.rate import rate_for
from nat2.training.settings import SCHEDULES, Phase, ScheduleName


@pytest.mark.parametrize("text", ["", "64,48", "48,48", "4,8", "a", "48;56", "48.5"])
def test_unusable_resolutions_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--resolutions"):
        parse_resolutions(text)


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
    for preset in (nat, nat2):
        assert rate_for(preset.adapt.lr, preset.adapt.batch_size or 0) == pytest.approx(2.5e-3)
    assert (nat.search.update, nat.search.features, nat.search.sampling) == ("append", "one-hot", "uniform")
    assert (nat.family, nat2.family, nat2.finetune.optimizer, nat.finetune.optimizer) == (
        "SE_B",
        "auto",
        "adamw",
        "sgd",
    )
    assert (nat.schedule, nat2.schedule, nat2.shrink.corners) == ("ofa", "ofav2", 32)


def test_schedules_are_the_published_tables() -> None:
    def table(name: ScheduleName) -> list[tuple[int | None, float, int]]:
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
        opened = [tuple(len(getattr(phase, dimension)) > 1 for dimension in order) for phase in SCHEDULES[name]]
        assert opened == sorted(opened)  # each dimension opens behind the one before, and stays open
        assert opened[-1] == (True,) * 5


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_is_the_same_from_python_and_on_the_command_line(preset: str) -> None:
    given = build_parser(preset).parse_args(["run"])["run"]  # type: ignore[arg-type]
    config = RunConfig.of(preset)  # type: ignore[arg-type]
    for group in ("search", "adapt", "finetune", "shrink", "augmentation"):
        assert given[group].as_dict() == vars(getattr(config, group)), group
    for name in ("family", "width", "networks", "preset", "schedule", "phases"):
        assert given[name] == getattr(config, name)
    assert RunConfig(objectives=given["objectives"]).objectives == config.objectives


def test_changes_go_over_a_preset() -> None:
    config = RunConfig.of("nat2", seed=3, search={"generations": 2})
    assert (config.seed, config.search.generations, config.search.archive) == (3, 2, 300)
    with pytest.raises(ConfigError, match="preset must be one of quick, nat2, nat; got 'big'"):
        RunConfig.of("big")  # type: ignore[arg-type]


def test_public_names_stay_what_they_are() -> None:
    import nat2
    import nat2.pipeline.stages

    assert nat2.run is nat2.pipeline.api.run
    assert nat2.run is nat2.pipeline.api.run  # and again: no module of that name takes its place
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = nat2.nothing


def test_lists_numbers_and_paths_are_taken_as_text(tmp_path: Path) -> None:
    given: dict[str, Any] = {
        "data": tmp_path, "resolutions": [12, 16], "width": [1.0, 1.2], "objectives": ["error", "params"],
        "budget": ("params<=3k", "macs<=5M"), "pretrained": [tmp_path / "a.pth", "b.pth"],
    }  # fmt: skip
    config = RunConfig(**given, augmentation=Augmentation(policy=False))  # type: ignore[arg-type]
    assert (config.data, config.resolutions, config.width) == (str(tmp_path), "12,16", "1.0,1.2")
    assert (config.objectives, config.budget) == ("error,params", "params<=3k,macs<=5M")
    assert config.pretrained == f"{tmp_path}/a.pth,b.pth"
    assert config.augmentation.policy == "none"
    assert RunConfig(resolutions=16).resolutions == "16"  # type: ignore[arg-type]


def test_home_is_expanded_and_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "energy.py").write_text("def joules(network):\n    return 1.0\n")
    config = RunConfig(data="~/photos", pretrained="~/a.pth,b.pth", objectives="error,~/energy.py:joules")
    assert config.data == str(tmp_path / "photos")
    assert config.objectives == f"error,{tmp_path}/energy.py:joules"
    assert absolute(config).pretrained == f"{tmp_path}/a.pth,{tmp_path}/b.pth"
    relative = RunConfig(data="photos", objectives="error,energy.py:joules")
    assert absolute(relative).data == config.data
    assert absolute(relative).objectives == config.objectives
    for data in ("digits", "hub:user/name:config"):
        assert absolute(RunConfig(data=data)).data == data


def test_settings_that_mean_the_same_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert same("objectives", "error,energy.py:joules", f"error,{tmp_path}/energy.py:joules")
    assert not same("objectives", "error,energy.py:joules", "error,energy.py:watts")
    assert same("pretrained", "a.pth", f"{tmp_path}/a.pth")
    assert not same("pretrained", "a.pth", "/elsewhere/a.pth")
    assert same("seed", 1, 1)


@pytest.mark.parametrize("url", ["https://host/a.zip", "http:/host/a.zip", "s3://bucket/a", "HTTPS://host/a"])
@pytest.mark.parametrize("name", ["data", "pretrained"])
def test_urls_are_not_read(name: str, url: str) -> None:
    with pytest.raises(ConfigError, match=rf"--{name} takes .* downloads nothing; download \w+://\w+/?a?") as error:
        RunConfig(**{name: url})  # type: ignore[arg-type]
    assert "yourself and name the file" in str(error.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("seed: abc", "--seed must be a whole number; got abc"),
        ("memory: lots", "--memory must be a number; got lots"),
        (
            "augmentation: {policy: on}",
            "--augmentation.policy must be one of none, auto, autoaugment, randaugment; got True",
        ),
        ("phases: [{name: a, epochs: {}, lr: 1}]", "lr (`epochs` must be a whole number; got {})"),
        ("phases: [3]", "--phases must be a list of phases, each with its name, epochs and lr; got 3"),
        ("budget: {params: 3}", "--budget must be text; got {'params': 3}"),
        ("- a", "it holds a list"),
        ("7", "it holds a single value"),
        ("data: https://host/a.zip", "download https://host/a.zip yourself"),
    ],
)
def test_malformed_settings_are_told_without_python_types(
    text: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(SystemExit):
        main(["run", "--config", str(tmp_path / "s.yaml"), "--out", str(tmp_path / "out")])
    errors = capsys.readouterr().err
    assert told in errors
    assert "<class" not in errors
    assert "typing." not in errors


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("resolutions: 16", "resolutions", "16"),
        ("resolutions: [12, 16]", "resolutions", "12,16"),
        ("width: [1.0, 1.2]", "width", "1.0,1.2"),
        ("objectives: [error, macs]", "objectives", "error,macs"),
        ("budget: [params<=3k, macs<=5M]", "budget", "params<=3k,macs<=5M"),
        ("data: 2024", "data", "2024"),
    ],
)
def test_yaml_is_read_as_people_write_it(text: str, name: str, value: str, tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(f"{text}\naugmentation: {{policy: off}}\nsearch: {{preprocess: no}}\n")
    config = read_config(tmp_path / "s.yaml")
    assert getattr(config, name) == value
    assert (config.augmentation.policy, config.search.preprocess) == ("none", "none")


@pytest.mark.parametrize("word", ["off", "no", "OFF", "none"])
def test_flags_say_off_as_yaml_does(word: str) -> None:
    words = expanded(["run", "--augmentation.policy", word, f"--search.preprocess={word}", "--data", "off"])
    given = parsed(build_parser(), words).run
    assert (given.augmentation.policy, given.search.preprocess, given.data) == ("none", "none", "off")


def test_a_phase_names_its_setting() -> None:
    with pytest.raises(ConfigError, match=r"^`epochs` of phase 'a' must be a whole number or nothing; got \{\}$"):
        Phase(name="a", epochs={}, lr=1.0)  # type: ignore[arg-type]
    assert Phase(name="a", epochs=1, lr=1.0, kernels=3).kernels == (3,)  # type: ignore[arg-type]
