"""The JSON files of an exported network: writing them, and validating them before a network is built."""

from __future__ import annotations

import json
import math
from pathlib import Path

from nat2.data.decode import JPEG_GAP
from nat2.data.transform import Pipeline
from nat2.errors import CheckpointError
from nat2.files import JsonObject
from nat2.wording import first_few

_SHOWN = 10  # networks listed in a message
_SIDES = range(1, 2**14)
_CHANNELS = range(1, 2**10)
_PARTS: dict[str, dict[str, type | tuple[type, ...]]] = {
    "arch.json": {"arch": dict, "macro": dict, "exits": list, "classes": list},
    "preprocessing.json": {"side": int, "center": (int, float), "resolution": int},
}


def preprocessing(pipeline: Pipeline, *, side: int, resolution: int) -> dict[str, object]:
    """The content of ``preprocessing.json``: the steps from an image file to the network's input, in words and numbers.

    Args:
        pipeline: The one the network was trained with.
        side: Side at which the training images were stored, in pixels.
        resolution: Side of the input.
    """
    grey, span, center = len(pipeline.mean) == 1, pipeline.span, pipeline.center
    middle = max(1, round(side * center))
    low, high = (span.low, span.high) if span else (0, 65535)
    return {
        "layout": "float32, images x channels x height x width, values 0..1; normalised inside the network",
        "channels": "grey" if grey else "red, green, blue",
        "steps": [
            f"decode, a JPEG at the smallest of 1/1, 1/2, 1/4, 1/8 of its size that leaves {JPEG_GAP} x {side} pixels",
            "turn upright, as the EXIF orientation says",
            "lay a transparent image on white: 255, or of an image deeper than 8 bits the end of its range",
            f"convert to {'grey (0.299 red + 0.587 green + 0.114 blue)' if grey else 'red, green, blue'}",
            f"crop the centre square, resize to {side} x {side} (bicubic, antialiased)",
            f"of an image deeper than 8 bits: (value - {low!r}) x 255 / {high - low!r}, rounded and clipped to 0..255",
            *([f"crop the middle {middle} x {middle}"] if center < 1 else []),
            f"divide by 255, resize to {resolution} x {resolution} (bilinear, antialiased)",
        ],
        "background": 255,
        "range": [span.low, span.high] if span else None,
        "jpeg_gap": JPEG_GAP,
        "side": side,
        "center": center,
        "resolution": resolution,
        "mean": list(pipeline.mean),
        "std": list(pipeline.std),
    }


def describe(folder: Path) -> JsonObject:
    """The content of ``arch.json`` (architecture, exits, classes), with that of ``preprocessing.json`` under
    ``input``.

    Raises:
        CheckpointError: a file is missing or damaged, or they contradict each other.
    """
    check_network(folder)
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
    # Files of 0.1.0 have neither of the following.
    _check_in(prepared, "jpeg_gap", given.get("jpeg_gap", 0), range(100))
    span = given.get("range")
    if span is not None and not (
        isinstance(span, list) and len(span) == 2 and all(map(_is_number, span)) and span[0] <= span[1]
    ):
        raise _damaged(prepared, "range", span)
    return description | {"input": given}


def _read(folder: Path, name: str) -> JsonObject:
    try:
        content: object = json.loads((folder / name).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{folder / name} cannot be read ({error}); export the network again") from error
    parts, content = _PARTS[name], content if isinstance(content, dict) else {}
    missing = sorted(parts.keys() - content.keys())
    if missing:
        raise CheckpointError(f"{folder / name} lacks {', '.join(missing)}; export the network again")
    for part, kind in parts.items():
        if not isinstance(content[part], kind):
            raise _damaged(folder / name, part, content[part])
    return content


def networks_in(folder: Path) -> list[Path]:
    """Folders of the exported networks in a run folder, or in a folder of networks."""
    return sorted(path.parent for root in (folder / "networks", folder) for path in root.glob("*/arch.json"))


def check_network(folder: Path, *, command: str = "{}") -> None:
    """Raise if a folder does not hold an exported network.

    Args:
        folder: As the user gave it.
        command: The intended command, with braces for the folder; the message shows it with the right folder.

    Raises:
        CheckpointError: it does not; the message says what it is and what to give instead.
    """
    if all((folder / name).is_file() for name in _PARTS):
        return
    inside = networks_in(folder) or [path for run in sorted(folder.glob("*/networks")) for path in networks_in(run)]
    usual = command.format("runs/photos/networks/1a2b3c4d")
    if folder.is_file() and (folder.parent / "arch.json").is_file():
        why = f"{folder} is a file of a network; name its folder: {command.format(folder.parent)}"
    elif folder.is_file():
        why = f"{folder} is a file and does not hold an exported network; name the folder of one: {usual}"
    elif inside:
        names = first_few([path.name for path in inside], _SHOWN)
        why = f"{folder} has the networks {names}; name one of them: {command.format(inside[0])}"
    elif (folder / "config.yaml").is_file():
        why = f"{folder} is a run that has not exported a network yet; go on with nat2 finetune {folder}"
    elif folder.is_dir():
        missing = " and no ".join(name for name in _PARTS if not (folder / name).is_file())
        why = f"{folder} does not hold an exported network (it has no {missing}); name the folder of one: {usual}"
    else:
        there = ", ".join(path.name for path in networks_in(folder.parent)[:_SHOWN])
        why = f"{folder} does not exist and does not hold an exported network"
        why += f"; {folder.parent} has the networks {there}" if there else f"; name the folder of one: {usual}"
    raise CheckpointError(why)


def _check_in(path: Path, name: str, value: object, allowed: range) -> None:
    if type(value) is not int or value not in allowed:
        raise _damaged(path, name, value)


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]


def _damaged(path: Path, name: str, value: object) -> CheckpointError:
    return CheckpointError(f"{path} is damaged (`{name}` is {value!r:.100}); export the network again")
