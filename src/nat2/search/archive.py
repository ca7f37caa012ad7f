"""Every evaluation ever made, in SQLite: survives a kill at any moment and is where a run continues."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from nat2.errors import CheckpointError, RunError
from nat2.space.arch import Arch

SCHEMA_VERSION = 1
Origin = Literal["initial", "candidate", "re-evaluation"]

_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE evaluations (
    id INTEGER PRIMARY KEY,
    arch TEXT NOT NULL,           -- the architecture's key, e.g. r64-w1.0-k3e4.k5e6-k7e3.k3e3
    weights INTEGER NOT NULL,     -- version of the super-network: 0 before the first adaptation
    generation INTEGER NOT NULL,  -- 0 for the initial archive
    origin TEXT NOT NULL,         -- initial, candidate or re-evaluation
    error REAL NOT NULL,          -- share of validation images that are misclassified
    params INTEGER NOT NULL,
    macs INTEGER NOT NULL,
    seconds REAL NOT NULL,
    UNIQUE (arch, weights)
);
CREATE TABLE generations (
    generation INTEGER PRIMARY KEY,
    members TEXT NOT NULL,        -- JSON list of the archive's architectures behind the generation
    hypervolume REAL NOT NULL,    -- share of the box below the initial archive's worst values
    facts TEXT NOT NULL           -- JSON: predictor quality on the new candidates, counts, seconds by part
);
"""


@dataclass(frozen=True)
class Evaluation:
    """What was measured of one architecture with one version of the weights."""

    arch: Arch
    error: float
    """Share of validation images that are misclassified, 0..1."""
    params: int
    macs: int

    def values(self, names: Sequence[str]) -> list[float]:
        """The named objectives."""
        return [float(getattr(self, name)) for name in names]


@dataclass(frozen=True)
class Generation:
    """The archive behind a generation, and what the generation was like."""

    number: int
    members: tuple[Arch, ...]
    hypervolume: float
    facts: Mapping[str, Any]

    def told(self, last: int) -> str:
        """A line about it; `last` is the number of the last generation."""
        line = f"generation {self.number} of {last}, hypervolume {self.hypervolume:.4f}"
        if self.facts.get("rmse") is not None:
            tau = "-" if self.facts["tau"] is None else f"{self.facts['tau']:.2f}"
            line += f", {self.facts['candidates']} new networks predicted with tau {tau}, RMSE {self.facts['rmse']:.4f}"
        return line

    def row(self) -> dict[str, object]:
        """A row of ``log.csv``."""
        row: dict[str, object] = {"generation": self.number, "hypervolume": self.hypervolume}
        row |= {"archive": len(self.members), "evaluations": self.facts["evaluations"]}
        row |= {name: self.facts.get(name) for name in ("candidates", "tau", "rho", "rmse")}
        return row | {
            name: round(self.facts.get(name, 0.0), 3) for name in ("search_seconds", "adapt_seconds", "seconds")
        }


class Archive:
    """The evaluations of a run; each is on disk when `add` returns. A context manager."""

    def __init__(self, path: Path) -> None:
        """Open the file, or create it.

        Raises:
            CheckpointError: the file is not an archive, is damaged, or another release wrote it.
            RunError: the file cannot be created.
        """
        self.path = path
        with self._told():
            self._database = sqlite3.connect(path, isolation_level=None, timeout=60)
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("PRAGMA synchronous=FULL")
            if not self._database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                meta = f"('schema_version', '{SCHEMA_VERSION}'), ('written_by', 'nat2 {_release()}')"
                self._database.executescript(f"BEGIN; {_SCHEMA} INSERT INTO meta VALUES {meta}; COMMIT;")
            version = self.noted("schema_version")
        if version != str(SCHEMA_VERSION):
            raise CheckpointError(
                f"{path} has schema version {version}, written by {self.noted('written_by')}; nat2 {_release()} reads "
                f"version {SCHEMA_VERSION}: use the release that wrote it, or begin again with --fresh"
            )

    def __enter__(self) -> Archive:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def content(self) -> bytes:
        """The whole archive, for `copy`."""
        with self._told():
            return self._database.serialize()

    @staticmethod
    def copy(content: bytes) -> Archive:
        """An archive in memory with the content of another."""
        archive = Archive(Path(":memory:"))
        archive._database.deserialize(_without_log(content))
        return archive

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def note(self, key: str, value: str) -> None:
        """Keep a fact about the run."""
        with self._told():
            self._database.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def noted(self, key: str) -> str | None:
        """A fact kept by `note`."""
        with self._told():
            row = self._database.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def add(self, evaluation: Evaluation, *, weights: int, generation: int, origin: Origin, seconds: float) -> None:
        """Commit one evaluation."""
        with self._told():
            self._database.execute(
                "INSERT INTO evaluations (arch, weights, generation, origin, error, params, macs, seconds) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    evaluation.arch.key,
                    weights,
                    generation,
                    origin,
                    evaluation.error,
                    evaluation.params,
                    evaluation.macs,
                    seconds,
                ),
            )

    def find(self, arch: Arch, *, weights: int) -> Evaluation | None:
        """The evaluation of an architecture with a version of the weights, if it was made."""
        with self._told():
            row = self._database.execute(
                "SELECT error, params, macs FROM evaluations WHERE arch = ? AND weights = ?",
                (arch.key, weights),
            ).fetchone()
        return None if row is None else Evaluation(arch, *row)

    def evaluations(self) -> list[tuple[Evaluation, int]]:
        """Every evaluation with its version of the weights, in the order they were made."""
        with self._told():
            rows = self._database.execute(
                "SELECT arch, error, params, macs, weights FROM evaluations ORDER BY id"
            ).fetchall()
        return [(Evaluation(Arch.from_key(row[0]), *row[1:4]), row[4]) for row in rows]

    def close_generation(self, generation: Generation) -> None:
        """Commit the archive behind a generation; the search continues from the last one."""
        members = json.dumps([arch.key for arch in generation.members])
        with self._told():
            self._database.execute(
                "INSERT INTO generations VALUES (?, ?, ?, ?)",
                (generation.number, members, generation.hypervolume, json.dumps(dict(generation.facts))),
            )

    def generations(self) -> list[Generation]:
        """All finished generations in order; number 0 is the initial archive."""
        with self._told():
            rows = self._database.execute("SELECT * FROM generations ORDER BY generation").fetchall()
        return [
            Generation(number, tuple(Arch.from_key(key) for key in json.loads(members)), volume, json.loads(facts))
            for number, members, volume, facts in rows
        ]

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Turn SQLite's errors into ours."""
        try:
            yield
        except sqlite3.OperationalError as error:
            raise RunError(
                f"the archive {self.path} cannot be used ({error}); what was measured so far is kept. Free some space "
                "on the disk, or close what locks the file, and give the same command again to continue"
            ) from error
        except sqlite3.DatabaseError as error:
            raise CheckpointError(
                f"{self.path} is not an archive or is damaged ({error}); begin again with --fresh"
            ) from error


def _without_log(content: bytes) -> bytes:
    """Of a database with a write-ahead log, which memory cannot have: the format's two bytes that say so, changed."""
    return content[:18] + b"\x01\x01" + content[20:]


def _release() -> str:
    from nat2 import __version__

    return __version__
