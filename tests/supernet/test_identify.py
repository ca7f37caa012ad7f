"""What files of weights are, and how they are found in the files of trainers."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from nat2.data.dataset import Dataset
from nat2.errors import CheckpointError, ConfigError, Nat2Error
from nat2.files import save_tensors
from nat2.pipeline.prepare import prepare
from nat2.pipeline.pretrained import begin_with, remarks, settle
from nat2.runs.config import RunConfig
from nat2.runs.plan import Choices
from nat2.space import Macro, SearchSpace
from nat2.supernet import SuperNetwork, extract
from nat2.supernet.checkpoint import load_published, published_state, read_checkpoint
from nat2.supernet.identify import identify
from nat2.supernet.weights import open_checkpoint
from tests.supernet.conftest import FAMILIES, random_network

Content = Callable[[dict[str, Tensor]], object]


def of(**flags: Any) -> Choices:
    """What flags leave open."""
    return Choices.of(RunConfig(**flags))


def ofa(width: float = 1.0, classes: int = 1000) -> SuperNetwork:
    """In the form of the published `ofa_mbv3_d234_e346_k357_w1.0`."""
    macro = Macro(classes=classes, width=width, early_exits=False, dense_skips=False)
    return SuperNetwork(macro, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "ofa_mbv3_d234_e346_k357_w1.0"
    torch.save({"state_dict": published_state(ofa())}, path)
    return path


def test_a_family_is_seen_in_its_tensors(network: SuperNetwork) -> None:
    for state in (network.state_dict(), published_state(network), published_state(network, layout="ofav2")):
        found = identify(state)
        assert found is not None
        assert network.macro.family in found.families
        assert {"P" in each for each in found.families} == {network.macro.parallel_blocks}
        assert (found.width, found.classes, found.complete) == (0.35, 5, True)
        assert found.flags(network.macro) == []


@pytest.mark.parametrize("width", [0.1, 0.25, 0.35, 0.5, 0.75, 1.0, 1.2, 1.3, 2.0])
def test_a_width_is_seen_in_the_channels(width: float) -> None:
    with torch.device("meta"):
        found = identify(SuperNetwork(Macro(classes=3, width=width)).state_dict())
    assert found is not None
    assert found.width is not None
    same = [Macro(classes=3, width=each) for each in (width, found.width)]
    assert same[0].layer_shapes == same[1].layer_shapes
    assert [same[0].exit_shape(n) for n in same[0].exits] == [same[1].exit_shape(n) for n in same[1].exits]
    assert found.width == width or width not in (1.0, 1.2, 0.35, 0.5)


def test_dense_skips_are_the_likelier_except_in_ofas_layout() -> None:
    assert identify(published_state(ofa(0.35))).families == ("SE_B", "SE_D")  # type: ignore[union-attr]
    assert identify(published_state(ofa(0.35), layout="ofav2")).families == ("SE_D", "SE_B")  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("held", "wanted", "fits"),
    [
        ("SE_B", "EE_D", True),
        ("SE_B", "EE_B", True),
        ("SE_D", "EE_D", True),
        ("SE_P", "EE_DP", True),
        ("SE_D", "EE_B", False),  # its layers count on the skips
        ("SE_B", "EE_P", False),
        ("SE_P", "EE_D", False),
        ("EE_D", "SE_D", False),
        ("SE_B", "SE_D", False),
    ],
)
def test_early_exits_may_begin_with_a_single_exit(held: str, wanted: str, fits: bool) -> None:
    identity = identify(random_network(FAMILIES[held]).state_dict(), FAMILIES[held])
    assert identity is not None
    assert identity.flags(FAMILIES[wanted]) == ([] if fits else [f"--family {held}"])
    narrow = Macro(classes=5, width=0.5)
    assert ("--width 0.35" in identity.flags(narrow)) is True


def test_a_single_network_is_no_super_network(tmp_path: Path) -> None:
    network = random_network(FAMILIES["SE_B"])
    space = SearchSpace.of(network.macro, (32,))
    assert identify(published_state(extract(network, space.largest))).complete  # type: ignore[union-attr]
    torch.save(published_state(extract(network, space.smallest)), tmp_path / "small.pth")
    with pytest.raises(CheckpointError, match=r"small.pth holds a single network of 10 layers in OFA's layout"):
        settle(of(pretrained=str(tmp_path / "small.pth")), (32,))


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("conv_stem.weight", "a network of timm"),
        ("features.0.0.weight", "a network of torchvision"),
        ("input_stem.0.conv.weight", "OFA's ResNet"),
        ("first_conv.conv.weight", "such as ProxylessNAS"),
        ("fc.weight", "holds weights"),
    ],
)
def test_other_networks_are_called_what_they_are(name: str, told: str, tmp_path: Path) -> None:
    torch.save({"state_dict": {name: torch.ones(4, 3, 3, 3)}}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=told) as error:
        settle(of(pretrained=str(tmp_path / "other.pth")), (32,))
    assert "1 tensors, such as" in str(error.value)


# -- what a configuration leaves open


def test_what_is_left_open_is_taken_from_the_file(published: Path) -> None:
    settled = settle(of(pretrained=str(published)), (24, 28, 32))
    assert (settled.family, settled.widths, settled.stem_stride) == ("SE_B", (1.0,), 2)
    given = settle(of(pretrained=str(published), family="SE_D", stem_stride=1), (24, 28, 32))
    assert (given.family, given.widths, given.stem_stride) == ("SE_D", (1.0,), 1)
    assert settle(of(pretrained=str(published)), (14, 16)).stem_stride is None  # two would leave one pixel
    assert settle(of(pretrained="none"), (32,)).family == "EE_D"
    assert RunConfig.of("nat").family == "SE_B"


def test_the_introduction_says_what_was_taken_and_what_does_not_fit(published: Path) -> None:
    given = RunConfig(pretrained=str(published), resolutions="24,32")
    plan, dataset = prepare(given)
    lines = remarks(given, plan, dataset)
    assert lines[0].endswith("holds a super-network in OFA's layout: SE_B or SE_D, width 1.0, 1000 classes")
    assert lines[1] == "taken from that: family SE_B, width 1.0, stem stride 2"
    assert "normalised with ImageNet's mean (0.485, 0.456, 0.406)" in lines[2]
    assert len(lines) == 3
    given = RunConfig(pretrained=str(published), stem_stride=1, family="SE_B", width=1)
    plan, dataset = prepare(given)
    assert any("stem of stride 2, here it is 1" in line for line in remarks(given, plan, dataset))
    like = Dataset(**vars(dataset) | {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)})
    assert not any("normalised" in line for line in remarks(given, plan, like))


@pytest.mark.parametrize(
    ("flags", "needed"),
    [
        ({"family": "EE_DP"}, "it needs --family SE_B"),
        ({"width": 0.5}, "it needs --width 1.0"),
        ({"family": "SE_P", "width": 1.2}, "it needs --family SE_B and --width 1.0"),
        ({"width": "1.0,1.2"}, "it needs --width 1.0"),
    ],
)
def test_contradicting_flags_are_named(published: Path, flags: dict[str, object], needed: str) -> None:
    given = RunConfig(pretrained=str(published), **flags)  # type: ignore[arg-type]
    plan, dataset = prepare(given)
    with pytest.raises(CheckpointError) as error:
        remarks(given, plan, dataset)
    assert str(error.value).endswith(needed)
    assert "holds a super-network in OFA's layout" in str(error.value)
    assert "tensors" not in str(error.value)


def test_one_file_of_several_widths(tmp_path: Path) -> None:
    path = tmp_path / "iter_30.pth"
    states = {w: published_state(ofa(w, classes=5), layout="ofav2") for w in (0.35, 0.25)}
    torch.save({f"model_w{width}_state_dict": state for width, state in states.items()}, path)
    settled = settle(of(pretrained=str(path)), (32,))
    assert (settled.widths, settled.pretrained) == ((0.25, 0.35), (str(path), str(path)))
    assert settle(of(pretrained=str(path), width=0.35), (32,)).widths == (0.35,)
    with pytest.raises(CheckpointError, match=r"width 0.25, 0.35; choose with --width; got 0.5"):
        settle(of(pretrained=str(path), width=0.5), (32,))


def test_files_come_in_any_order_and_once(tmp_path: Path) -> None:
    for name, width in (("wide", 0.35), ("narrow", 0.25)):
        torch.save(published_state(ofa(width, classes=5)), tmp_path / name)
    wide, narrow = str(tmp_path / "wide"), str(tmp_path / "narrow")
    settled = settle(of(pretrained=f"{wide},{narrow}"), (32,))
    assert (settled.widths, settled.pretrained) == ((0.25, 0.35), (narrow, wide))
    with pytest.raises(ConfigError, match=r"are both of width 0.35"):
        settle(of(pretrained=f"{wide},{wide}"), (32,))
    with pytest.raises(ConfigError, match=r"one file per width; got 2 for 1"):
        settle(of(pretrained=f"{wide},{narrow}", width=0.25), (32,))


def test_exits_of_doubled_width_are_left_as_initialised(tmp_path: Path) -> None:
    doubled = SuperNetwork(Macro(classes=5, width=0.35, doubled_exit_widths=True))
    torch.save(published_state(doubled), tmp_path / "a.pth")
    target = random_network(FAMILIES["EE_D"])
    notes = begin_with(target, str(tmp_path / "a.pth"))
    assert any("exit 5: its channels are multiplied by the width twice" in note for note in notes)
    assert torch.equal(target.stem.conv.weight, doubled.stem.conv.weight)


# -- files

FORMS: dict[str, Content] = {
    "bare": lambda state: state,
    "state_dict": lambda state: {"state_dict": state, "epoch": 3},
    "numpy scalar": lambda state: {"state_dict": state, "best": np.float64(71.3), "epoch": np.int64(3)},
    "numpy array": lambda state: {"state_dict": state, "history": np.arange(3.0)},
    "arguments": lambda state: {"state_dict": state, "args": argparse.Namespace(lr=0.1)},
    "averaged": lambda state: {"state_dict": {k: v * 0 for k, v in state.items()}, "state_dict_ema": state},
    "nested": lambda state: {"ema": {"module": state}},
    "model": lambda state: {"model": state},
    "mixed": lambda state: {**state, "epoch": 3},
    "DataParallel": lambda state: {"state_dict": {f"module.{k}": v for k, v in state.items()}},
    "compiled": lambda state: {f"_orig_mod.{k}": v for k, v in state.items()},
    "Lightning": lambda state: {"state_dict": {f"model.net.{k}": v for k, v in state.items()}},
    "AveragedModel": lambda state: {"n_averaged": torch.tensor(3), **{f"module.{k}": v for k, v in state.items()}},
    "deep classifier": lambda state: {k.replace("classifier.linear", "classifier.linear.linear"): v
                                      for k, v in state.items()},
    "parameters": lambda state: {k: torch.nn.Parameter(v) if v.is_floating_point() else v for k, v in state.items()},
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("old", [False, True])
def test_weights_are_found_wherever_trainers_put_them(form: str, old: bool, tmp_path: Path) -> None:
    source, target = random_network(FAMILIES["SE_B"]), random_network(FAMILIES["SE_B"], seed=1)
    content = FORMS[form](published_state(source))
    torch.save(content, tmp_path / "net.pth", _use_new_zipfile_serialization=not old)
    load_published(target, read_checkpoint(tmp_path / "net.pth"))
    assert all(torch.equal(value, target.state_dict()[name]) for name, value in source.state_dict().items())


def test_safetensors_are_known_by_their_content(tmp_path: Path) -> None:
    source = random_network(FAMILIES["SE_B"])
    save_tensors(tmp_path / "net.safetensors", published_state(source))
    (tmp_path / "net.pth").write_bytes((tmp_path / "net.safetensors").read_bytes())
    assert read_checkpoint(tmp_path / "net.pth").keys() == read_checkpoint(tmp_path / "net.safetensors").keys()
    macro = {"classes": 5, "width": 0.35, "early_exits": False, "dense_skips": False, "stem_stride": 1}
    save_tensors(tmp_path / "own.safetensors", source.state_dict(), {"macro": macro})
    checkpoint = open_checkpoint(tmp_path / "own.safetensors")
    found = identify(checkpoint.of(None), checkpoint.macro)
    assert found is not None
    assert (found.families, found.stem_stride) == (("SE_B",), 1)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"<!DOCTYPE html><html>", "holds a web page instead of weights"),
        (b"version https://git-lfs.github.com/spec/v1\n", "holds a Git LFS pointer"),
        (b"\x1f\x8b\x08 and more", "holds a gzip archive"),
        (b"nothing of the kind", "of another format"),
        (b"", "of another format"),
    ],
)
def test_what_is_no_checkpoint_is_told_in_whole_sentences(content: bytes, told: str, tmp_path: Path) -> None:
    (tmp_path / "net.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=told) as error:
        open_checkpoint(tmp_path / "net.pth")
    assert "weights_only" not in str(error.value)


def test_cut_files_and_folders_are_told_in_whole_sentences(published: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.pth").write_bytes(published.read_bytes()[:100_000])
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    for name, told in (("cut.pth", "damaged"), ("cut.safetensors", "cut short"), ("", "is a folder; name a file")):
        with pytest.raises(CheckpointError, match=told) as error:
            open_checkpoint(tmp_path / name)
        assert "PyTorch" not in str(error.value)


def test_urls_are_not_read() -> None:
    with pytest.raises(Nat2Error, match=r"download https://host/ofa.pth yourself"):
        open_checkpoint("https://host/ofa.pth")
