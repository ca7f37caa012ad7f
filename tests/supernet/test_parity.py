"""Ours are the published networks: the reference implementations' own answers, weights given by a formula."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from nat2.space import Arch, Macro, cost
from nat2.supernet import SuperNetwork, calibrate, normalize_by, normalize_by_stored
from nat2.supernet.checkpoint import load_published
from nat2.supernet.sort import sort_channels

TOLERANCE = 2e-3  # of the row's largest calibrated logit; stated with the data
FAMILIES = {
    "OFA@1.0": Macro(classes=10, early_exits=False, dense_skips=False),
    "OFA@1.2": Macro(classes=10, early_exits=False, dense_skips=False, width=1.2),
    "SE_B@1.0": Macro(classes=10, early_exits=False, dense_skips=False),
    "SE_D@1.0": Macro(classes=10, early_exits=False),
    "EE_B@1.0": Macro(classes=10, dense_skips=False),
    "EE_D@1.0": Macro(classes=10),
    "EE_D@1.2": Macro(classes=10, width=1.2, doubled_exit_widths=True),
}


def wave(count: int, name: str) -> NDArray[np.float64]:
    values = np.sin(12.9898 * np.arange(1, count + 1) + zlib.crc32(name.encode()) % 10007) * 43758.5453
    return 2 * (values - np.floor(values)) - 1


def published_tensor(name: str, shape: list[int]) -> torch.Tensor:
    count = int(np.prod(shape))
    values = wave(count, name).reshape(shape)
    if name.endswith("num_batches_tracked"):
        values = np.zeros(shape)
    elif name.endswith("_matrix"):
        values = np.eye(shape[0]) + 0.1 * values / np.sqrt(shape[0])
    elif name.endswith("running_mean"):
        values = 0.1 * values
    elif name.endswith("running_var"):
        values = 1 + 0.5 * values**2
    elif len(shape) >= 2:
        values = values * np.sqrt(6 * shape[0] / count)
    elif name.endswith("weight"):
        values = 1 + 0.2 * values
    else:
        values = 0.1 * values
    return torch.tensor(values, dtype=torch.float32)


def images(name: str, count: int, resolution: int) -> torch.Tensor:
    values = 1.7 * wave(count * 3 * resolution**2, name).reshape(count, 3, resolution, resolution)
    return torch.tensor(values, dtype=torch.float32)


@pytest.fixture(scope="module")
def parity(shared_data: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((shared_data / "parity" / "parity.json").read_text())
    return content


@pytest.mark.real_data
@pytest.mark.parametrize("family", FAMILIES)
def test_answers_of_the_reference_networks(parity: dict[str, Any], family: str) -> None:
    macro = FAMILIES[family]
    shapes = parity["state_dict_shapes"][family]
    state = {name: published_tensor(name, shape) for name, shape in shapes.items()}
    network = SuperNetwork(macro).to(memory_format=torch.channels_last).eval()
    rows = [row for row in parity["rows"] if f"{row['family']}@{row['width']}" == family]
    assert len(rows) >= 8
    for row in rows:
        load_published(network, state)
        arch = Arch.from_ofa(row["arch"], resolution=row["resolution"], width=macro.width)
        exits = macro.exits if row["check"] == "all_exits" else None
        inputs = images("images", 2, arch.resolution)
        if row["check"] == "channel_sorting":
            sort_channels(network)
        expected = torch.tensor(row["calibrated_logits"])
        scale = float(expected.abs().max())
        batches = [images(f"calibration-{i}", 8, arch.resolution) for i in (1, 2)]
        statistics = calibrate(network, arch, batches, exits=exits)
        with torch.no_grad():
            actual = network(inputs, arch, normalize=normalize_by(statistics), exits=exits)
            stored = network(inputs, arch, normalize=normalize_by_stored, exits=exits)
        assert float((actual - expected).abs().max()) <= TOLERANCE * scale, row
        if "params" in row:
            assert cost(macro, arch, exits=exits).params == row["params"]
        if "logits" in row:
            reference = torch.tensor(row["logits"])
            assert float((stored - reference).abs().max()) <= TOLERANCE * float(reference.abs().max())
