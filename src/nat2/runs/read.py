"""A run as read from its folder: everything that a report needs, during the run or long after."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from nat2.deploy.latency import Measured
from nat2.errors import CheckpointError, Nat2Error, RunError
from nat2.nas.archive import Archive, Evaluation, EvaluationRecord
from nat2.nas.front import front
from nat2.nas.generation import Generation
from nat2.nas.objectives import OBJECTIVES, Objective, Unit
from nat2.runs.accuracy import Accuracy
from nat2.runs.config import parse_resolutions, parse_widths
from nat2.runs.facts import Fact, images_fact, search_facts
from nat2.runs.folder import RunFolder, no_run
from nat2.runs.predictions import MISTAKES, PREDICTIONS, Answers, read_answers
from nat2.runs.results import Result
from nat2.space import Arch, Macro, SearchSpace
from nat2.validation import parts_of

_UNITS: dict[str, Unit] = {name: each.unit for name, each in OBJECTIVES.items()} | {"latency_spread": "ms"}


@dataclass(frozen=True)
class RunReport:
    """The contents of a run folder at one moment."""

    folder: Path
    """As the user named it; commands on the page use the same name."""
    finished: bool
    """Whether its networks are fine-tuned, tested and exported."""
    data: Mapping[str, Any]
    """data.json: name, fingerprint, channels, images by split and class, notes."""
    config: Mapping[str, Any]
    config_text: str
    """The text of config.yaml."""
    environment: Mapping[str, Any]
    seconds: Mapping[str, float]
    """By stage."""
    objectives: tuple[Objective, ...]
    """What was optimised, the error first; without measures."""
    recorded: tuple[Objective, ...]
    """What was recorded in addition."""
    adapts: bool
    """Whether the weights changed between generations."""
    evaluations: tuple[tuple[Evaluation[Arch], EvaluationRecord], ...]
    """Those on all validation images that did not fail, in order."""
    failed: int
    """How many failed."""
    generations: tuple[Generation[Arch], ...]
    results: tuple[Result, ...]
    """The fine-tuned networks, smallest first."""
    timings: tuple[Measured, ...]

    @property
    def name(self) -> str:
        """Name of the data."""
        return str(self.data["name"])

    @property
    def quantities(self) -> tuple[Objective, ...]:
        """Everything that was recorded for a network."""
        return self.objectives + self.recorded

    def images(self, split: str) -> list[int]:
        """Number of images of each class of ``train``, ``val`` or ``test``."""
        return [int(count) for count in self.data["images"][split].values()]

    def found(self, evaluation: Evaluation[Arch]) -> Accuracy:
        """The validation accuracy that the search measured."""
        return Accuracy.over(1 - evaluation["error"], self.images("val"))

    @cached_property
    def answers(self) -> Mapping[str, Answers]:
        """What is kept of the answers of the returned networks, by id; those of earlier releases have none.

        Raises:
            CheckpointError: a file of them is damaged.
        """
        files = RunFolder(self.folder, shared=True)
        classes = [str(name) for name in self.data["images"]["train"]]
        found = {}
        for result in self.results:
            try:
                answers = read_answers(files.network(result.id), classes)
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise CheckpointError(
                    f"{files.network(result.id)} holds damaged predictions ({type(error).__name__}: {error}); restore "
                    f"{PREDICTIONS} and {MISTAKES} from a copy, or delete them for a report without them"
                ) from error
            if answers is not None:
                found[result.id] = answers
        return found

    @cached_property
    def macros(self) -> tuple[Macro, ...]:
        """The macro-architecture of each width, narrowest first."""
        return tuple(
            Macro.of_family(
                str(self.config["family"]),
                classes=len(self.data["images"]["train"]),
                channels=int(self.data["channels"]),
                width=width,
                stem_stride=int(self.config["stem_stride"]),
            )
            for width in parse_widths(self.config["width"])
        )

    @cached_property
    def space(self) -> SearchSpace:
        """What was searched."""
        return SearchSpace.of(self.macros, parse_resolutions(str(self.config["resolutions"])))

    def members(self, generation: int = -1) -> list[Evaluation[Arch]]:
        """The archive after a generation, by default the last; before the first, everything that was measured.

        Args:
            generation: Its place in `generations`.
        """
        if not self.generations:
            return [evaluation for evaluation, _ in self.evaluations]
        chosen = self.generations[generation]
        weights = chosen.number if self.adapts else 0
        return [self._by_weights[weights][arch] for arch in chosen.members]

    @cached_property
    def front(self) -> list[Evaluation[Arch]]:
        """The archive's networks within the budget that no other beats; if none is within it, those nearest to it."""
        members = self.members()
        return [members[number] for number in front(members, self.objectives, self.quantities)]

    @cached_property
    def _by_weights(self) -> dict[int, dict[Arch, Evaluation[Arch]]]:
        known: dict[int, dict[Arch, Evaluation[Arch]]] = {}
        for evaluation, row in self.evaluations:
            known.setdefault(row.weights, {})[evaluation.arch] = evaluation
        return known

    @property
    def state(self) -> str:
        """A sentence about how far the run is; empty if it is finished."""
        if self.finished:
            return ""
        last = int(self.config["search"]["generations"])
        if not self.generations:
            where = "The search is measuring its first networks"
        elif self.generations[-1].number < last:
            where = f"The search is in generation {self.generations[-1].number + 1} of {last}"
        else:
            count = len(self.results)
            where = f"The search is over; {count} network{' is' if count == 1 else 's are'} fine-tuned so far"
        return (
            f"This run is not finished. {where}. The page shows the results so far; repeat the nat2 run command "
            "to continue an interrupted run, or nat2 report to redraw the page."
        )

    @property
    def facts(self) -> list[Fact]:
        """A summary of the run, in order of display."""
        images = {name: sum(self.images(name)) for name in self.data["images"]}
        classes = len(self.data["images"]["train"])
        return [
            ("data", str(self.config["data"])),
            images_fact(images, classes=classes, channels=int(self.data["channels"])),
            *(("note", str(note)) for note in self.data.get("notes", ())),
            *search_facts(self.macros, self.space, self.objectives, self.recorded),
            (
                "evaluated",
                f"{len({e.arch for e, _ in self.evaluations}):,} networks in {len(self.evaluations):,} evaluations"
                + (f"; {self.failed} failed" if self.failed else ""),
            ),
        ]


