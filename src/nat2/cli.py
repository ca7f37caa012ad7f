"""The command line: verbs to functions. Flags and YAML files come from the configuration's dataclasses."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import os
import sys
from pathlib import Path
from typing import Any, NoReturn

import jsonargparse
from jsonargparse import ArgumentParser, Namespace

from nat2 import __version__
from nat2.config import PRESETS, Preset, RunConfig, flat
from nat2.document import read_document
from nat2.errors import ConfigError, Nat2Error

_LONGEST = 1000  # characters of a line that tells what is wrong
_ABOUT = """Small, fast, accurate image classifiers for your own data, by Neural Architecture Transfer 2.

nat2 run                    the whole way on 1,797 bundled digits
nat2 run --data photos      the same for your images: a folder of class folders
nat2 VERB --help            what a verb does, with examples
"""
_RUN = """examples:
  nat2 run                                    the whole way on 1,797 bundled digits
  nat2 run --data photos                      the same for a folder of class folders
  nat2 run --data photos --objectives error,macs --out runs/fast
  nat2 run --config settings.yaml --seed 1    a file of settings, and flags over it

Train a super-network on your images, search it, fine-tune, test and export the best networks, and write a report.
A run that was interrupted continues when the same command is given again.
"""
_PROFILE = """examples:
  nat2 profile --data photos                                        what a run on these images would be
  nat2 profile --data photos --budget "params<=200k,latency<=3ms"   and whether a budget can be met
  nat2 profile --config settings.yaml

