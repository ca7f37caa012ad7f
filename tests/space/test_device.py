"""Flash and RAM in closed form: a table of a space, boards."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nat2.errors import ConfigError
from nat2.space import Macro, SearchSpace
from nat2.space.boards import BOARDS, SHARE, board_named
from nat2.space.device import DeviceCostTable, aligned, device_cost, device_part, kernel_side
from tests.strategies import macros


@given(st.data(), st.lists(macros(), min_size=1, max_size=2, unique_by=lambda macro: macro.width))
@settings(max_examples=10, deadline=None)
def test_a_table_says_what_single_networks_take(data: st.DataObject, given_: list[Macro]) -> None:
    first = given_[0]
    alike = [
        Macro(
            classes=first.classes,
            channels=first.channels,
            width=each.width,
            early_exits=first.early_exits,
            dense_skips=first.dense_skips,
            parallel_blocks=first.parallel_blocks,
            stem_stride=first.stem_stride,
        )
        for each in sorted(given_, key=lambda each: each.width)
    ]
    space = SearchSpace.of(alike, (16, 33))
    table = DeviceCostTable(space, {macro.width: macro for macro in alike})
    genomes = space.sample(12, np.random.default_rng(data.draw(st.integers(0, 2**32 - 1))))
    by_width = {macro.width: macro for macro in alike}
    archs = [space.decode(genome) for genome in genomes]
    assert table(genomes).tolist() == [list(device_cost(by_width[arch.width], arch)) for arch in archs]


@pytest.mark.parametrize(
    ("side", "kernel", "stride", "stored"),
    [
        (16, 3, 1, 3),
        (16, 7, 1, 7),
        (16, 3, 2, 4),  # SAME pads an even map by nothing in front; a row of zeros moves it
        (16, 5, 2, 6),
        (15, 3, 2, 3),
        (15, 7, 2, 7),
        (2, 7, 1, 3),  # taps that meet no pixel are gone
        (1, 7, 1, 1),
        (1, 5, 2, 1),
        (2, 7, 2, 4),
    ],
)
def test_kernels_are_stored_as_the_runtime_needs_them(side: int, kernel: int, stride: int, stored: int) -> None:
    assert kernel_side(side, kernel, stride) == stored


def test_sizes_are_aligned() -> None:
    assert [aligned(size) for size in (0, 1, 16, 17)] == [0, 16, 16, 32]


def test_a_deeper_network_takes_more_flash_and_a_larger_image_more_ram() -> None:
    macro = Macro(classes=10, channels=1, width=0.35, stem_stride=1)
    space = SearchSpace.of(macro, (16, 32))
    small, large = space.smallest, space.largest
    assert device_cost(macro, small).flash < device_cost(macro, large).flash
    assert device_cost(macro, small).ram < device_cost(macro, large).ram
    wide = type(small)(resolution=32, width=small.width, stages=small.stages)
    assert device_part(macro, wide).peak > 3 * device_part(macro, small).peak
    assert device_cost(macro, wide).flash == pytest.approx(device_cost(macro, small).flash, rel=0.02)


def test_boards_are_found_and_their_latency_estimated() -> None:
    board = board_named("esp32-s3")
    assert board.milliseconds(7e6) == pytest.approx(54)
    assert board_named("rp2040").milliseconds(1e6) is None
    assert board_named("arduino-nano-33-ble").summary == "nRF52840, Cortex-M4F, 1 MiB flash, 256 KiB RAM, 64 MHz"
    with pytest.raises(ConfigError, match=r"--device must be one of arduino-nano-33-ble, .*; got 'arduino'"):
        board_named("arduino")
    assert all(
        each.name == name and (each.source != "") == (each.macs_per_second is not None) for name, each in BOARDS.items()
    )
    assert 0 < SHARE < 1
