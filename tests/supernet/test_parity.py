"""Ours are the published networks: the reference implementations' own answers, weights given by a formula.

``parity.json`` holds a few of their answers for each family. All of them, and the names and shapes of their tensors,
are compared where the shared data are.
"""

from __future__ import annotations

import copy
import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from nat2.space import Arch, Macro, cost
from nat2.supernet import SuperNetwork, calibrate, normalize_by, normalize_by_stored
from nat2.supernet.checkpoint import load_published, published_state
from nat2.supernet.sort import sort_channels
from nat2.supernet.static import channels_last

TOLERANCE = 2e-3  # of the row's largest calibrated logit: two orders of summation in float32 differ by up to 2e-4
_SE, _B, _P = {"early_exits": False}, {"dense_skips": False}, {"parallel_blocks": True}
FAMILIES = {
    "OFA@1.0": Macro(classes=10, **_SE, **_B),
    "OFA@1.2": Macro(classes=10, **_SE, **_B, width=1.2),
    "SE_B@1.0": Macro(classes=10, **_SE, **_B),
    "SE_D@1.0": Macro(classes=10, **_SE),
    "SE_P@1.0": Macro(classes=10, **_SE, **_B, **_P),
    "SE_DP@1.0": Macro(classes=10, **_SE, **_P),
    "EE_B@1.0": Macro(classes=10, **_B),
    "EE_D@1.0": Macro(classes=10),
    "EE_P@1.0": Macro(classes=10, **_B, **_P),
    "EE_DP@1.0": Macro(classes=10, **_P),
    "EE_D@1.2": Macro(classes=10, width=1.2, doubled_exit_widths=True),
}
CARRIED: dict[str, list[dict[str, Any]]] = json.loads((Path(__file__).parent / "parity.json").read_text())


def wave(count: int, name: str) -> NDArray[np.float64]:
    """The formula: numbers in [-1, 1) that depend on a name."""
    values = np.sin(12.9898 * np.arange(1, count + 1) + zlib.crc32(name.encode()) % 10007) * 43758.5453
    wrapped: NDArray[np.float64] = 2 * (values - np.floor(values)) - 1
    return wrapped


def published_tensor(name: str, shape: Sequence[int]) -> torch.Tensor:
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


def shapes_of(family: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors that the reference's network of a family holds, as we write them."""
    layout = "ofa" if family.startswith("OFA") else "ofav2"
    with torch.device("meta"):
        state = published_state(SuperNetwork(FAMILIES[family]), layout=layout)  # type: ignore[arg-type]
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def reference_network(family: str, state: Mapping[str, torch.Tensor]) -> SuperNetwork:
    network = channels_last(SuperNetwork(FAMILIES[family])).eval()
    assert load_published(network, state) == []
    return network


def check(network: SuperNetwork, row: Mapping[str, Any], arch: Arch) -> None:
    macro = network.macro
    exits = macro.exits if row["check"] == "all_exits" else None
    inputs = images("images", 2, arch.resolution)
    if row["check"] == "channel_sorting":
        network = copy.deepcopy(network)
        sort_channels(network)
    expected = torch.tensor(row["calibrated_logits"])
    batches = [images(f"calibration-{i}", 8, arch.resolution) for i in (1, 2)]
    statistics = calibrate(network, arch, batches, exits=exits)
    with torch.no_grad():
        actual = network(inputs, arch, normalize=normalize_by(statistics), exits=exits)
        stored = network(inputs, arch, normalize=normalize_by_stored, exits=exits)
    assert actual.shape == expected.shape
    assert float((actual - expected).abs().max()) <= TOLERANCE * float(expected.abs().max())
    if "params" in row:
        assert cost(macro, arch, exits=exits).params == row["params"]
    if "logits" in row:
        reference = torch.tensor(row["logits"])
        assert float((stored - reference).abs().max()) <= TOLERANCE * float(reference.abs().max())


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_of_the_reference_networks(family: str) -> None:
    state = {name: published_tensor(name, shape) for name, shape in shapes_of(family).items()}
    rows, network = CARRIED[family], reference_network(family, state)
    assert len(rows) >= 4
    for row in rows:
        check(network, row, Arch.from_key(row["arch"]))


@pytest.fixture(scope="module")
def parity(shared_data: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((shared_data / "parity" / "parity.json").read_text())
    assert len(content["rows"]) == 93
    return content


@pytest.mark.real_data
@pytest.mark.parametrize("family", FAMILIES)
def test_all_recorded_answers_of_the_reference_networks(parity: dict[str, Any], family: str) -> None:
    shapes = {name: tuple(shape) for name, shape in parity["state_dict_shapes"][family].items()}
    assert shapes_of(family) == shapes
    state = {name: published_tensor(name, shape) for name, shape in shapes.items()}
    rows = [row for row in parity["rows"] if f"{row['family']}@{row['width']}" == family]
    assert len(rows) in (8, 9)
    network = reference_network(family, state)
    for row in rows:
        check(network, row, Arch.from_ofa(row["arch"], resolution=row["resolution"], width=row["width"]))
