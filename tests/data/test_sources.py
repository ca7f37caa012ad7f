"""Reading images as they come, and refusing what cannot be used."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from nat2.data import sources
from nat2.data.dataset import open_source, read_dataset
from nat2.data.decode import decode
from nat2.data.listing import list_folder
from nat2.data.settings import Reading
from nat2.data.sources import digits, folder, read_listing
from nat2.data.stream import StreamedPixels
from nat2.data.transform import shuffled_batches
from nat2.errors import DataError
from tests.calls import Calls
from tests.pixels import pixels_of


def write_images(root: Path, classes: dict[str, int], *, mode: str = "RGB", side: int = 20) -> Path:
    """Class folders of random images."""
    generator = np.random.default_rng(0)
    for name, count in classes.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            pixels = generator.integers(0, 256, (side, side, 3), dtype=np.uint8)
            Image.fromarray(pixels).convert(mode).save(root / name / f"{number}.png")
    return root


def test_digits_are_all_there() -> None:
    source = digits(16)
    assert source.pixels["all"].shape == (1797, 16, 16, 1)
    assert np.bincount(source.labels["all"]).min() > 170
    assert not source.flip


def test_class_folders_are_classes(tmp_path: Path) -> None:
    write_images(tmp_path, {"dog": 3, "a cat": 4, "-öl": 2})
    source = folder(tmp_path, side=16)
    assert source.classes == ("-öl", "a cat", "dog")
    assert np.bincount(source.labels["all"]).tolist() == [2, 4, 3]
    assert source.pixels["all"].shape == (9, 16, 16, 3)


def test_splits_are_kept(tmp_path: Path) -> None:
    for name, count in {"train": 5, "validation": 2, "test": 3}.items():
        write_images(tmp_path / name, {"a": count, "b": count})
    source = folder(tmp_path, side=16)
    assert {name: len(labels) for name, labels in source.labels.items()} == {"train": 10, "val": 4, "test": 6}


def test_nested_folders_and_other_files(tmp_path: Path) -> None:
    write_images(tmp_path, {"a/deep/er": 2, "b": 2})
    (tmp_path / "a" / "notes.txt").write_text("no image")
    (tmp_path / "b" / ".hidden.png").write_text("no image")
    (tmp_path / "b" / ".thumbnails").mkdir()
    (tmp_path / "b" / ".thumbnails" / "0.png").write_bytes((tmp_path / "b" / "0.png").read_bytes())
    (tmp_path / "readme.md").write_text("no image")
    source = folder(tmp_path, side=16)
    assert source.classes == ("a", "b")
    assert len(source.labels["all"]) == 4
    assert source.notes == (
        "hidden and system files and folders are skipped: 1 .hidden.png, 1 .thumbnails",
        "files that are not images are left out: 1 .txt",
    )


@pytest.mark.parametrize("mode", ["L", "1", "I;16", "LA"])
def test_grey_images_stay_grey(tmp_path: Path, mode: str) -> None:
    write_images(tmp_path, {"a": 2, "b": 2}, mode="L" if mode == "I;16" else mode)
    if mode == "I;16":
        for path in tmp_path.rglob("*.png"):
            Image.fromarray(np.asarray(Image.open(path)).astype(np.uint16) * 257).save(path)
    assert folder(tmp_path, side=16).pixels["all"].shape == (4, 16, 16, 1)


def test_one_coloured_image_makes_all_coloured(tmp_path: Path) -> None:
    write_images(tmp_path, {"a": 2}, mode="L")
    write_images(tmp_path, {"b": 2}, mode="RGB")
    assert folder(tmp_path, side=16).pixels["all"].shape == (4, 16, 16, 3)


def test_sixteen_bits_become_eight() -> None:
    wide = Image.fromarray(np.full((8, 8), 40_000, dtype=np.uint16))
    assert (decode(wide, 8) == 40_000 // 257).all()
    assert (decode(Image.fromarray(np.full((8, 8), 65_535, dtype=np.int32)), 8) == 255).all()


def test_palettes_are_resolved_and_transparency_is_white() -> None:
    red = Image.new("RGB", (8, 8), (200, 10, 10)).convert("P", palette=Image.Palette.ADAPTIVE)
    assert np.abs(decode(red, 8).astype(int) - [200, 10, 10]).max() <= 2
    assert (decode(Image.new("RGBA", (8, 8), (9, 9, 9, 0)), 8) == 255).all()
    half = decode(Image.new("RGBA", (8, 8), (0, 0, 0, 128)), 8)
    assert np.abs(half.astype(int) - 127).max() <= 1


def test_other_modes_are_converted() -> None:
    assert decode(Image.new("CMYK", (8, 8)), 8).shape == (8, 8, 3)
    assert decode(Image.new("HSV", (8, 8)), 8).shape == (8, 8, 3)
    assert decode(Image.new("RGB", (8, 8)), 8, grey=True).shape == (8, 8, 1)
    with pytest.raises(ValueError, match="no fixed range"):
        decode(Image.new("F", (8, 8)), 8)


def test_the_centre_square_is_kept() -> None:
    pixels = np.zeros((10, 30, 3), dtype=np.uint8)
    pixels[:, 10:20] = 255
    assert (decode(Image.fromarray(pixels), 10) == 255).all()


def test_images_are_turned_upright(tmp_path: Path) -> None:
    pixels = np.zeros((8, 8), dtype=np.uint8)
    pixels[0] = 255  # a bright line at the top of the stored image
    exif = Image.Exif()
    exif[0x0112] = 6  # shown rotated by 90 degrees clockwise
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    with Image.open(tmp_path / "turned.png") as image:
        assert (decode(image, 8)[:, -1] == 255).all()


def test_reading_stops_soon_when_it_is_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path, {"a": 100, "b": 100})
    decoded = []

    def slow(path: Path, side: int) -> NDArray[np.uint8]:
        decoded.append(path)
        time.sleep(0.01)
        return np.zeros((side, side, 1), dtype=np.uint8)

    def interrupt(steps: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sources, "read_square", slow)
    with pytest.raises(KeyboardInterrupt):
        read_listing(list_folder(tmp_path), side=4, progress=Calls(tick=interrupt))
    assert len(decoded) < 100


def test_bad_images_are_all_named_or_left_out(tmp_path: Path) -> None:
    write_images(tmp_path, {"a": 5, "b": 5})
    (tmp_path / "a" / "0.png").write_bytes(b"")
    whole = (tmp_path / "b" / "1.png").read_bytes()
    (tmp_path / "b" / "1.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"(?s)^2 images cannot be read.*--skip-bad-images.*a/0\.png.*b/1\.png"):
        folder(tmp_path, side=16)
    source = folder(tmp_path, side=16, reading=Reading(skip_bad_images=True))
    assert len(source.labels["all"]) == 8
    assert source.notes[0].startswith("2 images cannot be read, left out: a/0.png")


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda root: None, "no images found"),
        (lambda root: root.rmdir(), "does not exist"),
        (lambda root: (root.rmdir(), root.write_text("")), "is a file"),
        (lambda root: write_images(root, {"only": 3}), "at least 2 classes.*'only'"),
        (lambda root: [write_images(root / s, {"a": 2, c: 2}) for s, c in (("train", "b"), ("test", "c"))], "b, c"),
        (lambda root: [write_images(root, {"train/a": 2, "train/b": 2, "stray": 2})], "also stray"),
        (lambda root: write_images(root, {"val/a": 2, "val/b": 2, "test/a": 2, "test/b": 2}), "no train/"),
        (lambda root: write_images(root, {"train/a": 2, "val/a": 2, "validation/a": 2}), "a split twice"),
    ],
)
def test_unusable_folders_are_refused(tmp_path: Path, prepare: object, message: str) -> None:
    root = tmp_path / "data"
    root.mkdir()
    prepare(root)  # type: ignore[operator]
    with pytest.raises(DataError, match=message):
        list_folder(root)


def test_native_side_is_the_median_of_the_shorter_sides(tmp_path: Path) -> None:
    write_images(tmp_path, {"a": 2}, side=30)
    write_images(tmp_path, {"b": 3}, side=50)
    (tmp_path / "b" / "broken.png").write_bytes(b"broken")
    assert open_source(str(tmp_path)).side == 50
    assert open_source("digits").side == 8


def test_images_that_do_not_fit_into_memory_stay_files(tmp_path: Path) -> None:
    write_images(tmp_path / "images", {"a": 12, "b": 12})
    (tmp_path / "images" / "a" / "bad.png").write_bytes(b"broken")
    kept, streamed = (
        read_dataset(
            str(tmp_path / "images"), side=16, reading=Reading(skip_bad_images=True, memory=memory, cache="none")
        )
        for memory in (None, 1e-6)
    )
    assert isinstance(kept.train.pixels, torch.Tensor)
    assert isinstance(streamed.train.pixels, StreamedPixels)
    told = "the images do not fit into --memory and are decoded whenever they are needed"
    assert set(streamed.notes) == {*kept.notes, told}
    assert (streamed.fingerprint, streamed.mean, streamed.std) == (kept.fingerprint, kept.mean, kept.std)
    assert streamed.val.names == kept.val.names
    order = list(shuffled_batches(len(kept.train), 4, torch.Generator().manual_seed(0)))
    for ours, theirs in zip(streamed.train.batches(order), kept.train.batches(order), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    decoded, held = streamed.train.joined(streamed.val), kept.train.joined(kept.val)
    assert torch.equal(pixels_of(decoded.part(torch.arange(len(held)))), pixels_of(held))
    assert decoded.pixels.shape == held.pixels.shape
    (tmp_path / "images" / kept.val.names[0]).unlink()
    with pytest.raises(DataError, match="could be read when the run began and can no longer be"):
        decoded.part(torch.arange(len(held)))


def test_arrays_that_do_not_fit_into_memory_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=np.zeros((8, 16, 16), dtype=np.uint8), labels=np.arange(8) % 2)
    with pytest.raises(DataError, match=r"8 images of 16 x 16 pixels .* do not fit into --memory"):
        read_dataset(str(tmp_path / "a.npz"), side=16, reading=Reading(memory=1e-6))


def write_tiny_imagenet(root: Path) -> Path:
    """Three classes as downloaded, two of them with the same English name."""
    write_images(root / "train", {f"n{label}/images": 6 for label in range(3)})
    write_images(root / "val", {"images": 5})
    write_images(root / "test", {"images": 2})
    (root / "wnids.txt").write_text("n2\nn0\nn1\n")
    (root / "words.txt").write_text("n0\tcrane\nn1\tcrane\nn2\tgoldfish, Carassius auratus\nn9\tother\n")
    names = sorted(path.name for path in (root / "val" / "images").iterdir())
    lines = [f"{name}\tn{number % 3}\t0\t0\t9\t9" for number, name in enumerate(names)]
    (root / "val" / "val_annotations.txt").write_text("\n".join(lines) + "\n")
    return root


def test_tiny_imagenet_is_read_as_downloaded(tmp_path: Path) -> None:
    dataset = read_dataset(str(write_tiny_imagenet(tmp_path)), side=16)
    assert dataset.classes == ("goldfish", "crane (n0)", "crane (n1)")
    assert (len(dataset.train), len(dataset.val), len(dataset.test)) == (15, 3, 5)  # 15 % of each class
    assert dataset.test.labels.tolist() == [1, 2, 0, 1, 2]
    assert dataset.mean == (0.4802, 0.4481, 0.3975)
    assert dataset.known is not None
    assert (dataset.known.center, dataset.known.crop_scale) == (0.875, 0.85)


def test_tiny_imagenet_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    (write_tiny_imagenet(tmp_path) / "words.txt").unlink()
    with pytest.raises(DataError, match=r"is Tiny ImageNet but not whole .*words\.txt"):
        read_dataset(str(tmp_path), side=16)
