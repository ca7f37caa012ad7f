"""Published checkpoint layouts."""

from __future__ import annotations

import pytest
import torch

from nat2.errors import CheckpointError
from nat2.supernet.checkpoint import from_published, load_published, load_weights
from tests.supernet.conftest import FAMILIES, random_network


@pytest.mark.parametrize(
    ("published", "ours"),
    [
        ("first_conv.conv.weight", "stem.conv.weight"),
        ("head_stage.first_conv.bn.running_mean", "stem.bn.running_mean"),
        ("blocks.0.conv.depth_conv.conv.weight", "stem.block.depthwise.weight"),
        ("head_stage.first_layer.conv.point_linear.bn.bias", "stem.block.project_bn.bias"),
        ("blocks.1.conv.inverted_bottleneck.conv.conv.weight", "stages.0.0.expand.weight"),
        ("blocks.8.mobile_inverted_conv.depth_conv.bn.bn.weight", "stages.1.3.depthwise_bn.weight"),
        ("blocks.20.conv.depth_conv.conv.7to5_matrix", "stages.4.3.depthwise.matrix_7to5"),
        ("body_stages.2.layers.1.conv.depth_conv.conv.5to3_matrix", "stages.2.1.depthwise.matrix_5to3"),
        ("body_stages.3.layers.0.conv.depth_conv.se.fc.reduce.bias", "stages.3.0.se.reduce.bias"),
        ("final_expand_layer.conv.weight", "exits.5.expand.weight"),
        ("exit_stage.final_expand_layer.bn.running_var", "exits.5.expand_bn.running_var"),
        ("exit_stages.0.feature_mix_layer.conv.weight", "exits.1.mix.weight"),
        ("exit_stages.4.classifier.linear.bias", "exits.5.classifier.bias"),
        ("classifier.linear.weight", "exits.5.classifier.weight"),
        ("classifier.weight", "exits.5.classifier.weight"),
        ("blocks.3.conv.point_linear.bn.bn.num_batches_tracked", None),
    ],
)
def test_published_names_are_understood(published: str, ours: str | None) -> None:
    assert from_published(published) == ours


@pytest.mark.parametrize("name", ["layer1.conv.weight", "blocks.1.conv.other.conv.weight", "first_conv.act.weight"])
def test_unknown_names_are_refused(name: str) -> None:
    with pytest.raises(CheckpointError, match=name):
        from_published(name)


def test_missing_unknown_and_misshapen_tensors_are_named() -> None:
    network = random_network(FAMILIES["EE_D"])
    state = dict(network.state_dict())
    del state["stem.conv.weight"]
    state["extra.weight"] = torch.zeros(1)
    state["exits.5.classifier.bias"] = torch.zeros(7)
    before = network.state_dict()["stem.bn.weight"].clone()
    state["stem.bn.weight"] = before + 1
    with pytest.raises(CheckpointError) as error:
        load_weights(network, state)
    for part in (
        "3 tensors",
        "missing stem.conv.weight",
        "unknown extra.weight",
        r"exits.5.classifier.bias has shape (7,)",
    ):
        assert part in str(error.value)
    assert torch.equal(network.state_dict()["stem.bn.weight"], before)  # nothing was read by half


def test_a_foreign_network_is_refused() -> None:
    with pytest.raises(CheckpointError, match="missing"):
        load_published(random_network(FAMILIES["EE_D"]), {"first_conv.conv.weight": torch.zeros(8, 3, 3, 3)})
