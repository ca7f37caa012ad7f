"""An architecture is data with one identity."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nat2.errors import ArchError
from nat2.space import Arch, SearchSpace
from tests.strategies import archs_in

SPACE = SearchSpace(resolutions=(48, 56, 64), widths=(1.0, 1.2))
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


@pytest.mark.parametrize("key", ["", "r64", "r64-w1.0-k3", "w1.0-r64-k3e3", "r64-w1.0-k3e3.", "rx-w1.0-k3e3"])
def test_a_malformed_key_is_refused(key: str) -> None:
    with pytest.raises(ArchError, match="architecture"):
        Arch.from_key(key)


@given(st.dictionaries(st.sampled_from(("resolution", "width", "stages")), st.none() | st.text() | st.integers()))
def test_malformed_json_is_refused(data: dict[str, object]) -> None:
    with pytest.raises(ArchError, match="an architecture is an object"):
        Arch.from_json(data)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"d": [2, 2]}, "`d` of 5 values"), ({"ks": [3] * 7}, "20 values"), ({}, "no `r` or no `w`")],
)
def test_a_malformed_ofa_dictionary_is_refused(change: dict[str, list[int]], message: str) -> None:
    with pytest.raises(ArchError, match=message):
        Arch.from_ofa({**A_STAR, **change})
