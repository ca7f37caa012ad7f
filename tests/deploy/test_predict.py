"""Classifying files and folders, and following preprocessing.json without nat2."""

from __future__ import annotations

import csv
import errno
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from sklearn.datasets import load_sample_images

from nat2.cli import main
from nat2.data.decode import JPEG_GAP, read_square
from nat2.data.depth import ValueRange
from nat2.data.settings import Augmentation
from nat2.data.transform import Pipeline
from nat2.deploy.deployable import load
from nat2.deploy.export import export
from nat2.deploy.predict import Classifier, find_images, predict, read_as_trained
from nat2.errors import CheckpointError, ConfigError, DataError
from nat2.files import write_error
from nat2.space import Arch, Macro
from nat2.supernet import SuperNetwork, extract
from tests.data.test_sources import write_images

SIDE, RESOLUTION = 24, 16
ARCH = Arch.from_key(f"r{RESOLUTION}-w0.25-k5e4.k3e6.k7e3-k7e3.k5e6")
CLASSES = ["cat", "dog", "café"]


def exported(folder: Path, *, grey: bool = False, span: ValueRange | None = None, center: float = 1.0) -> Path:
    """A random network that was trained on images with or without more than 8 bits."""
    bands = 1 if grey else 3
    macro = Macro(classes=3, channels=bands, width=0.25, stem_stride=1)
    network = extract(SuperNetwork(macro, generator=torch.Generator().manual_seed(0)), ARCH)
    pipeline = Pipeline((0.5,) * bands, (0.2,) * bands, Augmentation(), center=center, span=span)
    export(network, pipeline, CLASSES, folder, side=SIDE, facts={})
    return folder


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(tmp_path_factory.mktemp("predict") / "networks" / "1a2b3c4d", span=ValueRange(100, 4000))


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main(list(map(str, words)))
    captured = capsys.readouterr()
    return int(stop.value.code or 0), captured.out, captured.err


# -- preprocessing.json, followed with Pillow and NumPy alone


def follow(path: Path, steps: dict[str, Any]) -> NDArray[np.float32]:
    """The input for an image, shape (channels, R, R), by the steps in their order."""
    side, grey = steps["side"], steps["channels"] == "grey"
    low, high = steps["range"] or (0, 65535)
    with Image.open(path) as file:
        file.draft(None, (steps["jpeg_gap"] * side,) * 2)
        image: Image.Image = ImageOps.exif_transpose(file)
    if image.mode == "F" or image.mode.startswith("I"):  # deeper than 8 bits
        values = np.asarray(image).astype(np.float32)
        square = np.asarray(ImageOps.fit(Image.fromarray(values), (side, side), Image.Resampling.BICUBIC))
        scaled = (square.astype(np.float64) - low) * steps["background"] / (high - low)
        image = Image.fromarray(np.rint(scaled).clip(0, 255).astype(np.uint8))
        image = image if grey else image.convert("RGB")
    else:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (steps["background"],) * 3 + (255,))
        opaque = Image.alpha_composite(white, rgba) if image.has_transparency_data else image
        image = opaque.convert("RGB").convert("L" if grey else "RGB")
        image = ImageOps.fit(image, (side, side), Image.Resampling.BICUBIC)
    middle = max(1, round(side * steps["center"]))
    first = (side - middle) // 2
    image = image.crop((first, first, first + middle, first + middle))
    size = (steps["resolution"], steps["resolution"])
    bands = [band.convert("F").resize(size, Image.Resampling.BILINEAR) for band in image.split()]
    inputs: NDArray[np.float32] = np.stack([np.asarray(band, np.float32) for band in bands]) / np.float32(255)
    return inputs


def palette() -> Image.Image:
    image = photograph().resize((50, 40)).convert("P", palette=Image.Palette.ADAPTIVE, colors=64)
    image.info["transparency"] = 7
    return image


def photograph() -> Image.Image:
    return Image.fromarray(load_sample_images().images[0])


def faded(mode: str) -> Image.Image:
    image = photograph().resize((64, 48)).convert(mode)
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


def deep(scale: float, offset: float, kind: type[np.generic]) -> Image.Image:
    grey = np.asarray(photograph().convert("L").resize((50, 40))).astype(np.float64)
    return Image.fromarray((grey * scale + offset).astype(kind))


