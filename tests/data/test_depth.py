"""Images deeper than 8 bits keep their grey levels, whatever part of the range they use."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from nat2.data.dataset import Dataset, read_dataset
from nat2.data.decode import read_square
from nat2.data.depth import DeepImage, ValueRange, sketch
from nat2.data.settings import DEFAULT_READING, Reading
from nat2.errors import DataError
from tests.pixels import pixels_of

SIDE = 8


def write_deep(root: Path, images: NDArray[np.generic], suffix: str = "png") -> Path:
    """Images of two classes, one after the other."""
    for number, image in enumerate(images):
        folder = root / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{number:03}.{suffix}")
    return root


def values(low: int, high: int, count: int = 40) -> NDArray[np.int64]:
    drawn = np.random.default_rng(0).integers(low, high + 1, (count, SIDE, SIDE))
    drawn[:, 0, 0], drawn[:, 0, 1] = low, high  # in every image, so that whatever is drawn for training has both
    return drawn


def read(root: Path, reading: Reading = DEFAULT_READING) -> Dataset:
    return read_dataset(str(root), side=SIDE, reading=reading)


def pixels(dataset: Dataset) -> NDArray[np.uint8]:
    parts = (dataset.train, dataset.val, dataset.test)
    return np.concatenate([part.pixels[torch.arange(len(part))].numpy() for part in parts])


@pytest.mark.parametrize(("low", "high"), [(40, 209), (0, 255), (400, 932), (100, 955), (0, 4095), (31, 65_000)])
def test_every_grey_level_that_8_bits_can_hold_is_kept(tmp_path: Path, low: int, high: int) -> None:
    dataset = read(write_deep(tmp_path, values(low, high, 60).astype(np.uint16)))
    assert dataset.span == ValueRange(low, high)
    assert len(np.unique(pixels(dataset))) >= min(high - low + 1, 250)
    assert (pixels(dataset).min(), pixels(dataset).max()) == (0, 255)


@pytest.mark.parametrize(
    ("kind", "suffix"), [(np.uint16, "png"), (np.uint16, "tif"), (np.int16, "tif"), (np.int32, "tif"),
                         (np.float32, "tif"), (">u2", "tif"), (np.uint16, "jp2"), (np.uint16, "pgm")],
)  # fmt: skip
def test_the_container_does_not_matter(tmp_path: Path, kind: object, suffix: str) -> None:
    drawn = values(40, 209)
    plain = pixels(read(write_deep(tmp_path / "plain", drawn.astype(np.uint8))))
    deep = pixels(read(write_deep(tmp_path / "deep", drawn.astype(kind), suffix)))  # type: ignore[call-overload]
    np.testing.assert_array_equal(deep, np.rint((plain.astype(float) - 40) * 255 / 169))


def test_negative_and_fractional_values_are_scaled(tmp_path: Path) -> None:
    drawn = (values(0, 200) / 100 - 1.5).astype(np.float32)
    dataset = read(write_deep(tmp_path, drawn, "tif"))
    assert dataset.span == ValueRange(-1.5, 0.5)
    assert len(np.unique(pixels(dataset))) == 201


def png16(image: NDArray[np.generic], *chunks: bytes) -> bytes:
    """A PNG of 16 bits with 1 to 4 bands, which Pillow does not write."""
    height, width, bands = image.shape

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[bands], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in image)
    return b"".join([
        b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", head), *(chunk(each[:4], each[4:]) for each in chunks),
        chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""),
    ])  # fmt: skip


@pytest.mark.parametrize("bands", [1, 2, 3, 4])
def test_colours_of_16_bits_keep_both_bytes(bands: int) -> None:
    drawn = np.random.default_rng(0).integers(0, 4096, (SIDE, SIDE, bands))
    if bands in (2, 4):
        drawn[..., -1] = 65_535
    image = read_square(png16(drawn), SIDE)
    assert isinstance(image, DeepImage)
    np.testing.assert_array_equal(image.values, drawn[..., : 3 if bands > 2 else 1])
    assert image.scaled(ValueRange(0, 4095)).shape == (SIDE, SIDE, 3 if bands > 2 else 1)


@pytest.mark.parametrize("bands", [2, 4])
def test_transparent_parts_are_the_white_of_the_range(bands: int) -> None:
    drawn = np.full((SIDE, SIDE, bands), 1000)
    drawn[:, :, -1] = 65_535
    drawn[:4, :, -1] = 0
    drawn[4, :, -1] = 32_768
    image = read_square(png16(drawn), SIDE)
    assert isinstance(image, DeepImage)
    assert image.sketch is not None
    assert (image.sketch.low, image.sketch.high) == (1000, 1000)
    scaled = image.scaled(ValueRange(0, 2000))
    assert (scaled[:4] == 255).all()
    assert (scaled[4] == 191).all()  # half of 127.5, half of 255
    assert (scaled[5:] == 128).all()
    invisible = read_square(png16(np.zeros((SIDE, SIDE, bands), dtype=int)), SIDE)
    assert isinstance(invisible, DeepImage)
    assert invisible.sketch is None
    assert (invisible.scaled(ValueRange(0, 2000)) == 255).all()


@pytest.mark.parametrize("bands", [2, 4])
def test_images_that_are_transparent_everywhere_a_little_have_a_range(bands: int) -> None:
    drawn = np.random.default_rng(0).integers(100, 4000, (SIDE, SIDE, bands))
    image = read_square(png16(drawn), SIDE)
    assert isinstance(image, DeepImage)
    assert image.sketch is not None
    assert ValueRange.of([image.sketch]) == ValueRange(drawn[..., :-1].min(), drawn[..., :-1].max())


def tiff16(image: NDArray[np.generic], extra: int | None) -> bytes:
    """A TIFF of 16-bit colours and a fourth band; Pillow does not write it."""
    height, width, bands = image.shape
    content = image.astype("<u2").tobytes()
    tags = [(256, [width]), (257, [height]), (258, [16] * bands), (259, [1]), (262, [2]), (273, [8]), (277, [bands])]
    tags += [(278, [height]), (279, [len(content)])] + ([] if extra is None else [(338, [extra])])
    place, values, entries = 8 + len(content) + 6 + 12 * len(tags), b"", b""
    for tag, held in tags:
        packed = struct.pack(f"<{len(held)}H", *held)
        if len(packed) > 4:
            packed, values = struct.pack("<I", place + len(values)), values + packed
        entries += struct.pack("<HHI", tag, 3, len(held)) + packed.ljust(4, b"\0")
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + len(content)) + content + directory + values


@pytest.mark.parametrize("extra", [None, 0])
def test_a_fourth_band_that_is_not_declared_as_opacity_is_left_out(extra: int | None) -> None:
    drawn = np.random.default_rng(0).integers(0, 4096, (SIDE, SIDE, 4))
    image = read_square(tiff16(drawn, extra), SIDE)
    assert isinstance(image, DeepImage)
    np.testing.assert_array_equal(image.values, drawn[..., :3])
    assert image.clear is None


def test_a_declared_opacity_is_one() -> None:
    drawn = np.full((SIDE, SIDE, 4), 1000)
    drawn[..., 3] = 0
    image = read_square(tiff16(drawn, 2), SIDE)
    assert isinstance(image, DeepImage)
    assert image.sketch is None


@pytest.mark.parametrize(("kind", "marker"), [(np.float32, -9999), (np.int32, -32_768), (np.uint16, 0)])
def test_values_that_a_file_declares_missing_are_missing(tmp_path: Path, kind: type[np.generic], marker: int) -> None:
    drawn = values(100, 200).astype(kind)
    write_deep(tmp_path, drawn, "tif")
    for path in tmp_path.rglob("*.tif"):
        with Image.open(path) as image:
            held = np.array(image)
        held[:3] = marker
        Image.fromarray(held).save(path, tiffinfo={42113: f"{marker}"})
    assert read(tmp_path).span == ValueRange(100, 200)


def test_a_transparent_value_of_16_bits_is_white() -> None:
    drawn = np.arange(SIDE * SIDE).reshape(SIDE, SIDE, 1) + 300
    image = read_square(png16(drawn, b"tRNS" + struct.pack(">H", 301)), SIDE)
    assert isinstance(image, DeepImage)
    expected = np.rint((drawn - 300) * 255 / 100.0)
    expected[0, 1] = 255
    np.testing.assert_array_equal(image.scaled(ValueRange(300, 400)), expected)


def test_missing_values_do_not_spread(tmp_path: Path) -> None:
    drawn = values(0, 100).astype(np.float32)
    drawn[0, 2, :3] = np.nan, np.inf, -np.inf
    drawn[1, 2, 0] = np.finfo(np.float32).min
    dataset = read(write_deep(tmp_path, drawn, "tif"))
    assert dataset.span == ValueRange(0, 100)
    image = read_square(tmp_path / "a" / "000.tif", SIDE)
    assert isinstance(image, DeepImage)
    assert image.values[2, :3, 0].tolist() == [0, 100, 0]
    Image.fromarray(np.full((SIDE, SIDE), np.nan, np.float32)).save(tmp_path / "a" / "nothing.tif")
    with pytest.raises(DataError, match=r"nothing\.tif: no value in it is a finite number"):
        read(tmp_path)


def test_outliers_do_not_take_the_grey_levels() -> None:
    plain = [sketch(np.linspace(0, 4095, 4096, dtype=np.float32), 0, 4095) for _ in range(20)]
    assert ValueRange.of(plain) == ValueRange(0, 4095)
    hot = sketch(np.append(np.linspace(0, 4095, 4095), 65_535).astype(np.float32), -3e20, 65_535)
    span = ValueRange.of([*plain, hot])
    assert span is not None
    assert -4200 < span.low <= 0
    assert 4095 <= span.high < 8300
    rare = np.zeros(4096, np.float32)
    rare[0] = 9  # of values that hardly differ, none is an outlier
    assert ValueRange.of([sketch(rare, 0, 9)]) == ValueRange(0, 9)
    assert ValueRange.of([]) is None


def test_only_training_images_decide_the_range(tmp_path: Path) -> None:
    for split, low, high in (("train", 100, 300), ("val", 0, 400), ("test", 0, 9000)):
        write_deep(tmp_path / split, values(low, high).astype(np.uint16))
    dataset = read(tmp_path)
    assert dataset.span == ValueRange(100, 300)
    assert (pixels_of(dataset.val) == 255).sum() > 100  # what lies beyond is clipped
    assert (pixels_of(dataset.val) == 0).sum() > 100


def test_deep_images_in_other_splits_alone_have_the_nominal_range(tmp_path: Path) -> None:
    write_deep(tmp_path / "train", values(0, 255).astype(np.uint8))
    write_deep(tmp_path / "test", values(0, 65_535).astype(np.uint16))
    assert read(tmp_path).span == ValueRange(0, 65_535)


def test_8_bit_images_keep_their_values_beside_deep_ones(tmp_path: Path) -> None:
    drawn = values(10, 90)
    write_deep(tmp_path / "plain", drawn.astype(np.uint8))
    expected = read(tmp_path / "plain")
    assert expected.span is None
    write_deep(tmp_path / "mixed", drawn.astype(np.uint8))
    for path in sorted((tmp_path / "mixed").glob("b/*.png")):
        Image.fromarray(np.asarray(Image.open(path)).astype(np.uint16) * 20).save(path)
    mixed = read(tmp_path / "mixed")
    assert mixed.span == ValueRange(200, 1800)
    plain = expected.train.labels == 0
    assert torch.equal(pixels_of(mixed.train)[mixed.train.labels == 0], pixels_of(expected.train)[plain])
    assert any(note.startswith("20 of the 40 images are deeper than 8 bits") for note in mixed.notes)


def test_deep_images_are_the_same_when_they_are_streamed(tmp_path: Path) -> None:
    drawn = np.random.default_rng(0).integers(0, 4000, (40, 21, 17)).astype(np.uint16)
    write_deep(tmp_path, drawn)
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(tmp_path / "a" / "colour.png")
    kept, streamed = read(tmp_path), read(tmp_path, Reading(memory=1e-6, cache="none"))
    assert streamed.span == kept.span
    assert streamed.fingerprint == kept.fingerprint
    np.testing.assert_array_equal(pixels(streamed), pixels(kept))


@pytest.mark.parametrize("kind", [np.uint16, np.int16, np.int32, np.float32, np.float64, np.float16, bool])
def test_arrays_of_any_range_are_images(tmp_path: Path, kind: type) -> None:
    drawn = values(0, 1 if kind is bool else 200)
    np.savez(tmp_path / "a.npz", images=drawn.astype(kind), labels=np.arange(40) % 2)
    dataset = read(tmp_path / "a.npz")
    assert dataset.span == ValueRange(0, drawn.max())
    np.testing.assert_array_equal(np.unique(pixels(dataset)), np.rint(np.unique(drawn) * 255 / drawn.max()))


def test_arrays_of_two_types_are_refused(tmp_path: Path) -> None:
    x, y = values(0, 200), np.arange(40) % 2
    np.savez(tmp_path / "a.npz", x_train=x / 200, y_train=y, x_test=x.astype(np.uint8), y_test=y)
    with pytest.raises(DataError, match=r"must be of the same type; got float64 in train, uint8 in test"):
        read(tmp_path / "a.npz")
    broken = x.astype(float)
    broken[3] = np.nan
    np.savez(tmp_path / "b.npz", images=broken, labels=y)
    with pytest.raises(DataError, match=r"image 3 of all cannot be used: no value in it is a finite number"):
        read(tmp_path / "b.npz")


@pytest.mark.parametrize("value", [np.uint8(7), np.uint16(0), np.uint16(9000), np.float32(-1)])
def test_images_without_anything_to_see_are_refused(tmp_path: Path, value: np.generic) -> None:
    write_deep(tmp_path, np.full((20, SIDE, SIDE), value), "tif")
    with pytest.raises(DataError, match=r"every pixel of the training images .* has the same value"):
        read(tmp_path)
