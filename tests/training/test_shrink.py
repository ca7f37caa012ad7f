"""Progressive shrinking."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from nat2.data.dataset import Split, read_dataset
from nat2.data.settings import Reading
from nat2.errors import ConfigError
from nat2.space import Arch, Layer, SearchSpace
from nat2.supernet import SuperNetwork, calibrate, normalize_by
from nat2.training import shrink as module
from nat2.training.context import TrainingContext
from nat2.training.optimise import ElasticEpoch, accuracy
from nat2.training.settings import OFA, OFAV2, SHORT, Phase, ShrinkSettings
from nat2.training.shrink import (
    PhaseOutcome,
    TeacherSource,
    corner_networks,
    opened_by,
    phases_for,
    shrink,
    teacher_file,
)
from nat2.training.teacher import calibration_images, largest_as_teacher
from tests.pixels import pixels_of
from tests.training.conftest import (
    MACRO,
    PIPELINE,
    SPACE,
    context_of,
    corners,
    kill_after,
    new_network,
    same_weights,
    weights_of,
)

EXITS, DEPTHS, KERNELS = (1, 2, 3, 4, 5), (2, 3, 4), (3, 5, 7)
PHASES = (
    Phase(name="full", epochs=3, lr=0.1, joint=True, exits=EXITS),
    Phase(name="height", epochs=2, lr=0.05, kernels=KERNELS, exits=EXITS),
    Phase(name="expand", epochs=2, lr=0.05, subnets=2, kernels=KERNELS, exits=EXITS, depths=DEPTHS, expands=(3, 4, 6)),
)
SETTINGS = ShrinkSettings(batch_size=16, calibration_images=64, ramp="ASC")


def run(network: SuperNetwork, split: Split, state: Path, **extra: object) -> list[PhaseOutcome]:
    of_context = {name: extra.pop(name) for name in ("say", "tick", "interval", "processes") if name in extra}
    return list(shrink(network, SPACE, PHASES, SETTINGS, context_of(split, state, **of_context), **extra))  # type: ignore[arg-type]


@pytest.fixture
def few() -> Split:
    """Enough for three steps an epoch, where nothing has to be learnt well."""
    return corners(48)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """The weights behind a training on `few` images that nothing interrupted."""
    network = new_network()
    run(network, corners(48), tmp_path_factory.mktemp("whole") / "s.safetensors")
    return weights_of(network)


def test_phases_are_trained_as_their_outcomes_are_asked_for(
    whole: dict[str, torch.Tensor], tmp_path: Path, few: Split
) -> None:
    network, context = new_network(), context_of(few, tmp_path / "s.safetensors")
    untrained = weights_of(network)
    outcomes = shrink(network, SPACE, PHASES, SETTINGS, context)
    assert same_weights(weights_of(network), untrained)
    assert next(outcomes).phase.name == "full"
    behind_the_first = weights_of(network)
    assert not same_weights(behind_the_first, untrained)
    resumed = new_network()
    rest = shrink(resumed, SPACE, PHASES, SETTINGS, context)
    assert [outcome.phase.name for outcome in rest] == ["height", "expand"]
    assert same_weights(weights_of(resumed), whole)
    assert same_weights(weights_of(network), behind_the_first)


def test_the_super_network_learns(tmp_path: Path, split: Split) -> None:
    network = new_network()
    outcomes = run(network, split, tmp_path / "s.safetensors")
    assert [outcome.phase.name for outcome in outcomes] == ["full", "height", "expand"]
    assert [outcome.kept for outcome in outcomes] == [3, 2, 2]
    assert outcomes[0].learning_rate == pytest.approx(0.1 * 16 / 64)
    assert 0 < outcomes[0].loss < 2
    unseen = corners(64, seed=1)
    largest = SPACE.largest
    statistics = calibrate(network, largest, [PIPELINE(pixels_of(split), largest.resolution)])
    with torch.no_grad():
        logits = network(PIPELINE(pixels_of(unseen), largest.resolution), largest, normalize=normalize_by(statistics))
    assert accuracy(lambda batch: batch, [logits], unseen.labels) > 0.5  # chance is 0.25


# Within the first epoch and the second, at the end of a phase, just behind it, in another phase, in the last epoch.
@pytest.mark.parametrize("steps_before_kill", [1, 4, 9, 10, 16, 20])
def test_a_killed_training_ends_with_the_same_weights(
    tmp_path: Path, few: Split, whole: dict[str, torch.Tensor], steps_before_kill: int
) -> None:
    kill = kill_after(steps_before_kill)
    with pytest.raises(KeyboardInterrupt):
        run(new_network(), few, tmp_path / "killed.safetensors", tick=kill, interval=0.0)
    resumed, ticks = new_network(), list[int]()
    run(resumed, few, tmp_path / "killed.safetensors", tick=ticks.append, interval=0.0)
    assert same_weights(weights_of(resumed), whole)
    assert sum(ticks) == 7 * 3  # what was found made counts as progress too


@pytest.mark.parametrize(("steps_before_kill", "damage"), [(4, "cut"), (10, "cut"), (16, "lost")])
def test_a_damaged_checkpoint_is_told_and_costs_nothing_but_time(
    tmp_path: Path, few: Split, whole: dict[str, torch.Tensor], steps_before_kill: int, damage: str
) -> None:
    state, told = tmp_path / "s.safetensors", list[str]()
    with pytest.raises(KeyboardInterrupt):
        run(new_network(), few, state, tick=kill_after(steps_before_kill), interval=0.0)
    if damage == "cut":
        state.write_bytes(state.read_bytes()[: state.stat().st_size // 2])
    else:
        state.unlink()
    resumed = new_network()
    run(resumed, few, state, say=told.append, interval=0.0)
    assert same_weights(weights_of(resumed), whole)
    (line,) = told
    assert line.startswith("s.safetensors is damaged" if damage == "cut" else "s.safetensors is missing")
    assert line.endswith("going on from the checkpoint before it")


def test_channels_are_sorted_before_expand_ratios_open(
    tmp_path: Path, few: Split, monkeypatch: pytest.MonkeyPatch
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
    space = dataclasses.replace(SPACE, kernels=(7,), exits=(5,))
    list(shrink(new_network(), space, phases, SETTINGS, context_of(few, state)))
    assert calls == [(6,), (4, 6)]


def test_phases_open_their_part_of_the_space() -> None:
    for phase in SHORT:
        opened = opened_by(phase, SPACE)
        assert (opened.kernels, opened.expands, opened.depths, opened.exits) == (
            phase.kernels, phase.expands, phase.depths, phase.exits,
        )  # fmt: skip
    assert opened_by(SHORT[-1], SPACE) == SPACE


def test_single_exit_families_have_no_height_to_open(tmp_path: Path, few: Split) -> None:
    macro = dataclasses.replace(MACRO, early_exits=False)
    space = SearchSpace.of(macro, (12, 16))
    assert [phase.name for phase in phases_for(space, SHORT)] == ["full", "kernel", "depth", "expand 1", "expand 2"]
    kept = [phase.name for phase in phases_for(space, OFAV2)]
    assert kept == ["full", "kernel", "depth 1", "depth 2", "expand 1", "expand 2"]
    again = (Phase(name="a", epochs=1, lr=0.1), Phase(name="b", epochs=1, lr=0.01))
    fixed = dataclasses.replace(space, kernels=(7,), expands=(6,), depths=(4,))
    assert len(phases_for(fixed, again)) == 2  # a phase that repeats the one before is meant so
    network = new_network(macro)
    before = weights_of(network)
    list(shrink(network, space, PHASES, SETTINGS, context_of(few, tmp_path / "s.safetensors")))
    assert not same_weights(before, weights_of(network))


def test_a_family_without_what_a_phase_opens_is_refused() -> None:
    with pytest.raises(ConfigError, match="never open levels 1, 2, which the search may choose"):
        phases_for(SearchSpace.of(dataclasses.replace(MACRO, parallel_blocks=True), (12,)), PHASES)
    with pytest.raises(ConfigError, match="never open exits 1, 2, 3, 4"):
        phases_for(SPACE, OFA)


def test_parallel_families_open_their_levels() -> None:
    space = SearchSpace.of(dataclasses.replace(MACRO, parallel_blocks=True), (12, 16))
    kept = phases_for(space, OFAV2)
    assert [phase.name for phase in kept[:5]] == ["full", "kernel", "level 1", "level 2", "height 1"]
    assert [opened_by(phase, space).levels for phase in kept[:4]] == [(3,), (3,), (2, 3), (1, 2, 3)]


def test_corner_networks_have_every_choice_at_an_end() -> None:
    generator = np.random.default_rng(0)
    corners_ = corner_networks(SPACE, 1000, generator)
    assert len(corners_) == 2**5  # resolution, kernel, expand ratio, depth, exit
    for arch in corners_:
        SPACE.validate(arch)
        layers = {layer for stage in arch.stages for layer in stage}
        assert len(layers) == 1
        assert layers <= {Layer(k, e) for k in (3, 7) for e in (3, 6)}
    assert {SPACE.smallest, SPACE.largest} <= set(corners_)
    few = corner_networks(SPACE, 6, generator)
    assert len(set(few)) == 6
    assert set(few) <= set(corners_)


def keep_best(state: Path, **extra: object) -> tuple[dict[str, torch.Tensor], list[PhaseOutcome]]:
    """Train two phases of three epochs, the second of which is the best of each."""
    settings = dataclasses.replace(SETTINGS, corners=2)
    phases = [dataclasses.replace(phase, epochs=3) for phase in PHASES[:2]]
    space = dataclasses.replace(SPACE, depths=(4,), expands=(6,))

    def validate(network: SuperNetwork, arch: Arch) -> float:  # depends on the weights alone, and rises and falls
        weights = network.stem.conv.weight.detach().numpy().tobytes()
        return SCORES.setdefault(weights, (0.2, 0.9, 0.4)[len(SCORES) % 3])

    network = new_network()
    context = context_of(corners(48), state, interval=0.0, **extra)  # type: ignore[arg-type]
    outcomes = list(shrink(network, space, phases, settings, context, validate=validate))
    return weights_of(network), outcomes


SCORES: dict[bytes, float] = {}


@pytest.fixture(scope="module")
def best(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, torch.Tensor], list[PhaseOutcome]]:
    return keep_best(tmp_path_factory.mktemp("best") / "s.safetensors")


def test_the_best_epoch_of_each_phase_goes_on(best: tuple[dict[str, torch.Tensor], list[PhaseOutcome]]) -> None:
    assert [outcome.kept for outcome in best[1]] == [2, 2]


@pytest.mark.parametrize("killed_at", [5, 7, 11, 15])
def test_the_best_epoch_of_each_phase_goes_on_behind_a_kill(
    tmp_path: Path, best: tuple[dict[str, torch.Tensor], list[PhaseOutcome]], killed_at: int
) -> None:
    with pytest.raises(KeyboardInterrupt):
        keep_best(tmp_path / "s.safetensors", tick=kill_after(killed_at))
    resumed, _ = keep_best(tmp_path / "s.safetensors")
    assert same_weights(resumed, best[0])


def test_the_sandwich_has_the_largest_and_the_smallest_in_each_step(
    tmp_path: Path, few: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Arch] = []
    forward = SuperNetwork.forward

    def recorded(self: SuperNetwork, images: torch.Tensor, arch: Arch, **options: object) -> torch.Tensor:
        drawn.append(arch)
        return forward(self, images, arch, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(SuperNetwork, "forward", recorded)
    phases = [Phase(name="all", epochs=1, lr=0.01, kernels=KERNELS, depths=DEPTHS, exits=EXITS, expands=(3, 4, 6))]
    settings = dataclasses.replace(SETTINGS, sampling="sandwich")
    list(shrink(new_network(), SPACE, phases, settings, context_of(few, tmp_path / "s.safetensors")))
    assert len(drawn) == 3 * 3
    for largest, smallest, between in zip(drawn[::3], drawn[1::3], drawn[2::3], strict=True):
        assert largest.stages == SPACE.largest.stages
        assert smallest.stages == SPACE.smallest.stages
        assert between.resolution == largest.resolution


def test_a_fixed_teacher_is_the_network_behind_the_first_phase(
    tmp_path: Path, few: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    teachers: dict[str, list[dict[str, torch.Tensor]]] = {"fixed": [], "progressive": []}
    build = largest_as_teacher
    for kind, seen in teachers.items():

        def recorded(network: SuperNetwork, *rest: object, seen: list[object] = seen) -> object:  # type: ignore[assignment]
            seen.append(weights_of(network))
            return build(network, *rest)  # type: ignore[arg-type]

        monkeypatch.setattr(module, "largest_as_teacher", recorded)
        settings = dataclasses.replace(SETTINGS, teacher=kind)  # type: ignore[arg-type]
        state = tmp_path / f"{kind}.safetensors"
        list(shrink(new_network(), SPACE, PHASES, settings, context_of(few, state)))
    assert same_weights(*teachers["fixed"])
    assert not same_weights(*teachers["progressive"])


def test_the_widest_network_teaches_all_widths(tmp_path: Path, few: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    teachers: list[tuple[float, dict[str, torch.Tensor]]] = []
    build = largest_as_teacher

    def recorded(network: SuperNetwork, *rest: object) -> object:
        teachers.append((network.macro.width, weights_of(network)))
        return build(network, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "largest_as_teacher", recorded)
    settings = dataclasses.replace(SETTINGS, teacher="widest")
    wide = dataclasses.replace(MACRO, width=0.3)
    state = tmp_path / "wide.safetensors"
    space = dataclasses.replace(SPACE, widths=(0.3,))
    list(shrink(new_network(wide), space, PHASES, settings, context_of(few, state)))
    narrow = new_network()
    context = context_of(few, tmp_path / "narrow.safetensors")
    list(shrink(narrow, SPACE, PHASES, settings, context, teacher_of=TeacherSource(wide, teacher_file(state))))
    assert [width for width, _ in teachers] == [0.3] * 4
    assert all(same_weights(weights, teachers[0][1]) for _, weights in teachers)


def test_gradients_are_clipped_if_asked(tmp_path: Path, split: Split) -> None:
    space = dataclasses.replace(SPACE, kernels=(7,), expands=(6,), depths=(4,))
    ends = []
    for clip in (0.0, 1e-6):
        network, state = new_network(), tmp_path / f"{clip}.safetensors"
        settings = dataclasses.replace(SETTINGS, clip=clip, weight_decay=0.0)
        before = weights_of(network)
        list(shrink(network, space, PHASES[:1], settings, context_of(split, state)))
        ends.append(max(float((value - before[name]).abs().max()) for name, value in weights_of(network).items()))
    assert ends[1] < 1e-5 < ends[0]


def test_calibration_images_are_the_same_training_images_every_time() -> None:
    split = corners(50)
    first, again = calibration_images(split, 20), calibration_images(split, 20)
    assert torch.equal(pixels_of(first), pixels_of(again))
    assert len(calibration_images(split, 1000)) == 50


@pytest.mark.parametrize("change", [{"epochs": 0}, {"lr": -1.0}, {"subnets": 0}])
def test_impossible_phases_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="phase 'x' must be above 0"):
        Phase(**{"name": "x", "epochs": 1, "lr": 0.1, **change})  # type: ignore[arg-type]


def epochs_of(
    folder: Path, monkeypatch: pytest.MonkeyPatch, phases: Sequence[Phase] = PHASES, **changes: Any
) -> list[tuple[ElasticEpoch, dict[str, Any]]]:
    """What each epoch of a training with these settings is asked to train, and how; nothing is trained."""
    asked: list[tuple[ElasticEpoch, dict[str, Any]]] = []

    def recorded(
        network: object, optimizer: object, epoch: ElasticEpoch, context: TrainingContext, **options: Any
    ) -> float:
        asked.append((epoch, {**options, "seed": context.seed}))
        return 0.5

    monkeypatch.setattr(module, "train_epoch", recorded)
    settings = dataclasses.replace(SETTINGS, **changes)
    list(shrink(new_network(), SPACE, phases, settings, context_of(corners(96), folder / "s.safetensors", seed=3)))
    return asked


@pytest.mark.parametrize(("smoothing", "ratio"), [(0.0, 1.0), (0.25, 1.0), (0.1, 2.5)])
def test_labels_are_smoothed_and_the_teacher_weighs_as_asked_in_every_phase(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, smoothing: float, ratio: float
) -> None:
    asked = epochs_of(tmp_path, monkeypatch, label_smoothing=smoothing, kd_ratio=ratio)
    labels, targets = torch.arange(6) % 4, torch.full((6, 4), 0.25)
    generator = torch.Generator().manual_seed(0)
    several, one = torch.randn(5, 6, 4, generator=generator), torch.randn(6, 4, generator=generator)
    hard = torch.stack([F.cross_entropy(each, labels, label_smoothing=smoothing) for each in several])
    for epoch, _ in asked[:3]:  # all exits at once, the last of them weighing most
        assert (epoch.exits, epoch.teacher) == (EXITS, None)
        torch.testing.assert_close(epoch.loss(several, labels, None), (hard * torch.arange(1, 6) / 15).sum())
    expected = F.cross_entropy(one, labels, label_smoothing=smoothing) + ratio * F.cross_entropy(one, targets)
    for epoch, _ in asked[3:]:
        assert epoch.exits is None
        assert epoch.teacher is not None
        torch.testing.assert_close(epoch.loss(one, labels, targets), expected)


def test_without_distillation_nothing_teaches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert {epoch.teacher for epoch, _ in epochs_of(tmp_path, monkeypatch, kd_ratio=0.0)} == {None}


def test_each_phase_has_a_cosine_of_its_own_behind_a_warm_up_from_a_tenth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Learning rates are for 64 images a step; six steps make an epoch."""
    phases = (
        dataclasses.replace(PHASES[0], warmup_epochs=1.0),
        *(dataclasses.replace(p, warmup_epochs=0.0) for p in PHASES[1:]),
    )
    asked = epochs_of(tmp_path, monkeypatch, phases)
    assert [options["first_step"] for _, options in asked] == [0, 6, 12, 0, 6, 0, 6]
    purposes = [("shrink", number, epoch) for number, count in enumerate((3, 2, 2)) for epoch in range(count)]
    assert [options["purpose"] for _, options in asked] == purposes
    assert {options["seed"] for _, options in asked} == {3}
    first, second = (asked[number][1]["schedule"] for number in (0, 3))
    assert [first(step) for step in (0, 3, 6, 12, 18)] == pytest.approx([0.0025, 0.01375, 0.025, 0.0125, 0.0])
    assert [second(step) for step in (0, 6, 12)] == pytest.approx([0.0125, 0.00625, 0.0])


