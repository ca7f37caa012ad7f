"""Decoded images on disk: the same as those in memory, decoded once, whatever happens to the process or the files."""

from __future__ import annotations

import resource
import shutil
import threading
import time
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image

from nat2.data import sources, store
from nat2.data.cache import cache_root
from nat2.data.dataset import Dataset, read_dataset
from nat2.data.decode import read_square
from nat2.data.depth import DeepImage
from nat2.data.record import ENTRY
from nat2.data.settings import Reading
from nat2.data.stream import StreamedPixels
from nat2.data.transform import shuffled_batches
from nat2.errors import DataError, RunError
from tests.calls import Calls
from tests.data.test_depth import png16
from tests.pixels import pixels_of

SIDE = 16


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """40 images of two classes: grey and in colour, JPEG and PNG, of 8 and of 16 bits, opaque and not."""
    root, generator = tmp_path / "images", np.random.default_rng(0)
    for number in range(40):
        folder = root / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 256, (21, 30, 3), dtype=np.uint8)
        if number % 5 == 4:
            deep = generator.integers(0, 4096, (20, 24, 2 + 2 * (number % 2)))
            (folder / f"{number:02}.png").write_bytes(png16(deep))
        elif number % 5 == 3:
            Image.fromarray(pixels[..., 0]).save(folder / f"{number:02}.png")
        else:
            Image.fromarray(pixels).save(folder / f"{number:02}.jpg")
    return root


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were decoded."""
    found: list[Path] = []

    def counting(source: Path, side: int) -> Any:
        found.append(source)
        return read_square(source, side)

    monkeypatch.setattr(sources, "read_square", counting)
    return found


def read(images: Path, cache: Path | str, *, skip: bool = False, progress: Calls | None = None) -> Dataset:
    """Through a cache, because the images do not fit into memory."""
    reading = Reading(memory=1e-6, cache=str(cache), skip_bad_images=skip)
    return read_dataset(str(images), side=SIDE, reading=reading, progress=progress or Calls())


def everything(dataset: Dataset) -> list[torch.Tensor]:
    splits = (dataset.train, dataset.val, dataset.test)
    return [split.pixels[torch.arange(len(split))] for split in splits] + [split.labels for split in splits]


def same(ours: Dataset, theirs: Dataset) -> None:
    assert (ours.fingerprint, ours.mean, ours.std, ours.span) == (
        theirs.fingerprint, theirs.mean, theirs.std, theirs.span,
    )  # fmt: skip
    assert all(torch.equal(a, b) for a, b in zip(everything(ours), everything(theirs), strict=True))


def files_of(cache: Path) -> tuple[Path, Path]:
    (data,) = cache.glob("*/images.bin")
    return data, data.with_name("index.bin")


def test_cached_images_are_those_in_memory_and_those_decoded_on_demand(images: Path, tmp_path: Path) -> None:
    cached = read(images, tmp_path / "cache")
    assert isinstance(cached.train.pixels, StreamedPixels)
    kept = read_dataset(str(images), side=SIDE)
    assert isinstance(kept.train.pixels, torch.Tensor)
    for other in (kept, read(images, "none"), read(images, tmp_path / "cache")):
        same(cached, other)
        assert cached.val.names == other.val.names
    order = list(shuffled_batches(len(kept.train), 4, torch.Generator().manual_seed(0)))
    for ours, theirs in zip(cached.train.batches(order), kept.train.batches(order), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    joined, held = cached.train.joined(cached.val), kept.train.joined(kept.val)
    assert torch.equal(joined.pixels[torch.arange(len(held))], held.pixels[torch.arange(len(held))])
    assert torch.equal(pixels_of(kept.train.joined(cached.val)), pixels_of(held))  # as on a GPU with room for one
    assert torch.equal(cached.train.pixels.to(torch.device("cpu")), kept.train.pixels)
    assert cached.train.pixels.nbytes == kept.train.pixels.nbytes


def test_grey_images_stay_grey_in_a_cache(images: Path, tmp_path: Path) -> None:
    for path in images.rglob("*.jpg"):
        path.unlink()
    (images / "b" / "deep.png").write_bytes((images / "a" / "04.png").read_bytes())
    for path in images.rglob("b/?9.png"):
        path.unlink()
    cached = read(images, tmp_path / "cache")
    assert cached.channels == 1
    same(cached, read_dataset(str(images), side=SIDE))


def test_later_starts_decode_nothing(images: Path, tmp_path: Path, decoded: list[Path]) -> None:
    steps: list[int] = []
    said: list[str] = []
    first = read(images, tmp_path / "cache", progress=Calls(said.append, steps.append))
    assert len(decoded) == sum(steps) == 40
    data, _ = files_of(tmp_path / "cache")
    assert said == [f"decoded images: {data.parent} ({data.stat().st_size / 1024:.1f} KiB)"]
    steps.clear()
    same(read(images, tmp_path / "cache", progress=Calls(tick=steps.append)), first)
    assert len(decoded) == sum(steps) == 40


def test_only_new_and_changed_files_are_decoded_again(images: Path, tmp_path: Path, decoded: list[Path]) -> None:
    read(images, tmp_path / "cache")
    decoded.clear()
    changed, added, removed = images / "a" / "00.jpg", images / "b" / "new.png", images / "b" / "11.jpg"
    shutil.copy2(images / "a" / "10.jpg", changed)  # with the other file's time
    Image.new("L", (20, 20), 7).save(added)
    removed.unlink()
    dataset = read(images, tmp_path / "cache")
    assert sorted(decoded) == [changed, added]
    same(dataset, read_dataset(str(images), side=SIDE))


def test_a_cache_that_is_mostly_of_other_images_begins_again(images: Path, tmp_path: Path) -> None:
    read(images, tmp_path / "cache")
    before = files_of(tmp_path / "cache")[0].stat().st_size
    for path in images.rglob("*.*"):
        path.write_bytes(path.read_bytes())
    same(read(images, tmp_path / "cache"), read_dataset(str(images), side=SIDE))
    assert files_of(tmp_path / "cache")[0].stat().st_size == before


def test_another_side_is_another_cache(images: Path, tmp_path: Path) -> None:
    read(images, tmp_path / "cache")
    read_dataset(str(images), side=12, reading=Reading(memory=1e-6, cache=str(tmp_path / "cache")))
    assert len(list((tmp_path / "cache").glob("images-*px-*"))) == 2


def test_bad_images_are_all_listed_and_cost_nothing_of_the_others(
    images: Path, tmp_path: Path, decoded: list[Path]
) -> None:
    good = (images / "a" / "02.jpg").read_bytes()
    (images / "a" / "02.jpg").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"(?s)1 image cannot be read.*--skip-bad-images.*a/02\.jpg"):
        read(images, tmp_path / "cache")
    assert len(read(images, tmp_path / "cache", skip=True).train) == 23
    decoded.clear()
    (images / "a" / "02.jpg").write_bytes(good)
    same(read(images, tmp_path / "cache"), read_dataset(str(images), side=SIDE))
    assert decoded[:1] == [images / "a" / "02.jpg"]
    assert len(decoded) == 1 + 40  # and all of them for the comparison


@pytest.mark.parametrize("size", [1, 5, 100])
def test_what_was_decoded_before_an_interruption_is_kept(
    images: Path, tmp_path: Path, decoded: list[Path], monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """Killed while it writes: entries whose records are whole count, the rest is written over."""
    monkeypatch.setattr(store, "_CHUNK", size)
    monkeypatch.setattr(store, "_AHEAD", 1)
    steps: list[int] = []

    def interrupt(count: int) -> None:
        steps.append(count)
        if sum(steps) == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        read(images, tmp_path / "cache", progress=Calls(tick=interrupt))
    data, index = files_of(tmp_path / "cache")
    assert index.stat().st_size == 20 * ENTRY.itemsize
    with data.open("ab") as file, index.open("ab") as entries:  # as a kill leaves them
        file.write(bytes(1000))
        entries.write(bytes(ENTRY.itemsize + 3))
    decoded.clear()
    same(read(images, tmp_path / "cache"), read_dataset(str(images), side=SIDE))
    assert len(decoded) == 20 + 40


def test_records_that_did_not_reach_the_disk_are_decoded_again(
    images: Path, tmp_path: Path, decoded: list[Path]
) -> None:
    """The machine stopped: the index was written, and the end of the data was not."""
    read(images, tmp_path / "cache")
    data, _ = files_of(tmp_path / "cache")
    content = data.read_bytes()
    data.write_bytes(content[:-50] + bytes(50))
    (images / "a" / "00.jpg").touch()
    decoded.clear()
    same(read(images, tmp_path / "cache"), read_dataset(str(images), side=SIDE))


@pytest.mark.parametrize("place", [0, 1000, -1])
def test_damage_is_noticed_when_the_cache_is_opened(
    images: Path, tmp_path: Path, decoded: list[Path], place: int
) -> None:
    first = read_dataset(str(images), side=SIDE)
    read(images, tmp_path / "cache")
    data, _ = files_of(tmp_path / "cache")
    content = bytearray(data.read_bytes())
    content[place] ^= 1
    data.write_bytes(content)
    said: list[str] = []
    decoded.clear()
    same(read(images, tmp_path / "cache", progress=Calls(said.append)), first)
    assert len(decoded) == 40
    assert "is damaged: the images are decoded again" in said[0]


@pytest.mark.parametrize("kept", [0, 10, 5000])
def test_truncated_files_are_noticed_when_the_cache_is_opened(images: Path, tmp_path: Path, kept: int) -> None:
    first = read_dataset(str(images), side=SIDE)
    read(images, tmp_path / "cache")
    for number in range(2):
        file = files_of(tmp_path / "cache")[number]
        file.write_bytes(file.read_bytes()[:kept])
        same(read(images, tmp_path / "cache"), first)


@pytest.mark.parametrize("damage", ["changed", "truncated"])
def test_damage_while_images_are_read_is_an_error_and_the_next_start_repairs_it(
    images: Path, tmp_path: Path, damage: str
) -> None:
    dataset = read(images, tmp_path / "cache")
    data, _ = files_of(tmp_path / "cache")
    content = data.read_bytes()
    with data.open("r+b") as file:
        if damage == "changed":
            file.write(bytes(len(content)))
        else:
            file.truncate(100)
    with pytest.raises(DataError, match=r"the image cache .* is damaged and was discarded; give the same command agai"):
        everything(dataset)
    same(read(images, tmp_path / "cache"), read_dataset(str(images), side=SIDE))


def test_processes_decode_together_what_is_decoded_once(
    images: Path, tmp_path: Path, decoded: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads stand for processes: the lock is on the open file."""
    monkeypatch.setattr(store, "_AHEAD", 1)
    found: list[Dataset] = []
    said: list[str] = []
    progress = Calls(said.append, lambda steps: time.sleep(0.002))
    threads = [
        threading.Thread(target=lambda: found.append(read(images, tmp_path / "cache", progress=progress)))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(decoded) == 40
    same(found[0], found[1])
    same(found[0], found[2])
    assert all(line.startswith(("waiting for another process that", "decoded images")) for line in said)


@pytest.mark.parametrize("begun", [False, True])
def test_a_full_disk_is_reported_and_left_as_it_was(images: Path, tmp_path: Path, begun: bool) -> None:
    cache, before = tmp_path / "cache", 0
    if begun:
        read(images, cache)
        before = files_of(cache)[0].stat().st_size
        for number in range(30):
            Image.new("RGB", (20, 20), (number, 7, 7)).save(images / "b" / f"new{number}.png")
    largest, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (before + 10_000, hard))
    try:
        with pytest.raises(RunError, match=r"the disk is full: the image cache .*free some space, .*--cache none"):
            read(images, cache)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, hard))
    assert files_of(cache)[0].stat().st_size == before
    same(read(images, cache), read_dataset(str(images), side=SIDE))


