"""The command that redraws the page of a run, or compares runs."""

from __future__ import annotations

from pathlib import Path

from nat2.errors import ConfigError, RunError
from nat2.reports.page import GENERATOR, write_page
from nat2.reports.references import read_references
from nat2.runs.read import read_run
from nat2.validation import user_path


def report(*runs: Path | str, out: Path | str | None = None, references: Path | str | None = None) -> Path:
    """Write the page of one run, finished or not, or a page that compares several.

    Args:
        runs: Run folders, each once.
        out: Where to; by default ``report.html`` in the folder of the one run, else ``comparison.html`` here.
        references: A CSV file of networks to compare with, see `read_references`.

    Returns:
        The page's path.

    Raises:
        ConfigError: no run is named, one is named twice, or the references are not of their form.
        RunError: a folder is no run folder or its search has not begun; the page cannot be written, or would replace a
            file that is not a report.
        CheckpointError: a run is damaged.
    """
    folders = [user_path(run, "RUN") for run in runs]
    if not folders:
        raise ConfigError("nat2 report needs at least one run folder, e.g. nat2 report runs/digits")
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise ConfigError(f"each run can be named once; got {', '.join(map(str, folders))}")
    beside = () if references is None else read_references(user_path(references, "--references"))
    found = [read_run(folder) for folder in folders]
    path = (
        user_path(out, "--out")
        if out
        else (folders[0] / "report.html" if len(folders) == 1 else Path("comparison.html"))
    )
    _refuse_foreign(path, folders)
    write_page(path, found, references=beside)
    return path


def _refuse_foreign(path: Path, folders: list[Path]) -> None:
    """Refuse to replace anything but a report; report.html in a run folder is one, whichever release wrote it."""
    if path.is_dir():
        raise RunError(f"{path} is a folder; name a file with --out, e.g. {path / 'comparison.html'}")
    if not path.exists() or path.resolve() in [(folder / "report.html").resolve() for folder in folders]:
        return
    try:
        with path.open("rb") as file:
            known = GENERATOR.encode() in file.read(4096)
    except OSError as error:
        raise RunError(f"{path} cannot be read ({error.strerror or error}); choose another file with --out") from error
    if not known:
        raise RunError(f"{path} is not a report and would be replaced; choose another file with --out, or remove it")
