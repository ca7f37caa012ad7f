"""How much longer cheap networks are trained than costly ones."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nat2.nas.archive import Evaluation
from nat2.pipeline.finetune import how_many_kept, lengths_for, works_for
from nat2.space import Arch, Macro, SearchSpace
from nat2.training.settings import FinetuneSettings


@given(macs=st.lists(st.floats(1e5, 1e9), min_size=1, max_size=9), exponent=st.floats(0, 1))
def test_cheap_networks_are_trained_longer_in_the_same_time(macs: list[float], exponent: float) -> None:
    lengths = lengths_for(macs, exponent)
    time = sum(each * length for each, length in zip(macs, lengths, strict=True))
    assert time == pytest.approx(sum(macs))
    for each, length in zip(macs, lengths, strict=True):
        assert length / lengths[0] == pytest.approx((macs[0] / each) ** exponent)


@pytest.mark.parametrize(("exponent", "restart"), [(0.0, False), (0.5, True)])
def test_networks_are_trained_alike_where_that_is_asked_for(exponent: float, restart: bool) -> None:
    lengths = [work.length for work in _works(FinetuneSettings(cost_exponent=exponent, restart=restart))]
    assert set(lengths) == {1.0}


def test_networks_that_the_user_named_change_nothing_for_the_others() -> None:
    settings = FinetuneSettings(cost_exponent=0.5)
    chosen = [work.length for work in _works(settings)]
    assert chosen == pytest.approx([5 / 3, 5 / 6])  # of 1 and 4 million multiply-accumulates
    assert [work.length for work in _works(settings, asked=9e6)] == [*chosen, 1.0]
    assert [work.length for work in _works(settings, asked=9e6, none_chosen=True)] == [1.0]


@pytest.mark.parametrize(
    ("time", "steps", "kept"), [("", 100, 3), ("2m", 400, 2), ("5m", 1_050, 3), ("15m", 1_400, 4), ("1h", 9_000, 4)]
)
def test_the_less_time_there_is_the_fewer_networks_are_trained_further(time: str, steps: int, kept: int) -> None:
    settings = FinetuneSettings(steps=steps)
    first = settings.phases(2_000)[0].steps
    longer = FinetuneSettings(steps=3 * steps, measured_at=first / (3 * steps))  # decided later; a resumed run finds it
    for each in (settings, longer):
        config = SimpleNamespace(time=time, finetune=each)
        context: Any = SimpleNamespace(config=config, dataset=SimpleNamespace(train=range(2_000)))
        assert how_many_kept(context) == kept


def _works(settings: FinetuneSettings, *, asked: float | None = None, none_chosen: bool = False) -> Any:
    macro = Macro(classes=3, width=0.5)
    space = SearchSpace.of(macro, (32,))

    def network(macs: float) -> Evaluation[Arch]:
        return Evaluation(arch=space.smallest, values={"macs": macs})

    context: Any = SimpleNamespace(config=SimpleNamespace(finetune=settings), quantities=())
    networks = cast(Any, {space.smallest.width: SimpleNamespace(macro=macro)})
    chosen = [] if none_chosen else [network(1e6), network(4e6)]
    return works_for(context, networks, chosen, [network(asked)] if asked else [])
