"""How long trainings are."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nat2.data.transform import shuffled_batches
from nat2.errors import ConfigError
from nat2.training.length import Length, batch_size_for, growth
from nat2.training.settings import SCHEDULES, AdaptSettings, FinetuneSettings, Phase


@pytest.mark.parametrize(
    ("images", "expected"), [(3, 3), (16, 16), (72, 16), (150, 16), (151, 32), (1500, 32), (1501, 64), (10**6, 64)]
)
def test_the_batch_follows_the_number_of_images(images: int, expected: int) -> None:
    assert batch_size_for(None, images) == expected
    assert batch_size_for(8, images) == min(8, images)


def test_more_images_get_more_steps_within_bounds() -> None:
    assert [growth(images) for images in (5, 2000, 4000, 8000, 10**6)] == [1, 1, 2, 4, 4]


@pytest.mark.parametrize(("steps", "parts"), [(0, 0), (1, 1), (25, 1), (26, 2), (130, 6)])
def test_steps_are_divided_into_parts_of_nearly_equal_length(steps: int, parts: int) -> None:
    length = Length.of(72, 16, epochs=None, steps=steps)
    assert (length.steps, length.parts, length.epoch) == (steps, parts, 4)
    sizes = [length.within(part) for part in range(parts)]
    assert sum(sizes) == steps
    assert max(sizes, default=0) - min(sizes, default=0) <= 1
    assert [length.before(part) for part in range(parts + 1)] == [sum(sizes[:part]) for part in range(parts + 1)]


def test_an_epoch_is_a_part() -> None:
    length = Length.of(72, 16, epochs=3, steps=None)
    assert (length.steps, length.parts) == (12, 3)
    assert [length.before(part) for part in range(4)] == [0, 4, 8, 12]


@pytest.mark.parametrize(("steps", "epochs"), [(3, 1), (4, 1), (5, 2), (11, 3)])
def test_batches_of_some_steps_are_those_of_whole_epochs_cut_off(steps: int, epochs: int) -> None:
    def batches(**options: Any) -> list[list[int]]:
        return [each.tolist() for each in shuffled_batches(18, 4, torch.Generator().manual_seed(1), **options)]

    taken = batches(steps=steps)
    assert len(taken) == steps
    assert taken[:4] == batches()[:steps]
    for epoch in range(epochs):
        seen = [index for batch in taken[4 * epoch : 4 * epoch + 4] for index in batch]
        assert len(set(seen)) == len(seen)
    if epochs > 1:
        assert taken[4] != taken[0]


@pytest.mark.parametrize(
    ("images", "steps"), [(12, 400), (72, 400), (150, 900), (320, 1000), (1079, 1200), (4000, 2400)]
)
def test_few_images_are_fine_tuned_in_fewer_steps(images: int, steps: int) -> None:
    assert FinetuneSettings().length(images).steps == steps


@pytest.mark.parametrize("images", [12, 72, 1600, 50_000])
def test_settled_lengths_are_explicit_and_stay(images: int) -> None:
    for settings in (AdaptSettings(), FinetuneSettings()):
        settled = settings.settled(images)
        assert settled.steps is not None
        assert settled.batch_size == batch_size_for(None, images)
        assert settled.settled(images) == settled
        assert settled.length(images) == settings.length(images)
    assert AdaptSettings(epochs=3).settled(images).steps is None


def test_what_is_counted_in_epochs_has_no_steps_and_the_other_way_round() -> None:
    for make in (AdaptSettings, FinetuneSettings):
        with pytest.raises(ConfigError, match="counted in `epochs` or in `steps`, not in both; got 2 and 30"):
            make(epochs=2, steps=30)
    with pytest.raises(ConfigError, match="not in both"):
        Phase(name="all", lr=0.1, epochs=2, steps=30)
    with pytest.raises(ConfigError, match="must say how long it is"):
        Phase(name="all", lr=0.1)


def test_short_schedules_are_counted_in_steps_and_published_ones_in_epochs() -> None:
    for name, phases in SCHEDULES.items():
        published = name in ("ofa", "ofav2", "transfer")
        assert all((phase.steps is None) == published for phase in phases), name
        longer = [phase.longer(2.0) for phase in phases]
        assert [phase.steps for phase in longer] == [phase.steps and 2 * phase.steps for phase in phases]
        assert [phase.epochs for phase in longer] == [phase.epochs for phase in phases]


@given(factor=st.floats(0.05, 20), steps=st.integers(2, 5000), share=st.floats(0.1, 1.0))
def test_a_scaled_finetuning_is_measured_at_the_same_point(factor: float, steps: int, share: float) -> None:
    settings = FinetuneSettings(steps=steps, measured_at=share, batch_size=16)
    before, after = settings.phases(72), settings.scaled(factor, 72).phases(72)
    assert [part.steps for part in after] == [max(1, round(factor * before[0].steps)), round(factor * before[1].steps)]
    assert settings.scaled(1.0, 72) is settings


def test_networks_that_are_not_trained_stay_untrained() -> None:
    for settings in (FinetuneSettings(steps=0), FinetuneSettings(epochs=0)):
        assert settings.scaled(3.0, 72) is settings


@given(epochs=st.integers(1, 30), epoch=st.integers(1, 60))
def test_every_epoch_ends_once(epochs: int, epoch: int) -> None:
    length = Length(steps=epochs * epoch, parts=epochs, epoch=epoch)
    assert all(length.ends_epoch(part) for part in range(epochs))
    assert length.passes == epochs


@given(steps=st.integers(1, 2000), images=st.integers(2, 3000))
def test_parts_in_steps_end_an_epoch_when_one_is_complete(steps: int, images: int) -> None:
    length = Length.of(images, 16, epochs=None, steps=steps)
    ends = [length.before(part + 1) for part in range(length.parts) if length.ends_epoch(part)]
    assert ends[-1] == steps
    for before, after in pairwise([0, *ends[:-1]]):
        assert before // length.epoch < after // length.epoch
    assert length.passes == len(ends) <= -(-steps // length.epoch)
