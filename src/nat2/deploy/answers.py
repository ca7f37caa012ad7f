"""What `nat2 predict` writes: a row or an entry for each image, and the accuracy on images in class folders."""

from __future__ import annotations

import contextlib
import math
import os
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from nat2.deploy.predict import Prediction
from nat2.errors import ConfigError, RunError
from nat2.files import write_csv, write_json
from nat2.progress import duration
from nat2.validation import user_path
from nat2.wording import counted


def check_target(target: str, ending: str) -> None:
    """Raise if a file cannot be written, before hours of work; an empty name is accepted.

    Raises:
        ConfigError: its name has another extension; it may be one of the images.
        RunError: it is a folder, or its folder is not writable.
    """
    if not target:
        return
    path = user_path(target, f"--{ending[1:]}")
    if path.suffix.lower() != ending:
        raise ConfigError(f"--{ending[1:]} must name a file that ends in {ending}; got {path}")
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise RunError(f"--{ending[1:]} {path} cannot be written; name a file in a folder that can")


@contextlib.contextmanager
def written_to(target: str, flag: str) -> Iterator[Path]:
    """Yield the path to write to, and name the flag if writing fails.

    Raises:
        RunError: it cannot be written; the message names the flag to change.
    """
    path = user_path(target, flag)
    try:
        yield path
    except RunError as error:
        reason = error.__cause__.strerror if isinstance(error.__cause__, OSError) else ""
        raise RunError(
            f"{path} cannot be written ({reason or error}); name a file in another place with {flag}"
        ) from error


def write(predictions: Sequence[Prediction], *, csv: str, json: str, top: int) -> tuple[list[str], list[str]]:
    """Write the files that are asked for; if one cannot be written, the other still is.

    Returns:
        The files written, and an error message for each of the others.
    """
    written, problems = [], []
    for target, flag in ((csv, "--csv"), (json, "--json")):
        if not target:
            continue
        try:
            with written_to(target, flag) as path:
                if flag == "--csv":
                    write_table(path, predictions, top=top)
                else:
                    write_document(path, predictions)
            written.append(target)
        except RunError as error:
            problems.append(str(error))
    return written, problems


def write_table(path: Path, predictions: Iterable[Prediction], *, top: int) -> None:
    """Write a CSV file: image, class, probability, class_2, probability_2, ..., error."""
    numbers = ["", *(f"_{number}" for number in range(2, top + 1))]
    columns = ["image", *(f"{name}{number}" for number in numbers for name in ("class", "probability")), "error"]
    rows = []
    for each in predictions:
        values = [value for name, share in each.answers for value in (name, f"{share:.6f}")]
        values += [""] * (len(columns) - 2 - len(values))
        rows.append(dict(zip(columns, [str(each.image), *values, each.error], strict=True)))
    write_csv(path, rows)


def write_document(path: Path, predictions: Iterable[Prediction]) -> None:
    """Write a JSON file: a list of ``{"image": ..., "classes": [{"class": ..., "probability": ...}, ...]}``.

    An image that cannot be read has ``error`` in place of ``classes``.
    """
    write_json(path, [_entry(each) for each in predictions])


def _entry(prediction: Prediction) -> dict[str, object]:
    if prediction.error:
        return {"image": str(prediction.image), "error": prediction.error}
    classes = [{"class": name, "probability": round(share, 6)} for name, share in prediction.answers]
    return {"image": str(prediction.image), "classes": classes}


def summary(
    predictions: Sequence[Prediction],
    given: Sequence[str],
    classes: Sequence[str],
    seconds: float | None,
    others: int,
) -> list[str]:
    """The summary lines printed at the end.

    Args:
        predictions: Of all images.
        given: The files and folders given.
        classes: Of the network.
        seconds: Time of the predictions; None leaves the speed out.
        others: Number of files in the folders that are not images, or of a format that cannot be read.
    """
    lines = []
    if seconds is not None:
        count = len(predictions)
        lines.append(
            ("classified", f"{counted(count, 'image')} in {duration(seconds)}, {count / seconds:,.0f} images/s")
        )
    share, readable = accuracy(predictions, given, classes), sum(not each.error for each in predictions)
    if share is not None:
        error = math.sqrt(share * (1 - share) / readable)
        lines.append(("accuracy", f"{100 * share:.1f} ± {100 * error:.1f} %, by the names of the images' folders"))
    if others:
        lines.append(("left out", f"{counted(others, 'file')} of another kind, or in a format that cannot be read"))
    return [f"{name:>18}: {text}" for name, text in lines]


def accuracy(predictions: Sequence[Prediction], given: Sequence[str], classes: Sequence[str]) -> float | None:
    """Share of the readable images whose most probable class is the name of their class folder.

    Args:
        predictions: Of the images.
        given: The files and folders given.
        classes: Of the network.

    Returns:
        None if an image is not in a folder named after a class, below one of those given.
    """
    names, folders = {_plain(name) for name in classes}, [Path(path) for path in given if Path(path).is_dir()]
    right = [
        _plain(each.answers[0][0]) == label
        for each in predictions
        if not each.error and (label := _label(each.image, folders, names))
    ]
    readable = sum(not each.error for each in predictions)
    return sum(right) / readable if readable and len(right) == readable else None


def _label(image: Path, folders: Sequence[Path], names: set[str]) -> str | None:
    """The outermost folder of an image that is named after a class."""
    for folder in folders:
        if image.is_relative_to(folder):
            parts = map(_plain, image.relative_to(folder).parts[:-1])
            return next((part for part in parts if part in names), None)
    return None


def _plain(name: str) -> str:
    """A name in Unicode normal form C; file systems differ in this."""
    return unicodedata.normalize("NFC", name)
