"""The search as curves."""

from __future__ import annotations

from pathlib import Path

import pytest

from nat2.errors import ConfigError
from nat2.nas.generation import Generation, GenerationFacts, Quality
from nat2.reports.curves import check_curves, write_curves


def generation(number: int) -> Generation[str]:
    facts = GenerationFacts(evaluations=5, failed=0, seconds=1.5, quality=Quality(0.5 * number, None, 0.1))
    return Generation(number, (), 0.1 * number, facts)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_every_number_of_the_log_is_a_scalar_by_generation(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for count in (1, 3):  # written again in each generation, not twice
        write_curves(tmp_path / "curves", [generation(number) for number in range(count)])
    events = EventAccumulator(str(tmp_path / "curves"))
    events.Reload()
    assert {"search/hypervolume", "search/tau", "seconds/seconds"} <= set(events.Tags()["scalars"])
    assert [(each.step, each.value) for each in events.Scalars("search/tau")] == [(0, 0.0), (1, 0.5), (2, 1.0)]


def test_without_tensorboard_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nat2.reports.curves.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"nat2\[tensorboard\]"):
        check_curves()
