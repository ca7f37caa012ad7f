"""What settings may be: types as they are annotated, and ranges."""

from __future__ import annotations

import math
import os
import re
import reprlib
from collections.abc import Mapping
from datetime import date
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Literal, Union, get_args, get_origin, get_type_hints

from nat2.errors import ConfigError

_LARGEST = 10**9  # of a whole number: more are a slip of the hand
_URL = re.compile(r"(https?|ftps?|s3|gs|file|ssh|hf):/+", re.IGNORECASE)  # pathlib turns // into /


def user_path(path: str | os.PathLike[str], named: str) -> Path:
    """A path that a user gave, with ``~`` expanded.

    Args:
        path: The path.
        named: What the user gave it as, for the error: ``--data``.

    Raises:
        ConfigError: it is a URL.
    """
    text = os.fspath(path)
    if not text:
        raise ConfigError(f"{named} must name a file or folder; got an empty text")
    url = _URL.match(text)
    if url:
        rest = text[url.end() :]
        if url[1].lower() == "file":
            raise ConfigError(f"{named} takes a path, not a URL; name the file itself: /{rest}")
        raise ConfigError(
            f"{named} takes a file or folder on this machine and downloads nothing; download {url[1]}://{rest} "
            "yourself and name the file"
        )
    return Path(os.path.expanduser(text))  # pathlib's own raises for unknown users


def as_text(value: object) -> object:
    """Convert lists, numbers, dates and paths, as YAML and Python write them, to the text that the setting takes.

    ``[12, 16]`` is ``12,16``, ``16`` is ``16``; anything else is left as it is.
    """
    if isinstance(value, list | tuple):
        parts = [each if isinstance(each, list | tuple) else as_text(each) for each in value]
        return ",".join(map(str, parts)) if all(isinstance(part, str) for part in parts) else value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, int | float | date) and not isinstance(value, bool):
        return str(value)
    return value


def parts_of(text: str) -> list[str]:
    """The parts of a text that are separated by commas; empty ones do not count: the opposite of `as_text`."""
    return [part.strip() for part in text.split(",") if part.strip()]


def check_types(settings: object, of: str = "") -> None:
    """Check that each field of a dataclass holds what its annotation says, as plain Python values.

    Args:
        settings: The dataclass.
        of: What the settings are of, for the error; nothing if they are flags by themselves.

    Raises:
        ConfigError: a value is of another type, a text holds a NUL, or a whole number is beyond all measure.
    """
    group: type = type(settings)
    for name, kind in _kinds(group).items():
        value = getattr(settings, name)
        named = f"`{name}` of {of}" if of else f"--{name}"
        if not _is_of(value, kind):
            raise ConfigError(f"{named} must be {format_value(kind)}; got {_shown(value)}")
        # A seed is only hashed and stored, in 64 bits.
        limit = 2**63 if name == "seed" else _LARGEST + 1
        if isinstance(value, int) and not -limit < value < limit:
            raise ConfigError(f"{named} must be below {limit:,}; got {_shown(value)}")


@cache
def _kinds(group: type) -> Mapping[str, object]:
    return get_type_hints(group)


def _is_of(value: object, kind: object) -> bool:
    """Whether a value is of a type as the settings' annotations spell it."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Literal:
        return isinstance(value, str) and value in parts
    if origin in (Union, UnionType):
        return any(_is_of(value, part) for part in parts)
    if origin is tuple:
        return isinstance(value, tuple) and all(_is_of(each, parts[0]) for each in value)
    if kind is float:
        return type(value) in (int, float)
    if kind is str:
        return type(value) is str and "\0" not in value
    return type(value) is kind if kind in (int, bool) else isinstance(kind, type) and isinstance(value, kind)


def _shown(value: object) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, int) and value.bit_length() > 1000:  # Python refuses to spell much longer ones
        return f"one of {value.bit_length()} bits"
    return reprlib.repr(value)


def format_value(kind: object) -> str:
    """A type annotation in words: ``a whole number``."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Literal:
        return f"one of {', '.join(parts)}"
    if origin in (Union, UnionType):
        return " or ".join(format_value(part) for part in parts)
    if origin is tuple:
        return f"a list, each of it {format_value(parts[0])}"
    known: dict[object, str] = {
        int: "a whole number",
        float: "a number",
        str: "a text without NUL",
        bool: "true or false",
    }
    return known.get(
        kind, "nothing" if kind is NoneType else f"a group of settings ({getattr(kind, '__name__', kind)})"
    )


def check_positive(settings: object, of: str, *names: str) -> None:
    """Raise ConfigError unless each named field is above 0 and finite, or None where it may be."""
    for name in names:
        if getattr(settings, name) is not None and not 0 < getattr(settings, name) < math.inf:
            raise ConfigError(f"`{name}` of {of} must be above 0; got {getattr(settings, name)}")


def check_not_negative(settings: object, of: str, *names: str) -> None:
    """Raise ConfigError unless each named field is at least 0 and finite, or None where it may be."""
    for name in names:
        if getattr(settings, name) is not None and not 0 <= getattr(settings, name) < math.inf:
            raise ConfigError(f"`{name}` of {of} must be 0 or more; got {getattr(settings, name)}")


def check_at_least(settings: object, of: str, minimum: int, *names: str) -> None:
    """Raise ConfigError unless each named field reaches the minimum, or is None where it may be."""
    for name in names:
        if getattr(settings, name) is not None and getattr(settings, name) < minimum:
            raise ConfigError(f"`{name}` of {of} must be at least {minimum}; got {getattr(settings, name)}")


def check_at_most(settings: object, of: str, maximum: int, *names: str) -> None:
    """Raise ConfigError if a named field is beyond the maximum."""
    for name in names:
        if getattr(settings, name) > maximum:
            raise ConfigError(f"`{name}` of {of} must be at most {maximum:,}; got {getattr(settings, name):,}")


def check_share(settings: object, of: str, name: str) -> None:
    """Raise ConfigError unless the named field is at least 0 and below 1."""
    if not 0 <= getattr(settings, name) < 1:
        raise ConfigError(f"`{name}` of {of} must be at least 0 and below 1; got {getattr(settings, name)}")
