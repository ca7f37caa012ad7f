"""Reading a YAML file of settings, whose size, structure and keys are checked before use."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from nat2.errors import ConfigError
from nat2.validation import as_text, user_path
from nat2.wording import one_line

_BYTES = 2**20
_VALUES = 20_000  # in a file after its aliases are expanded
_DEPTH = 50
_TEXTS = ("data", "objectives", "budget", "width", "resolutions", "pretrained", "out", "name")
_CHOICES = ("kernels", "expands", "depths", "exits", "levels")
_OFF = ("policy", "preprocess")
_TYPES = {
    "<class 'int'>": "a whole number", "<class 'float'>": "a number", "<class 'str'>": "text",
    "<class 'bool'>": "true or false", "<class 'tuple'>": "a list", "<class 'list'>": "a list",
}  # fmt: skip


def read_document(path: Path) -> dict[str, Any]:
    """The settings in a file, by key.

    Raises:
        ConfigError: it is not a regular file of at most a mebibyte, not UTF-8, or not a mapping in YAML; it has a
            duplicate key, contains itself, or expands too far through its aliases.
    """
    try:
        path = user_path(path, "--config")
        if not path.is_file():
            raise ConfigError(f"--config must name a file; {path} is none")
        with path.open("rb") as file:
            content = file.read(_BYTES + 1)
        if len(content) > _BYTES:
            raise ConfigError(f"--config takes files of at most {_BYTES:,} bytes; {path} is larger")
        text = content.decode("utf-8-sig")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if node is not None:
            _check(path, node)
        # Constructing raises almost anything, as for `!!int many`.
        settings = None if node is None else yaml.safe_load(text)
    except ConfigError:
        raise
    except RecursionError:
        raise ConfigError(f"--config: {path} is nested deeper than {_DEPTH} levels") from None
    except Exception as error:
        raise ConfigError(f"--config: {path} is not a YAML file of settings ({_reason(error)})") from error
    if not isinstance(settings, dict):
        held = "nothing" if settings is None else "a list" if isinstance(settings, list) else "a single value"
        raise ConfigError(f"--config: {path} must hold settings, a line each like `seed: 1`; it holds {held}")
    return settings


def plainly(value: Any) -> Any:
    """Settings as YAML reads them, with lists and numbers turned into text, and `off` into `none`."""
    if isinstance(value, list):
        return [plainly(each) for each in value]
    if not isinstance(value, dict):
        return value
    settings = {}
    for key, each in value.items():
        if key in _TEXTS:
            settings[key] = as_text(each)
        elif key in _CHOICES and isinstance(each, int):
            settings[key] = [each]
        elif key in _OFF and each is False:  # YAML reads off and no as false
            settings[key] = "none"
        else:
            settings[key] = plainly(each)
    return settings


def _check(path: Path, root: yaml.Node) -> None:
    """Refuse duplicate keys, and anything that is not a tree of reasonable size."""
    waiting: list[tuple[yaml.Node, int]] = [(root, 1)]
    seen = 0
    while waiting:
        node, depth = waiting.pop()
        seen += 1
        if depth > _DEPTH:
            raise ConfigError(f"--config: {path} is nested deeper than {_DEPTH} levels, or an alias in it holds itself")
        if seen > _VALUES:
            raise ConfigError(f"--config: {path} stands for more than {_VALUES:,} values when its aliases are followed")
        if isinstance(node, yaml.SequenceNode):
            waiting += [(each, depth + 1) for each in node.value]
        elif isinstance(node, yaml.MappingNode):
            names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
            twice = next((name for name in names if names.count(name) > 1), None)
            if twice is not None:
                line = node.start_mark.line + 1
                raise ConfigError(
                    f"--config: {path} names {twice!r} twice in the settings from line {line} on; keep one"
                )
            waiting += [(each, depth + 1) for pair in node.value for each in pair]


def _reason(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}: {error.problem or error.context}"
    return one_line(error, most=200)


def in_words(message: str) -> str:
    """A message of jsonargparse about a value, reworded like our own errors, without names of Python types."""
    switch = re.fullmatch(r"Value not boolean: (.*)\.", message.strip(), re.DOTALL)
    if switch:  # of the only one that may stand alone
        return f"--balance must be true or false; got {switch[1]}"
    names = re.findall(r'Parser key "([^"]+)"', message)
    expected = re.findall(r"Expected an? (.+?)(?:\. Got value:|$)", message, re.MULTILINE)
    value = re.search(r"Given value: (.*)", message, re.DOTALL) or re.search(r"Got value: (.*)", message)
    if "phases" in names and (len(names) == 1 or not expected):
        reason = " ".join(message.split("\n")[-1].split())
        reason = re.sub(r"^--(\w+)", r"`\1`", reason)
        shown = f"; got {value[1].strip()}" if value else f" ({reason})"
        return f"--phases must be a list of phases, each with its name, epochs and lr{shown}"
    if not names or not expected or not value:
        return message
    kinds = [_TYPES.get(kind, re.sub(r"typing\.Literal\[(.*)\]", _choices, kind)) for kind in expected]
    needed = " or ".join(dict.fromkeys(kind for kind in kinds if kind != "<class 'NoneType'>"))
    named = f"--{names[0]}" if len(names) == 1 else f"`{names[-1]}` of --{names[0]}"
    return f"{named} must be {needed}; got {value[1].strip()}"


def _choices(match: re.Match[str]) -> str:
    return f"one of {match[1].replace(chr(39), '')}"
