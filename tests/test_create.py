"""Trained networks without a search: the table, the choice within a budget, and what is returned."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import nat2
from nat2.cli import main
from nat2.errors import CheckpointError, ConfigError
from nat2.nas.budget import parse_count
from nat2.pipeline.create import Preprocessing, best_of, create
from nat2.shipped import DEFAULT, networks
from nat2.shipped.networks import (
    ListedNetwork,
    Measured,
    NetworkTable,
    list_networks,
    macro_of,
    names_of,
    read_table,
    table_of,
)
from nat2.space import Arch, SearchSpace, cost
from nat2.supernet import SuperNetwork, calibrate
from nat2.supernet.checkpoint import load_pretrained
from nat2.supernet.static import StaticNetwork
from nat2.supernet.statistics import packed, unpacked
from nat2.supernet.weights import open_checkpoint

SPACE = SearchSpace.of(macro_of(DEFAULT, classes=10), (32, 48))
ARCHS = [SPACE.smallest, *(SPACE.decode(genome) for genome in SPACE.sample(5, np.random.default_rng(1)))]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NetworkTable]:
    """A table of six networks, the larger the more accurate, in place of the shipped one."""
    path = tmp_path_factory.mktemp("table") / "table.safetensors"
    macro = macro_of(DEFAULT, classes=10)
    network = SuperNetwork(macro).eval()
    load_pretrained(network, open_checkpoint(DEFAULT.name).of(DEFAULT.width))
    names = names_of(ARCHS, macro)
    order = np.argsort(np.argsort([cost(macro, arch).params for arch in ARCHS]))
    images = torch.randn(16, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    NetworkTable(
        weights=DEFAULT.sha256,
        mean=(0.48, 0.45, 0.4),
        std=(0.28, 0.27, 0.28),
        images=100,
        networks=tuple(
            Measured(name=name, key=arch.key, accuracy=0.1 + 0.01 * int(place))
            for name, arch, place in zip(names, ARCHS, order, strict=True)
        ),
        statistics={
            name: packed(StaticNetwork(macro, arch), calibrate(network, arch, [images]))
            for name, arch in zip(names, ARCHS, strict=True)
        },
    ).write(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(networks, "table_of", lambda shipped: path)
        read_table.cache_clear()
        yield read_table()
    read_table.cache_clear()


# -- the shipped table


def test_the_shipped_table_belongs_to_the_shipped_weights() -> None:
    found = read_table()
    assert found.weights == DEFAULT.sha256
    assert table_of(DEFAULT).stat().st_size < 1.1e6
    assert len(found.networks) >= 10
    macro = macro_of(DEFAULT, classes=10)
    for each in found.networks:
        assert len(unpacked(StaticNetwork(macro, each.arch), found.statistics[each.name])) > 5
    costs = [cost(macro, each.arch).params for each in found.networks]
    assert min(costs) < 30_000
    assert max(costs) > 300_000
    assert {each.arch.resolution for each in found.networks} == {32, 48, 64}


def test_a_created_network_has_the_features_it_was_listed_for(shared_data: Path) -> None:
    """With the original classifier it classifies images of Tiny ImageNet that it has not seen."""
    listed = max(list_networks(200), key=lambda each: each.accuracy)
    network = create(listed.name, classes=200).eval()
    weights = open_checkpoint(DEFAULT.name).of(DEFAULT.width)
    (number,) = network.exits
    classifier = {field: weights[f"exits.{number}.classifier.{field}"].float() for field in ("weight", "bias")}
    network.get_submodule(f"exits.{number}.classifier").load_state_dict(classifier)
    held = np.load(shared_data / "tiny_imagenet" / "train-1.npz")
    data, offsets = held["data"], held["offsets"]
    chosen = range(len(offsets) - 401, len(offsets) - 1)
    pixels = [Image.open(io.BytesIO(data[offsets[n] : offsets[n + 1]].tobytes())).convert("RGB") for n in chosen]
    images = torch.from_numpy(np.stack([np.asarray(each) for each in pixels])).permute(0, 3, 1, 2)
    with torch.no_grad():
        answers = network(network.preprocessing(images)).argmax(1).numpy()
    assert (answers == held["labels"][list(chosen)]).mean() == pytest.approx(listed.accuracy, abs=0.1)


def test_a_table_of_other_weights_is_refused(table: NetworkTable, tmp_path: Path) -> None:
    other = tmp_path / "table.safetensors"
    dataclasses.replace(table, weights="0" * 64).write(other)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(networks, "table_of", lambda shipped: other)
        with pytest.raises(CheckpointError, match=r"measured with other weights.*benchmarks/networks.py"):
            read_table.__wrapped__()
        other.write_bytes(other.read_bytes()[:500])
        with pytest.raises(CheckpointError, match="is damaged"):
            read_table.__wrapped__()
        other.unlink()
        with pytest.raises(CheckpointError, match=r"is missing.*install nat2 again"):
            read_table.__wrapped__()


@pytest.mark.parametrize("change", ["statistics", "mean", "networks"])
def test_a_table_that_contradicts_itself_is_damaged(table: NetworkTable, tmp_path: Path, change: str) -> None:
    changes: dict[str, Any] = {
        "statistics": {"statistics": dict(list(table.statistics.items())[1:])},
        "mean": {"mean": ("a", "b", "c")},
        "networks": {"networks": ()},
    }
    path = tmp_path / "table.safetensors"
    dataclasses.replace(table, **changes[change]).write(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(networks, "table_of", lambda shipped: path)
        with pytest.raises(CheckpointError, match="is damaged"):
            read_table.__wrapped__()


# -- the list


def test_the_list_shows_costs_for_the_classes_asked_for(table: NetworkTable) -> None:
    ten, hundred = nat2.list_networks(), nat2.list_networks(100)
    assert [each.params for each in ten] == sorted(each.params for each in ten)
    for each in (*ten, *hundred):
        arch, macro = Arch.from_key(each.key), macro_of(DEFAULT, classes=10 if each in ten else 100)
        assert (each.params, each.macs) == cost(macro, arch)[:2]
    assert {each.name for each in ten} == {each.name for each in hundred}
    assert repr(ten).splitlines()[0].split() == ["network", "pixels", "params", "MACs", "Tiny", "ImageNet", "%"]
    assert "<table>" in ten._repr_html_()
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(ten)
    assert list(frame.columns) == ["name", "resolution", "params", "macs", "accuracy", "key"]
    with pytest.raises(ConfigError, match="at least 2 classes"):
        nat2.list_networks(1)


def test_names_are_of_one_network_each() -> None:
    macro = macro_of(DEFAULT, classes=10)
    names = names_of([*ARCHS, ARCHS[0], SPACE.largest], macro)
    assert len(set(names)) == len(names)
    assert names[0] == f"{cost(macro, ARCHS[0]).params / 1e3:.0f}k-32px"
    assert names[-2] == f"{names[0]}-2"
    assert names[-1] == f"{cost(macro, SPACE.largest).params / 1e6:.2f}M-48px"


# -- the choice


def test_the_most_accurate_network_within_the_budget_is_taken(table: NetworkTable) -> None:
    listed = list_networks(7)
    for each in listed:
        found = create(classes=7, params=each.params).listed
        assert found == max((one for one in listed if one.params <= each.params), key=lambda one: one.accuracy)
    assert create(classes=7).listed == max(listed, key=lambda one: one.accuracy)
    macs = sorted(each.macs for each in listed)[2]
    assert create(classes=7, macs=macs).listed.macs <= macs
    assert create(classes=7, params="2M", macs=str(macs)).listed.macs <= macs


def test_of_networks_that_cannot_be_told_apart_the_largest_is_taken() -> None:
    def of(params: int, accuracy: float) -> ListedNetwork:
        return ListedNetwork(name="", resolution=32, params=params, macs=1, accuracy=accuracy, key="")

    small, large, weak = of(1, 0.5), of(2, 0.46), of(3, 0.44)
    assert best_of([weak, large, small], 100) == large  # the standard error is 0.05
    assert best_of([weak, large, small], 1000) == small
    assert best_of([weak, large, small], 50) == weak


@pytest.mark.parametrize("resolution", [32, 40, 56, 128])
def test_a_resolution_takes_the_networks_of_the_nearest_one(table: NetworkTable, resolution: int) -> None:
    network = create(classes=3, resolution=resolution)
    assert network.arch.resolution == network.preprocessing.resolution == network.listed.resolution == resolution
    assert network.listed.name.endswith("32px" if resolution in (32, 40) else "48px")
    assert network.listed.macs == cost(network.macro, network.arch).macs
    assert network(torch.zeros(2, 3, resolution, resolution)).shape == (2, 3)


def test_a_network_by_name_id_or_architecture(table: NetworkTable) -> None:
    for each in list_networks(4):
        for name in (each.name, each.key, Arch.from_key(each.key).id):
            assert create(name, classes=4).listed == each
    moved = create(each.name, classes=4, resolution=64)
    assert (moved.listed.name, moved.arch.resolution) == (each.name, 64)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"params": 1000}, r"10 classes has at most 1,000 params; least params: [\d,]+ \(.*px\)"),
        ({"params": "9k", "macs": "1k", "resolution": 48}, "48 pixels has at most 9,000 params and at most 1,000 macs"),
        ({"params": 0}, "`params` must be a whole number above 0"),
        ({"params": -5}, "`params` must be a whole number above 0"),
        ({"params": True}, "`params` must be a whole number above 0"),
        ({"params": 1.5}, "`params` must be a whole number above 0"),
        ({"macs": "many"}, "`macs` must be a whole number above 0, such as 50000 or 50k; got 'many'"),
        ({"macs": float("nan")}, "`macs` must be"),
        ({"name": "resnet18"}, r"there is no network 'resnet18'.*nat2 networks"),
        ({"name": "36k-32px", "params": 5}, "the name of a network or a budget, not both"),
        ({"resolution": 16}, "`resolution` must be a whole number from 32 to 128; got 16"),
        ({"resolution": 48.0}, "`resolution` must be a whole number"),
        ({"classes": 1}, "`classes` must be a whole number from 2"),
        ({"classes": "10"}, "`classes` must be a whole number from 2"),
        ({"channels": 0}, "`channels` must be"),
    ],
)  # fmt: skip
def test_what_cannot_be_created_is_refused(table: NetworkTable, given: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        create(**{"classes": 10, **given})


@pytest.mark.parametrize(
    ("text", "count"),
    [("50k", 50_000), ("50_000", 50_000), ("1.5M", 1_500_000), (" 2 G ", 2 * 10**9), ("1e5", 100_000), (7, 7)],
)
def test_counts_as_people_write_them(text: int | str, count: int) -> None:
    assert parse_count("params", text) == count


# -- what is returned


def test_it_is_a_plain_module_that_learns(table: NetworkTable) -> None:
    network = create(params="2M", resolution=48, classes=5)
    assert isinstance(network, nn.Module)
    assert network.training
    assert all(parameter.requires_grad for parameter in network.parameters())
    images, labels = torch.randn(8, 3, 48, 48), torch.arange(8) % 5
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    losses = []
    for _ in range(3):
        loss = nn.functional.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        assert all(parameter.grad is not None for parameter in network.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_weights_and_statistics_are_those_of_the_super_network(table: NetworkTable) -> None:
    found = table.networks[3]
    network = create(found.name, classes=10).eval()
    macro = macro_of(DEFAULT, classes=10)
    whole = SuperNetwork(macro).eval()
    load_pretrained(whole, open_checkpoint(DEFAULT.name).of(DEFAULT.width))
    stored = unpacked(StaticNetwork(macro, found.arch), table.statistics[found.name])
    images = torch.randn(16, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    for path, (mean, variance) in calibrate(whole, found.arch, [images]).items():
        torch.testing.assert_close(stored[path][0], mean, rtol=2e-3, atol=2e-3)
        torch.testing.assert_close(stored[path][1], variance, rtol=4e-3, atol=1e-5)
        torch.testing.assert_close(network.get_submodule(path).running_mean, stored[path][0])
    torch.testing.assert_close(network.stem.conv.weight, whole.stem.conv.weight)


def test_seeds_and_random_weights(table: NetworkTable) -> None:
    one, same, other = (create(classes=5, seed=seed) for seed in (0, 0, 1))
    (number,) = one.exits
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    weight = f"exits.{number}.classifier.weight"
    assert not torch.equal(one.state_dict()[weight], other.state_dict()[weight])
    assert torch.equal(one.stem.conv.weight, other.stem.conv.weight)
    random = create(classes=5, pretrained=False)
    assert (random.arch, random.preprocessing) == (one.arch, one.preprocessing)
    assert not torch.equal(random.stem.conv.weight, one.stem.conv.weight)
    variance = random.state_dict()["stem.bn.running_var"]
    assert torch.equal(variance, torch.ones_like(variance))


def test_grey_images_are_the_colours_mean(table: NetworkTable) -> None:
    grey, colour = (create(classes=5, channels=channels) for channels in (1, 3))
    torch.testing.assert_close(grey.stem.conv.weight, colour.stem.conv.weight.sum(1, keepdim=True))
    assert grey.preprocessing.mean == pytest.approx((sum(table.mean) / 3,))
    side = grey.arch.resolution
    assert grey(torch.zeros(2, 1, side, side)).shape == (2, 5)


def test_it_survives_copying_and_saving(table: NetworkTable) -> None:
    network = create(classes=5).eval()
    again = create(classes=5, pretrained=False, seed=3).eval()
    buffer = io.BytesIO()
    torch.save(network.state_dict(), buffer)
    buffer.seek(0)
    again.load_state_dict(torch.load(buffer, weights_only=True))
    images = torch.randn(2, 3, network.arch.resolution, network.arch.resolution)
    torch.testing.assert_close(again(images), network(images))


def test_preprocessing_makes_inputs_of_images() -> None:
    preprocessing = Preprocessing(resolution=8, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.25))
    white = preprocessing(torch.full((2, 3, 20, 12), 255, dtype=torch.uint8))
    assert white.shape == (2, 3, 8, 8)
    torch.testing.assert_close(white[0, :, 4, 4], torch.tensor([2.5, 3.0, 2.8]))
    pixels = torch.zeros(3, 8, 16, dtype=torch.uint8)
    pixels[:, :, 4:12] = 255  # the centre square
    torch.testing.assert_close(preprocessing(pixels), white[:1])
    for wrong in (torch.zeros(3, 8, 8), torch.zeros(1, 8, 8, dtype=torch.uint8), torch.zeros(8, 8, dtype=torch.uint8)):
        with pytest.raises(ConfigError, match=r"uint8 tensors of shape \(N, 3, H, W\)"):
            preprocessing(wrong)


def test_damaged_statistics_are_refused(table: NetworkTable) -> None:
    plain = StaticNetwork(macro_of(DEFAULT, classes=2), ARCHS[0])
    vector = table.statistics[table.networks[0].name].clone()
    for wrong in (vector[1:], torch.where(torch.arange(len(vector)) == 3, torch.nan, vector)):
        with pytest.raises(CheckpointError, match="are damaged"):
            unpacked(plain, wrong)


# -- the command line


def call(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(words))
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_the_list_on_the_command_line(
    table: NetworkTable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    assert call("networks", "--classes", "2", "--csv", str(tmp_path / "networks.csv")) == 0
    shown = capsys.readouterr().out
    assert all(each.name in shown for each in table.networks)
    assert "100 held-out images of Tiny ImageNet" in shown
    with (tmp_path / "networks.csv").open(newline="") as file:
        assert [row["name"] for row in csv.DictReader(file)] == [each.name for each in list_networks(2)]
    assert call("networks", "--classes", "1") == 2
    assert call("networks", "--csv", str(tmp_path / "networks.txt")) == 2


def test_create_writes_a_network_that_loads(
    table: NetworkTable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    out = tmp_path / "net"
    assert call("create", "--params", "2M", "--resolution", "48", "--classes", "10", "--out", str(out)) == 0
    shown = capsys.readouterr().out
    assert "terms of research" in shown
    assert f"nat2.load('{out}')" in shown
    network = nat2.load(out)
    images = torch.randint(0, 256, (4, 3, 48, 48), dtype=torch.uint8)
    created = create(params="2M", resolution=48, classes=10).eval()
    with torch.no_grad():
        torch.testing.assert_close(network(images / 255), created(created.preprocessing(images)))
    assert json.loads((out / "arch.json").read_text())["created"]["name"] == created.listed.name
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert call("create", "--classes", "10", "--out", str(out)) == 2
    assert "is not an empty folder" in capsys.readouterr().err
    assert call("create", table.networks[0].name, "--classes", "3", "--random", "--out", str(tmp_path / "new")) == 0
    assert "random" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["create", "--classes", "10"], "create needs OUT"),
        (["create", "--out", "net"], "create needs CLASSES"),
        (["create", "--classes", "10", "--out", "net", "--params", "5"], "no listed network"),
        (["create", "nothing", "--classes", "10", "--out", "net"], "there is no network 'nothing'"),
        (["create", "--classes", "ten", "--out", "net"], "classes"),
    ],
)
def test_wrong_words_are_answered(
    table: NetworkTable, words: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert call(*words) == 2
    assert told in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
