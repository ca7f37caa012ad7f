"""Checkpoints and exported networks that are cut short or changed by a bit."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
import torch

from nat2 import load
from nat2.errors import Nat2Error
from nat2.files import load_tensors, save_tensors
from nat2.supernet.checkpoint import read_checkpoint
from tests.withstand.attack import RecordProperty, answer, flipped, nothing_begins, refused

CUTS = (0.0, 0.001, 0.01, 0.1, 0.3, 0.5, 0.8, 0.99, 0.9999)


@pytest.fixture(autouse=True)
def _nothing_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing_begins(monkeypatch)


@pytest.fixture
def network(reference: Path, tmp_path: Path) -> Path:
    """A network that was exported, to be damaged."""
    return Path(shutil.copytree(next((reference / "networks").iterdir()), tmp_path / "network"))


@pytest.fixture
def image(small: list[str]) -> str:
    data = Path(small[small.index("--data") + 1])
    return str(next(data.rglob("*.png")))


def head(content: bytes) -> int:
    """Where a safetensors file's tensors begin."""
    return 8 + int(struct.unpack("<Q", content[:8])[0])


@pytest.mark.parametrize("share", CUTS)
@pytest.mark.parametrize("name", ["model.safetensors", "arch.json", "preprocessing.json"])
def test_a_cut_off_network_is_refused(
    name: str, share: float, network: Path, image: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = network / name
    content = path.read_bytes().rstrip()
    path.write_bytes(content[: int(share * len(content))])
    assert str(network) in refused(capsys, "predict", str(network), image)


def test_a_changed_head_of_weights_is_refused_or_harmless(network: Path, record_property: RecordProperty) -> None:
    """Names, shapes, types and places of tensors: a bit that matters is noticed."""
    path, lot, noticed = network / "model.safetensors", random.Random(4), 0
    content = path.read_bytes()
    images = torch.rand(2, 1, 12, 12)
    expected = load(network)(images)
    for number in range(100):
        position = lot.randrange(8 if number < 16 else head(content))
        path.write_bytes(flipped(content, iter([position]), iter([lot.randrange(8)])))
        try:
            torch.testing.assert_close(load(network)(images), expected)
        except Nat2Error:
            noticed += 1
    record_property("cases", 100)
    assert noticed > 80


def test_numbers_that_are_none_are_refused(network: Path, image: str, capsys: pytest.CaptureFixture[str]) -> None:
    tensors, _ = load_tensors(network / "model.safetensors")
    for value in (float("nan"), float("inf")):
        name = next(name for name, tensor in tensors.items() if tensor.is_floating_point() and tensor.dim() == 4)
        broken = tensors[name].clone()
        broken.view(-1)[0] = value
        save_tensors(network / "model.safetensors", tensors | {name: broken})
        assert name in refused(capsys, "predict", str(network), image)


DESCRIPTIONS: tuple[Any, ...] = (
    None, 3, [], {}, "text", {"arch": 1}, {"arch": {}, "macro": {}, "classes": [], "exits": []},
)  # fmt: skip
CHANGES: tuple[tuple[str, Any], ...] = (
    ("arch", None), ("arch", 3), ("arch", {"stages": []}), ("arch.resolution", "large"), ("arch.resolution", 10**12),
    ("arch.resolution", -1), ("arch.stages", [["k9e9"]]), ("arch.stages", "x"), ("arch.width", "wide"),
    ("macro", []), ("macro.classes", 0), ("macro.classes", "ten"), ("macro.classes", 10**12), ("macro.channels", 1e300),
    ("macro.width", "NaN"), ("macro.more", 1), ("macro.stem_stride", 7), ("classes", 5), ("classes", None),
    ("arch.width", 1e9), ("classes", []), ("classes", ["one"]), ("classes", [1, 2, 3, 4]),
    ("exits", None), ("exits", []), ("exits", [0]), ("exits", [9]), ("exits", ["one"]), ("exits", [1e300]),
    ("input.side", -5),
    ("input.side", "x"), ("input.side", 10**7), ("input.side", None), ("input.center", 0), ("input.center", "all"),
    ("input.center", -1e9), ("input.resolution", 0), ("input.resolution", 10**6), ("input.resolution", "x"),
    ("input.resolution", 3.5),
)  # fmt: skip


@pytest.mark.parametrize("content", DESCRIPTIONS, ids=range(len(DESCRIPTIONS)))
def test_a_description_of_something_else(
    content: Any, network: Path, image: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (network / "arch.json").write_text(json.dumps(content))
    assert str(network) in refused(capsys, "predict", str(network), image)


@pytest.mark.parametrize(("key", "value"), CHANGES, ids=[f"{key}={value}" for key, value in CHANGES])
def test_a_description_that_was_changed(
    key: str, value: Any, network: Path, image: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = network / ("preprocessing.json" if key.startswith("input.") else "arch.json")
    description = json.loads(file.read_text())
    *outer, last = key.removeprefix("input.").split(".")
    place = description
    for name in outer:
        place = place[name]
    place[last] = value
    file.write_text(json.dumps(description))
    assert str(network) in refused(capsys, "predict", str(network), image)


@pytest.mark.parametrize(
    "content", [b"[" * 100_000, b'{"a": ' * 50_000, b"\xff", b"\0" * 100, b'{"arch": 1' + b"0" * 6000 + b"}"]
)
def test_a_description_that_is_rubbish(
    content: bytes, network: Path, image: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (network / "arch.json").write_bytes(content)
    assert str(network) in refused(capsys, "predict", str(network), image)


def test_the_other_files_of_a_network_may_be_damaged(
    network: Path, image: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Prediction does not look at the ONNX file; who measures it is told."""
    content = (network / "model.onnx").read_bytes()
    for damaged in (b"no network", b"", content[:1000], content[: len(content) // 2]):
        (network / "model.onnx").write_bytes(damaged)
        assert answer(capsys, "predict", str(network), image).code == 0
        assert "model.onnx cannot be read" in refused(capsys, "latency", str(network))
    (network / "model.onnx").unlink()
    assert "model.onnx does not exist" in refused(capsys, "latency", str(network))


@pytest.mark.parametrize("form", ["pth", "safetensors", "old.pth"])
def test_checkpoints_to_begin_with(
    form: str,
    reference: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    record_property: RecordProperty,
) -> None:
    """Cut anywhere, and with any bit changed where the file says what it holds."""
    source, path, lot, cases = next(reference.glob("supernet*")), tmp_path / f"weights.{form}", random.Random(5), 0
    if form == "safetensors":
        shutil.copy(source, path)
    else:
        few = dict(list(load_tensors(source)[0].items())[:12])
        torch.save({"state_dict": few}, path, _use_new_zipfile_serialization=form == "pth")
    content = path.read_bytes()
    for share in CUTS:
        path.write_bytes(content[: int(share * len(content))])
        with pytest.raises(Nat2Error, match=path.name):
            read_checkpoint(path)
        cases += 1
    expected = whole(path, content)
    for _ in range(60):
        position = lot.randrange(head(content) if form == "safetensors" else min(3000, len(content)))
        with contextlib.suppress(Nat2Error):  # and nothing else
            found = whole(path, flipped(content, iter([position]), iter([lot.randrange(8)])))
            assert all(isinstance(tensor, torch.Tensor) for tensor in found.values())
            assert len(found) == len(expected) or form != "safetensors"
        cases += 1
    path.write_bytes(content[: len(content) // 2])
    refused(capsys, "run", "--pretrained", str(path), "--out", str(tmp_path / "out"), "--width", "0.25")
    record_property("cases", cases)


def whole(path: Path, content: bytes) -> dict[str, torch.Tensor]:
    path.write_bytes(content)
    return read_checkpoint(path)
