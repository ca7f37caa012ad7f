"""Files that are whole or absent."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest
import torch

from nat2.errors import CheckpointError, RunError
from nat2.files import load_tensors, save_tensors, write_atomic, write_csv, write_json, write_text


def test_what_is_written_reads_back(tmp_path: Path) -> None:
    tensors = {"a": torch.randn(3, 2), "b": torch.arange(4)}
    save_tensors(tmp_path / "deep" / "t.safetensors", tensors, {"epoch": 3, "loss": None})
    loaded, metadata = load_tensors(tmp_path / "deep" / "t.safetensors")
    assert metadata == {"epoch": 3, "loss": None}
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())
    write_json(tmp_path / "x.json", {"k": [1]})
    assert json.loads((tmp_path / "x.json").read_text()) == {"k": [1]}
    write_csv(tmp_path / "x.csv", [{"a": 1, "b": None}, {"a": 2, "b": "x,y"}])
    assert (tmp_path / "x.csv").read_text() == 'a,b\n1,\n2,"x,y"\n'


@pytest.mark.parametrize(("number", "message"), [(errno.ENOSPC, "disk is full"), (errno.EACCES, "cannot be written")])
def test_a_failed_write_leaves_the_old_file_and_no_rubbish(tmp_path: Path, number: int, message: str) -> None:
    path = tmp_path / "x.txt"
    write_text(path, "old")

    def fail(temporary: Path) -> None:
        temporary.write_text("half")
        raise OSError(number, "no")

    with pytest.raises(RunError, match=message):
        write_atomic(path, fail)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", [b"", b"x" * 100, b"\xff" * 8])
def test_damaged_tensors_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match="not a readable weights file"):
        load_tensors(tmp_path / "t.safetensors")
