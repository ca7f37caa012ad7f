"""What can be optimised, and within which bounds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nat2.errors import ConfigError
from nat2.nas.objectives import RESERVED, Objective, objective, parse_objectives, violation


@pytest.mark.parametrize("text", ["error,params", "params,error", " error , params ,"])
def test_the_error_comes_first(text: str) -> None:
    assert [objective.name for objective in parse_objectives(text)] == ["error", "params"]


@pytest.mark.parametrize(
    ("text", "order"),
    [
        ("flash,int8_error", ["int8_error", "flash"]),
        ("flash,int8_error,error", ["error", "flash", "int8_error"]),
    ],
)
def test_the_error_in_8_bits_may_take_its_place(text: str, order: list[str]) -> None:
    assert [objective.name for objective in parse_objectives(text)] == order


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("error,size", "'size'"),
        ("params,macs", "must include error"),
        ("error,error", "once"),
        ("", "must include error"),
        ("error,nowhere.py:f", "there is no file nowhere.py"),
        ("error,no.such.module:f", "ModuleNotFoundError"),
        ("error,math:pie", "AttributeError"),
        ("error,math:pi", "not a function"),
    ],
)
def test_unusable_lists_are_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_objectives(text)


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_function_in_a_file_is_an_objective(tmp_path: Path) -> None:
    file = write(tmp_path / "energy.py", "def joules(network):\n    return 3.0\n")
    found = parse_objectives(f"error,{file}:joules")[1]
    assert (found.name, found.direction, found.cost) == ("joules", "min", "measured")
    assert found.function is not None
    assert found.function(None) == 3.0


def test_a_function_can_say_what_kind_it_is(tmp_path: Path) -> None:
    text = "import nat2\n\n@nat2.objective(name='throughput', direction='max', cost='exact')\ndef f(arch): return 1.0\n"
    found = parse_objectives(f"error,{write(tmp_path / 'speed.py', text)}:f")[1]
    assert (found.name, found.direction, found.cost) == ("throughput", "max", "exact")


def test_a_function_of_a_package_is_an_objective() -> None:
    assert parse_objectives("error,math:sqrt")[1].name == "sqrt"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def f(:", "SyntaxError"),
        ("raise RuntimeError('no GPU')", "RuntimeError: no GPU"),
        ("def params(network): return 1", "name of a built-in"),
    ],
)
def test_files_that_cannot_be_used_are_refused(tmp_path: Path, text: str, message: str) -> None:
    name = "params" if "params" in text else "f"
    with pytest.raises(ConfigError, match=message):
        parse_objectives(f"error,{write(tmp_path / 'f.py', text)}:{name}")


@pytest.mark.parametrize("name", ["", "Energy", "a b", 'x"; DROP TABLE evaluations', *RESERVED])
def test_names_that_cannot_be_columns_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="lower-case letters"):
        Objective(name=name)


def test_bounds_that_leave_nothing_are_refused() -> None:
    with pytest.raises(ConfigError, match="no params is at least 5 and at most 3"):
        Objective(name="params", low=5, high=3)


def test_violation_is_relative_and_nothing_within_the_bounds() -> None:
    bounds = (Objective(name="a", high=10), Objective(name="b", low=2, high=4), Objective(name="c"))
    values = np.array([[10.0, 2.0, 1e9], [15.0, 3.0, 0.0], [5.0, 1.0, 0.0], [20.0, 6.0, 0.0]])
    assert violation(bounds, values).tolist() == [0.0, 0.5, 0.5, 1.5]
    assert violation((), np.zeros((3, 0))).tolist() == [0.0, 0.0, 0.0]


def test_the_decorator_leaves_the_function_as_it_is() -> None:
    @objective(direction="max")
    def speed(network: object) -> float:
        return 2.0

    assert speed(None) == 2.0


@pytest.mark.parametrize("change", [{"direction": "minimize"}, {"cost": "free"}, {"unit": "s"}, {"high": "3"}])
def test_misspelt_kinds_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=f"`{next(iter(change))}` of size|bounds of size"):
        Objective(**{"name": "size", **change})  # type: ignore[arg-type]


def test_a_file_may_import_its_neighbours_and_hold_dataclasses(tmp_path: Path) -> None:
    write(tmp_path / "neighbour_of_mine.py", "VALUE = 4.0\n")
    text = (
        "from __future__ import annotations\nimport dataclasses\nimport neighbour_of_mine\n\n"
        "@dataclasses.dataclass\nclass Kept:\n    value: float = neighbour_of_mine.VALUE\n\n"
        "def four(network): return Kept().value\n"
    )
    found = parse_objectives(f"error,{write(tmp_path / 'kept_objective.py', text)}:four")[1]
    assert found.function is not None
    assert found.function(None) == 4.0


def test_a_file_that_leaves_the_program_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="SystemExit"):
        parse_objectives(f"error,{write(tmp_path / 'f.py', 'import sys; sys.exit(3)')}:f")


def test_a_declared_unit_is_kept_and_a_name_of_what_is_recorded_is_taken(tmp_path: Path) -> None:
    text = "import nat2\n\n@nat2.objective(unit='ms', direction='max')\ndef wait(network): return 1.0\n\n"
    text += "def latency_spread(network): return 1.0\n"
    file = write(tmp_path / "units.py", text)
    found = parse_objectives(f"error,{file}:wait")[1]
    assert (found.name, found.unit, found.direction, found.cost) == ("wait", "ms", "max", "measured")
    with pytest.raises(ConfigError, match="name of a built-in objective, latency_spread"):
        parse_objectives(f"error,{file}:latency_spread")


def test_what_is_better_the_larger_it_is_is_minimised_with_its_sign_changed() -> None:
    values = np.array([1.0, -2.0])
    assert Objective(name="loss").minimised(values).tolist() == [1.0, -2.0]
    assert Objective(name="gain", direction="max").minimised(values).tolist() == [-1.0, 2.0]


def test_a_window_may_be_a_single_value() -> None:
    exact = Objective(name="size", low=3, high=3)
    assert exact.bounded
    assert exact.violation(np.array([2.0, 3.0, 6.0])).tolist() == [pytest.approx(1 / 3), 0.0, 1.0]


def test_bounds_of_nothing_are_violated_in_absolute_terms() -> None:
    assert Objective(name="size", high=0).violation(np.array([-1.0, 2.0])).tolist() == [0.0, 2.0]
    assert Objective(name="size", low=0).violation(np.array([-3.0, 2.0])).tolist() == [3.0, 0.0]


def test_every_objective_has_its_column() -> None:
    with pytest.raises(ValueError, match=r"shorter|longer"):
        violation((Objective(name="a"),), np.zeros((2, 3)))
