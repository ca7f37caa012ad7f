"""The command line: verbs to functions. Flags and YAML files come from the configuration's dataclasses."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import os
import re
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import jsonargparse
import yaml
from jsonargparse import ArgumentParser, Namespace

from nat2 import __version__
from nat2.cli.help_text import ABOUT, EXAMPLES
from nat2.errors import ConfigError, DataError, Nat2Error
from nat2.runs.config import PRESETS, Preset, RunConfig, flat
from nat2.runs.yaml_config import in_words, plainly, read_document
from nat2.validation import user_path

_LONGEST = 1000  # characters of a line that tells what is wrong


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0 if all went well, 2 for what the user can correct, 130 when interrupted."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names of files may hold what a terminal cannot show
    goes_on = True
    try:
        words = _expanded(_underscored(sys.argv[1:] if arguments is None else arguments))
        continued = _continued(words)
        given = _parsed(build_parser(_preset_of(continued)), continued)
        verb, chosen = given.subcommand, given[given.subcommand]
        if VERBS[verb].settings and chosen.run and chosen.run != words[1]:
            raise ConfigError(f"name the run directly after the verb: nat2 {verb} {shlex.quote(chosen.run)} [options]")
        goes_on = VERBS[verb].settings and verb != "profile"
        VERBS[verb].work(chosen)
    except Nat2Error as error:
        _complain(str(error))
        sys.exit(2)
    except KeyboardInterrupt:
        _complain(f"interrupted; give the same command again {'to continue' if goes_on else 'to start over'}")
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)
    except OSError as error:
        _complain(f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error))
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
        parser.add_class_arguments(RunConfig, skip={"skip_bad_images"})
        parser.set_defaults(dict(flat(PRESETS[preset])) | {"preset": preset})
    return parser


# -- what each verb takes


def _run_arguments(parser: ArgumentParser) -> None:
    _folder_arguments(parser)
    parser.add_argument("--fresh", action="store_true", help="discard what an earlier run left in the folder")


def _folder_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("run", type=str, nargs="?", default="", help="run folder to continue, with its settings")
    parser.add_argument("--out", type=str, default="", help="run folder, by default runs/<name of the data>")
    parser.add_argument("--quiet", action="store_true", help="print nothing but errors")


def _finetune_arguments(parser: ArgumentParser) -> None:
    _folder_arguments(parser)
    parser.add_argument(
        "ids", type=str, nargs="*", default=[], help="further networks: ids in the archive, or architectures' keys"
    )


def _profile_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("run", type=str, nargs="?", default="", help="folder of a run, for its settings")


def _export_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("run", type=str, help="run folder")
    parser.add_argument(
        "ids", type=str, nargs="*", default=[], help="ids of networks that it has returned; by default all"
    )
    parser.add_argument(
        "--to", type=str, default="", help="folder to write to; by default the run's own files are renewed"
    )
    parser.add_argument("--int8", action="store_true", help="write an ONNX file in 8-bit integers too")
    parser.add_argument("--quiet", action="store_true", help="print nothing but errors")


def _latency_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("folders", type=str, nargs="+", help="folders of exported networks, or of runs")
    parser.add_argument("--runtime", type=str, default="onnx", help="onnx, int8 or torch, or several with commas")
    parser.add_argument("--batch", type=str, default="1", help="images at once; several with commas")
    parser.add_argument("--threads", type=str, default="1", help="threads; several with commas")
    parser.add_argument("--csv", type=str, default="", help="write the table to this file too")


def _report_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("runs", type=str, nargs="+", help="run folders; several are compared")
    parser.add_argument(
        "--out", type=str, default="", help="file to write; by default RUN/report.html or comparison.html"
    )
    parser.add_argument(
        "--references",
        type=str,
        default="",
        help="CSV file of networks to show beside: name, accuracy, params, macs, ...",
    )


def _predict_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("network", type=str, help="folder of an exported network: runs/<data>/networks/<id>")
    parser.add_argument("images", type=str, nargs="+", help="image files, and folders of them")
    parser.add_argument("--top", type=int, default=3, help="how many classes to give for an image")
    parser.add_argument("--csv", type=str, default="", help="write a row for each image to this file")
    parser.add_argument("--json", type=str, default="", help="write an entry for each image to this file")
    parser.add_argument("--batch", type=int, default=64, help="images to classify together")
    parser.add_argument(
        "--threshold", type=float, default=None, help="let the first exit answer that is at least so sure, 0 to 1"
    )
    parser.add_argument(
        "--mean_macs", type=float, default=None, help="the same with the threshold that takes this many operations"
    )


# -- what each verb does


def _run(given: Namespace) -> None:
    from nat2.pipeline.api import run

    config, options = _settings(given, "run")
    run(config, **options)


def _train(given: Namespace) -> None:
    from nat2.pipeline.api import train

    config, options = _settings(given, "train")
    train(config, **options)


def _search(given: Namespace) -> None:
    from nat2.pipeline.api import search

    config, options = _settings(given, "search")
    search(config, **options)


def _finetune(given: Namespace) -> None:
    from nat2.pipeline.api import finetune

    config, options = _settings(given, "finetune")
    finetune(config, networks=options.pop("ids"), **options)


def _profile(given: Namespace) -> None:
    from nat2.pipeline.profile import profile
    from nat2.progress import Progress
    from nat2.reports.profile import profile_table

    config, _ = _settings(given, "profile")
    with Progress() as progress:
        found = profile(config, progress=progress)
        for part in profile_table(found):
            progress.show(part)
        progress.show(f"{'next':>18}: nat2 run with the same settings")


def _export(given: Namespace) -> None:
    from nat2.pipeline.export import export

    written = export(given.run, given.ids, to=given.to or None, int8=given.int8, quiet=given.quiet)
    if not given.quiet:
        print(f"{'next':>18}: nat2 latency {' '.join(shlex.quote(str(path)) for path in written)}")


def _latency(given: Namespace) -> None:
    from nat2.deploy.answers import check_target, written_to
    from nat2.deploy.latency import latency
    from nat2.files import write_csv
    from nat2.progress import Progress
    from nat2.reports.terminal import latency_table

    check_target(given.csv, ".csv")
    measured = []
    with Progress() as progress:
        for each in latency(
            *given.folders,
            runtimes=given.runtime.split(","),
            batches=_numbers("--batch", given.batch),
            threads=_numbers("--threads", given.threads),
        ):
            measured.append(each)
        progress.show(latency_table(measured))
        if given.csv:
            with written_to(given.csv, "--csv") as path:
                write_csv(path, [each.row() for each in measured])
            progress.show(f"{'written':>18}: {given.csv}")
        first = next(
            (folder for folder in given.folders if not (user_path(folder, "FOLDER") / "networks").is_dir()), "NETWORK"
        )
        progress.show(f"{'next':>18}: nat2 predict {shlex.quote(first)} IMAGE")


def _report(given: Namespace) -> None:
    from nat2.reports.report import report

    path = report(
        *given.runs,
        out=given.out or None,
        references=given.references or None,
    )
    print(f"{'report':>18}: {path} (open it in a browser)")
    print(f"{'next':>18}: move its sliders to your budget; it shows the command that exports the network to take")


def _predict(given: Namespace) -> None:
    from nat2.deploy import answers
    from nat2.deploy.predict import Classifier, find_images, refusal
    from nat2.progress import Progress

    targets = [target for target in (given.csv, given.json) if target]
    for target, ending in zip((given.csv, given.json), (".csv", ".json"), strict=True):
        answers.check_target(target, ending)
    classifier = Classifier.of(given.network, top=given.top, threshold=given.threshold, mean_macs=given.mean_macs)
    images, others = find_images(given.images)
    predictions, began = [], time.monotonic()
    with Progress(quiet=not targets) as progress:
        progress.stage("predict", images=len(images))
        for each in classifier.classify(images, batch_size=given.batch):
            predictions.append(each)
            progress.step()
            if not targets and not each.error:
                shares = ", ".join(f"{name} {100 * share:.1f} %" for name, share in each.answers)
                print(f"{each.image}: {shares}", flush=True)
    seconds = time.monotonic() - began
    written, problems = answers.write(predictions, csv=given.csv, json=given.json, top=given.top)
    for line in answers.summary(predictions, given.images, classifier.classes, seconds if targets else None, others):
        print(line)
    for target in written:
        print(f"{'written':>18}: {target}")
    bad = [each for each in predictions if each.error]
    problems += [str(refusal(bad))] if bad else []
    if problems:
        raise DataError("\n".join(problems))


class _Verb(NamedTuple):
    """A verb of the command line."""

    work: Callable[[Namespace], None]
    arguments: Callable[[ArgumentParser], None]
    usage: str
    help: str
    settings: bool = False
    """Whether it takes every setting."""


VERBS = {
    "run": _Verb(
        _run,
        _run_arguments,
        "[RUN] [--data DIR] [--out DIR] [options]",
        "from labelled images to networks to ship",
        True,
    ),
    "profile": _Verb(
        _profile,
        _profile_arguments,
        "[RUN] [--data DIR] [options]",
        "what a run would find and how long it would take",
        True,
    ),
    "train": _Verb(
        _train,
        _run_arguments,
        "[RUN] [--data DIR] [--out DIR] [options]",
        "a run's first stage: the super-network",
        True,
    ),
    "search": _Verb(
        _search, _run_arguments, "[RUN] [--data DIR] [--out DIR] [options]", "a run's second stage: the search", True
    ),
    "finetune": _Verb(
        _finetune,
        _finetune_arguments,
        "[RUN [ID ...]] [options]",
        "a run's last stage, or further networks of it",
        True,
    ),
    "export": _Verb(_export, _export_arguments, "RUN [ID ...] [--to DIR] [--int8]", "files of networks, checked again"),
    "latency": _Verb(_latency, _latency_arguments, "FOLDER [FOLDER ...] [options]", "how long networks take here"),
    "report": _Verb(_report, _report_arguments, "RUN [RUN ...] [options]", "draw the page of a run, or compare runs"),
    "predict": _Verb(
        _predict, _predict_arguments, "NETWORK IMAGE [IMAGE ...] [options]", "classify images and folders of images"
    ),
}


def _settings(given: Namespace, verb: str) -> tuple[RunConfig, dict[str, Any]]:
    """The configuration that was given, and the options beside it."""
    for field in dataclasses.fields(RunConfig):
        if field.default_factory is not dataclasses.MISSING and not isinstance(given[field.name], Namespace):
            raise ConfigError(f"{field.name} is a group of settings, as --help shows; got {given[field.name]!r}")
    for name in {"fresh", "quiet", "skip_bad_images"} & set(vars(given)):
        if not isinstance(given[name], bool):
            raise ConfigError(f"{name} must be true or false; got {given[name]!r}")
    settings = vars(_parser_of(verb, "quick").instantiate(given))
    settings.pop("config")
    options = {name: settings.pop(name) for name in ("run", "out", "fresh", "quiet", "ids") if name in settings}
    run, out = options.pop("run", ""), options.pop("out", "")
    if run and not (user_path(run, "RUN") / "config.yaml").exists():
        from nat2.runs.folder import no_run

        raise ConfigError(f"{no_run(user_path(run, 'RUN'))}, or the images with --data")
    if out:
        options["out"] = user_path(out, "--out")
    return RunConfig(**settings), options


def _numbers(name: str, text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"{name} must be whole numbers with commas between them; got {text!r}") from None


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
            _complain(f"{verb} needs {names}; usage: nat2 {verb} {VERBS[verb].usage}")
            sys.exit(2)
        super().error(_in_short(in_words(message)), ex)


_MODE = "nat2"
jsonargparse.set_loader(
    _MODE, lambda text: plainly(jsonargparse.get_loader("yaml")(text)), exceptions=(yaml.YAMLError,)
)


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


def _expanded(words: list[str]) -> list[str]:
    """``~`` in the paths of files of settings, which shells leave alone behind ``=``; and `off` as `none`."""
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


def _continued(words: list[str]) -> list[str]:
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


def _preset_of(arguments: list[str]) -> Preset:
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
