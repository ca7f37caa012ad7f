"""Files that are either whole or absent: temporary file, fsync, rename."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from nat2.errors import CheckpointError, RunError

JsonObject = dict[str, Any]
"""As it was read: what it holds is not known yet."""


def write_atomic(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, flush it to disk and put it in place.

    Raises:
        RunError: the disk is full or the folder cannot be written; `path` is as it was.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise write_error(path, error) from error


def write_error(path: Path, error: OSError) -> RunError:
    """The error that says why `path` could not be written, and what to do."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return RunError(
            f"the disk is full: {path} could not be written. What was measured so far is kept; free some space and "
            "give the same command again to continue"
        )
    return RunError(f"{path} cannot be written ({error.strerror or error}); choose another folder with --out")


def write_text(path: Path, text: str) -> None:
    """Write a text file as a whole, in UTF-8; what is no character, of file names in other encodings, is escaped."""
    write_bytes(path, text.encode(errors="backslashreplace"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file as a whole."""
    write_atomic(path, lambda temporary: temporary.write_bytes(content))


def write_json(path: Path, content: object) -> None:
    """Write plain data as indented JSON."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def write_csv(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    """Write rows with the columns of the first; no rows make an empty file."""
    rows = list(rows)
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    write_text(path, text.getvalue())


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, object] | None = None) -> None:
    """Write tensors and JSON-able metadata as one safetensors file."""
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_bytes(path, safetensors.torch.save(contiguous, {"nat2": json.dumps(dict(metadata or {}))}))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], JsonObject]:
    """Read what `save_tensors` wrote.

    Raises:
        CheckpointError: the file is absent, damaged, or not ours.
    """
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise CheckpointError(f"{path} is not a weights file, but a folder or a device")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dictionary)
            metadata = json.loads((file.metadata() or {}).get("nat2", "{}"))
    except (OSError, safetensors.SafetensorError, json.JSONDecodeError) as error:
        raise CheckpointError(
            f"{path} is not a readable weights file ({error}); if it belongs to a run, begin again with --fresh"
        ) from error
    return tensors, metadata
