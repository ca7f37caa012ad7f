"""Data sets of the Hugging Face hub, by the example of one on disk."""

from __future__ import annotations

import io
import sys
import tarfile
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nat2.data import sources
from nat2.data.dataset import name_of, read_dataset
from nat2.data.settings import Reading
from nat2.errors import ConfigError, DataError
from tests.pixels import pixels_of

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what the library imports is not ours
    datasets = pytest.importorskip("datasets")


def write(folder: Path, **splits: list[int]) -> np.ndarray:
    """A data set in the hub's own format; returns the pixels of the first split."""
    generator = np.random.default_rng(0)
    kept = None
    for split, labels in splits.items():
        images = generator.integers(0, 256, (len(labels), 12, 10, 3), dtype=np.uint8)
        kept = images if kept is None else kept
        features = datasets.Features(
            {"id": datasets.Value("int32"), "img": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
        )
        rows = {"id": list(range(len(labels))), "img": [Image.fromarray(each) for each in images], "label": labels}
        folder.mkdir(parents=True, exist_ok=True)
        datasets.Dataset.from_dict(rows, features=features).to_parquet(str(folder / f"{split}-0.parquet"))
    assert kept is not None
    return kept


@pytest.fixture(autouse=True)
def _private_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("memory", "cache"), [(None, ""), (1e-6, "none"), (1e-6, "")])
def test_images_and_labels_are_found_by_their_kind(tmp_path: Path, memory: float | None, cache: str) -> None:
    images = write(tmp_path / "pets", train=[0, 1] * 10, validation=[1, 0], test=[0, 1, -1])
    dataset = read_dataset(
        f"hub:{tmp_path / 'pets'}", side=10, reading=Reading(memory=memory, cache=cache or str(tmp_path / "images"))
    )
    assert dataset.classes == ("cat", "dog")
    assert (len(dataset.train), len(dataset.val), len(dataset.test)) == (20, 2, 2)
    assert "left out in test, without a label: 1 image" in dataset.notes
    first = dataset.train.pixels[torch.arange(1)][0].numpy()
    np.testing.assert_array_equal(first.transpose(1, 2, 0), images[0][1:11])
    assert dataset.train.names[3] == "train[3]"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("labels", "classes"), [((3, 10), ("3", "10")), (("owl", "cat"), ("cat", "owl"))])
def test_columns_that_are_called_like_labels_are_classes(
    tmp_path: Path, labels: tuple[object, object], classes: tuple[str, str]
) -> None:
    """As in parquet files that somebody wrote without naming the classes."""
    images = [Image.fromarray(np.full((9, 9), 10 * number, np.uint8)) for number in range(20)]
    rows = {"picture": images, "label": [labels[number % 2] for number in range(20)]}
    (tmp_path / "pets").mkdir()
    made = datasets.Dataset.from_dict(rows).cast_column("picture", datasets.Image())
    made.to_parquet(str(tmp_path / "pets" / "train.parquet"))
    dataset = read_dataset(f"hub:{tmp_path / 'pets'}", side=9)
    assert dataset.classes == classes
    shown = pixels_of(dataset.train)[:, 0, 0, 0] // 10
    assert torch.equal(shown % 2 == 1, dataset.train.labels == classes.index(str(labels[1])))


@pytest.mark.filterwarnings("ignore")
def test_webdataset_shards_are_read(tmp_path: Path) -> None:
    (tmp_path / "pets").mkdir()
    for shard in range(2):
        with tarfile.open(tmp_path / "pets" / f"train-{shard}.tar", "w") as archive:
            for number in range(10):
                file = io.BytesIO()
                Image.new("RGB", (12, 12), (20 * number, 9, shard)).save(file, "PNG")
                for suffix, content in (("png", file.getvalue()), ("cls", b"%d" % (number % 2))):
                    entry = tarfile.TarInfo(f"{shard}{number:03}.{suffix}")
                    entry.size = len(content)
                    archive.addfile(entry, io.BytesIO(content))
    dataset = read_dataset(f"hub:{tmp_path / 'pets'}", side=12)
    assert dataset.classes == ("0", "1")
    assert torch.equal(pixels_of(dataset.train)[:, 0, 0, 0] // 20 % 2, dataset.train.labels)


@pytest.mark.filterwarnings("ignore")
def test_images_of_the_hub_are_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "pets", train=[0, 1] * 10)
    reading = Reading(memory=1e-6, cache=str(tmp_path / "images"))
    first = read_dataset(f"hub:{tmp_path / 'pets'}", side=10, reading=reading)
    monkeypatch.setattr(sources, "read_square", None)
    again = read_dataset(f"hub:{tmp_path / 'pets'}", side=10, reading=reading)
    assert again.fingerprint == first.fingerprint


@pytest.mark.filterwarnings("ignore")
def test_what_cannot_be_used_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    datasets.Dataset.from_dict({"text": ["a", "b"]}).to_parquet(str(folder / "train.parquet"))
    with pytest.raises(DataError, match=r"column of images and one of class labels; it has text \(Value\)"):
        read_dataset(f"hub:{folder}", side=10)
    with pytest.raises(DataError, match="absent cannot be loaded from the hub"):
        read_dataset(f"hub:{tmp_path / 'absent'}", side=10)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigError, match=r"pip install 'nat2\[hub\]'"):
        read_dataset("hub:some/images", side=10)


def test_names_become_folders() -> None:
    assert name_of("hub:owner/images:large") == "owner-images-large"
