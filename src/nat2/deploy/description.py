"""What the JSON files of an exported network say, looked at before anything is built from it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from nat2.errors import CheckpointError

_SIDES = range(1, 2**14)
_CHANNELS = range(1, 2**10)
_PARTS: dict[str, dict[str, Any]] = {
    "arch.json": {"arch": dict, "macro": dict, "exits": list, "classes": list},
    "preprocessing.json": {"side": int, "center": (int, float), "resolution": int},
}


def describe(folder: Path) -> dict[str, Any]:
    """What ``arch.json`` says of an exported network: architecture, exits, classes; and ``preprocessing.json``, under
    ``input``.

    Raises:
        CheckpointError: a file is missing or damaged, or one contradicts the other.
    """
    description, given = (_read(folder, name) for name in _PARTS)
    path, prepared = folder / "arch.json", folder / "preprocessing.json"
    classes, macro = description["classes"], description["macro"]
    if not all(isinstance(name, str) for name in classes) or len(classes) != macro.get("classes"):
        raise _damaged(path, "classes", classes)
    if not all(type(number) is int for number in description["exits"]):
        raise _damaged(path, "exits", description["exits"])
    _check_in(path, "macro.channels", macro.get("channels"), _CHANNELS)
    for outer in ("arch", "macro"):
        if not _is_number(description[outer].get("width")):
            raise _damaged(path, f"{outer}.width", description[outer].get("width"))
    for name in ("side", "resolution"):
        _check_in(prepared, name, given[name], _SIDES)
    if given["resolution"] != description["arch"].get("resolution"):
        raise _damaged(prepared, "resolution", given["resolution"])
    if not _is_number(given["center"]) or not 0 < given["center"] <= 1:
        raise _damaged(prepared, "center", given["center"])
    return description | {"input": given}


def _read(folder: Path, name: str) -> dict[str, Any]:
    try:
        content: Any = json.loads((folder / name).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{folder} does not hold an exported network ({error}); name a folder like runs/<data>/networks/<id>"
        ) from error
    parts = _PARTS[name]
    missing = sorted(parts.keys() - (content.keys() if isinstance(content, dict) else set()))
    if missing:
        raise CheckpointError(f"{folder / name} lacks {', '.join(missing)}; export the network again")
    for part, kind in parts.items():
        if not isinstance(content[part], kind):
            raise _damaged(folder / name, part, content[part])
    return dict[str, Any](content)


def _check_in(path: Path, name: str, value: object, allowed: range) -> None:
    if type(value) is not int or value not in allowed:
        raise _damaged(path, name, value)


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]


def _damaged(path: Path, name: str, value: object) -> CheckpointError:
    return CheckpointError(f"{path} is damaged (`{name}` is {value!r:.100}); export the network again")
