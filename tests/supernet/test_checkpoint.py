"""Weights under published names and under our own."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from nat2.errors import CheckpointError
from nat2.files import save_tensors
from nat2.space import SearchSpace
from nat2.supernet import SuperNetwork, extract, normalize_by_stored
from nat2.supernet.checkpoint import (
    load_pretrained,
    load_published,
    load_weights,
    published_names,
    published_state,
    read_checkpoint,
    write_published,
)
from nat2.supernet.slices import sliced
from tests.supernet.conftest import FAMILIES, random_network
from tests.supernet.test_network import images


def equal(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    ours, theirs = first.state_dict(), second.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(
    ("family", "layout", "ours", "published"),
    [
        ("SE_B", "ofa", "stem.conv.weight", "first_conv.conv.weight"),
        ("SE_B", "ofa", "stem.block.depthwise.weight", "blocks.0.conv.depth_conv.conv.weight"),
        ("SE_B", "ofa", "stages.0.0.expand.weight", "blocks.1.conv.inverted_bottleneck.conv.conv.weight"),
        ("SE_B", "ofa", "stages.1.3.depthwise_bn.weight", "blocks.8.conv.depth_conv.bn.bn.weight"),
        ("SE_B", "ofa", "stages.4.3.depthwise.matrix_7to5", "blocks.20.conv.depth_conv.conv.7to5_matrix"),
        ("SE_B", "ofa", "stages.3.0.se.reduce.bias", "blocks.13.conv.depth_conv.se.fc.reduce.bias"),
        ("SE_B", "ofa", "exits.5.mix.weight", "feature_mix_layer.conv.weight"),
        ("SE_B", "ofa", "exits.5.classifier.weight", "classifier.linear.weight"),
        ("SE_B", "ofav2", "exits.5.expand_bn.running_var", "exit_stage.final_expand_layer.bn.running_var"),
        ("EE_D", "ofav2", "stem.block.project_bn.bias", "head_stage.first_layer.conv.point_linear.bn.bias"),
        ("EE_D", "ofav2", "exits.1.mix.weight", "exit_stages.0.feature_mix_layer.conv.weight"),
        ("EE_P", "ofav2", "stages.2.1.conv_bn.bias", "body_stages.2.layers_blocks.1.1.bn.bias"),
        ("EE_P", "ofav2", "stages.2.0.transform.bias", "body_stages.2.layers_blocks.0.2.conv1x1.bias"),
        ("EE_P", "ofav2", "stages.2.1.mbconv.project.weight",
         "body_stages.2.layers_blocks.1.0.conv.point_linear.conv.conv.weight"),
    ],
)  # fmt: skip
def test_names_are_the_published_ones(family: str, layout: str, ours: str, published: str) -> None:
    assert published_names(SuperNetwork(FAMILIES[family]), layout=layout)[ours] == published  # type: ignore[arg-type]


SPELLINGS: dict[str, Callable[[str], str]] = {
    "as written now": lambda name: name,
    "older name of the block": lambda name: (
        name.replace(".conv.inverted_b", ".mobile_inverted_conv.inverted_b")
        .replace(".conv.depth_conv", ".mobile_inverted_conv.depth_conv")
        .replace(".conv.point_linear", ".mobile_inverted_conv.point_linear")
    ),
    "static, without the level of what is sliced": lambda name: name.replace(
        ".conv.conv.weight", ".conv.weight"
    ).replace(".bn.bn.", ".bn."),
    "classifier without its level": lambda name: name.replace("classifier.linear.", "classifier."),
    "saved in parallel": lambda name: f"module.{name}",
}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("layout", ["ofa", "ofav2"])
def test_every_spelling_is_read(spelling: str, layout: str) -> None:
    source, target = random_network(FAMILIES["SE_B"]), random_network(FAMILIES["SE_B"], seed=1)
    state = {SPELLINGS[spelling](name): t for name, t in published_state(source, layout=layout).items()}  # type: ignore[arg-type]
    assert not equal(source, target)
    assert load_published(target, state) == []
    assert equal(source, target)


def test_what_is_written_is_read_by_every_family(network: SuperNetwork, tmp_path: Path) -> None:
    write_published(tmp_path / "net.pth", network)
    copy = random_network(network.macro, seed=1)
    load_published(copy, read_checkpoint(tmp_path / "net.pth"))
    assert equal(network, copy)


@pytest.mark.parametrize("family", ["EE_D", "SE_D", "SE_P"])
def test_the_ofa_layout_cannot_hold_the_extensions(family: str) -> None:
    with pytest.raises(CheckpointError, match=f"cannot hold the family {family}; use `ofav2`"):
        published_state(SuperNetwork(FAMILIES[family]), layout="ofa")


def test_a_static_network_becomes_a_super_network_with_identity_transforms() -> None:
    source = random_network(FAMILIES["SE_B"])
    largest = SearchSpace.of(source.macro, (32,)).largest
    state = published_state(extract(source, largest))
    assert not any("matrix" in name or ".conv.conv." in name for name in state)
    target = random_network(FAMILIES["SE_B"], seed=1)
    assert load_published(target, state) == ["kernel transforms: absent (a static network), set to the identity"]
    with torch.no_grad():
        expected = source(images(), largest, normalize=normalize_by_stored)
        torch.testing.assert_close(target(images(), largest, normalize=normalize_by_stored), expected)
    for name, tensor in target.state_dict().items():
        if ".matrix_" in name:
            assert torch.equal(tensor, torch.eye(len(tensor)))


def test_static_networks_of_any_depth_go_out_and_in(network: SuperNetwork) -> None:
    space = SearchSpace.of(network.macro, (32,))
    first, second = extract(network, space.smallest), extract(random_network(network.macro, seed=1), space.smallest)
    assert load_published(second, published_state(first)) == []
    with torch.no_grad():
        torch.testing.assert_close(second(images()), first(images()))


@pytest.mark.parametrize("channels", [1, 4])
def test_another_number_of_channels_is_adapted(channels: int) -> None:
    source = random_network(FAMILIES["EE_D"])
    macro = dataclasses.replace(source.macro, channels=channels)
    target = random_network(macro, seed=1)
    notes = load_published(target, published_state(source))
    assert notes == [f"first convolution: adapted from 3 to {channels} input channels"]
    grey = images()[:, :1]
    with torch.no_grad():
        expected = source.stem(grey.expand(-1, 3, -1, -1), normalize_by_stored, sliced(source.stem.parts()))
        actual = target.stem(grey.expand(-1, channels, -1, -1), normalize_by_stored, sliced(target.stem.parts()))
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def test_another_number_of_classes_leaves_the_classifiers_as_initialised() -> None:
    source = random_network(FAMILIES["EE_D"])
    target = random_network(dataclasses.replace(source.macro, classes=7), seed=1)
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    notes = load_published(target, published_state(source))
    assert notes == ["classifiers of exits 1, 2, 3, 4, 5: 5 classes, not 7; left as initialised"]
    for name, tensor in target.state_dict().items():
        assert torch.equal(tensor, (before if "classifier" in name else source.state_dict())[name]), name


def test_missing_unknown_and_misshapen_tensors_are_named_as_published() -> None:
    network = random_network(FAMILIES["EE_D"])
    state = published_state(network)
    del state["body_stages.0.layers.1.conv.depth_conv.conv.7to5_matrix"]
    state["body_stages.9.layers.1.conv.depth_conv.conv.conv.weight"] = torch.zeros(1)
    state["head_stage.first_conv.bn.weight"] = torch.zeros(7)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(CheckpointError) as error:
        load_published(network, {name: tensor + 1 for name, tensor in state.items()})
    for part in (
        "3 tensors",
        "missing body_stages.0.layers.1.conv.depth_conv.conv.7to5_matrix",
        "unknown body_stages.9.layers.1.conv.depth_conv.conv.conv.weight",
        "head_stage.first_conv.bn.weight has shape (7,)",
    ):
        assert part in str(error.value)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())  # nothing by half


def test_dense_skips_begin_with_ofas_weights() -> None:
    source, target = random_network(FAMILIES["SE_B"]), random_network(FAMILIES["SE_D"], seed=1)
    assert load_published(target, published_state(source, layout="ofa")) == []
    assert equal(source, target)


@pytest.mark.parametrize("form", ["ofa", "ofav2", "own"])
@pytest.mark.parametrize("families", [("SE_B", "EE_D"), ("SE_B", "EE_B"), ("SE_P", "EE_DP")])
def test_early_exits_take_body_and_last_exit_from_a_single_exit(families: tuple[str, str], form: str) -> None:
    source, target = (random_network(FAMILIES[family], seed) for seed, family in enumerate(families))
    if form == "ofa" and source.macro.parallel_blocks:
        pytest.skip("OFA has no parallel blocks")
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    state = source.state_dict() if form == "own" else published_state(source, layout=form)  # type: ignore[arg-type]
    notes = load_pretrained(target, state)
    assert notes == ["exits 1, 2, 3, 4: absent (a network with a single exit); left as initialised"]
    for name, tensor in target.state_dict().items():
        new = name.startswith("exits.") and not name.startswith("exits.5.")
        assert torch.equal(tensor, before[name] if new else source.state_dict()[name]), name


def test_a_single_exit_takes_nothing_from_early_exits() -> None:
    with pytest.raises(CheckpointError, match="do not fit"):
        load_pretrained(random_network(FAMILIES["SE_D"]), random_network(FAMILIES["EE_D"]).state_dict())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"first_conv.conv.weight": torch.zeros(8, 0, 3, 3)}, "first_conv.conv.weight has shape"),
        ({"blocks.1.conv.depth_conv.conv.conv.weight": torch.zeros(48, 1, 1, 49)}, "has shape (48, 1, 1, 49)"),
        ({"first_conv.bn.weight": torch.full((8,), float("nan"))}, "first_conv.bn.weight is not of finite numbers"),
        ({"first_conv.bn.weight": torch.ones(8, dtype=torch.int8)}, "first_conv.bn.weight is not of finite numbers"),
        ({"module.first_conv.bn.weight": torch.ones(8)}, "module.first_conv.bn.weight under two spellings"),
        ({"classifier.linear.bias": torch.ones(3)}, "classifier.linear.bias has shape (3,)"),
    ],
)
def test_odd_tensors_are_refused(change: dict[str, Tensor], message: str) -> None:
    source, target = random_network(FAMILIES["SE_B"]), random_network(FAMILIES["SE_B"], seed=1)
    with pytest.raises(CheckpointError) as error:
        load_published(target, published_state(source) | change)
    assert message in str(error.value)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_read(kind: torch.dtype) -> None:
    source, target = random_network(FAMILIES["SE_B"]), random_network(FAMILIES["SE_B"], seed=1)
    state = {name: t.to(kind) if t.is_floating_point() else t for name, t in published_state(source).items()}
    assert load_published(target, state) == []
    torch.testing.assert_close(target.state_dict()["stem.conv.weight"], source.state_dict()["stem.conv.weight"],
        rtol=1e-2, atol=1e-2)  # fmt: skip


def test_missing_unknown_and_misshapen_tensors_of_our_own_are_named() -> None:
    network = random_network(FAMILIES["EE_D"])
    state = dict(network.state_dict())
    del state["stem.conv.weight"]
    state["extra.weight"] = torch.zeros(1)
    state["exits.5.classifier.bias"] = torch.zeros(7)
    with pytest.raises(CheckpointError) as error:
        load_weights(network, state)
    for part in ("missing stem.conv.weight", "unknown extra.weight", "exits.5.classifier.bias has shape (7,)"):
        assert part in str(error.value)


def test_another_family_is_refused() -> None:
    several = published_state(random_network(FAMILIES["EE_B"]), layout="ofav2")
    with pytest.raises(CheckpointError, match=r"missing exit_stage\..*unknown exit_stages\.0"):
        load_published(random_network(FAMILIES["SE_B"]), several)


def test_pretrained_weights_are_read_under_either_names() -> None:
    source = random_network(FAMILIES["EE_D"])
    macro = dataclasses.replace(source.macro, classes=7, channels=1)
    targets = [random_network(macro, seed=1) for _ in range(2)]
    notes = [
        load_pretrained(target, state)
        for target, state in zip(targets, (source.state_dict(), published_state(source)), strict=True)
    ]
    assert notes[0] == notes[1]
    assert len(notes[0]) == 2  # the first convolution, and the classifiers of all exits
    assert equal(*targets)


# -- files


def wrapped(tensors: dict[str, Tensor]) -> dict[str, object]:
    return {"bare": tensors, "ofa": {"state_dict": tensors, "epoch": 3}, "nat2": {"model_w1.0_state_dict": tensors,
            "model_w1.2_state_dict": {"other": torch.zeros(1)}, "optimizer_w1.0_state_dict": {}}}  # fmt: skip


@pytest.mark.parametrize("form", ["bare", "ofa", "nat2"])
def test_weights_are_found_in_every_form_of_file(form: str, tmp_path: Path) -> None:
    tensors = {"first_conv.conv.weight": torch.randn(2, 3)}
    torch.save(wrapped(tensors)[form], tmp_path / "net.pth")
    read = read_checkpoint(tmp_path / "net.pth", width=1)
    assert read.keys() == tensors.keys()
    assert torch.equal(read["first_conv.conv.weight"], tensors["first_conv.conv.weight"])


def test_safetensors_are_read(tmp_path: Path) -> None:
    save_tensors(tmp_path / "net.safetensors", {"a": torch.ones(2)})
    assert torch.equal(read_checkpoint(tmp_path / "net.safetensors")["a"], torch.ones(2))


class Bomb:
    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return Path.touch, (Path("exploded"),)  # type: ignore[return-value]


def test_code_in_a_file_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {"a": torch.ones(1)}, "more": Bomb()}, "new.pth")
    torch.save(Bomb(), "old.pth", _use_new_zipfile_serialization=False)
    Path("plain.pth").write_bytes(pickle.dumps(Bomb()))
    for name in ("new.pth", "old.pth", "plain.pth"):
        with pytest.raises(CheckpointError, match=f"{name} .* holds more than tensors"):
            read_checkpoint(name)
    assert not Path("exploded").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"epoch": 3}, "holds no weights"),
        ([1, 2], "holds no weights"),
        ({}, "holds no weights"),
        ({1: torch.ones(1)}, "holds no weights"),
        (
            {"model_w1.0_state_dict": {"a": torch.ones(1)}, "model_w1.2_state_dict": {"a": torch.ones(1)}},
            "of width 1.0, 1.2; choose with --width; got none",
        ),
    ],
)
def test_files_without_weights_are_refused(content: object, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "net.pth")
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(tmp_path / "net.pth")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and then nothing", b"not a checkpoint at all"])
def test_damaged_and_absent_files_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "net.pth").write_bytes(content)
    for name in ("net.pth", "absent.pth", "absent.safetensors"):
        with pytest.raises(CheckpointError, match=name):
            read_checkpoint(tmp_path / name)
