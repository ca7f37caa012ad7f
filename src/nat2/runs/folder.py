"""The run folder: what is in it, who may write it, and whether what it holds belongs to the configuration."""

from __future__ import annotations

import csv
import fcntl
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import IO

import yaml

from nat2.data.dataset import Dataset
from nat2.deploy.latency import Measured
from nat2.errors import CheckpointError, RunError
from nat2.files import write_csv, write_error, write_json, write_text
from nat2.runs.config import RunConfig, flat, same
from nat2.runs.provenance import describe, environment, splits
from nat2.runs.results import Result
from nat2.runs.rounding import milliseconds
from nat2.runs.timeplan import StageEntry, TimePlan


class RunFolder:
    """One run's files. A context manager: while it is open, no other process can run in the same folder."""

    def __init__(self, path: Path, *, fresh: str = "", shared: bool = False) -> None:
        """Create the folder if need be and lock it.

        Args:
            path: The folder.
            fresh: Remove the files of an earlier run; identifies the command that asks for it, so that it is done once.
            shared: Open it without locking: another process of the same run holds the lock and does the writing.

        Raises:
            RunError: it cannot be written, another process uses it, or it holds files that are not a run's.
        """
        self.path = path
        self._lock: IO[str] | None = None
        if shared:
            if not self.config.exists():
                raise RunError(
                    f"{path} does not hold the run that another process began; it must be on storage that all machines "
                    "share: name it with --out"
                )
            return
        if path.is_dir():
            self._refuse_foreign()
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock = (path / ".lock").open("w")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(
                f"another run is working in {path}; wait for it, stop it, or choose another folder with --out"
            ) from None
        except OSError as error:
            raise write_error(path, error) from error
        for unfinished in path.glob(".*.tmp"):  # a file that was being written when its run was killed
            unfinished.unlink()
        if (path / _CLEARING).exists() or (fresh and not was_cleared(path, fresh)):
            self._clear()
            if fresh:
                write_text(path / _FRESH, fresh)

    def _refuse_foreign(self) -> None:
        names = {entry.name for entry in self.path.iterdir()}
        foreign = sorted(
            name for name in names if not (_is_own(name) or (name.startswith(".") and name.endswith(".tmp")))
        )
        if foreign and not names & {"config.yaml", _CLEARING}:
            raise RunError(
                f"{self.path} holds files that are not a run's ({', '.join(foreign[:5])}); choose an empty or new "
                "folder with --out"
            )

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lock is not None:
            self._lock.close()

    # -- contents

    @property
    def config(self) -> Path:
        """The complete configuration."""
        return self.path / "config.yaml"

    @property
    def archive(self) -> Path:
        """Every evaluation."""
        return self.path / "archive.db"

    @property
    def log(self) -> Path:
        """One row per generation."""
        return self.path / "log.csv"

    @property
    def pareto(self) -> Path:
        """One row per returned network."""
        return self.path / "pareto.csv"

    @property
    def plot(self) -> Path:
        """The Pareto plot."""
        return self.path / "pareto.png"

    @property
    def page(self) -> Path:
        """The report."""
        return self.path / "report.html"

    @property
    def latencies(self) -> Path:
        """One row per returned network: its latency on this machine."""
        return self.path / "latency.csv"

    def milliseconds(self) -> dict[str, str]:
        """Median latency of each returned network with ONNX Runtime, as last measured, formatted for printing."""
        try:
            times = {each.id: each.latency for each in self.timings() if each.runtime == "onnx"}
        except (OSError, ValueError, KeyError):  # a lost table is no reason to stop
            return {}
        return {name: milliseconds(latency.median, latency, most=2) for name, latency in times.items()}

    def timings(self) -> tuple[Measured, ...]:
        """Latencies of the returned networks, as last measured; empty if they were not measured.

        Raises:
            OSError, ValueError, KeyError: the table is damaged.
        """
        if not self.latencies.exists():
            return ()
        with self.latencies.open(newline="", encoding="utf-8") as file:
            return tuple(map(Measured.of_row, csv.DictReader(file)))

    @property
    def curves(self) -> Path:
        """Curves for TensorBoard."""
        return self.path / "tensorboard"

    def supernet(self, width: float) -> Path:
        """Weights of the adapted super-network of a width."""
        return self.path / f"supernet-w{width}.safetensors"

    @property
    def state(self) -> Path:
        """Resume points; removed when the run is finished."""
        return self.path / "state"

    def trained(self, width: float) -> Path:
        """Weights of the super-network of a width before the search."""
        return self.state / f"trained-w{width}.safetensors"

    def shrinking(self, width: float) -> Path:
        """Resume point of the training of a width."""
        return self.state / f"shrink-w{width}.safetensors"

    def network(self, identity: str) -> Path:
        """The files of one returned network."""
        return self.path / "networks" / identity

    # -- ownership

    def claim(self, config: RunConfig, dataset: Dataset, time_plan: TimePlan | None = None) -> None:
        """Write configuration and environment, or check that the folder's are the same.

        Args:
            config: Of the run.
            dataset: Its images.
            time_plan: The account of what was decided by its time, if anything was.

        Raises:
            RunError: the folder holds a run of another configuration (the keys are named) or of other images.
        """
        if self.config.exists():
            self._compare(config, dataset)
            return
        write_json(self.path / "data.json", describe(dataset))
        write_json(self.path / "environment.json", environment())
        write_csv(self.path / "splits.csv", splits(dataset))
        if time_plan is not None:
            write_json(self._time_plan, asdict(time_plan))
        write_text(self.config, yaml.safe_dump(config.to_dict(), sort_keys=False))

    def settle(self, config: RunConfig, time_plan: TimePlan) -> None:
        """Write down lengths that were decided during the run, by the time that is left."""
        write_text(self.config, yaml.safe_dump(config.to_dict(), sort_keys=False))
        write_json(self._time_plan, asdict(time_plan))

    def time_plan(self) -> TimePlan | None:
        """What was decided by the run's time; None if nothing was, or it cannot be read."""
        try:
            held = json.loads(self._time_plan.read_text(encoding="utf-8"))
            return TimePlan(**held | {"stages": tuple(StageEntry(**stage) for stage in held["stages"])})
        except (OSError, ValueError, KeyError, TypeError):  # lengths are in the configuration too
            return None

    @property
    def _time_plan(self) -> Path:
        return self.path / "plan.json"

    def _compare(self, config: RunConfig, dataset: Dataset) -> None:
        try:
            found = dict(flat(dict(yaml.safe_load(self.config.read_text()))))
            # A setting that the version which began the run did not have is as it was then: the default.
            stored = dict(flat(RunConfig().to_dict())) | found
            _ = found["seed"]  # every configuration has one; a file that was cut short has not
            fingerprint = fingerprint_of(self.path)
        except (OSError, yaml.YAMLError, ValueError, KeyError, TypeError) as error:
            raise damaged(self.path, error) from error
        given = dict(flat(config.to_dict()))
        keys = [key for key in dict.fromkeys([*stored, *given]) if not same(key, stored.get(key), given.get(key))]
        moved = any(stored.get(key) != given.get(key) for key in ("data", "objectives"))
        keys = [key for key in keys if key not in _FREE]
        different = [f"{key} ({stored.get(key)} there, {given.get(key)} now)" for key in keys if self._begun(key)]
        if different:
            raise RunError(
                f"{self.path} holds a run of another configuration; different are {'; '.join(different)}. Give the "
                "same settings to continue it, another folder with --out, or --fresh to discard it"
            )
        if fingerprint != dataset.fingerprint:
            raise RunError(
                f"the images in {config.data} are not those that the run in {self.path} began with; choose another "
                "folder with --out, or --fresh to discard it"
            )
        if keys or moved:  # settings of stages that have not begun may change, and images may move
            write_text(self.config, yaml.safe_dump(config.to_dict(), sort_keys=False))

    def _begun(self, key: str) -> bool:
        """Whether the stage that a setting belongs to has begun."""
        for prefixes, evidence in _STAGES:
            if any(key == prefix or key.startswith(f"{prefix}.") for prefix in prefixes):
                return any(next(self.path.glob(pattern), None) for pattern in evidence)
        return True

    def _clear(self) -> None:
        """Remove an earlier run; if this is interrupted, the next opening of the folder completes it."""
        try:
            (self.path / _CLEARING).touch()
            owned = sorted(entry.name for entry in self.path.iterdir() if _is_own(entry.name))
            for name in (*(name for name in owned if name not in (".lock", _CLEARING)), _CLEARING):
                entry = self.path / name
                if entry.is_dir():
                    shutil.rmtree(entry)
                else:
                    entry.unlink(missing_ok=True)
        except OSError as error:
            raise write_error(self.path, error) from error

    # -- progress

    def result(self, identity: str) -> Result | None:
        """The result of a finished network; None if it is not finished, or its file cannot be read."""
        try:
            return self.read_result(identity)
        except (OSError, ValueError, TypeError):
            return None

    def read_result(self, identity: str) -> Result:
        """The result of a finished network.

        Raises:
            OSError, ValueError, TypeError: it cannot be read.
        """
        result = Result(**json.loads((self.network(identity) / "result.json").read_text(encoding="utf-8")))
        return result if result.test_images is not None else result.measured_on(self.images())

    def images(self) -> dict[str, list[int]]:
        """Number of images of each class, by split; empty if that cannot be read."""
        try:
            images = json.loads((self.path / "data.json").read_text(encoding="utf-8"))["images"]
            return {str(split): [int(count) for count in counts.values()] for split, counts in images.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}

    def finished_ids(self) -> list[str]:
        """Ids of all networks that are finished, in alphabetical order."""
        return sorted(path.parent.name for path in (self.path / "networks").glob("*/result.json"))

    def finished_networks(self) -> list[Result]:
        """All networks that are finished and can be read, smallest first."""
        found = [result for name in self.finished_ids() if (result := self.result(name)) is not None]
        return sorted(found, key=lambda result: (result.params, result.macs, result.id))

    def keep(self, result: Result) -> None:
        """Mark a network as finished: fine-tuned, tested and exported."""
        write_json(self.network(result.id) / "result.json", asdict(result))

    def add_seconds(self, stage: str, seconds: float) -> None:
        """Add to the time that a stage has taken, excluding interruptions."""
        known = self.seconds()
        write_json(self._seconds, known | {stage: round(known.get(stage, 0.0) + seconds, 3)})

    def seconds(self) -> dict[str, float]:
        """Time by stage."""
        try:
            return {str(name): float(value) for name, value in json.loads(self._seconds.read_text()).items()}
        except (OSError, ValueError, AttributeError, TypeError):  # lost times are no reason to stop
            return {}

    @property
    def _seconds(self) -> Path:
        return self.path / "seconds.json"

    @property
    def finished(self) -> bool:
        """Whether the run is complete."""
        return (self.path / "results.json").exists()

    def finish(self, results: Sequence[Result]) -> None:
        """Mark the run as finished and remove the resume points."""
        write_json(self.path / "results.json", [result.id for result in results])
        shutil.rmtree(self.state, ignore_errors=True)

    def returned(self) -> list[str]:
        """Ids of the networks of a finished run, smallest first.

        Raises:
            OSError, ValueError, TypeError: the list of them cannot be read.
        """
        return [str(identity) for identity in json.loads((self.path / "results.json").read_text(encoding="utf-8"))]

    def results(self) -> list[Result]:
        """The networks of a finished run.

        Raises:
            CheckpointError: something that the run had written is missing or damaged.
        """
        try:
            identities = self.returned()
        except (OSError, ValueError, TypeError) as error:
            raise damaged(self.path, error) from error
        results = [self.result(identity) for identity in identities]
        files = [self.network(identity) / name for identity in identities for name in NETWORK_FILES]
        missing = [str(file.relative_to(self.path)) for file in (self.page, self.pareto, *files) if not file.exists()]
        found = [result for result in results if result is not None]
        if missing or not found or len(found) < len(results):
            raise CheckpointError(
                f"{self.path} holds a finished run that is no longer whole ({', '.join(missing[:5]) or 'results'} "
                "missing); begin again with --fresh"
            )
        return found


