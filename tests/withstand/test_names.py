"""Names that hold anything but a slash."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny import write_corners
from tests.withstand.attack import answer, refused
from tests.zygote import Zygote

NAMES = (
    " ", " a ", "-", "--", "--data", "-rf", "'", '"', "it's", "$(touch exploded)", "`touch exploded`", "a;b", "a&&b",
    "a|b", "*", "?", "[red]", "[bold", "[link=x]", "\\", "\\n", "a\nb", "\n", "\t", "\r", "\x1b[31m", "\x07", "\x7f",
    "ünï", "u\N{COMBINING DIAERESIS}", "雪☃", "\N{RIGHT-TO-LEFT OVERRIDE}abc", "\N{ZERO WIDTH SPACE}", "🦊",
    "\udcff\udcfe", "a,b", "a:b", "a=b", "%s%n", "{}", "{0}", "<b>", "<script>", "&amp;", "<!--TITLE-->", "a.png",
    "null", "true", "1", "NaN", "CON", "~", "a" * 200, "#", "!!set", "digits", "nul.tar.gz",
)  # fmt: skip
ODD = '-- it\'s [bold] a "süß" <b>☃,\n$(touch exploded)\t\x1b[31m&\udcff'


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corners(tmp_path_factory.mktemp("plain") / "images", 4)


@pytest.fixture(scope="module")
def network(reference: Path) -> Path:
    return next((reference / "networks").iterdir())


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_an_image_may_have_any_name(
    name: str, images: Path, network: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is classified, and named with what cannot be shown escaped."""
    shutil.copy(next(images.rglob("*.png")), tmp_path / name)
    given = answer(capsys, "predict", str(network), str(tmp_path / name))
    assert given.code == 0, given
    assert given.errors == ""
    assert " %" in given.output


@pytest.mark.parametrize("name", NAMES[::3], ids=range(0, len(NAMES), 3))
def test_what_is_missing_is_named_whatever_its_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    refused(capsys, "run", f"--data={tmp_path / 'images' / name}", "--out", str(tmp_path / "out"))
    refused(capsys, "predict", "--", name, "x.png")
    assert {path.name for path in tmp_path.iterdir()} == {"images"}


def test_a_run_where_everything_has_an_odd_name(zygote: Zygote, small: list[str], tmp_path: Path) -> None:
    """Data folder, classes, images and run folder; all files that are written can be read as UTF-8."""
    data = tmp_path / f"data{ODD}"
    write_corners(data, 8)
    for number, folder in enumerate(sorted(data.iterdir())):
        for image in sorted(folder.iterdir()):
            image.rename(image.with_name(f"{ODD}{image.name}"))
        folder.rename(folder.with_name(f"{ODD}{number}"))
    shown = ODD.encode(errors="ignore").decode()
    out = tmp_path / f"run{shown}"
    command = [*small, "--data", str(data), "--out", str(out), "--networks", "1", "--search.generations", "1"]
    ended = zygote.run(*command)
    assert ended.code == 0, ended
    assert ended.errors == ""
    for path in out.rglob("*"):
        if path.suffix in (".json", ".csv", ".yaml", ".html"):
            assert path.read_text(encoding="utf-8")
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "<b>☃" not in page
    assert not list(Path.cwd().glob("exploded"))
    again = zygote.run(*command)
    assert (again.code, again.errors) == (0, "")
    (network,) = (out / "networks").iterdir()
    image = next(data.rglob("*.png"))
    ended = zygote.run("predict", str(network), str(image))
    assert (ended.code, ended.errors) == (0, "")


def test_a_run_folder_needs_a_name_in_utf8(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """SafeTensors opens no others."""
    assert "UTF-8" in refused(capsys, "run", "--out", f"{tmp_path}/run\udcff")
    assert not any(tmp_path.iterdir())


def test_a_name_in_bytes_on_a_real_command_line(network: Path, images: Path, tmp_path: Path) -> None:
    """Through the operating system, with an output that knows ASCII only."""
    name = os.fsencode(tmp_path) + b"/\xff\xfe \xe2\x98\x83 -.png"
    shutil.copy(os.fsencode(next(images.rglob("*.png"))), name)
    environment = {**os.environ, "PYTHONIOENCODING": "ascii:strict", "LC_ALL": "C", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "nat2", "predict", str(network), name], capture_output=True, env=environment, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"\\u2603" in done.stdout


@pytest.mark.parametrize("odd", ["[bold]", "\udcff", "a\nb", "<b>"])
def test_a_bad_image_is_named_whatever_its_name(odd: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_corners(tmp_path / "data", 3)
    next((tmp_path / "data").iterdir()).joinpath(f"{odd}.png").write_bytes(b"no image")
    message = refused(capsys, "run", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "out"))
    assert odd.encode("ascii", "backslashreplace").decode() in message or odd in message
