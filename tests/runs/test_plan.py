"""What a configuration says, in typed values."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from nat2.errors import ConfigError
from nat2.runs.config import Family, RunConfig
from nat2.runs.plan import Choices, macros_for, resolutions_for


def of(**flags: Any) -> Choices:
    return Choices.of(RunConfig(**flags))


def test_texts_become_typed_values_and_auto_stays_open() -> None:
    assert of() == Choices(pretrained=("auto",))
    assert of(pretrained="none") == of(pretrained="") == Choices()
    assert of(
        family="SE_DP", width="0.25, 1", stem_stride=2, resolutions="12, 16", pretrained="a.pth, b.pth"
    ) == Choices(family="SE_DP", widths=(0.25, 1.0), stem_stride=2, resolutions=(12, 16), pretrained=("a.pth", "b.pth"))
    assert of(width=0.25, resolutions=[16]) == Choices(widths=(0.25,), resolutions=(16,), pretrained=("auto",))


@pytest.mark.parametrize(
    ("native", "sides"),
    [(8, (14, 16, 18)), (28, (20, 24, 28)), (32, (24, 28, 32)), (64, (48, 56, 64)), (3000, (48, 56, 64))],
)
def test_resolutions_follow_the_images(native: int, sides: tuple[int, ...]) -> None:
    assert resolutions_for(native) == sides


@pytest.mark.parametrize("native", range(1, 400))
def test_automatic_resolutions_never_collapse_the_feature_map(native: int) -> None:
    sides = resolutions_for(native)
    (macro,) = macros_for(of(), classes=10, channels=3, resolutions=sides)
    assert macro.feature_sizes(sides[0])[3] >= 2


def test_families_and_widths_are_those_asked_for() -> None:
    for family in get_args(Family):
        choices = of(family=family, width="1.0,1.2")
        macros = macros_for(choices, classes=10, channels=3, resolutions=(64,))
        assert [macro.width for macro in macros] == [1.0, 1.2]
        assert {macro.family for macro in macros} == {"EE_D" if family == "auto" else family}


def test_a_collapsed_feature_map_is_reported_with_the_remedy() -> None:
    with pytest.raises(ConfigError, match=r"one pixel.*--stem_stride 1 or larger --resolutions"):
        macros_for(of(stem_stride=2), classes=10, channels=1, resolutions=(16, 20))
