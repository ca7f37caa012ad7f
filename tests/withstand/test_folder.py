"""Archives, resume points and other files of a run that are cut short, changed by a bit, or gone."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from nat2.errors import Nat2Error
from nat2.nas.archive import Archive, Evaluation, EvaluationRecord
from nat2.space import Arch
from tests.withstand.attack import RecordProperty, flipped
from tests.withstand.conftest import assert_same
from tests.zygote import Ended, Zygote

COLUMNS = ("error", "params", "macs", "memory")
HALFWAY = (1.2, 2.2, 3.2)  # seconds behind which a small run is killed


def held(path: Path) -> list[tuple[Evaluation[Arch], EvaluationRecord]] | None:
    """What an archive holds; None if it is refused."""
    try:
        with Archive[Arch](path, COLUMNS) as archive:
            found = archive.evaluations()
            archive.generations()
            return found
    except Nat2Error:
        return None


@pytest.fixture(scope="module")
def log(reference: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive as a kill leaves it: most of it in the write-ahead log."""
    root = tmp_path_factory.mktemp("log")
    with (
        Archive[Arch](reference / "archive.db", COLUMNS) as source,
        Archive[Arch](root / "archive.db", COLUMNS) as copy,
    ):
        for evaluation, row in source.evaluations():
            copy.add(evaluation, row)
        left = root / "left"
        left.mkdir()
        for file in root.glob("archive.db*"):
            shutil.copy(file, left)
    return left


def damaged(source: Path, name: str, content: bytes, scratch: Path) -> Path:
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    for file in source.glob("archive.db*"):
        shutil.copy(file, scratch)
    (scratch / name).write_bytes(content)
    return scratch / "archive.db"


def test_archives_that_are_cut_off(reference: Path, log: Path, tmp_path: Path, record_property: RecordProperty) -> None:
    """With the log cut anywhere the evaluations before are there; a cut file is refused, or whole."""
    cases = 0
    whole = held(damaged(log, "archive.db-shm", b"", tmp_path / "a"))
    assert whole == held(reference / "archive.db")
    assert whole
    for source, name in ((log, "archive.db-wal"), (reference, "archive.db"), (log, "archive.db")):
        content = (source / name).read_bytes()
        for share in (0.0001, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.999):
            found = held(damaged(source, name, content[: int(share * len(content))], tmp_path / "a"))
            assert found is None or found == whole[: len(found)]
            cases += 1
    record_property("cases", cases)


def test_archives_with_changed_bits(
    reference: Path, log: Path, tmp_path: Path, record_property: RecordProperty
) -> None:
    """The log is protected by sums. Of the file, a bit that SQLite or the schema can notice is refused.

    One inside a number changes that number alone: nothing is lost, and nothing else is believed.
    """
    lot, cases = random.Random(6), 0
    whole = held(reference / "archive.db")
    assert whole
    content = (log / "archive.db-wal").read_bytes()
    for _ in range(60):
        bits = flipped(content, iter([lot.randrange(len(content))]), iter([lot.randrange(8)]))
        found = held(damaged(log, "archive.db-wal", bits, tmp_path / "a"))
        assert found is None or found == whole[: len(found)]
    content = (reference / "archive.db").read_bytes()
    for number in range(140):
        place = lot.randrange(100 if number < 40 else len(content))
        found = held(damaged(reference, "archive.db", flipped(content, iter([place]), iter([number])), tmp_path / "a"))
        assert found is None or len(found) == len(whole)
        assert found is None or sum(one != other for one, other in zip(found, whole, strict=True)) <= 1
        cases += 1
    record_property("cases", 60 + cases)


@pytest.mark.slow
@pytest.mark.parametrize("moment", HALFWAY)
def test_any_damaged_file_of_a_run(
    small: list[str],
    moment: float,
    pace: float,
    zygote: Zygote,
    tmp_path: Path,
    record_property: RecordProperty,
) -> None:
    """Cut in half, emptied, or full of rubbish: told with what to do, or made good, and the run goes on."""
    root, lot, cases = tmp_path / "killed", random.Random(7), 0
    assert zygote.run(*small, "--out", str(root), kill_after=moment * pace).code == -9
    files = sorted(path.relative_to(root) for path in root.rglob("*") if path.is_file() and path.name != ".lock")
    for name in files:
        out = tmp_path / "run"
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(root, out)
        content = (out / name).read_bytes()
        ways = (content[: len(content) // 2], b"", bytes(lot.randrange(256) for _ in range(500)))
        (out / name).write_bytes(ways[cases % len(ways)])
        ended = zygote.run(*small, "--out", str(out), kill_after=2.0 * pace)
        check(ended, name)
        cases += 1
    record_property("cases", cases)


def check(ended: Ended, name: Path) -> None:
    assert ended.code in (0, 2, -9), (name, ended)
    assert "Traceback" not in ended.errors, (name, ended)
    if ended.code == 2:
        assert "--fresh" in ended.errors, (name, ended)


@pytest.mark.slow
def test_the_resume_point_before_takes_its_place(
    small: list[str], reference: Path, pace: float, zygote: Zygote, tmp_path: Path
) -> None:
    """A damaged resume point costs time, and nothing else."""
    out = tmp_path / "run"
    damaged: list[Path] = []
    for number in range(9):
        assert zygote.run(*small, "--out", str(out), kill_after=pace * (1 + number / 4)).code == -9
        points = out.glob("state/*.safetensors")
        damaged = [path for path in points if path.with_stem(f"{path.stem}-previous").exists()]
        if damaged:
            break
    assert damaged
    for path in damaged:
        path.write_bytes(path.read_bytes()[:1000])
    ended = zygote.run(*small, "--out", str(out))
    assert ended.code == 0, ended.errors
    assert "the checkpoint before it" in ended.output
    assert_same(out, reference)


@pytest.mark.parametrize("name", ["archive.db", "config.yaml", "results.json", "networks"])
def test_a_file_that_became_a_folder(
    name: str, small: list[str], reference: Path, zygote: Zygote, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(reference, tmp_path / "run"))
    if (out / name).is_dir():
        shutil.rmtree(out / name)
        (out / name).write_text("no folder")
    else:
        (out / name).unlink()
        (out / name).mkdir()
    ended = zygote.run(*small, "--out", str(out))
    assert ended.code in (0, 2), ended
    assert "Traceback" not in ended.errors
