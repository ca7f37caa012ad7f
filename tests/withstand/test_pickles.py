"""Files that would run code if they were unpickled."""

from __future__ import annotations

import io
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.withstand.attack import Bomb, nothing_begins, refused
from tests.withstand.test_images import add, small_run


@pytest.fixture(autouse=True)
def _nothing_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing_begins(monkeypatch)


OPCODES: dict[str, Callable[[Path], bytes]] = {
    "reduce 0": lambda marker: pickle.dumps(Bomb(marker), 0),
    "reduce 2": lambda marker: pickle.dumps(Bomb(marker), 2),
    "reduce 5": lambda marker: pickle.dumps(Bomb(marker), 5),
    "within": lambda marker: pickle.dumps({b"labels": [1], b"data": Bomb(marker), "state_dict": {"a": Bomb(marker)}}),
    "instance": lambda marker: f"(S\"open('{marker}','w').close()\"\ni__builtin__\neval\n.".encode(),
    "global": lambda marker: f"cbuiltins\neval\n(S\"open('{marker}','w').close()\"\ntR.".encode(),
    "object": lambda marker: f"(cbuiltins\neval\nS\"open('{marker}','w').close()\"\no.".encode(),
    "system": lambda marker: f"cposix\nsystem\n(S'touch {marker}'\ntR.".encode(),
    "numpy": lambda marker: f"cnumpy.f2py.crackfortran\nmyeval\n(S\"open('{marker}','w').close()\"\ntR.".encode(),
    "torch": lambda marker: f"ctorch.utils._config_module\nexec\n(S\"open('{marker}','w').close()\"\ntR.".encode(),
    "dtype": lambda marker: b"cnumpy\ndtype\n(S'O8'\nI0\nI1\ntR" + pickle.dumps(Bomb(marker), 0),
    "encode": lambda marker: f"c_codecs\nencode\n(cbuiltins\neval\nS\"open('{marker}','w').close()\"\ntR.".encode(),
    "memo": lambda marker: b"\x80\x04r\xff\xff\xff\x7f" + pickle.dumps(Bomb(marker)),
    "extension": lambda marker: b"\x80\x02\x82\x01" + pickle.dumps(Bomb(marker)),
    "persistent": lambda marker: b"\x80\x02X\x01\x00\x00\x00aQ" + pickle.dumps(Bomb(marker)),
}


def weights_zip(code: bytes) -> bytes:
    """A file in torch's format whose data are some opcodes."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", code)
        archive.writestr("archive/version", b"3\n")
        archive.writestr("archive/data/0", bytes(4))
    return file.getvalue()


@pytest.mark.parametrize("name", OPCODES)
@pytest.mark.parametrize("form", ["bare.pth", "zip.pth", "renamed.safetensors"])
def test_weights_do_not_run(name: str, form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = OPCODES[name](tmp_path / "exploded")
    (tmp_path / form).write_bytes(weights_zip(code) if form == "zip.pth" else code)
    weights = ("--pretrained", str(tmp_path / form))
    refused(capsys, "run", "--out", str(tmp_path / "out"), "--width", "0.1", "--resolutions", "12,16", *weights)
    assert [path.name for path in tmp_path.iterdir()] == [form]


@pytest.mark.parametrize("old", [True, False])
def test_what_torch_itself_wrote_does_not_run(old: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = {"state_dict": {"a": torch.ones(1)}, "more": Bomb(tmp_path / "exploded")}
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=not old)
    weights = ("--pretrained", str(tmp_path / "a.pth"), "--width", "0.1", "--resolutions", "12,16")
    assert "run its code" in refused(capsys, "run", "--out", str(tmp_path / "out"), *weights)
    assert [path.name for path in tmp_path.iterdir()] == ["a.pth"]


@pytest.mark.parametrize("place", ["images", "labels", "classes", "x_train", "more"])
def test_arrays_of_objects_do_not_run(place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arrays = {"images": np.zeros((12, 8, 8), np.uint8), "labels": np.arange(12) % 2, "classes": np.array(["a", "b"])}
    arrays[place] = np.array([Bomb(tmp_path / "exploded")], dtype=object)
    np.savez(tmp_path / "data.npz", **arrays)  # type: ignore[arg-type]
    refused(capsys, *small_run(tmp_path / "data.npz"))
    assert [path.name for path in tmp_path.iterdir()] == ["data.npz"]


@pytest.mark.parametrize("name", OPCODES)
def test_cifar_does_not_run(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fine = {b"labels": [n % 10 for n in range(20)], b"data": np.zeros((20, 3072), np.uint8)}
    contents = {f"data_batch_{n}": pickle.dumps(fine) for n in range(1, 6)} | {"test_batch": pickle.dumps(fine)}
    contents["batches.meta"] = pickle.dumps({"label_names": list("abcdefghij")})
    contents["data_batch_1" if len(name) % 2 else "batches.meta"] = OPCODES[name](tmp_path / "exploded")
    with tarfile.open(tmp_path / "cifar.tar.gz", "w:gz") as archive:
        for each, content in contents.items():
            add(archive, f"cifar-10-batches-py/{each}", content)
    assert "cifar.tar.gz" in refused(capsys, *small_run(tmp_path / "cifar.tar.gz"))
    assert [path.name for path in tmp_path.iterdir()] == ["cifar.tar.gz"]


def test_the_bomb_is_one(tmp_path: Path) -> None:
    """What does not explode above would explode in other hands."""
    exploding = 0
    for name, code in OPCODES.items():
        marker = tmp_path / name
        try:
            pickle.loads(code(marker))
        except Exception:
            continue
        finally:
            exploding += marker.exists()
    assert exploding >= 6