# The place of the images does not matter as long as their fingerprint is the same; the number of processes changes
# results by rounding only, with joint batch statistics, and is what a user has at the moment.
_FREE = (
    "data", "skip_bad_images", "memory", "cache", "devices", "processes_per_gpu", "process_timeout", "accelerator",
    "cuda_graphs", "checkpoint_seconds", "tensorboard",
)  # fmt: skip
_STAGES = (
    (
        ("objectives", "budget", "device", "target", "search", "adapt", "latency_batch", "latency_threads"),
        ("archive.db",),
    ),
    (("networks", "finetune", "int8", "pt2"), ("networks/*", "state/finetune-*")),
)
"""Settings that are not read before a stage begins, and files that exist once it has begun."""
NETWORK_FILES = (
    "model.onnx",
    "model.safetensors",
    "arch.json",
    "preprocessing.json",
    "result.json",
)
_CLEARING, _FRESH = ".clearing", ".fresh"
_OWN = {
    ".lock", _CLEARING, _FRESH, "archive.db", "archive.db-shm", "archive.db-wal", "config.yaml", "data.json",
    "environment.json", "latency.csv", "log.csv", "networks", "pareto.csv", "pareto.png", "plan.json", "report.html",
    "results.json", "seconds.json", "splits.csv", "state", "tensorboard",
}  # fmt: skip


