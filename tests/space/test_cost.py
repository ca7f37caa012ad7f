"""Closed-form costs: the reference counts, and what torch itself counts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from nat2.space import Arch, CostTable, Layer, Macro, SearchSpace, cost
from nat2.supernet import StaticNetwork
from tests.space.test_arch import A_STAR
from tests.strategies import archs_in, macros, spaces


def constant(kernel: int, expand: int, depth: int, exit_number: int, resolution: int, width: float = 1.0) -> Arch:
    return Arch(resolution, width, ((Layer(kernel, expand),) * depth,) * exit_number)


OFA = Macro(classes=1000, early_exits=False, dense_skips=False)
OFA_WIDE = Macro(classes=1000, early_exits=False, dense_skips=False, width=1.2)
EE_D = Macro(classes=200)
EE_D_10 = Macro(classes=10)


@pytest.mark.parametrize(
    ("macro", "largest", "params", "millions"),
    [
        (OFA, True, 7_664_760, {128: 188.25, 160: 291.32, 192: 417.29, 224: 566.17}),
        (OFA, False, 3_410_792, {128: 41.48, 160: 63.24, 192: 89.84, 224: 121.28}),
        (OFA_WIDE, True, 10_701_632, {224: 843.10}),
        (OFA_WIDE, False, 4_602_456, {224: 193.08}),
    ],
)
def test_ofa_networks_have_the_published_counts(
    macro: Macro, largest: bool, params: int, millions: dict[int, float]
) -> None:
    for resolution, macs in millions.items():
        arch = constant(*((7, 6, 4) if largest else (3, 3, 2)), 5, resolution, macro.width)
        assert cost(macro, arch).params == params
        assert cost(macro, arch).macs / 1e6 == pytest.approx(macs, abs=0.005)


@pytest.mark.parametrize(
    ("arch", "params", "millions"),
    [
        *((constant(7, 6, 4, n, 64), p, m) for n, p, m in zip(
            range(1, 6), (123_672, 422_464, 1_095_024, 2_951_008, 6_639_960),
            (15.897, 23.454, 29.674, 42.059, 49.798), strict=True)),
        *((constant(3, 3, 2, n, 64), p, m) for n, p, m in zip(
            range(1, 6), (77_952, 187_288, 568_768, 1_171_992, 2_385_992),
            (4.045, 5.213, 6.634, 9.684, 11.433), strict=True)),
        *((constant(3, 3, 2, n, 48), p, m) for n, p, m in zip(
            range(1, 6), (77_952, 187_288, 568_768, 1_171_992, 2_385_992),
            (2.304, 2.999, 3.927, 5.833, 7.846), strict=True)),
        *((Arch.from_ofa({**A_STAR, "nd": n}, resolution=64, width=1.0), p, m) for n, p, m in zip(
            range(1, 6), (91_512, 254_656, 723_416, 1_890_088, 3_610_128),
            (7.623, 10.542, 13.332, 21.017, 23.743), strict=True)),
    ],
)  # fmt: skip
def test_early_exit_networks_have_the_reference_counts(arch: Arch, params: int, millions: float) -> None:
    assert cost(EE_D, arch).params == params
    assert cost(EE_D, arch).macs / 1e6 == pytest.approx(millions, abs=0.0005)


def test_other_reference_counts() -> None:
    all_exits = cost(EE_D, constant(7, 6, 4, 5, 64), exits=(1, 2, 3, 4, 5))
    assert all_exits.params == 8_193_912
    assert all_exits.macs / 1e6 == pytest.approx(54.539, abs=0.0005)
    star = Arch.from_ofa(A_STAR, resolution=224, width=1.0)
    assert cost(OFA, star).params == 4_634_928
    assert cost(OFA, star).macs / 1e6 == pytest.approx(264.63, abs=0.005)
    wide = Arch.from_ofa(A_STAR, resolution=224, width=1.2)
    assert cost(OFA_WIDE, wide).params == 6_367_728
    assert cost(OFA_WIDE, wide).macs / 1e6 == pytest.approx(405.51, abs=0.005)
    tenths = [cost(EE_D_10, Arch.from_ofa({**A_STAR, "nd": n}, resolution=64, width=1.0)).params for n in range(1, 6)]
    assert tenths == [54_842, 193_666, 601_626, 1_719_658, 3_366_738]
    doubled = Macro(classes=200, width=1.2, early_exits=False, dense_skips=False, doubled_exit_widths=True)
    single = Macro(classes=200, width=1.2, early_exits=False, dense_skips=False)
    largest = constant(7, 6, 4, 5, 64, 1.2)
    assert cost(doubled, largest).params == 10_354_928
    assert cost(single, largest).params == 9_472_032


@given(st.data(), macros())
@settings(max_examples=40, deadline=None)
def test_counts_equal_those_of_torch(data: st.DataObject, macro: Macro) -> None:
    space = SearchSpace(resolutions=(33, 48), widths=(macro.width,), early_exits=macro.early_exits)
    arch = data.draw(archs_in(space))
    network = StaticNetwork(macro, arch).eval()
    images = torch.zeros(1, macro.channels, arch.resolution, arch.resolution)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        network(images)
    counted = cost(macro, arch)
    assert counted.params == sum(p.numel() for p in network.parameters())
    cropped = _cropped_taps(macro, arch)
    assert 2 * (counted.macs - cropped) == counter.get_total_flops()


def _cropped_taps(macro: Macro, arch: Arch) -> int:
    """MACs of kernel taps that can only meet padding: counted by convention, and not computed on tiny maps."""
    sizes, total = macro.feature_sizes(arch.resolution), 0
    for stage, layers in enumerate(arch.stages):
        for shape, layer in zip(macro.layer_shapes[stage], layers, strict=False):
            side = sizes[stage + 1] if shape.stride == 1 else sizes[stage]
            used = min(layer.kernel, 2 * side - 1)
            total += shape.mid_channels(layer.expand) * (layer.kernel**2 - used**2) * sizes[stage + 1] ** 2
    return total


@given(spaces(), st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_a_population_costs_what_its_members_do(space: SearchSpace, seed: int) -> None:
    macros = {width: Macro(classes=7, width=width, early_exits=space.early_exits) for width in space.widths}
    genomes = space.sample(20, np.random.default_rng(seed))
    table = CostTable(space, macros)(genomes)
    archs = [space.decode(genome) for genome in genomes]
    np.testing.assert_array_equal(table, [cost(macros[arch.width], arch) for arch in archs])


def test_costs_grow_with_every_dimension() -> None:
    macro, small = Macro(classes=10), constant(3, 3, 2, 2, 48)
    for larger in (
        constant(5, 3, 2, 2, 48),
        constant(3, 4, 2, 2, 48),
        constant(3, 3, 3, 2, 48),
        constant(3, 3, 2, 3, 48),
    ):
        assert cost(macro, larger).params > cost(macro, small).params
        assert cost(macro, larger).macs > cost(macro, small).macs
