"""Genes, sampling and repair."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nat2.errors import ArchError, ConfigError
from nat2.space import Arch, Layer, Macro, SearchSpace
from tests.strategies import spaces

EE = SearchSpace(resolutions=(48, 56, 64), widths=(1.0, 1.2))
SE = SearchSpace(resolutions=(48, 56, 64), widths=(1.0, 1.2), early_exits=False)
seeds = st.integers(0, 2**32 - 1)


@given(spaces(), seeds, st.sampled_from(("balanced", "uniform")))
def test_encoding_inverts_decoding_on_canonical_genomes(space: SearchSpace, seed: int, sampling: str) -> None:
    genomes = space.sample(8, np.random.default_rng(seed), sampling=sampling)  # type: ignore[arg-type]
    for genome in genomes:
        arch = space.decode(genome)
        space.validate(arch)
        np.testing.assert_array_equal(space.encode(arch), genome)


@given(spaces(), seeds, st.sampled_from(("push", "fill")))
def test_canonical_form_is_stable_and_within_bounds(space: SearchSpace, seed: int, repair: str) -> None:
    generator = np.random.default_rng(seed)
    raw = generator.integers(space.lower, space.upper + 1, size=(16, space.n_genes))
    once = space.canonical(raw, repair=repair)  # type: ignore[arg-type]
    np.testing.assert_array_equal(space.canonical(once), once)
    np.testing.assert_array_equal(space.canonical(once, repair="fill"), once)
    assert (once >= space.lower).all()
    assert (once <= space.upper).all()


@given(seeds)
def test_unexpressed_genes_do_not_matter(seed: int) -> None:
    generator = np.random.default_rng(seed)
    genomes = EE.sample(16, generator)
    changed = np.where(EE.expressed(genomes), genomes, generator.integers(EE.lower, EE.upper + 1))
    assert [EE.decode(genome) for genome in changed] == [EE.decode(genome) for genome in genomes]


@given(spaces(), seeds)
@settings(max_examples=30)
def test_different_canonical_genomes_are_different_networks(space: SearchSpace, seed: int) -> None:
    genomes = np.unique(space.sample(64, np.random.default_rng(seed)), axis=0)
    assert len({space.decode(genome) for genome in genomes}) == len(genomes)


def test_push_keeps_layers_and_fill_drops_those_behind_a_gap() -> None:
    genome = SE.lower
    genome[2:6] = [5, 4, 0, 9]
    pushed, filled = (SE.decode(SE.canonical(genome[None], repair=repair)[0]) for repair in ("push", "fill"))
    assert pushed.stages[0] == (Layer(5, 4), Layer(3, 4), Layer(7, 6))
    assert filled.stages[0] == (Layer(5, 4), Layer(3, 4))


def test_gene_values_are_those_of_the_published_encoding() -> None:
    # The published network of NAT: resolution index 8 of 192..256, width index 0, then 20 layer genes.
    space = SearchSpace(resolutions=tuple(range(192, 257, 4)), widths=(1.0, 1.2), early_exits=False)
    genome = np.array([8, 0, *map(int, "11001440551052208877")])
    arch = space.decode(genome)
    assert arch.resolution == 224
    assert arch.width == 1.0
    assert arch.depths == (2, 3, 3, 3, 4)
    assert arch.stages[1] == (Layer(3, 3), Layer(3, 4), Layer(3, 4))
    assert arch.stages[4] == (Layer(5, 6), Layer(5, 6), Layer(3, 6), Layer(3, 6))
    np.testing.assert_array_equal(space.encode(arch), genome)


def test_length_and_names_of_genomes() -> None:
    assert (EE.n_genes, SE.n_genes) == (23, 22)
    assert EE.gene_names[:4] == ("resolution", "width", "exit", "stage 1 layer 1")
    assert len(SE.gene_names) == 22


def test_genes_of_parallel_blocks_are_those_of_the_published_encoding() -> None:
    space = SearchSpace(resolutions=(48, 56, 64), early_exits=False, parallel_blocks=True)
    assert space.upper[2:].tolist() == [63] * 20
    for place, blocks in enumerate((1, 2, 4, 3, 5, 6, 7)):
        for e, expand in enumerate((3, 4, 6)):
            for ks, kernel in enumerate((3, 5, 7)):
                gene = 1 + 9 * place + 3 * e + ks
                assert space.settings[gene - 1] == Layer(kernel, expand, blocks).canonical
    assert len(space.codes) == 4 * 9 + 3  # without an inverted bottleneck, nine genes are one layer
    genome = space.lower
    genome[2:6] = [9, 18, 36, 63]
    arch = space.decode(genome)
    assert ".".join(map(str, arch.stages[0])) == "t.c.ct.k7e6ct"
    np.testing.assert_array_equal(space.encode(arch)[2:6], [1, 10, 28, 63])


def test_levels_open_the_blocks_of_as_many_at_once() -> None:
    whole = SearchSpace(resolutions=(64,), parallel_blocks=True)
    for level, blocks in ((1, {1, 2, 4}), (2, {3, 5, 6}), (3, {7})):
        part = dataclasses.replace(whole, levels=(level,))
        assert {layer.blocks for layer in part.settings} == blocks
    drawn = [whole.sample_elastic(np.random.default_rng(seed), resolution=64) for seed in range(200)]
    counts = np.bincount([layer.blocks for arch in drawn for stage in arch.stages for layer in stage], minlength=8)
    np.testing.assert_allclose(counts[1:] / counts.sum(), 1 / 7, atol=0.02)


def test_super_networks_of_several_widths_are_one_space() -> None:
    narrow, wide = Macro(classes=10), Macro(classes=10, width=1.2)
    space = SearchSpace.of((narrow, wide), (48, 56, 64))
    assert space == EE
    with pytest.raises(ConfigError, match="may differ only in width; got EE_B, EE_D"):
        SearchSpace.of((narrow, Macro(classes=10, width=1.2, dense_skips=False)), (64,))
    with pytest.raises(ConfigError, match="different values in ascending order"):
        SearchSpace.of((narrow, narrow), (64,))


def test_sizes_are_the_published_ones() -> None:
    assert SE.size == 7371**5 * 6
    assert EE.size == sum(7371**k for k in range(1, 6)) * 6


@pytest.mark.parametrize("parallel", [False, True])
def test_size_counts_every_network_of_a_small_space(parallel: bool) -> None:
    space = SearchSpace(
        resolutions=(32, 40), kernels=(3, 5), expands=(6,), depths=(1, 2), exits=(1, 2), parallel_blocks=parallel,
        levels=(1,),
    )  # fmt: skip
    ends = list(zip(space.lower, space.upper, strict=True))
    ranges = [range(low, high + 1) for low, high in ends[:11]] + [[low] for low, _ in ends[11:]]  # two stages
    networks = {space.decode(np.array(genome)) for genome in itertools.product(*ranges)}
    assert len(networks) == space.size


def depth_shares(space: SearchSpace, sampling: str) -> np.ndarray:
    genomes = space.sample(20_000, np.random.default_rng(0), sampling=sampling)  # type: ignore[arg-type]
    depths = (space.stage_genes(genomes) > 0).sum(2)[:, 0]  # the first stage is always executed
    return np.bincount(depths, minlength=5)[2:] / len(depths)


def test_balanced_sampling_makes_every_depth_common() -> None:
    np.testing.assert_allclose(depth_shares(EE, "balanced"), [1 / 3, 2 / 9, 4 / 9], atol=0.015)


def test_uniform_sampling_makes_shallow_stages_rare() -> None:
    np.testing.assert_allclose(depth_shares(SE, "uniform"), [0.01, 0.18, 0.81], atol=0.012)


def test_sampled_networks_are_distinct_and_not_those_excluded() -> None:
    small = SearchSpace(resolutions=(32,), kernels=(3,), expands=(6,), depths=(1, 2), exits=(1, 2))
    excluded = [small.smallest, small.largest]
    drawn = small.sample_distinct(100, np.random.default_rng(0), exclude=excluded)
    assert len(drawn) == len(set(drawn)) == small.size - 2
    assert not set(drawn) & set(excluded)


def test_elastic_sampling_gives_valid_networks_with_uniform_depths_and_exits() -> None:
    generator = np.random.default_rng(0)
    drawn = [EE.sample_elastic(generator, resolution=56) for _ in range(3000)]
    for arch in drawn[:200]:
        EE.validate(arch)
    np.testing.assert_allclose(np.bincount([a.exit for a in drawn])[1:] / 3000, 0.2, atol=0.03)
    np.testing.assert_allclose(np.bincount([a.depths[0] for a in drawn])[2:] / 3000, 1 / 3, atol=0.03)


@pytest.mark.parametrize(("space", "columns"), [(EE, 3 + 2 + 5 + 10 * 9 + 10 * 10), (SE, 3 + 2 + 10 * 9 + 10 * 10)])
def test_one_hot_features_mark_one_category_a_gene(space: SearchSpace, columns: int) -> None:
    genomes = space.sample(50, np.random.default_rng(0))
    features = space.features(genomes, "one-hot")
    assert features.shape == (50, columns)
    assert set(np.unique(features)) == {0.0, 1.0}
    np.testing.assert_array_equal(features.sum(1), space.n_genes)
    np.testing.assert_array_equal(space.features(genomes, "integer"), genomes)


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        ("r50-w1.0-k3e3.k3e3", "resolution must be one of 48, 56, 64; got 50"),
        ("r64-w1.1-k3e3.k3e3", r"width must be one of 1.0, 1.2; got 1.1"),
        ("r64-w1.0-k3e3", "depth of stage 1 must be one of 2, 3, 4; got 1"),
        ("r64-w1.0-k3e3.k3e3-k3e3.k9e3", "kernel of stage 2 layer 2 must be one of 3, 5, 7; got 9"),
        ("r64-w1.0-k3e3.k3e3c", "active blocks of stage 1 layer 2 must be one of 4; got 6"),
        ("r64-w1.0-k3e3.k3e5", "expand ratio of stage 1 layer 2 must be one of 3, 4, 6; got 5"),
    ],
)
def test_validation_names_gene_value_and_what_is_allowed(arch: str, message: str) -> None:
    with pytest.raises(ArchError, match=message):
        EE.encode(Arch.from_key(arch))


@pytest.mark.parametrize(
    "change",
    [
        {"resolutions": ()},
        {"resolutions": (64, 48)},
        {"resolutions": (4,)},
        {"kernels": (3, 4)},
        {"expands": (3, 8)},
        {"expands": (1, 6)},
        {"depths": (2, 4)},
        {"exits": (1, 3)},
        {"exits": (0, 1)},
        {"early_exits": False, "exits": (1, 2)},
        {"levels": (1, 2)},
        {"parallel_blocks": True, "levels": (0, 1)},
    ],
)
def test_impossible_choices_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        SearchSpace(**{"resolutions": (48, 56, 64), **change})  # type: ignore[arg-type]
