"""The verbs of the command line: what each takes and what it does."""

from __future__ import annotations

import dataclasses
import shlex
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple

from jsonargparse import ArgumentParser, Namespace

from nat2.cli.networks import create_arguments, list_arguments, show_networks, write_network
from nat2.errors import ConfigError, DataError
from nat2.runs.config import RunConfig
from nat2.validation import user_path

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
    parser.add_argument(
        "--int8_steps",
        type=int,
        help="gradient steps that make up for the rounding to 8 bits; by default 200 for devices, and none for --int8",
    )
    parser.add_argument(
        "--for",
        type=str,
        default="",
        help="also write what a target needs: microcontroller, phone, executorch, coreml, browser, server, gpu",
    )
    parser.add_argument(
        "--onnxruntime_web",
        type=str,
        default="",
        help="for a browser: the npm package onnxruntime-web, as .tgz or folder; by default it is downloaded",
    )
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
        help="CSV file of networks to show for comparison: name, accuracy, params, macs, ...",
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


# -- what each verb does; what it needs is imported when it is called, so that --help is quick


def _stage(name: str) -> Callable[[Namespace], None]:
    """A verb that is a function of `nat2.pipeline.api`: a run, or one of its stages."""

    def work(given: Namespace) -> None:
        config, options = _settings(given)
        getattr(import_module("nat2.pipeline.api"), name)(config, **options)

    return work


def _profile(given: Namespace) -> None:
    from nat2.pipeline.profile import profile
    from nat2.progress import Progress
    from nat2.reports.profile import profile_table

    config, _ = _settings(given)
    with Progress() as progress:
        found = profile(config, progress=progress)
        for part in profile_table(found):
            progress.show(part)
        progress.show(f"{'next':>18}: nat2 run with the same settings")


def _export(given: Namespace) -> None:
    from nat2.pipeline.export import export

    written = export(
        given.run,
        given.ids,
        to=given.to or None,
        int8=given.int8,
        int8_steps=given.int8_steps,
        target=given["for"],
        onnxruntime_web=given.onnxruntime_web,
        quiet=given.quiet,
    )
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


def check_settings(given: Namespace) -> None:
    """Refuse a file that gives a single value where a group of settings is meant, or a value for a switch.

    Raises:
        ConfigError: naming the setting.
    """
    for field in dataclasses.fields(RunConfig):
        if field.default_factory is not dataclasses.MISSING and not isinstance(given[field.name], Namespace):
            raise ConfigError(f"{field.name} is a group of settings, as --help shows; got {given[field.name]!r}")
    for name in {"fresh", "quiet", "skip_bad_images", "balance"} & set(vars(given)):
        if not isinstance(given[name], bool):
            raise ConfigError(f"{name} must be true or false; got {given[name]!r}")


def _settings(given: Namespace) -> tuple[RunConfig, dict[str, Any]]:
    """The configuration that was given, and the other options, by the functions' names for them."""
    settings = dict(vars(given))
    settings.pop("config")
    options: dict[str, Any] = {
        name: settings.pop(name) for name in ("run", "out", "fresh", "quiet", "ids") if name in settings
    }
    run, out = options.pop("run", ""), options.pop("out", "")
    if run and not (user_path(run, "RUN") / "config.yaml").exists():
        from nat2.runs.folder import no_run

        raise ConfigError(f"{no_run(user_path(run, 'RUN'))}, or the images with --data")
    if out:
        options["out"] = user_path(out, "--out")
    if "ids" in options:
        options["networks"] = options.pop("ids")
    return RunConfig(**settings), options


def _numbers(name: str, text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"{name} must be whole numbers with commas between them; got {text!r}") from None


class Verb(NamedTuple):
    """A verb of the command line."""

    work: Callable[[Namespace], None]
    arguments: Callable[[ArgumentParser], None]
    usage: str
    help: str
    settings: bool = False
    """Whether it takes every setting."""


_RUN_USAGE = "[RUN] [--data DIR] [--out DIR] [options]"
VERBS = {
    "run": Verb(
        _stage("run"),
        _run_arguments,
        _RUN_USAGE,
        "from labelled images to networks to ship",
        settings=True,
    ),
    "profile": Verb(
        _profile,
        _profile_arguments,
        "[RUN] [--data DIR] [options]",
        "what a run would find and how long it would take",
        settings=True,
    ),
    "train": Verb(
        _stage("train"),
        _run_arguments,
        _RUN_USAGE,
        "a run's first stage: the super-network",
        settings=True,
    ),
    "search": Verb(
        _stage("search_run"),
        _run_arguments,
        _RUN_USAGE,
        "a run's second stage: the search",
        settings=True,
    ),
    "finetune": Verb(
        _stage("finetune"),
        _finetune_arguments,
        "[RUN [ID ...]] [options]",
        "a run's last stage, or further networks of it",
        settings=True,
    ),
    "export": Verb(
        _export,
        _export_arguments,
        "RUN [ID ...] [--to DIR] [--int8] [--for TARGET]",
        "files of networks, checked again",
    ),
    "latency": Verb(_latency, _latency_arguments, "FOLDER [FOLDER ...] [options]", "how long networks take here"),
    "report": Verb(_report, _report_arguments, "RUN [RUN ...] [options]", "draw the page of a run, or compare runs"),
    "predict": Verb(
        _predict, _predict_arguments, "NETWORK IMAGE [IMAGE ...] [options]", "classify images and folders of images"
    ),
    "networks": Verb(show_networks, list_arguments, "[options]", "trained networks that need no search"),
    "create": Verb(
        write_network,
        create_arguments,
        "[NAME] --classes N --out DIR [options]",
        "one of them, for your classes",
    ),
}
