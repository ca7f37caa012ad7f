"""The words of the command line before they are parsed: spellings, presets, and runs that go on."""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path

from nat2.cli.verbs import VERBS
from nat2.runs.config import PRESETS, Preset
from nat2.runs.yaml_config import read_document
from nat2.validation import user_path


def underscored(words: list[str]) -> list[str]:
    """``--skip-bad-images`` means ``--skip_bad_images``; what follows ``--`` is left alone."""
    end = words.index("--") if "--" in words else len(words)
    changed = []
    for word in words[:end]:
        name, equals, value = word.partition("=")
        changed.append("--" + name[2:].replace("-", "_") + equals + value if word.startswith("--") else word)
    return changed + words[end:]


def expanded(words: list[str]) -> list[str]:
    """``~`` in the paths of files of settings, which shells do not expand after ``=``; and `off` as `none`."""
    changed = list(words)
    for number, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name in _CHOICES_WITH_NONE and equals and value.lower() in _OFF:
            changed[number] = f"{name}=none"
        elif number and words[number - 1] in _CHOICES_WITH_NONE and word.lower() in _OFF:
            changed[number] = "none"
        if word.startswith("--config="):
            changed[number] = f"--config={user_path(word.removeprefix('--config='), '--config')}"
        elif number and words[number - 1] == "--config":
            changed[number] = str(user_path(word, "--config"))
    return changed


_CHOICES_WITH_NONE = ("--augmentation.policy", "--search.preprocess")
_OFF = ("off", "no", "false")


def continued(words: list[str]) -> list[str]:
    """``nat2 search RUN`` means the settings of the run, and its folder; later flags override it."""
    if len(words) < 2 or words[0] not in VERBS or not VERBS[words[0]].settings:
        return words
    if words[1].startswith("-"):
        return words
    config = user_path(words[1], "RUN") / "config.yaml"
    if not config.is_file():
        return words
    out = [] if words[0] == "profile" else [f"--out={words[1]}"]
    return [words[0], f"--config={config}", *out, *words[1:]]


def preset_of(arguments: list[str]) -> Preset:
    """The preset that flags or a file name, so that it can set the defaults of everything else.

    Raises:
        ConfigError: a file of settings cannot be read, or not be believed.
    """
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    finder.add_argument("--preset")
    finder.add_argument("--config", action="append", default=[])
    preset = None
    with contextlib.suppress(argparse.ArgumentError):  # reported when the words are parsed
        found, _ = finder.parse_known_args(arguments)
        for path in found.config:
            preset = read_document(Path(path)).get("preset", preset)
        preset = found.preset or preset
    return preset if isinstance(preset, str) and preset in PRESETS else "quick"
