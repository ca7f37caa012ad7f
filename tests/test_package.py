"""What is shipped: archives that hold the whole package and work where nothing of the repository is."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email import message_from_string
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
FILES = {
    path.relative_to(ROOT / "src").as_posix()
    for path in (ROOT / "src" / "nat2").rglob("*")
    if path.is_file() and path.suffix != ".pyc"
}


def test_the_citation_names_the_version_and_the_licence() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (citation["title"], citation["version"]) == (PROJECT["name"], PROJECT["version"])
    assert citation["license"] == PROJECT["license"]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source archive of the repository, and a wheel of what is in that archive."""
    out = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "build", "--outdir", str(out), str(ROOT)], check=True)
    return out


@pytest.mark.slow
def test_the_wheel_holds_every_file_of_the_package_and_no_others(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        described = message_from_string(archive.read(metadata).decode())
    assert {"nat2/py.typed", "nat2/reports/web/report.js"} <= FILES
    assert {name for name in names if ".dist-info/" not in name} == FILES
    assert (described["Name"], described["Version"]) == (PROJECT["name"], PROJECT["version"])
    assert len(described.get_all("Project-URL", [])) == len(PROJECT["urls"])


@pytest.mark.slow
def test_the_source_archive_holds_what_a_build_needs(built: Path) -> None:
    (source,) = built.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {f"src/{name}" for name in FILES} | {"pyproject.toml", "README.md", "LICENSE"} <= names


@pytest.mark.slow
def test_the_demo_runs_from_the_wheel_in_a_fresh_environment(built: Path, tmp_path: Path) -> None:
    """With nothing installed but the wheel and what it declares to need."""
    (wheel,) = built.glob("*.whl")
    python = tmp_path / "env" / "bin" / "python"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    for command in (
        [sys.executable, "-m", "venv", str(tmp_path / "env")],
        [str(python), "-m", "pip", "install", "--quiet", "-c", str(ROOT / "constraints.txt"), str(wheel)],
        [str(python), "-m", "pip", "check"],
        [str(python.with_name("nat2")), "run", "--quiet"],
    ):
        subprocess.run(command, check=True, cwd=tmp_path, env=environment)
    run = tmp_path / "runs" / "digits"
    with (run / "pareto.csv").open(newline="") as file:
        (best, *_) = sorted(csv.DictReader(file), key=lambda row: -float(row["test_accuracy"]))
    assert float(best["test_accuracy"]) > 0.9
    assert (run / "networks" / best["id"] / "model.onnx").exists()
    page = (run / "report.html").read_text(encoding="utf-8")
    assert (ROOT / "src" / "nat2" / "reports" / "web" / "report.js").read_text(encoding="utf-8")[:60] in page