def test_too_little_space_is_refused_before_anything_is_written(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_CHUNK", 4)
    usage = shutil.disk_usage(tmp_path)._replace(free=12_000)
    with (
        mock.patch.object(shutil, "disk_usage", return_value=usage),
        pytest.raises(RunError, match=r"needs \d+\.\d KiB, and 11\.7 KiB are free there; free some space"),
    ):
        read(images, tmp_path / "cache")
    assert files_of(tmp_path / "cache")[0].stat().st_size == 0


@pytest.mark.parametrize("place", ["file/cache", "/proc/nat2", "/dev/null/cache"])
def test_a_cache_that_cannot_be_written_is_refused_in_words(images: Path, tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(RunError, match=r"the image cache .* cannot be used .*choose another folder with --cache"):
        read(images, tmp_path / place)


def test_small_sets_stay_in_memory_and_large_ones_go_to_the_cache(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading = Reading(cache=str(tmp_path / "cache"))
    assert isinstance(read_dataset(str(images), side=SIDE, reading=reading).train.pixels, torch.Tensor)
    assert not (tmp_path / "cache").exists()
    monkeypatch.setattr(sources, "_SMALL", 40 * 3 * SIDE**2 - 1)
    assert isinstance(read_dataset(str(images), side=SIDE, reading=reading).train.pixels, StreamedPixels)
    kept = read_dataset(str(images), side=SIDE, reading=Reading(cache="none"))
    assert isinstance(kept.train.pixels, torch.Tensor)


def test_where_caches_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAT2_CACHE", "/data/cache")
    assert cache_root("elsewhere") == Path("elsewhere")
    assert cache_root() == Path("/data/cache")
    monkeypatch.delenv("NAT2_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/home/me/caches")
    assert cache_root() == Path("/home/me/caches/nat2")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_root() == Path.home() / ".cache" / "nat2"


@pytest.mark.parametrize(
    ("size", "told"), [(0, "0.0 KiB"), (2**20 - 1, "1024.0 KiB"), (2**20, "1.0 MiB"), (59 * 2**30, "59.0 GiB")]
)
def test_sizes_are_told_in_readable_units(size: int, told: str) -> None:
    assert store.told_size(size) == told


def test_the_decoder_makes_the_pixels_that_its_number_stands_for(tmp_path: Path) -> None:
    """If this fails because pixels changed on purpose, raise `DECODER`, so that caches with the old ones are left."""
    rows, columns = np.mgrid[:40, :50]
    colour = np.stack([rows * 6 % 256, columns * 5, (rows + columns) * 2], axis=2).astype(np.uint8)
    Image.fromarray(colour).save(tmp_path / "a.png")
    Image.fromarray(colour[..., 0]).convert("P").save(tmp_path / "b.png")
    pixels = [read_square(tmp_path / name, 8) for name in ("a.png", "b.png")]
    deep = read_square(png16(np.dstack([rows * 900, rows * 0 + 60_000])), 8)
    assert isinstance(deep, DeepImage)
    sums = [int(np.asarray(each, np.int64).sum()) for each in pixels]
    assert [*sums, round(float(deep.values.sum()))] == DECODED


DECODED = [20_960, 22_464, 1_028_336]
