"""What ``arch.json`` says of an exported network, looked at before anything is built from it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from nat2.errors import CheckpointError

_SIDES = range(1, 2**14)
_CHANNELS = range(1, 2**10)


def check_description(path: Path, description: Any) -> dict[str, Any]:
    """The description, if it is one whose parts fit each other.

    Raises:
        CheckpointError: a part is missing, of another type, out of its range, or contradicts another.
    """
    parts = {"arch": dict, "macro": dict, "classes": list, "input": dict}
    if not isinstance(description, dict) or not parts.keys() <= description.keys():
        missing = sorted(parts.keys() - (description.keys() if isinstance(description, dict) else set()))
        raise CheckpointError(f"{path} lacks {', '.join(missing)}; export the network again")
    for name, kind in parts.items():
        if not isinstance(description[name], kind):
            raise _damaged(path, name, description[name])
    classes, macro, given = description["classes"], description["macro"], description["input"]
    if not all(isinstance(name, str) for name in classes) or len(classes) != macro.get("classes"):
        raise _damaged(path, "classes", classes)
    for outer, name, allowed in (("macro", "channels", _CHANNELS), ("input", "side", _SIDES)):
        _check_in(path, f"{outer}.{name}", description[outer].get(name), allowed)
    resolution = given.get("resolution")
    _check_in(path, "input.resolution", resolution, _SIDES)
    if resolution != description["arch"].get("resolution"):
        raise _damaged(path, "input.resolution", resolution)
    center = given.get("center")
    if not _is_number(center) or not 0 < center <= 1:
        raise _damaged(path, "input.center", center)
    for outer in ("arch", "macro"):
        if not _is_number(description[outer].get("width")):
            raise _damaged(path, f"{outer}.width", description[outer].get("width"))
    return dict[str, Any](description)


def _check_in(path: Path, name: str, value: object, allowed: range) -> None:
    if type(value) is not int or value not in allowed:
        raise _damaged(path, name, value)


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]


def _damaged(path: Path, name: str, value: object) -> CheckpointError:
    return CheckpointError(f"{path} is damaged (`{name}` is {value!r:.100}); export the network again")