def turned(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    photograph().resize((60, 40)).save(path, exif=exif)


KINDS: dict[str, Callable[[Path], object]] = {
    "rgb.png": lambda path: photograph().resize((64, 48)).save(path),
    "photo.jpg": lambda path: photograph().save(path, quality=95),
    "grey.jpg": lambda path: photograph().convert("L").save(path),
    "cmyk.jpg": lambda path: photograph().resize((90, 70)).convert("CMYK").save(path),
    "turned.jpg": turned,
    "turned.png": turned,
    "rgba.png": lambda path: faded("RGB").save(path),
    "la.png": lambda path: faded("L").save(path),
    "rgba.webp": lambda path: faded("RGB").save(path, lossless=True),
    "palette.png": lambda path: palette().save(path),
    "palette.gif": lambda path: palette().save(path),
    "bit.png": lambda path: photograph().resize((64, 48)).convert("1").save(path),
    "12 of 16.png": lambda path: deep(15, 90, np.uint16).save(path),
    "16.tif": lambda path: deep(257, 0, np.uint16).save(path),
    "signed.tif": lambda path: deep(9, -500, np.int16).save(path),
    "32.tif": lambda path: deep(20, 0, np.int32).save(path),
    "float.tif": lambda path: deep(15.5, 0.25, np.float32).save(path),
}


@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("span", [None, ValueRange(100, 4000), ValueRange(-500.5, 1800.25)])
def test_whoever_follows_the_steps_gets_the_input_of_predict(
    tmp_path: Path, grey: bool, span: ValueRange | None
) -> None:
    folder = exported(tmp_path / "network", grey=grey, span=span, center=0.875)
    steps = json.loads((folder / "preprocessing.json").read_text())
    classifier = Classifier.of(folder, top=3)
    for name, write in KINDS.items():
        if name == "float.tif" and span is None:  # nothing says what is white
            continue
        write(tmp_path / name)
        expected = follow(tmp_path / name, steps)
        with torch.no_grad():
            shares = load(folder)(torch.from_numpy(expected)[None]).softmax(1)[0]
        (answered,) = classifier.classify([tmp_path / name])
        assert dict(answered.answers) == pytest.approx(dict(zip(CLASSES, shares.tolist(), strict=True)), abs=2e-4), name


def test_floating_point_images_need_a_range(tmp_path: Path) -> None:
    folder = exported(tmp_path / "network")
    KINDS["float.tif"](tmp_path / "float.tif")
    with pytest.raises(DataError, match=r"float\.tif cannot be read .*no training image had any"):
        list(predict(folder, tmp_path / "float.tif"))


def test_networks_of_earlier_releases_see_images_as_they_did(tmp_path: Path) -> None:
    folder = exported(tmp_path / "network", grey=True)
    steps = json.loads((folder / "preprocessing.json").read_text())
    del steps["range"], steps["jpeg_gap"], steps["background"]
    (folder / "preprocessing.json").write_text(json.dumps(steps))
    drawn = np.random.default_rng(0).integers(0, 65_536, (SIDE, SIDE)).astype(np.uint16)
    Image.fromarray(drawn).save(tmp_path / "wide.png")
    np.testing.assert_array_equal(read_as_trained(tmp_path / "wide.png", steps, grey=True)[..., 0], drawn // 257)
    photograph().save(tmp_path / "photo.jpg")
    whole = ImageOps.fit(Image.open(tmp_path / "photo.jpg").convert("L"), (SIDE, SIDE), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(read_as_trained(tmp_path / "photo.jpg", steps, grey=True)[..., 0], np.asarray(whole))
    assert len(list(predict(folder, tmp_path / "wide.png"))) == 1


DAMAGED = [("range", [3, 1]), ("range", "all"), ("range", [0, None]), ("jpeg_gap", -1)]


@pytest.mark.parametrize(("name", "value"), DAMAGED)
def test_damaged_ranges_are_refused(tmp_path: Path, name: str, value: object) -> None:
    folder = exported(tmp_path / "network")
    steps = json.loads((folder / "preprocessing.json").read_text()) | {name: value}
    (folder / "preprocessing.json").write_text(json.dumps(steps))
    with pytest.raises(CheckpointError, match=f"`{name}` is"):
        predict(folder, [])


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("side", [16, 32, 64])
def test_jpegs_at_reduced_scale_look_like_those_at_full_scale(tmp_path: Path, number: int, side: int) -> None:
    Image.fromarray(load_sample_images().images[number]).resize((1920, 1280)).save(tmp_path / "photo.jpg")
    content = (tmp_path / "photo.jpg").read_bytes()
    reduced, full = (np.asarray(read_square(content, side, jpeg_gap=gap)).astype(int) for gap in (JPEG_GAP, 0))
    assert 0 < np.abs(reduced - full).mean() < 1
    assert np.abs(reduced - full).max() < 16


# -- folders, files, batches


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    root = write_images(tmp_path / "photos", {"cat": 5, "dog/deep": 4, "café": 3}, side=20)
    (root / "cat" / "bad.png").write_bytes(b"bad")
    (root / "cat" / "notes.txt").write_text("no image")
    (root / ".thumbnails").mkdir()
    (root / ".thumbnails" / "0.png").write_bytes((root / "cat" / "0.png").read_bytes())
    return root


def test_folders_are_searched_and_other_files_counted(photos: Path, tmp_path: Path) -> None:
    found, others = find_images([photos, photos / "cat" / "0.png"])
    assert [path.relative_to(photos).as_posix() for path in found] == [
        *(f"café/{n}.png" for n in range(3)), *(f"cat/{name}.png" for name in (0, 1, 2, 3, 4, "bad")),
        *(f"dog/deep/{n}.png" for n in range(4)), "cat/0.png",
    ]  # fmt: skip
    assert others == 1
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty holds no images"):
        find_images([tmp_path / "empty"])


def test_the_size_of_batches_changes_nothing(network: Path, photos: Path) -> None:
    classifier = Classifier.of(network)
    images, _ = find_images([photos])
    expected = list(classifier.classify(images, batch_size=1))
    assert sum(bool(each.error) for each in expected) == 1
    for size in (2, 5, 64):
        for one, other in zip(expected, classifier.classify(images, batch_size=size), strict=True):
            assert (one.image, one.error) == (other.image, other.error)
            assert dict(one.answers) == pytest.approx(dict(other.answers), abs=1e-5)
    with pytest.raises(ConfigError, match="--batch must be at least 1; got 0"):
        predict(network, images, batch_size=0)


def test_few_images_are_held_at_a_time(network: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    whole = Classifier._prepared

    def prepared(self: Classifier, path: Path) -> object:
        read.append(path)
        return whole(self, path)

    monkeypatch.setattr(Classifier, "_prepared", prepared)
    answers = Classifier.of(network).classify([photos / "cat" / "0.png"] * 100, batch_size=4)
    next(answers)
    assert len(read) <= 3 * 4
    answers.close()  # type: ignore[attr-defined]


def test_tables_and_documents_hold_every_image(
    network: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    targets = ["--csv", tmp_path / "new" / "out.csv", "--json", tmp_path / "out.json"]
    code, output, errors = run(capsys, "predict", network, photos, "--top", 2, *targets)
    assert code == 2
    assert f"{photos / 'cat' / 'bad.png'} cannot be read" in errors
    assert "13 images" in output
    assert "images/s" in output
    assert "1 file of another kind" in output
    rows = list(csv.DictReader((tmp_path / "new" / "out.csv").read_text().splitlines()))
    document = json.loads((tmp_path / "out.json").read_text())
    assert len(rows) == len(document) == 13
    assert list(rows[0]) == ["image", "class", "probability", "class_2", "probability_2", "error"]
    for row, entry, (path, answers) in zip(
        [row for row in rows if not row["error"]], [entry for entry in document if "error" not in entry],
        predict(network, [p for p in find_images([photos])[0] if p.name != "bad.png"], top=2), strict=True,
    ):  # fmt: skip
        assert row["image"] == entry["image"] == str(path)
        assert [row["class"], row["class_2"]] == [each["class"] for each in entry["classes"]] == [n for n, _ in answers]
        assert float(row["probability"]) == pytest.approx(answers[0][1], abs=1e-5)
        assert entry["classes"][1]["probability"] == pytest.approx(answers[1][1], abs=1e-5)
    assert [row["image"] for row in rows if row["error"]] == [str(photos / "cat" / "bad.png")]


def test_class_folders_give_an_accuracy(network: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (photos / "cat" / "bad.png").unlink()
    (photos / "café").rename(photos / "cafe\u0301")  # as other file systems spell it
    answers = [each[1][0][0] for each in predict(network, photos)]
    labels = ["café"] * 3 + ["cat"] * 5 + ["dog"] * 4
    share = np.mean([answer == label for answer, label in zip(answers, labels, strict=True)])
    code, output, _ = run(capsys, "predict", network, photos)
    assert code == 0
    error = math.sqrt(share * (1 - share) / 12)
    assert f"accuracy: {100 * share:.1f} ± {100 * error:.1f} %" in output
    elsewhere = (photos / "cat" / "0.png").rename(photos.parent / "elsewhere.png")
    assert "accuracy" not in run(capsys, "predict", network, photos, elsewhere)[1]
    assert "accuracy" not in run(capsys, "predict", network, photos / "cat")[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--csv", "photos/cat/0.png"], "--csv must name a file that ends in .csv; got photos/cat/0.png"),
        (["--json", "photos/cat/0.png/x.json"], "--json photos/cat/0.png/x.json cannot be written"),
        (["--batch", "0"], "--batch must be at least 1; got 0"),
        (["--top", "0"], "--top must be at least 1; got 0"),
    ],
)
def test_what_cannot_be_written_is_refused_at_once(
    network: Path, photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    words: list[str], message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(photos.parent)
    before = (photos / "cat" / "0.png").read_bytes()
    code, output, errors = run(capsys, "predict", network, "photos", *words)
    assert (code, output) == (2, "")
    assert message in errors
    assert (photos / "cat" / "0.png").read_bytes() == before


def test_a_file_that_cannot_be_written_at_the_end_loses_neither_the_other_nor_the_answers(
    network: Path, photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(photos.parent)

    def full(path: Path, rows: object) -> None:
        error = OSError(errno.ENOSPC, "No space left on device")
        raise write_error(path, error) from error

    monkeypatch.setattr("nat2.deploy.answers.write_csv", full)
    code, output, errors = run(capsys, "predict", network, "photos", "--csv", "a.csv", "--json", "a.json")
    assert code == 2
    assert "written: a.json" in output
    assert "a.csv" not in output
    reason = "nat2: a.csv cannot be written (No space left on device); name a file in another place with --csv"
    assert errors.splitlines()[0] == reason


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["predict"], "predict needs NETWORK, IMAGES; usage: nat2 predict NETWORK IMAGE [IMAGE ...]"),
        (["predict", "runs"], "predict needs IMAGES; usage: nat2 predict NETWORK"),
        (["predict", "", "photos"], "NETWORK must name a file or folder; got an empty text"),
        (["latency"], "latency needs FOLDERS; usage: nat2 latency FOLDER"),
        (["run", ""], "RUN must name a file or folder; got an empty text"),
    ],
)
def test_what_is_missing_is_named(capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    code, _, errors = run(capsys, *words)
    assert code == 2
    assert message in errors


def test_images_that_are_not_there_are_told_in_words(
    network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(capsys, "predict", network, "no.png")[2] == (
        "nat2: no.png cannot be read as an image (there is no such file)\n"
    )
    assert "IMAGE must name a file or folder" in run(capsys, "predict", network, "")[2]


# -- what is named is not a network, or not a run


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("predict runs/photos x.png", "has the networks 1a2b3c4d; name one of them: nat2 predict {} IMAGE"),
        ("predict runs x.png", "runs has the networks 1a2b3c4d; name one of them: nat2 predict {} IMAGE"),
        ("predict runs/photos/networks x.png", "name one of them: nat2 predict {} IMAGE"),
        ("predict {}/model.onnx x.png", "model.onnx is a file of a network; name its folder: nat2 predict {} IMAGE"),
        ("predict x.png {}", "x.png is a file and does not hold an exported network; name the folder of one"),
        ("predict runs/photos/networks/nobody x.png", "nobody does not exist"),
        ("predict runs/begun x.png", "has not exported a network yet; go on with nat2 finetune runs/begun"),
        ("predict empty x.png", "empty does not hold an exported network (it has no arch.json and no preprocessing"),
        ("latency {}/arch.json", "is a file of a network; name its folder: {}"),
        ("latency runs/begun", "has not exported a network yet"),
        ("export {}", "but the network 1a2b3c4d of one; name the run, runs/photos"),
        ("export runs", "runs is not a run folder, but holds runs/begun, runs/photos; name one of them"),
        ("export nowhere", "nowhere is not a run folder, because it does not exist"),
        ("report {}", "but the network 1a2b3c4d of one; name the run, runs/photos"),
        ("report x.png", "x.png is not a run folder, but a file"),
        ("run {}", "name the run, runs/photos, or the images with --data"),
    ],
)
def test_a_slip_of_a_path_is_answered_with_the_right_one(
    network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    words: str, message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    right = "runs/photos/networks/1a2b3c4d"
    for run_folder in ("photos", "begun"):
        (tmp_path / "runs" / run_folder).mkdir(parents=True)
        (tmp_path / "runs" / run_folder / "config.yaml").write_text("")
    (tmp_path / "runs" / "photos" / "networks").mkdir()
    (tmp_path / right).symlink_to(network)
    (tmp_path / "empty").mkdir()
    Image.new("RGB", (9, 9)).save("x.png")
    code, _, errors = run(capsys, *words.format(right).split())
    assert code == 2
    assert message.format(right) in errors
