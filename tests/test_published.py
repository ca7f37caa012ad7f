"""Published super-networks by name: `--pretrained ofa-w1.0`."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
import yaml

from nat2.errors import CheckpointError, ConfigError, DownloadError
from nat2.pipeline.prepare import prepare
from nat2.pipeline.pretrained import begin_with, recalled, remarks
from nat2.runs.config import RunConfig
from nat2.shipped.published import PUBLISHED
from nat2.space import Macro
from nat2.supernet import SuperNetwork
from nat2.supernet.checkpoint import published_state
from nat2.supernet.weights import open_checkpoint


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that holds super-networks in the form of those published."""
    folder = tmp_path_factory.mktemp("cache")
    for published in PUBLISHED.values():
        macro = Macro(classes=1000, width=published.width, early_exits=False, dense_skips=False)
        network = SuperNetwork(macro, generator=torch.Generator().manual_seed(0))
        torch.save({"state_dict": published_state(network)}, folder / published.url.rpartition("/")[2])
    return folder


@pytest.fixture(autouse=True)
def offline(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAT2_CACHE", str(cache))
    monkeypatch.setenv("NAT2_OFFLINE", "1")


def test_their_address_is_that_of_the_authors_code() -> None:
    assert {name: each.url.rpartition("/")[2] for name, each in PUBLISHED.items()} == {
        "ofa-w1.0": "ofa_mbv3_d234_e346_k357_w1.0",
        "ofa-w1.2": "ofa_mbv3_d234_e346_k357_w1.2",
    }
    assert all(each.url.startswith("https://raw.githubusercontent.com/han-cai/files/") for each in PUBLISHED.values())


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_run_begins_with_them(name: str) -> None:
    given = RunConfig(pretrained=name, resolutions="24,32")
    plan, dataset = prepare(given)
    assert plan.config.pretrained == name
    assert (plan.family, plan.widths, plan.stem_stride) == ("SE_B", (PUBLISHED[name].width,), 2)
    lines = remarks(given, plan, dataset)
    assert lines[0].startswith(f"{name} ({PUBLISHED[name].url}) holds a super-network in OFA's layout")
    assert "terms of research" in lines[0]
    assert any("normalised with ImageNet's mean" in line for line in lines)


def test_with_early_exits_body_and_last_exit_are_theirs() -> None:
    given = RunConfig(pretrained="ofa-w1.0", family="EE_D", resolutions="24,32")
    plan, dataset = prepare(given)
    assert (plan.family, plan.widths) == ("EE_D", (1.0,))
    assert any("ofa-w1.0" in line for line in remarks(given, plan, dataset))
    network = SuperNetwork(plan.macros[0])
    notes = begin_with(network, "ofa-w1.0")
    assert "exits 1, 2, 3, 4: absent (a network with a single exit); left as initialised" in notes
    held = open_checkpoint("ofa-w1.0").of(None)
    assert torch.equal(
        network.state_dict()["stages.4.3.project.weight"], held["blocks.20.conv.point_linear.conv.conv.weight"]
    )


def test_both_widths_in_one_search() -> None:
    plan, _ = prepare(RunConfig(pretrained="ofa-w1.2,ofa-w1.0", resolutions="24,32"))
    assert plan.widths == (1.0, 1.2)
    assert plan.config.pretrained == "ofa-w1.0,ofa-w1.2"


def test_another_width_than_theirs_is_refused() -> None:
    given = RunConfig(pretrained="ofa-w1.0", width=0.5)
    plan, dataset = prepare(given)
    with pytest.raises(CheckpointError, match=r"ofa-w1.0 holds .*it needs --width 1.0"):
        remarks(given, plan, dataset)


def test_names_of_no_published_network_are_files(tmp_path: Path) -> None:
    with pytest.raises((CheckpointError, ConfigError), match=r"ofa-w1\.3"):
        prepare(RunConfig(pretrained="ofa-w1.3"))


def test_without_network_and_file_nothing_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAT2_CACHE", str(tmp_path))
    with pytest.raises(DownloadError, match=r"ofa-w1.0 is not in the cache and NAT2_OFFLINE is set"):
        prepare(RunConfig(pretrained="ofa-w1.0", data=str(tmp_path / "absent")))  # before the images are read


def test_a_run_that_has_begun_needs_the_file_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = RunConfig(pretrained="ofa-w1.0", resolutions="24,32")
    plan, _ = prepare(given)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(plan.config.to_dict()))
    assert recalled(given, tmp_path / "config.yaml") == given
    monkeypatch.setenv("NAT2_CACHE", str(tmp_path / "empty"))
    again = recalled(given, tmp_path / "config.yaml")
    assert again == dataclasses.replace(given, family="SE_B", width="1.0", stem_stride=2)
    assert prepare(again)[0] == plan
    other = dataclasses.replace(given, pretrained="ofa-w1.2")
    assert recalled(other, tmp_path / "config.yaml") == other


@pytest.mark.parametrize("content", ["another", "other width", "text"])
def test_a_file_that_is_something_else_is_refused(
    content: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NAT2_CACHE", str(tmp_path))
    path = PUBLISHED["ofa-w1.0"].path
    if content == "another":
        torch.save({"state_dict": {"fc.weight": torch.ones(3, 3)}}, path)
    elif content == "other width":
        path.write_bytes((cache / PUBLISHED["ofa-w1.2"].url.rpartition("/")[2]).read_bytes())
    else:
        path.write_text("not found")
    with pytest.raises(DownloadError, match=r"is not the checkpoint ofa-w1.0"):
        open_checkpoint("ofa-w1.0")