def read_run(folder: Path) -> RunReport:
    """Read a run folder; another process may be writing to it, and it may be read-only.

    Raises:
        RunError: it is no run folder, or its search has not begun.
        CheckpointError: it is damaged.
    """
    if not (folder / "config.yaml").is_file():
        raise RunError(no_run(folder))
    files = RunFolder(folder, shared=True)
    try:
        config_text = files.config.read_text(encoding="utf-8")
        config, data = yaml.safe_load(config_text), _json(folder / "data.json")
        environment = _json(folder / "environment.json")
        needed = [config[name] for name in _CONFIG], [data[name] for name in _DATA], environment["packages"]
        count = len(parts_of(str(needed[0][0])))
        with _archive(files) as archive:
            search = json.loads(archive.noted("search") or "{}")
            made, generations = archive.evaluations(), archive.generations()
            columns = archive.columns
        quantities = tuple(_quantity(name, *search[name]) for name in columns) if search else ()
        whole = tuple((each, row) for each, row in made if row.share == 1 and not each.failure)
        if not whole:
            raise RunError(
                f"the search of the run in {folder} has not measured a network yet; wait for it, or give the same "
                "nat2 run command to continue"
            )
        report = RunReport(
            folder=folder,
            finished=files.finished or files.pareto.exists(),  # the table is written when all networks are exported
            data=data,
            config=config,
            config_text=config_text,
            environment=environment,
            seconds=files.seconds(),
            objectives=quantities[:count],
            recorded=quantities[count:],
            adapts=bool(search["adapts"]),
            evaluations=whole,
            failed=sum(bool(evaluation.failure) for evaluation, _ in made),
            generations=tuple(generations),
            results=_results(files),
            timings=files.timings(),
        )
        for number in range(len(generations)):  # check that everything needed later is there
            report.members(number)
        _ = report.facts
    except Nat2Error as error:
        if isinstance(error, RunError | CheckpointError):
            raise
        raise _damaged(folder, error) from error
    except (OSError, yaml.YAMLError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(folder, error) from error
    return report


_CONFIG = ("objectives", "data", "family", "width", "stem_stride", "resolutions", "search", "seed")
_DATA = ("name", "fingerprint", "channels", "images")


def _damaged(folder: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{folder} holds a damaged run ({type(error).__name__}: {error}); restore its files from a copy, or begin "
        "again with --fresh"
    )


def _json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8")))


def _archive(files: RunFolder) -> Archive[Arch]:
    if not files.archive.exists():
        raise RunError(
            f"the search of the run in {files.path} has not begun: the super-network is still being trained; wait for "
            "it, or give the same nat2 run command to continue"
        )
    return Archive.snapshot(files.archive)


def _quantity(name: str, direction: Any, cost_class: Any, low: float, high: float) -> Objective:
    """What the search recorded about an objective; units of user-defined ones are unknown."""
    return Objective(name=name, direction=direction, cost=cost_class, low=low, high=high, unit=_UNITS.get(name, ""))


def _results(files: RunFolder) -> tuple[Result, ...]:
    """The networks that the run returned, and those that were fine-tuned later or so far."""
    lost = [identity for identity in (files.returned() if files.finished else ()) if files.result(identity) is None]
    if lost:
        raise CheckpointError(
            f"{files.path} holds a finished run that is no longer whole (networks/{lost[0]}/result.json is missing or "
            "damaged); restore it from a copy, or begin again with --fresh"
        )
    return tuple(files.finished_networks())