def fingerprint_of(path: Path) -> str:
    """The fingerprint of a run's images.

    Raises:
        CheckpointError: the run's description of them is damaged.
    """
    try:
        return str(json.loads((path / "data.json").read_text(encoding="utf-8"))["fingerprint"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise damaged(path, error) from error


def no_run(path: Path) -> str:
    """Why a path is no run folder, and what to name instead."""
    if not path.exists():
        return f"{path} is not a run folder, because it does not exist; name one like runs/photos"
    if not path.is_dir():
        return f"{path} is not a run folder, but a file; name one like runs/photos"
    run = path.parent.parent
    if (path / "arch.json").is_file() and (run / "config.yaml").is_file():
        return f"{path} is not a run folder, but the network {path.name} of one; name the run, {run}"
    inside = sorted(str(each.parent) for each in path.glob("*/config.yaml"))
    if inside:
        return f"{path} is not a run folder, but holds {', '.join(inside[:10])}; name one of them"
    return f"{path} is not a run folder (it has no config.yaml); name one like runs/photos"


def damaged(path: Path, error: Exception) -> CheckpointError:
    """The error for a run folder whose files are damaged."""
    return CheckpointError(f"{path} holds a damaged run ({type(error).__name__}); begin again with --fresh")


def check_place(path: Path) -> None:
    """Refuse paths that cannot be a run folder's, before anything looks there.

    Raises:
        RunError: the path is too long, goes through a file, holds a NUL, or is not UTF-8, which the libraries need.
    """
    try:
        str(path.absolute()).encode()
        path.stat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise write_error(path, error) from error
    except ValueError as error:
        raise RunError(f"--out must be a path in UTF-8 without NUL; got {str(path)!r}") from error


def was_cleared(path: Path, fresh: str) -> bool:
    """Whether a folder was cleared for this command before."""
    try:
        return (path / _FRESH).read_text() == fresh
    except OSError:
        return False


def _is_own(name: str) -> bool:
    return name in _OWN or (name.startswith("supernet-w") and name.endswith(".safetensors"))
