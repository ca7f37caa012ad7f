"""All evaluations of a search, in SQLite: they survive a kill at any moment, and a search continues from them."""

from __future__ import annotations

import json
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Generic, Literal, NamedTuple

from nat2.errors import ArchError, CheckpointError, RunError
from nat2.nas.generation import Generation, GenerationFacts
from nat2.space.arch import Arch
from nat2.space.searchable import A

SCHEMA_VERSION = 2
_NEXT_ID = "(1 + max(coalesce((SELECT max(id) FROM evaluations), 0), coalesce((SELECT max(id) FROM pending), 0)))"
_IN_A_RUN = "begin again with --fresh"
Origin = Literal["initial", "candidate", "re-evaluation", "given"]
"""Why a network was evaluated; the result of a ``given`` one was reported without having been asked for."""
_FIXED_COLUMNS = 9  # of the evaluations, before those of what is measured

_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE evaluations (
    id INTEGER PRIMARY KEY,
    arch TEXT NOT NULL,           -- the architecture's key, e.g. r64-w1.0-k3e4.k5e6-k7e3.k3e3
    weights INTEGER NOT NULL,     -- version of the super-network: 0 before the first adaptation
    generation INTEGER NOT NULL,  -- 0 for the initial archive
    origin TEXT NOT NULL,         -- initial, candidate, re-evaluation or given
    share REAL NOT NULL,          -- part of the validation images that it was evaluated on
    seconds REAL NOT NULL,
    seed INTEGER NOT NULL,        -- of the search
    failure TEXT NOT NULL,        -- empty, or why there are no values
    {columns},                    -- what was measured; nothing if it failed
    UNIQUE (arch, weights, share)
);
CREATE TABLE generations (
    generation INTEGER PRIMARY KEY,
    members TEXT NOT NULL,        -- JSON list of the archive's architectures behind the generation
    hypervolume REAL NOT NULL,    -- of those within the budget, as a share of the box below the initial archive's worst
    facts TEXT NOT NULL           -- JSON: predictor quality on the new candidates, counts, seconds by part
);
"""
_PENDING = """
CREATE TABLE IF NOT EXISTS pending (  -- out for evaluation
    id INTEGER PRIMARY KEY,       -- of the evaluation that is to come
    arch TEXT NOT NULL UNIQUE,
    generation INTEGER NOT NULL,
    origin TEXT NOT NULL
);
"""  # archives of earlier releases lack it


@dataclass(frozen=True)
class Evaluation(Generic[A]):
    """What was measured of one architecture with one version of the weights."""

    arch: A
    values: Mapping[str, float]
    """By name of the objective, e.g. ``error``, ``params``; empty if it failed."""
    failure: str = ""
    """Why there are no values."""

    def __getitem__(self, name: str) -> float:
        return self.values[name]


class Pending(NamedTuple, Generic[A]):
    """An architecture that is out for evaluation."""

    arch: A
    generation: int
    """In which it was handed out."""
    origin: Origin


class EvaluationRecord(NamedTuple):
    """The circumstances of an evaluation."""

    weights: int
    generation: int
    origin: Origin
    share: float
    seconds: float
    seed: int


class Archive(Generic[A]):
    """The evaluations of a search; each is on disk when `add` returns, and other processes may read meanwhile.

    A context manager.
    """

    def __init__(
        self,
        path: Path | None,
        columns: Sequence[str] = ("error", "params", "macs", "memory"),
        *,
        key: Callable[[A], str] = str,
        parse: Callable[[str], A] = Arch.from_key,  # type: ignore[assignment]
        restart: str = "delete it, or name another file",
    ) -> None:
        """Open the file, or create it.

        Args:
            path: The file; None for one in memory.
            columns: Names of what is measured.
            key: An architecture as a string.
            parse: The architecture of such a string.
            restart: How to begin again, for messages.

        Raises:
            CheckpointError: the file is not an archive, is damaged, holds other measurements, or another release wrote
                it.
            RunError: the file cannot be created.
        """
        self.path = path
        self._columns, self._key, self._parse, self.restart = tuple(columns), key, parse, restart
        if path is not None and (path.is_dir() or not path.parent.is_dir()):
            raise RunError(f"the archive {path} cannot be used: it must be a file in a folder that exists")
        with self._sqlite_errors():
            self._database = sqlite3.connect(path or ":memory:", isolation_level=None, timeout=60)
            trouble = self._database.execute("PRAGMA integrity_check(1)").fetchone()[0]
            if trouble != "ok":
                raise sqlite3.DatabaseError(trouble)
            tables = {name for (name,) in self._database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if tables and "meta" not in tables:
                raise CheckpointError(f"{path} is a database, but not an archive; name another file")
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("PRAGMA synchronous=FULL")
            if not self._database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                meta = f"('schema_version', '{SCHEMA_VERSION}'), ('written_by', 'nat2 {_release()}')"
                # Columns without a declared type keep integers as integers.
                schema = _SCHEMA.format(columns=", ".join(f'"{name}"' for name in self._columns))
                self._database.executescript(f"BEGIN; {schema} INSERT INTO meta VALUES {meta}; COMMIT;")
        self._check_version()
        with self._sqlite_errors():
            self._database.execute(_PENDING)
            there = [row[1] for row in self._database.execute("PRAGMA table_info(evaluations)")][_FIXED_COLUMNS:]
        if there != list(self._columns):
            raise CheckpointError(
                f"{path} holds measurements of {', '.join(there)}, not of {', '.join(self._columns)}; continue with "
                f"the same objectives, or {restart}"
            )

    def _check_version(self) -> None:
        version = self.noted("schema_version")
        if version != str(SCHEMA_VERSION):
            raise CheckpointError(
                f"{self.path} has schema version {version}, written by {self.noted('written_by')}; nat2 {_release()} "
                f"reads version {SCHEMA_VERSION}: use the release that wrote it, or {self.restart}"
            )

    def __enter__(self) -> Archive[A]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def content(self) -> bytes:
        """The whole archive, for `copy`."""
        with self._sqlite_errors():
            return self._database.serialize()

    @staticmethod
    def copy(content: bytes, columns: Sequence[str]) -> Archive[Arch]:
        """An archive in memory with the content of another."""
        archive: Archive[Arch] = Archive(None, columns, restart=_IN_A_RUN)
        archive._database.deserialize(_without_log(content))
        return archive

    @staticmethod
    def snapshot(path: Path) -> Archive[Arch]:
        """A copy in memory of an archive that another process may be writing, in a folder that may be read-only.

        Raises:
            CheckpointError: the file is not an archive, is damaged, or another release wrote it.
            RunError: it cannot be read.
        """
        archive: Archive[Arch] = Archive(None, restart=_IN_A_RUN)
        archive.path = path
        with archive._sqlite_errors():
            try:
                content = _content(path)
            except OSError as error:
                raise RunError(f"the archive {path} cannot be read ({error.strerror or error})") from error
            archive._database.deserialize(_without_log(content))
            columns = [row[1] for row in archive._database.execute("PRAGMA table_info(evaluations)")]
        if not columns:
            raise CheckpointError(f"{path} is not an archive; name the folder of a run")
        archive._check_version()
        archive._columns = tuple(columns[_FIXED_COLUMNS:])
        return archive

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of what is measured."""
        return self._columns

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def note(self, key: str, value: str) -> None:
        """Store a fact about the run."""
        with self._sqlite_errors():
            self._database.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def noted(self, key: str) -> str | None:
        """A fact stored by `note`, or None."""
        with self._sqlite_errors():
            row = self._database.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def add(self, evaluation: Evaluation[A], row: EvaluationRecord) -> None:
        """Commit one evaluation, see `add_all`."""
        self.add_all([(evaluation, row)])

    def add_all(self, made: Sequence[tuple[Evaluation[A], EvaluationRecord]]) -> None:
        """Commit evaluations in one transaction; their architectures are no longer pending.

        An architecture that was handed out keeps the place in the order that it got then, so that the order in which
        results arrive decides nothing.
        """
        names = ", ".join(("arch", *EvaluationRecord._fields, "failure", *(f'"{name}"' for name in self._columns)))
        marks = ", ".join("?" * (len(EvaluationRecord._fields) + len(self._columns) + 2))
        with self._sqlite_errors():
            self._database.execute("BEGIN IMMEDIATE")
            try:
                for evaluation, row in made:
                    key = self._key(evaluation.arch)
                    measured = (evaluation.values.get(name) for name in self._columns)
                    self._database.execute(
                        f"INSERT INTO evaluations (id, {names}) VALUES "
                        f"(coalesce((SELECT id FROM pending WHERE arch = ?), {_NEXT_ID}), {marks})",
                        (key, key, *row, evaluation.failure, *measured),
                    )
                    self._database.execute("DELETE FROM pending WHERE arch = ?", (key,))
                self._database.execute("COMMIT")
            except BaseException:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise

    def hand_out(self, arch: A, generation: int, origin: Origin) -> None:
        """Remember that an architecture is out for evaluation."""
        with self._sqlite_errors():
            self._database.execute(
                f"INSERT INTO pending (id, arch, generation, origin) VALUES ({_NEXT_ID}, ?, ?, ?)",
                (self._key(arch), generation, origin),
            )

    def pending(self) -> list[Pending[A]]:
        """What is out for evaluation, in the order that it was handed out."""
        with self._sqlite_errors():
            rows = self._database.execute("SELECT arch, generation, origin FROM pending ORDER BY id").fetchall()
            return [Pending(self._parse(arch), generation, origin) for arch, generation, origin in rows]

    def seen(self, weights: int) -> set[str]:
        """Keys of the architectures that need no evaluation with a version of the weights: those that have one, those
        that ever failed, and those that are out for one.
        """
        with self._sqlite_errors():
            rows = self._database.execute(
                "SELECT arch FROM evaluations WHERE (weights = ? AND share = 1) OR failure != '' "
                "UNION SELECT arch FROM pending",
                (weights,),
            ).fetchall()
        return {key for (key,) in rows}

    def of_generation(self, number: int, *, weights: int, origin: Origin | None = None) -> list[Evaluation[A]]:
        """The evaluations of a generation on all images with a version of the weights, in order; of one origin only if
        it is given.
        """
        with self._sqlite_errors():
            rows = self._database.execute(
                f"SELECT arch, failure, {self._names} FROM evaluations "
                "WHERE generation = ? AND weights = ? AND share = 1 AND coalesce(?, origin) = origin ORDER BY id",
                (number, weights, origin),
            ).fetchall()
            return [self._evaluation(self._parse(row[0]), row[1], row[2:]) for row in rows]

    def find(self, arch: A, *, weights: int, share: float = 1.0) -> Evaluation[A] | None:
        """The evaluation of an architecture with a version of the weights, or None."""
        with self._sqlite_errors():
            row = self._database.execute(
                f"SELECT failure, {self._names} FROM evaluations WHERE arch = ? AND weights = ? AND share = ?",
                (self._key(arch), weights, share),
            ).fetchone()
            return None if row is None else self._evaluation(arch, row[0], row[1:])

    def count(self) -> int:
        """How many evaluations there are, failed ones among them."""
        with self._sqlite_errors():
            return int(self._database.execute("SELECT count(*) FROM evaluations").fetchone()[0])

    def find_value(self, arch: A, name: str) -> float | None:
        """The value measured for an architecture with any version of the weights, or None."""
        with self._sqlite_errors():
            row = self._database.execute(
                f'SELECT "{name}" FROM evaluations WHERE arch = ? AND "{name}" IS NOT NULL ORDER BY id LIMIT 1',
                (self._key(arch),),
            ).fetchone()
        return None if row is None else float(row[0])

    def known(self, weights: int) -> list[Evaluation[A]]:
        """Every evaluation on all images with a version of the weights that did not fail, in order."""
        with self._sqlite_errors():
            rows = self._database.execute(
                f"SELECT arch, failure, {self._names} FROM evaluations "
                "WHERE weights = ? AND share = 1 AND failure = '' ORDER BY id",
                (weights,),
            ).fetchall()
            return [self._evaluation(self._parse(row[0]), row[1], row[2:]) for row in rows]

    def failed(self, arch: A) -> bool:
        """Whether an evaluation of an architecture failed, with any weights."""
        with self._sqlite_errors():
            found = self._database.execute(
                "SELECT 1 FROM evaluations WHERE arch = ? AND failure != '' LIMIT 1", (self._key(arch),)
            ).fetchone()
        return found is not None

    def forget_failures(self, archs: Iterable[A]) -> None:
        """Delete the failed evaluations of some architectures, so that they are repeated."""
        with self._sqlite_errors():
            self._database.executemany(
                "DELETE FROM evaluations WHERE arch = ? AND failure != ''", [(self._key(arch),) for arch in archs]
            )

    def evaluations(self) -> list[tuple[Evaluation[A], EvaluationRecord]]:
        """All evaluations in the order they were made."""
        with self._sqlite_errors():
            fields = EvaluationRecord._fields
            rows = self._database.execute(
                f"SELECT {', '.join(fields)}, arch, failure, {self._names} FROM evaluations ORDER BY id"
            ).fetchall()
            n = len(fields)
            made = [self._evaluation(self._parse(row[n]), row[n + 1], row[n + 2 :]) for row in rows]
            return [(each, EvaluationRecord(*row[:n])) for each, row in zip(made, rows, strict=True)]

    @property
    def _names(self) -> str:
        return ", ".join(f'"{name}"' for name in self._columns)

    def _evaluation(self, arch: A, failure: str, values: Sequence[float]) -> Evaluation[A]:
        if not failure and not all(isinstance(value, int | float) for value in values):
            raise ValueError(f"the measurements of {arch} are not numbers")
        return Evaluation(arch, {} if failure else dict(zip(self._columns, values, strict=True)), failure)

    def close_generation(self, generation: Generation[A]) -> None:
        """Commit the archive after a generation; the search continues from the last one."""
        members = json.dumps([self._key(arch) for arch in generation.members])
        with self._sqlite_errors():
            self._database.execute(
                "INSERT INTO generations VALUES (?, ?, ?, ?)",
                (generation.number, members, generation.hypervolume, generation.facts.to_json()),
            )

    def generations(self) -> list[Generation[A]]:
        """All finished generations in order; number 0 is the initial archive."""
        with self._sqlite_errors():
            rows = self._database.execute("SELECT * FROM generations ORDER BY generation").fetchall()
            return [
                Generation(
                    number,
                    tuple(self._parse(key) for key in json.loads(members)),
                    volume,
                    GenerationFacts.from_json(facts),
                )
                for number, members, volume, facts in rows
            ]

    @contextmanager
    def _sqlite_errors(self) -> Iterator[None]:
        """Translate SQLite's errors into ours."""
        try:
            yield
        except sqlite3.OperationalError as error:
            raise RunError(
                f"the archive {self.path} cannot be used ({error}); what was measured so far is kept. Free some space "
                "on the disk, or close what locks the file, and start the search again to continue it"
            ) from error
        except sqlite3.IntegrityError as error:
            raise RunError(
                f"another search is writing to {self.path}; wait for it, stop it, or name another archive"
            ) from error
        except (sqlite3.DatabaseError, ArchError, ValueError, TypeError) as error:  # of the file, or of what is in it
            raise CheckpointError(f"{self.path} is not an archive or is damaged ({error}); {self.restart}") from error


def _content(path: Path) -> bytes:
    """The database as it is now; nothing is written next to it unless another process has it open."""
    if not path.with_name(f"{path.name}-wal").exists():  # nobody writes: SQLite deletes the log on closing
        return path.read_bytes()
    try:
        return _serialized(f"{path.absolute().as_uri()}?mode=ro")
    except sqlite3.OperationalError:  # a log whose index cannot be made here: a killed run on a read-only disk
        with tempfile.TemporaryDirectory() as folder:
            for suffix in ("", "-wal"):
                shutil.copy(f"{path}{suffix}", Path(folder, f"copy{suffix}"))
            return _serialized(Path(folder, "copy").as_uri())


def _serialized(uri: str) -> bytes:
    with closing(sqlite3.connect(uri, uri=True, timeout=60)) as database:
        return database.serialize()


def _without_log(content: bytes) -> bytes:
    """Clear the two header bytes that declare a write-ahead log, which a database in memory cannot have."""
    return content[:18] + b"\x01\x01" + content[20:]


def _release() -> str:
    from nat2 import __version__

    return __version__
