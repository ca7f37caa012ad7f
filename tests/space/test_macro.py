"""The part of the network that is not searched."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nat2.errors import ConfigError
from nat2.space import Macro
from nat2.space.macro import FAMILIES, make_divisible


@given(st.floats(0.1, 5000))
def test_channel_counts_are_multiples_of_eight_near_the_wanted_value(value: float) -> None:
    channels = make_divisible(value)
    assert channels % 8 == 0
    assert channels >= 8
    assert 0.9 * value <= channels <= max(8, value + 8)


def test_channels_at_the_published_widths() -> None:
    narrow, wide = Macro(classes=10), Macro(classes=10, width=1.2)
    assert [shapes[0].out_channels for shapes in narrow.layer_shapes] == [24, 40, 80, 112, 160]
    assert [shapes[0].out_channels for shapes in wide.layer_shapes] == [32, 48, 96, 136, 192]
    assert [tuple(narrow.exit_shape(n))[1:] for n in narrow.exits] == [
        (144, 192), (240, 320), (480, 640), (672, 896), (960, 1280),
    ]  # fmt: skip
    assert tuple(wide.exit_shape(5))[1:] == (1152, 1536)
    doubled = Macro(classes=10, width=1.2, doubled_exit_widths=True)
    assert [tuple(doubled.exit_shape(n))[1:] for n in doubled.exits] == [
        (232, 304), (344, 464), (688, 920), (976, 1304), (1384, 1840),
    ]  # fmt: skip


def test_only_the_first_layer_of_a_stage_has_no_shortcut() -> None:
    for shapes in Macro(classes=10).layer_shapes:
        assert [shape.residual for shape in shapes] == [False, True, True, True]


def test_family_names_are_those_of_the_paper() -> None:
    names = {
        Macro(classes=2, early_exits=exits, dense_skips=skips, parallel_blocks=parallel).family
        for exits, skips, parallel in itertools.product((False, True), repeat=3)
    }
    assert names == {"SE_B", "SE_D", "SE_P", "SE_DP", "EE_B", "EE_D", "EE_P", "EE_DP"} == set(FAMILIES)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_made_from_its_name(family: str) -> None:
    macro = Macro.of_family(family, classes=3, channels=1, width=0.5, stem_stride=1)
    assert (macro.family, macro.classes, macro.channels, macro.width, macro.stem_stride) == (family, 3, 1, 0.5, 1)


@pytest.mark.parametrize("name", ["auto", "EE", "EE_PD", "ee_d", "", "DP"])
def test_families_that_do_not_exist_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"one of EE_D, .*got {name!r}"):
        Macro.of_family(name, classes=3, channels=1, width=0.5, stem_stride=1)


@pytest.mark.parametrize("change", [{"classes": 1}, {"channels": 0}, {"width": 0.0}, {"width": 9}, {"stem_stride": 3}])
def test_values_outside_their_range_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(change.values()))}"):
        Macro(**{"classes": 10, **change})  # type: ignore[arg-type]
