"""The parser of all verbs; flags and YAML files come from the configuration's dataclasses."""

from __future__ import annotations

import argparse
import os
import re
import sys
from typing import Any, NoReturn

import jsonargparse
import yaml
from jsonargparse import ArgumentParser, Namespace

from nat2 import __version__
from nat2.cli.help_text import ABOUT, EXAMPLES
from nat2.cli.verbs import VERBS
from nat2.errors import ConfigError
from nat2.runs.config import PRESETS, Preset, RunConfig, flat
from nat2.runs.yaml_config import in_words, plainly
from nat2.wording import one_line, shortened


def build_parser(preset: Preset = "quick") -> ArgumentParser:
    """The parser of all verbs, its defaults those of a preset."""
    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True, add_print_completion_argument=True)
    parser = _Parser(
        prog="nat2", description=ABOUT, formatter_class=_Formatter, version=__version__, usage="nat2 VERB [options]"
    )
    verbs = parser.add_subcommands(metavar="VERB", title="verbs", description=None)
    for name, verb in VERBS.items():
        subparser = _parser_of(name, preset)
        verbs.add_subcommand(name, subparser, help=verb.help)
        subparser.prog = f"nat2 {name}"
    return parser


def _parser_of(name: str, preset: Preset) -> ArgumentParser:
    verb = VERBS[name]
    parser = _Parser(description=EXAMPLES[name], usage=f"nat2 {name} {verb.usage}")
    verb.arguments(parser)
    if verb.settings:
        parser.add_argument("--config", action="config", help="YAML file of settings; later flags override it")
        parser.add_argument(
            "--skip_bad_images", action="store_true", help="leave unreadable images out instead of refusing the folder"
        )
        parser.add_argument(
            "--balance",
            action=jsonargparse.ActionYesNo(no_prefix="no_"),
            nargs="?",
            default=False,
            help="draw the images of every class equally often in training",
        )
        parser.add_class_arguments(RunConfig, skip={"skip_bad_images", "balance"})
        parser.set_defaults(dict(flat(PRESETS[preset])) | {"preset": preset})
    return parser


def parsed(parser: ArgumentParser, words: list[str]) -> Namespace:
    """What the words mean; whatever they make the parser's libraries raise is the words' fault."""
    try:
        return parser.parse_args(words)
    except Exception as error:
        raise ConfigError(
            f"the command line cannot be read ({one_line(error)}); nat2 --help shows what there is"
        ) from error


def complain(message: str) -> None:
    """Say what is wrong; of processes that a launcher started only the first, because all of them find the same."""
    if os.environ.get("RANK", "0") == "0":
        print(f"nat2: {shortened(message)}", file=sys.stderr)


class _Parser(ArgumentParser):
    """Tells what is wrong with the words, however long they are."""

    def __init__(self, **options: Any) -> None:
        """Read files of settings as `read_document` and `plainly` do."""
        super().__init__(**{"parser_mode": _MODE} | options)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print usage and error and exit with 2."""
        missing = re.search(r"arguments are required: (\w+)\.", message)
        if missing and missing[1] in VERBS:  # the parser above would show its own usage
            verb = missing[1]
            names = ", ".join(each.partition(".")[2].upper() for each in message.rpartition(": ")[2].split(", "))
            complain(f"{verb} needs {names}; usage: nat2 {verb} {VERBS[verb].usage}")
            sys.exit(2)
        super().error(shortened(in_words(message)), ex)


_MODE = "nat2"
jsonargparse.set_loader(
    _MODE, lambda text: plainly(jsonargparse.get_loader("yaml")(text)), exceptions=(yaml.YAMLError,)
)


class _Formatter(jsonargparse.DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of the examples as they are."""