def test_an_epoch_is_asked_for_as_the_phase_and_the_settings_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = epochs_of(tmp_path, monkeypatch, clip=2.5, batch_size=500)
    assert [epoch.subnets for epoch, _ in asked] == [1] * 5 + [2] * 2
    assert {epoch.clip for epoch, _ in asked} == {2.5}
    assert {epoch.batch_size for epoch, _ in asked} == {96}  # there are no more images
    generator = np.random.default_rng(0)
    for epoch, _ in asked[:3]:
        assert epoch.sample(generator, 12, 0) == dataclasses.replace(SPACE.largest, resolution=12)
    drawn = [asked[-1][0].sample(generator, 16, 0) for _ in range(30)]
    assert {arch.resolution for arch in drawn} == {16}
    assert {arch.exit for arch in drawn} == set(EXITS)
    assert {layer.expand for arch in drawn for stage in arch.stages for layer in stage} == {3, 4, 6}
    assert all(
        layer.expand == 6 for _ in range(9) for stage in asked[3][0].sample(generator, 16, 0).stages for layer in stage
    )
    assert {epoch.clip for epoch, _ in epochs_of(tmp_path / "none", monkeypatch, clip=0.0)} == {None}


def test_the_mean_of_all_corner_networks_judges_an_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Better in one network and far worse in the others is not better."""
    asked: list[Arch] = []
    monkeypatch.setattr(module, "train_epoch", lambda *arguments, **options: 0.5)
    scores = {0: (0.5, 0.5, 0.5), 1: (0.6, 0.6, 0.2), 2: (0.4, 0.4, 0.75)}

    def validate(network: SuperNetwork, arch: Arch) -> float:
        asked.append(arch)
        epoch, place = divmod(len(asked) - 1, 3)
        return scores[epoch][place]

    settings = dataclasses.replace(SETTINGS, corners=3)
    space = dataclasses.replace(SPACE, kernels=(7,), expands=(6,), depths=(4,))
    context = context_of(corners(96), tmp_path / "s.safetensors")
    outcomes = list(shrink(new_network(), space, PHASES[:1], settings, context, validate=validate))
    assert len(set(asked[:3])) == 3
    assert asked[:3] == asked[3:6] == asked[6:]
    assert [outcome.kept for outcome in outcomes] == [3]


def test_images_in_memory_in_a_cache_and_decoded_on_demand_train_the_same_weights(tmp_path: Path) -> None:
    split = corners(60)
    for number, (image, label) in enumerate(zip(pixels_of(split), split.labels.tolist(), strict=True)):
        folder = tmp_path / "images" / "abcd"[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0].numpy()).save(folder / f"{number:02}.png")
    trained: list[dict[str, torch.Tensor]] = []
    for reading in (Reading(), Reading(memory=1e-6, cache=str(tmp_path / "c")), Reading(memory=1e-6, cache="none")):
        network, images = new_network(), read_dataset(str(tmp_path / "images"), side=16, reading=reading).train
        list(shrink(network, SPACE, PHASES[2:], SETTINGS, context_of(images, tmp_path / f"{len(trained)}.safetensors")))
        trained.append(weights_of(network))
    assert list((tmp_path / "c").glob("*/images.bin"))
    assert all(same_weights(each, trained[0]) for each in trained)
    assert not same_weights(trained[0], weights_of(new_network()))
