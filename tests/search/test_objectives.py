"""What can be minimised."""

from __future__ import annotations

import pytest

from nat2.errors import ConfigError
from nat2.search.objectives import parse_objectives


@pytest.mark.parametrize("text", ["error,params", "params,error", " error , params ,"])
def test_the_error_comes_first(text: str) -> None:
    assert [objective.name for objective in parse_objectives(text)] == ["error", "params"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("error,size", "'size'"),
        ("params,macs", "must include error"),
        ("error,error", "once"),
        ("", "must include error"),
    ],
)
def test_unusable_lists_are_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_objectives(text)
