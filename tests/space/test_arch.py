"""An architecture is data with one identity."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nat2.errors import ArchError
from nat2.space import Arch, Layer, SearchSpace
from tests.strategies import archs_in

SPACE = SearchSpace(resolutions=(48, 56, 64), widths=(1.0, 1.2), parallel_blocks=True)
# The example of the reference counts; also used in test_cost.
A_STAR = {
    "ks": [7, 7, 7, 7, 7, 3, 5, 3, 3, 5, 7, 3, 5, 5, 3, 3, 3, 3, 3, 5],
    "e": [4, 6, 4, 6, 6, 6, 6, 6, 3, 4, 4, 4, 6, 4, 4, 3, 3, 6, 3, 4],
    "d": [2, 2, 3, 4, 2],
}


@given(archs_in(SPACE))
def test_every_form_reads_back_as_the_same_network(arch: Arch) -> None:
    assert Arch.from_json(arch.to_json()) == arch
    assert Arch.from_key(arch.key) == arch
    assert Arch.from_ofa(arch.to_ofa()) == arch


@given(archs_in(SPACE), archs_in(SPACE))
def test_equal_networks_and_only_they_have_equal_keys(first: Arch, second: Arch) -> None:
    assert (first == second) == (first.key == second.key)
    assert (first == second) <= (first.id == second.id)


def test_kernel_and_expand_ratio_exist_only_with_an_inverted_bottleneck() -> None:
    archs = {Arch(64, 1.0, ((Layer(kernel, 4, blocks), Layer(3, 3)),)) for kernel in (3, 7) for blocks in (2, 6)}
    assert {arch.key for arch in archs} == {"r64-w1.0-c.k3e3", "r64-w1.0-k3e4c.k3e3", "r64-w1.0-k7e4c.k3e3"}


def test_strings_of_nat_are_read_and_written() -> None:
    # The string and the dictionary are those published for NAT-M1, but for the layers that do not exist.
    text, resolutions = "08 0 1100 1440 5510 5220 8877", tuple(range(192, 257, 4))
    arch = Arch.from_nat(text, resolutions=resolutions)
    assert (arch.resolution, arch.width, arch.depths) == (224, 1.0, (2, 3, 3, 3, 4))
    assert arch.stages[0] == (Layer(3, 3), Layer(3, 3))
    assert arch.stages[2] == (Layer(5, 4), Layer(5, 4), Layer(3, 3))
    assert arch.stages[4] == (Layer(5, 6), Layer(5, 6), Layer(3, 6), Layer(3, 6))
    assert arch.to_nat(resolutions=resolutions) == text
    assert Arch.from_nat("8 0 11001440551052208877", resolutions=resolutions) == arch
    space = SearchSpace(resolutions=resolutions, widths=(1.0, 1.2), early_exits=False)
    genome = [8, 0, *map(int, "11001440551052208877")]
    assert space.encode(arch).tolist() == genome


@given(archs_in(SearchSpace(resolutions=(192, 224, 256), widths=(1.0, 1.2), early_exits=False)))
def test_every_network_of_nat_has_a_string(arch: Arch) -> None:
    assert Arch.from_nat(arch.to_nat(resolutions=(192, 224, 256)), resolutions=(192, 224, 256)) == arch


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("08 0 1100", "one or two digits of resolution"),
        ("0a 0 1100 1440 5510 5220 8877", "one or two digits of resolution"),
        ("09 0 1100 1440 5510 5220 8877", "asks for resolution 9 of 3"),
        ("01 2 1100 1440 5510 5220 8877", "width 2 of 2"),
        ("01 0 1000 1440 5510 5220 8877", "at least two layers"),
    ],
)
def test_malformed_strings_of_nat_are_refused(text: str, message: str) -> None:
    with pytest.raises(ArchError, match=message):
        Arch.from_nat(text, resolutions=(192, 224, 256))


@pytest.mark.parametrize("key", ["r64-w1.0-k3e3.k3e3", "r192-w1.0-" + "-".join(["k3e3.c"] * 5)])
def test_networks_outside_nats_space_have_no_string(key: str) -> None:
    with pytest.raises(ArchError, match="not in NAT's space"):
        Arch.from_key(key).to_nat(resolutions=(192, 224, 256))


def test_single_numbers_stand_for_all_layers() -> None:
    data = {"ks": 5, "e": 4, "d": 2, "nw": 6, "r": 64, "w": 1.0, "nd": 2}
    assert Arch.from_ofa(data).key == "r64-w1.0-k5e4c.k5e4c-k5e4c.k5e4c"


def test_values_of_skipped_layers_and_later_stages_do_not_exist() -> None:
    changed = {**A_STAR, "ks": [*A_STAR["ks"][:-1], 7], "nd": 5}  # the last stage has two layers; position 4 is unused
    assert Arch.from_ofa(changed, resolution=64, width=1.0) == Arch.from_ofa(A_STAR, resolution=64, width=1.0)
    first_exit = Arch.from_ofa({**A_STAR, "nd": 1}, resolution=64, width=1.0)
    assert first_exit.key == "r64-w1.0-k7e4.k7e6"


def test_ragged_lists_of_active_layers_are_read() -> None:
    full = Arch.from_ofa(A_STAR, resolution=224, width=1.0)
    active = [4 * stage + position for stage, depth in enumerate(A_STAR["d"]) for position in range(depth)]
    ragged = {"ks": [A_STAR["ks"][i] for i in active], "e": [A_STAR["e"][i] for i in active], "d": A_STAR["d"]}
    assert Arch.from_ofa({**ragged, "r": 224, "w": 1.0}) == full


def test_the_width_is_a_number_whatever_it_was_given_as() -> None:
    assert Arch(64, 1, ((Layer(3, 3),),)).key == Arch(64, 1.0, ((Layer(3, 3),),)).key
    data = {"ks": 3, "e": 3, "d": 2, "r": 64, "w": None}
    assert Arch.from_ofa(data, width=1).width == 1.0


@pytest.mark.parametrize("change", [{"resolution": 64.5}, {"resolution": 0}, {"width": -1.0}, {"width": float("inf")},
    {"stages": [["k3e3"]] * 6}, {"stages": [["k3e3"] * 5]}, {"stages": [["k0e3"]]}])  # fmt: skip
def test_what_no_super_network_holds_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ArchError):
        Arch.from_json({"resolution": 64, "width": 1.0, "stages": [["k3e3"]], **change})


@pytest.mark.parametrize(
    "key",
    ["", "r64", "r64-w1.0-k3", "w1.0-r64-k3e3", "r64-w1.0-k3e3.", "rx-w1.0-k3e3", "r6_4-w1.0-k3e3", "r64-w1.0-k٣e3"],
)
def test_a_malformed_key_is_refused(key: str) -> None:
    with pytest.raises(ArchError, match="architecture"):
        Arch.from_key(key)


@given(st.dictionaries(st.sampled_from(("resolution", "width", "stages")), st.none() | st.text() | st.integers()))
def test_malformed_json_is_refused(data: dict[str, object]) -> None:
    with pytest.raises(ArchError, match="an architecture is an object"):
        Arch.from_json(data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"d": [2, 2]}, "`d` of 5 values"),
        ({"ks": [3] * 7}, "20 values"),
        ({"ks": "small"}, "whole numbers"),
        ({"e": None}, "whole numbers"),
        ({"nd": 6}, "`nd` lies in 1..5"),
        ({"d": [5, 2, 2, 2, 2]}, "`d` in 1..4"),
        ({"nw": [0] * 20}, "`nw` in 1..7"),
        ({"ks": [3.9] * 20}, "whole numbers"),
        ({"e": [-1] * 20}, "expand ratio of at least 1"),
        ({"r": "abc"}, "whole numbers"),
        ({"d": [float("inf")] * 5}, "whole numbers"),
    ],
)
def test_a_malformed_ofa_dictionary_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ArchError, match=message):
        Arch.from_ofa({**A_STAR, "r": 64, "w": 1.0, **change})
    with pytest.raises(ArchError, match="no `r` or no `w`"):
        Arch.from_ofa(A_STAR)
