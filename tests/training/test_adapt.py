"""Adaptation to the good part of the archive."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from nat2.data.dataset import Split
from nat2.errors import CheckpointError
from nat2.space import SearchSpace
from nat2.supernet import SuperNetwork, SuperNetworks, extract
from nat2.supernet.static import channels_last
from nat2.training import adapt as module
from nat2.training.adapt import (
    Adaptation,
    estimate_distributions,
    fit_distributions,
    sample_from,
    uniform_distributions,
)
from nat2.training.context import TrainingContext
from nat2.training.distill import Teacher
from nat2.training.optimise import ElasticEpoch
from nat2.training.settings import AdaptSettings
from tests.training.conftest import (
    MACRO,
    SPACE,
    context_of,
    corners,
    kill_after,
    new_network,
    same_weights,
    weights_of,
)


def genomes(count: int = 200, seed: int = 0) -> np.ndarray:
    return SPACE.sample(count, np.random.default_rng(seed))


def test_distributions_are_smoothed_histograms_of_what_is_expressed() -> None:
    good = genomes()
    distributions = estimate_distributions(SPACE, good, smoothing=1.0)
    for low, high, shares in zip(SPACE.lower, SPACE.upper, distributions, strict=True):
        assert len(shares) == high - low + 1
        assert shares.sum() == pytest.approx(1)
        assert (shares > 0).all()
    gene = SPACE.gene_names.index("stage 3 layer 3")
    reaching = good[SPACE.exit_numbers(good) >= 3]
    counts = np.bincount(reaching[:, gene], minlength=10) + 1.0
    np.testing.assert_allclose(distributions[gene], counts / counts.sum())


def test_samples_follow_the_distributions() -> None:
    good = SPACE.encode_all([SPACE.largest] * 50)
    distributions = estimate_distributions(SPACE, good, smoothing=0.01)
    generator = np.random.default_rng(0)
    drawn = [sample_from(SPACE, distributions, generator, resolution=12) for _ in range(50)]
    assert sum(arch.stages == SPACE.largest.stages for arch in drawn) > 35
    assert {arch.resolution for arch in drawn} == {12}
    wide = estimate_distributions(SPACE, genomes(), smoothing=1.0)
    for _ in range(50):
        SPACE.validate(sample_from(SPACE, wide, generator, resolution=16))


def adaptation(network: SuperNetwork, split: Split, state: Path, tick: object = None, epochs: int = 2) -> Adaptation:
    teacher = Teacher(extract(network, SPACE.largest, exits=MACRO.exits), "UNIF")
    settings = AdaptSettings(epochs=epochs, batch_size=16, lr=0.08, warmup_epochs=0.5)
    return Adaptation(
        SuperNetworks([network]), SPACE, teacher, settings,
        context_of(split, state, interval=0.0, tick=tick),  # type: ignore[arg-type]
        generations=2,
    )  # fmt: skip


def fresh_copy(network: SuperNetwork) -> SuperNetwork:
    copy = SuperNetwork(network.macro)
    copy.load_state_dict(network.state_dict())
    return copy.eval()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """The weights behind two generations that nothing interrupted."""
    whole = fresh_copy(new_network())
    task = adaptation(whole, corners(48), tmp_path_factory.mktemp("whole") / "s.safetensors")
    for generation in (1, 2):
        task.advance(generation, genomes(seed=generation))
    return weights_of(whole)


# Three steps an epoch, two epochs a generation.
@pytest.mark.parametrize("steps_before_kill", [1, 3, 5, 7, 10])
def test_a_killed_adaptation_ends_with_the_same_weights(
    tmp_path: Path,
    network: SuperNetwork,
    uninterrupted: dict[str, torch.Tensor],
    steps_before_kill: int,
) -> None:
    split, kill = corners(48), kill_after(steps_before_kill)

    def all_generations(task: Adaptation) -> None:
        for generation in (1, 2):
            task.advance(generation, genomes(seed=generation))

    with pytest.raises(KeyboardInterrupt):
        all_generations(adaptation(fresh_copy(network), split, tmp_path / "killed.safetensors", kill))
    resumed = fresh_copy(network)
    all_generations(adaptation(resumed, split, tmp_path / "killed.safetensors"))
    assert same_weights(weights_of(resumed), uninterrupted)


def test_a_lost_checkpoint_is_made_again(
    tmp_path: Path, network: SuperNetwork, uninterrupted: dict[str, torch.Tensor]
) -> None:
    state, split = tmp_path / "s.safetensors", corners(48)
    task = adaptation(fresh_copy(network), split, state)
    for generation in (1, 2):
        task.advance(generation, genomes(seed=generation))
    state.write_bytes(state.read_bytes()[:-100])
    resumed = fresh_copy(network)
    task = adaptation(resumed, split, state)
    assert not same_weights(weights_of(resumed), uninterrupted)
    for generation in (1, 2):  # what the search does when it goes on
        task.advance(generation, genomes(seed=generation))
    assert same_weights(weights_of(resumed), uninterrupted)


def test_adaptation_leaves_unreachable_weights_alone(tmp_path: Path, network: SuperNetwork, split: Split) -> None:
    before = weights_of(network)
    space = SearchSpace.of(MACRO, (12, 16))
    only = space.encode_all([space.smallest])  # exit 1 only, were it not for smoothing
    settings = AdaptSettings(epochs=1, batch_size=16, lr=0.08, smoothing=1e-12)
    teacher = Teacher(extract(network, SPACE.largest, exits=MACRO.exits), "UNIF")
    state = tmp_path / "s.safetensors"
    networks = SuperNetworks([network])
    Adaptation(networks, space, teacher, settings, context_of(split, state), generations=1).advance(1, only)
    after = weights_of(network)
    assert not same_weights(before, after)
    for name in before:
        if name.startswith(("stages.1", "stages.2", "stages.3", "stages.4", "exits.2", "exits.5", "stages.0.2")):
            assert (before[name] == after[name]).all(), name


def test_weights_older_than_the_archive_are_refused(tmp_path: Path, network: SuperNetwork, split: Split) -> None:
    task = adaptation(network, split, tmp_path / "lost.safetensors")
    with pytest.raises(CheckpointError, match="weights of generation 0, the archive those of generation 1"):
        task.advance(2, genomes())


def test_only_the_widths_that_are_drawn_learn(tmp_path: Path, network: SuperNetwork, split: Split) -> None:
    wide = channels_last(SuperNetwork(dataclasses.replace(MACRO, width=0.35))).eval()
    space = SearchSpace.of((MACRO, wide.macro), (12, 16))
    before = weights_of(network), weights_of(wide)
    only = space.encode_all([dataclasses.replace(space.largest, width=0.35)])
    settings = AdaptSettings(epochs=1, batch_size=16, lr=0.08, smoothing=1e-12)
    teacher = Teacher(extract(wide, space.largest, exits=MACRO.exits), "UNIF")
    task = Adaptation(
        SuperNetworks([network, wide]), space, teacher, settings, context_of(split, tmp_path / "s"), generations=1
    )
    task.advance(1, only)
    assert same_weights(before[0], weights_of(network))
    assert not same_weights(before[1], weights_of(wide))


def test_values_that_stand_for_the_layer_of_another_are_never_drawn() -> None:
    space = SearchSpace.of(dataclasses.replace(MACRO, parallel_blocks=True), (12, 16))
    good = space.encode_all([space.largest] * 20)
    shares = estimate_distributions(space, good, smoothing=1.0)[space.first_layer_gene]
    assert np.flatnonzero(shares).tolist() == sorted(code - 1 for code in space.codes.values())
    assert shares[-1] == pytest.approx(21 / (20 + 39))


def test_without_an_archive_every_value_is_as_likely() -> None:
    for low, high, shares in zip(SPACE.lower, SPACE.upper, uniform_distributions(SPACE), strict=True):
        np.testing.assert_allclose(shares, 1 / (high - low + 1))


def test_the_best_fitting_distribution_is_near_the_histogram() -> None:
    generator = np.random.default_rng(0)
    good = SPACE.canonical(SPACE.sample(300, generator))
    gene = SPACE.gene_names.index("stage 1 layer 1")
    good[:, gene] = np.clip(np.round(generator.normal(4, 1, 300)), 1, 9).astype(int)
    fitted = fit_distributions(SPACE, good)
    for low, high, shares in zip(SPACE.lower, SPACE.upper, fitted, strict=True):
        assert len(shares) == high - low + 1
        assert shares.sum() == pytest.approx(1)
        assert (shares >= 0).all()
    counts = np.bincount(good[:, gene] - 1, minlength=9) / 300
    assert np.abs(fitted[gene] - counts).max() < 0.1
    only = fit_distributions(SPACE, SPACE.encode_all([SPACE.largest] * 5))
    assert sample_from(SPACE, only, generator, resolution=16).stages == SPACE.largest.stages


@pytest.mark.parametrize("distributions", ["best-fit", "uniform"])
def test_adaptation_draws_as_asked(tmp_path: Path, network: SuperNetwork, split: Split, distributions: str) -> None:
    before = weights_of(network)
    settings = AdaptSettings(epochs=1, batch_size=16, lr=0.08, distributions=distributions)  # type: ignore[arg-type]
    teacher = Teacher(extract(network, SPACE.largest, exits=MACRO.exits), "UNIF")
    task = Adaptation(
        SuperNetworks([network]), SPACE, teacher, settings, context_of(split, tmp_path / "s"), generations=1
    )
    task.advance(1, genomes(30))
    assert not same_weights(before, weights_of(network))


@pytest.mark.parametrize("ratio", [0.25, 1.0, 4.0])
def test_the_teacher_weighs_as_asked_and_both_losses_as_two(
    tmp_path: Path, network: SuperNetwork, split: Split, monkeypatch: pytest.MonkeyPatch, ratio: float
) -> None:
    epoch = trained(network, split, tmp_path, monkeypatch, kd_ratio=ratio)
    assert epoch.teacher is not None
    logits, labels = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 4
    hard = F.cross_entropy(logits, labels)
    # A teacher that answers as the labels do: the sum is that of two losses whatever the ratio.
    torch.testing.assert_close(epoch.loss(logits, labels, F.one_hot(labels, 4).float()), 2 * hard)
    # One that knows nothing: the labels count 1 and its answer `ratio` of 1 + `ratio` parts; labels are not smoothed.
    targets = torch.full((6, 4), 0.25)
    soft = F.cross_entropy(logits, targets)
    torch.testing.assert_close(epoch.loss(logits, labels, targets), 2 * (hard + ratio * soft) / (1 + ratio))


def test_without_distillation_no_teacher_is_asked(
    tmp_path: Path, network: SuperNetwork, split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    epoch = trained(network, split, tmp_path, monkeypatch, kd_ratio=0.0)
    assert epoch.teacher is None
    logits, labels = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 4
    torch.testing.assert_close(epoch.loss(logits, labels, None), 2 * F.cross_entropy(logits, labels))


def trained(
    network: SuperNetwork, split: Split, folder: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any
) -> ElasticEpoch:
    """What an adaptation with these settings trains in its first epoch."""
    return epochs_of(network, split, folder, monkeypatch, **changes)[0][0]


def epochs_of(
    network: SuperNetwork, split: Split, folder: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any
) -> list[tuple[ElasticEpoch, dict[str, Any]]]:
    """What each epoch of an adaptation over two generations is asked to train, and how; nothing is trained."""
    asked: list[tuple[ElasticEpoch, dict[str, Any]]] = []

    def recorded(n: object, o: object, epoch: ElasticEpoch, context: TrainingContext, **options: Any) -> None:
        asked.append((epoch, {**options, "seed": context.seed}))

    monkeypatch.setattr(module, "train_epoch", recorded)
    settings = AdaptSettings(**{"epochs": 2, "batch_size": 16, "lr": 0.08, **changes})
    task = Adaptation(
        SuperNetworks([network]), SPACE, Teacher(extract(network, SPACE.largest), "UNIF"), settings,
        context_of(split, folder / "s.safetensors", seed=7), generations=2,
    )  # fmt: skip
    for generation in (1, 2):
        task.advance(generation, genomes(20))
    return asked


def test_one_cosine_spans_the_whole_search(
    tmp_path: Path, network: SuperNetwork, split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = epochs_of(network, split, tmp_path, monkeypatch, warmup_epochs=1.0)
    assert [options["first_step"] for _, options in asked] == [0, 6, 12, 18]
    assert [options["purpose"] for _, options in asked] == [("adapt", epoch) for epoch in range(4)]
    assert {options["seed"] for _, options in asked} == {7}
    schedule = asked[0][1]["schedule"]
    assert [schedule(step) for step in (0, 6, 15, 24)] == pytest.approx([1e-4, 0.02, 0.01, 0.0])
    assert schedule(3) == pytest.approx((1e-4 + 0.02) / 2)


def test_a_warm_up_takes_half_of_a_short_search_and_never_begins_above_the_learning_rate(
    tmp_path: Path, network: SuperNetwork, split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = epochs_of(network, split, tmp_path, monkeypatch, epochs=1, warmup_epochs=5.0, lr=4e-5)
    schedule = asked[0][1]["schedule"]
    assert [schedule(step) for step in range(7)] == pytest.approx([1e-5] * 7)
    assert schedule(9) == pytest.approx(0.5e-5)


@pytest.mark.parametrize(("batch_size", "peak"), [(8, 0.01), (16, 0.02), (32, 0.04), (500, 0.12)])
def test_the_learning_rate_follows_the_batch(
    tmp_path: Path, network: SuperNetwork, split: Split, monkeypatch: pytest.MonkeyPatch, batch_size: int, peak: float
) -> None:
    """Of 500 images there are 96."""
    asked = epochs_of(network, split, tmp_path, monkeypatch, batch_size=batch_size, warmup_epochs=0.0)
    assert asked[0][1]["schedule"](0) == pytest.approx(peak)


def test_an_epoch_is_asked_for_as_the_settings_say(
    tmp_path: Path, network: SuperNetwork, split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    epoch = trained(network, split, tmp_path, monkeypatch, subnets=3, clip=1.5, batch_size=500)
    assert (epoch.subnets, epoch.clip, epoch.resolutions) == (3, 1.5, SPACE.resolutions)
    assert epoch.batch_size == len(split)  # there are no more
    assert epoch.sample(np.random.default_rng(0), 16, 0).resolution == 16


def test_every_step_is_told_and_those_found_made_too(tmp_path: Path, network: SuperNetwork, split: Split) -> None:
    told: list[int] = []
    task = adaptation(network, split, tmp_path / "s.safetensors", tick=told.append)
    task.advance(1, genomes())
    assert [int(steps) for steps in told] == [0] + [1] * 12  # six steps an epoch
    again: list[int] = []
    adaptation(fresh_copy(network), split, tmp_path / "s.safetensors", tick=again.append).advance(1, genomes())
    assert [int(steps) for steps in again] == [12]
