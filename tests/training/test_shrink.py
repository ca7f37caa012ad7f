"""Progressive shrinking."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from nat2.data import Split
from nat2.errors import ConfigError
from nat2.settings import OFAV2, SHORT, Phase, ShrinkSettings
from nat2.space import Macro, SearchSpace
from nat2.supernet import SuperNetwork, calibrate, normalize_by
from nat2.supernet.static import channels_last
from nat2.training import shrink as module
from nat2.training.optimise import accuracy
from nat2.training.shrink import calibration_images, opened_by, phases_for, shrink
from tests.training.conftest import MACRO, PIPELINE, SPACE, corners, kill_after, same_weights, weights_of

EXITS, DEPTHS, KERNELS = (1, 2, 3, 4, 5), (2, 3, 4), (3, 5, 7)
PHASES = (
    Phase(name="full", epochs=3, lr=0.1, joint=True, exits=EXITS),
    Phase(name="height", epochs=2, lr=0.05, kernels=KERNELS, exits=EXITS),
    Phase(name="expand", epochs=2, lr=0.05, subnets=2, kernels=KERNELS, exits=EXITS, depths=DEPTHS, expands=(3, 4, 6)),
)
SETTINGS = ShrinkSettings(batch_size=16, calibration_images=64)


def new_network(macro: Macro = MACRO) -> SuperNetwork:
    return channels_last(SuperNetwork(macro, generator=torch.Generator().manual_seed(0))).eval()


def run(network: SuperNetwork, split: Split, state: Path, **extra: object) -> None:
    shrink(network, SPACE, split, PIPELINE, PHASES, SETTINGS, state=state, seed=0, **extra)  # type: ignore[arg-type]


def test_the_super_network_learns(tmp_path: Path, split: Split) -> None:
    network, losses = new_network(), {}
    run(network, split, tmp_path / "s.safetensors", report=lambda name, loss, _: losses.setdefault(name, loss))
    assert list(losses) == ["full", "height", "expand"]
    unseen = corners(64, seed=1)
    largest = SPACE.largest
    statistics = calibrate(network, largest, [PIPELINE(split.pixels, largest.resolution)])
    with torch.no_grad():
        logits = network(PIPELINE(unseen.pixels, largest.resolution), largest, normalize=normalize_by(statistics))
    assert accuracy(lambda batch: batch, [logits], unseen.labels) > 0.5  # chance is 0.25


@pytest.mark.parametrize("steps_before_kill", [1, 7, 18, 19, 31, 41])
def test_a_killed_training_ends_with_the_same_weights(
    tmp_path: Path, split: Split, monkeypatch: pytest.MonkeyPatch, steps_before_kill: int
) -> None:
    monkeypatch.setattr(module, "SAVE_INTERVAL", 0.0)
    whole = new_network()
    run(whole, split, tmp_path / "whole.safetensors")
    kill = kill_after(steps_before_kill)
    with pytest.raises(KeyboardInterrupt):
        run(new_network(), split, tmp_path / "killed.safetensors", tick=kill)
    resumed, ticks = new_network(), []
    run(resumed, split, tmp_path / "killed.safetensors", tick=ticks.append)
    assert same_weights(weights_of(resumed), weights_of(whole))
    assert sum(ticks) == 7 * 6  # what was found made counts as progress too


def test_channels_are_sorted_before_expand_ratios_open(
    tmp_path: Path, split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[int, ...]] = []
    monkeypatch.setattr(module, "sort_channels", lambda network, *, supported: calls.append(tuple(supported)))
    phases = [
        Phase(name="full", epochs=1, lr=0.1, joint=True),
        Phase(name="depth", epochs=1, lr=0.1, depths=DEPTHS),
        Phase(name="expand 1", epochs=1, lr=0.1, depths=DEPTHS, expands=(4, 6)),
        Phase(name="expand 2", epochs=1, lr=0.1, depths=DEPTHS, expands=(3, 4, 6)),
    ]
    state = tmp_path / "s.safetensors"
    shrink(new_network(), SPACE, split, PIPELINE, phases, SETTINGS, state=state, seed=0)
    assert calls == [(6,), (4, 6)]


def test_phases_open_their_part_of_the_space() -> None:
    for phase in SHORT:
        opened = opened_by(phase, SPACE)
        assert (opened.kernels, opened.expands, opened.depths, opened.exits) == (
            phase.kernels, phase.expands, phase.depths, phase.exits,
        )  # fmt: skip
    assert opened_by(SHORT[-1], SPACE) == SPACE


def test_single_exit_families_have_no_height_to_open(tmp_path: Path, split: Split) -> None:
    macro = dataclasses.replace(MACRO, early_exits=False)
    space = SearchSpace.of(macro, (12, 16))
    assert [phase.name for phase in phases_for(space, SHORT)] == ["full", "kernel", "depth", "expand 1", "expand 2"]
    kept = [phase.name for phase in phases_for(space, OFAV2)]
    assert kept == ["full", "kernel", "depth 1", "depth 2", "expand 1", "expand 2"]
    again = (Phase(name="a", epochs=1, lr=0.1), Phase(name="b", epochs=1, lr=0.01))
    assert len(phases_for(space, again)) == 2  # a phase that repeats the one before is meant so
    network = new_network(macro)
    before = weights_of(network)
    shrink(network, space, split, PIPELINE, PHASES, SETTINGS, state=tmp_path / "s.safetensors", seed=0)
    assert not same_weights(before, weights_of(network))


def test_calibration_images_are_the_same_training_images_every_time() -> None:
    split = corners(50)
    first, again = calibration_images(split, 20), calibration_images(split, 20)
    assert torch.equal(first.pixels, again.pixels)
    assert len(calibration_images(split, 1000)) == 50


@pytest.mark.parametrize("change", [{"epochs": 0}, {"lr": -1.0}, {"subnets": 0}])
def test_impossible_phases_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="phase 'x' must be above 0"):
        Phase(**{"name": "x", "epochs": 1, "lr": 0.1, **change})  # type: ignore[arg-type]