Look at the images and the search space and train for a few steps: how many networks there are, what they cost, which
share of them keeps the budget, and how long the run will take. Takes the settings of `nat2 run`; writes nothing.
"""
_PREDICT = """examples:
  nat2 predict runs/photos/networks/1a2b3c4d cat.jpg dog.jpg
  nat2 predict runs/photos/networks/1a2b3c4d new/*.png --top 1

Classify images with an exported network and print the most probable classes.
"""


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0 if all went well, 2 for what the user can mend, 130 when interrupted."""
    words = _underscored(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names of files may hold what a terminal cannot show
    try:
        given = _parsed(build_parser(_preset_of(words)), words)
        verbs = {"run": _run, "profile": _profile, "predict": _predict}
        verbs[given.subcommand](given[given.subcommand])
    except Nat2Error as error:
        _complain(str(error))
        sys.exit(2)
    except KeyboardInterrupt:
        _complain("interrupted; give the same command again to continue")
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)
    except OSError as error:
        _complain(str(error))
        sys.exit(2)
    sys.exit(0)


def _complain(message: str) -> None:
    """Say what is wrong; of processes that a launcher started only the first, because all of them find the same."""
    if os.environ.get("RANK", "0") == "0":
        print(f"nat2: {_in_short(message)}", file=sys.stderr)


def _in_short(message: str) -> str:
    """A message without what makes it unreadable: what was given may be of any length."""
    half = _LONGEST // 2  # what is wrong stands at the beginning of a line, and what to do at its end
    return "\n".join(
        line if len(line) <= _LONGEST else f"{line[:half]} ... {line[-half:]}" for line in message.splitlines()
    )


def _parsed(parser: ArgumentParser, words: list[str]) -> Namespace:
    """What the words mean; whatever they make the parser's libraries raise is the words' fault."""
    try:
        return parser.parse_args(words)
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(f"the command line cannot be read ({reason}); nat2 --help shows what there is") from error


def build_parser(preset: Preset = "quick") -> ArgumentParser:
    """The parser of all verbs, its defaults those of a preset."""
    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = _Parser(
        prog="nat2", description=_ABOUT, formatter_class=_Formatter, version=__version__, usage="nat2 VERB [options]"
    )
    verbs = parser.add_subcommands(metavar="VERB", title="verbs", description=None)
    parsers = {"run": _run_parser(preset), "profile": _profile_parser(preset), "predict": _predict_parser()}
    verbs.add_subcommand("run", parsers["run"], help="from labelled images to networks ready to ship")
    verbs.add_subcommand("profile", parsers["profile"], help="what a run would find and how long it would take")
    verbs.add_subcommand("predict", parsers["predict"], help="classify images with an exported network")
    for verb, subparser in parsers.items():
        subparser.prog = f"nat2 {verb}"
    return parser


def _run_parser(preset: Preset) -> ArgumentParser:
    parser = _Parser(description=_RUN, usage="nat2 run [--data DIR] [--out DIR] [options]")
    parser.add_argument("--out", type=str, default="", help="run folder, by default runs/<name of the data>")
    parser.add_argument("--fresh", action="store_true", help="discard what an earlier run left in the folder")
    parser.add_argument("--quiet", action="store_true", help="print nothing but errors")
    return _with_settings(parser, preset)


def _profile_parser(preset: Preset) -> ArgumentParser:
    parser = _Parser(description=_PROFILE, usage="nat2 profile [--data DIR] [options]")
    return _with_settings(parser, preset)


def _with_settings(parser: ArgumentParser, preset: Preset) -> ArgumentParser:
    """A parser that also takes every setting, its defaults those of a preset."""
    parser.add_argument("--config", action="config", help="YAML file of settings; flags behind it win")
    parser.add_argument(
        "--skip_bad_images", action="store_true", help="leave unreadable images out instead of refusing the folder"
    )
    parser.add_class_arguments(RunConfig, skip={"skip_bad_images"})
    parser.set_defaults(dict(flat(PRESETS[preset])) | {"preset": preset})
    return parser


def _predict_parser() -> ArgumentParser:
    parser = _Parser(description=_PREDICT, usage="nat2 predict NETWORK IMAGE [IMAGE ...] [--top N]")
    parser.add_argument("network", type=str, help="folder of an exported network: runs/<data>/networks/<id>")
    parser.add_argument("images", type=str, nargs="+", help="image files")
    parser.add_argument("--top", type=int, default=3, help="how many classes to print for an image")
    return parser


def _run(given: Namespace) -> None:
    from nat2.stages import run

    config, options = _settings(given, _run_parser("quick"), "out", "fresh", "quiet")
    out = options.pop("out")
    run(config, out=Path(out) if out else None, **options)


def _profile(given: Namespace) -> None:
    from nat2.estimate import profile
    from nat2.progress import Progress
    from nat2.reports.profile import profile_table

    config, _ = _settings(given, _profile_parser("quick"))
    with Progress() as progress:
        found = profile(config, say=progress.say)
        for part in profile_table(found):
            progress.show(part)


def _settings(given: Namespace, parser: ArgumentParser, *names: str) -> tuple[RunConfig, dict[str, Any]]:
    """The configuration that was given, and the options beside it."""
    for field in dataclasses.fields(RunConfig):
        if field.default_factory is not dataclasses.MISSING and not isinstance(given[field.name], Namespace):
            raise ConfigError(f"{field.name} is a group of settings, as --help shows; got {given[field.name]!r}")
    for name in {"fresh", "quiet", "skip_bad_images"} & {*names, "skip_bad_images"}:
        if not isinstance(given[name], bool):
            raise ConfigError(f"{name} must be true or false; got {given[name]!r}")
    settings = vars(parser.instantiate(given))
    options = {name: settings.pop(name) for name in names}
    settings.pop("config")
    return RunConfig(**settings), options


def _predict(given: Namespace) -> None:
    from nat2.deploy.predict import predict

    for image, answers in predict(Path(given.network), [Path(image) for image in given.images], top=given.top):
        print(f"{image}: " + ", ".join(f"{name} {100 * share:.1f} %" for name, share in answers), flush=True)


class _Parser(ArgumentParser):
    """Tells what is wrong with the words, however long they are."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print usage and error and exit with 2."""
        super().error(_in_short(message), ex)


class _Formatter(jsonargparse.DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of the examples as they are."""


def _underscored(words: list[str]) -> list[str]:
    """``--skip-bad-images`` means ``--skip_bad_images``; what follows ``--`` is left alone."""
    end = words.index("--") if "--" in words else len(words)
    changed = []
    for word in words[:end]:
        name, equals, value = word.partition("=")
        changed.append("--" + name[2:].replace("-", "_") + equals + value if word.startswith("--") else word)
    return changed + words[end:]


def _preset_of(arguments: list[str]) -> Preset:
    """The preset that flags or a file name, so that it can set the defaults of everything else.

    Raises:
        ConfigError: a file of settings cannot be read, or not be believed.
    """
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    finder.add_argument("--preset")
    finder.add_argument("--config", action="append", default=[])
    preset = None
    with contextlib.suppress(argparse.ArgumentError):  # told when the words are read in earnest
        found, _ = finder.parse_known_args(arguments)
        for path in found.config:
            preset = read_document(Path(path)).get("preset", preset)
        preset = found.preset or preset
    return preset if isinstance(preset, str) and preset in PRESETS else "quick"
