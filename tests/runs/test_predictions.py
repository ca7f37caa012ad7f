"""What is kept of the answers of a network."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nat2.data.dataset import Split
from nat2.data.stream import StoredImages, StreamedPixels
from nat2.runs.predictions import (
    MISTAKES,
    PREDICTIONS,
    Answers,
    Predictions,
    answers_on,
    read_answers,
    thumbnail,
    write_answers,
)

CLASSES = ("cat", "<dog>, 'big'", "caf\udce9")  # the last as a file system of another encoding names it


def split(count: int, *, side: int = 20, channels: int = 3) -> Split:
    pixels = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(count, channels, side, side).contiguous()
    return Split(pixels, torch.arange(count) % 3, [f"{number}.png" for number in range(count)])


def logits_for(predicted: list[int], sureness: list[float]) -> torch.Tensor:
    logits = torch.zeros(len(predicted), 3)
    for row, (label, sure) in enumerate(zip(predicted, sureness, strict=True)):
        logits[row, label] = sure
    return logits


@pytest.fixture
def answers() -> Answers:
    images = split(6)  # of the classes 0 1 2 0 1 2
    val = logits_for([0, 1, 2, 0, 1, 2], [3.0] * 6)
    test = logits_for([1, 1, 0, 2, 1, 2], [1.0, 9.0, 3.0, 2.0, 9.0, 9.0])
    return answers_on({"val": (val, images), "test": (test, images)}, CLASSES)


def test_predictions_are_the_most_probable_classes(answers: Answers) -> None:
    test = answers.predictions["test"]
    assert test.predicted.tolist() == [1, 1, 0, 2, 1, 2]
    assert test.confidence[2] == pytest.approx(np.exp(3) / (np.exp(3) + 2))
    assert test.confusion(3).counts.tolist() == [[0, 1, 1], [0, 2, 0], [1, 0, 1]]


def test_the_most_confident_mistakes_are_kept_with_their_images(answers: Answers) -> None:
    assert answers.worst["val"] == []
    worst = answers.worst["test"]
    assert [(each.image, each.true, each.predicted) for each in worst] == [
        ("2.png", CLASSES[2], CLASSES[0]),
        ("3.png", CLASSES[0], CLASSES[2]),
        ("0.png", CLASSES[0], CLASSES[1]),
    ]
    with Image.open(io.BytesIO(base64.b64decode(worst[0].jpeg))) as image:
        assert np.abs(np.asarray(image).astype(int) - 2).max() <= 1  # the pixels of image 2


def test_what_is_written_is_read_again(tmp_path: Path, answers: Answers) -> None:
    assert read_answers(tmp_path, CLASSES) is None  # as in a run of an earlier release
    write_answers(tmp_path, answers, CLASSES)
    found = read_answers(tmp_path, CLASSES)
    assert found is not None
    assert found.worst == answers.worst
    for name, expected in answers.predictions.items():
        got = found.predictions[name]
        assert list(got.names) == list(expected.names)
        assert got.labels.tolist() == expected.labels.tolist()
        assert got.predicted.tolist() == expected.predicted.tolist()
        np.testing.assert_allclose(got.confidence, expected.confidence, atol=5e-5)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (PREDICTIONS, ""),
        (PREDICTIONS, "split;image;class\n"),
        (PREDICTIONS, "split,image,class,predicted,confidence\nval,a,cow,cat,0.5\n"),
        (PREDICTIONS, "split,image,class,predicted,confidence\nval,a,cat,cat,much\n"),
        (PREDICTIONS, "split,image,class,predicted,confidence\nval,a,cat,cat,0.5\n"),
        (MISTAKES, "{"),
        (MISTAKES, "{}"),
        (MISTAKES, '{"val": [{"image": "a"}], "test": []}'),
        (MISTAKES, None),
    ],
)
def test_damaged_files_are_noticed(tmp_path: Path, answers: Answers, name: str, content: str | None) -> None:
    write_answers(tmp_path, answers, CLASSES)
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_text(content)
    with pytest.raises((OSError, ValueError, KeyError, TypeError)):
        read_answers(tmp_path, CLASSES)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("side", "expected"), [(8, 64), (18, 54), (64, 64), (224, 64)])
def test_thumbnails_are_small_whatever_the_image(side: int, expected: int, channels: int) -> None:
    noise = torch.randint(0, 256, (channels, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    content = base64.b64decode(thumbnail(noise))
    assert len(content) < 12_000  # the bound of a page's size: nothing is less compressible than noise
    with Image.open(io.BytesIO(content)) as image:
        assert image.size == (expected, expected)


def test_few_images_of_a_stream_are_decoded() -> None:
    read: list[int] = []

    def decode(number: int) -> np.ndarray:
        read.append(number)
        return np.zeros((8, 8, 1), dtype=np.uint8)

    labels = torch.zeros(500, dtype=torch.long)
    streamed = Split(
        StreamedPixels(StoredImages(decode), np.arange(500), 8, 1), labels, [str(number) for number in range(500)]
    )
    logits = torch.zeros(500, 2)
    logits[:, 1] = torch.arange(500) / 100
    worst = answers_on({"test": (logits, streamed)}, ("a", "b")).worst["test"]
    assert [each.image for each in worst] == [str(number) for number in range(499, 487, -1)]
    assert sorted(read) == list(range(488, 500))


def test_ties_are_broken_by_the_order_of_the_images() -> None:
    wrong = Predictions(("a", "b", "c"), np.array([0, 0, 0]), np.array([1, 1, 1]), np.array([0.5, 0.9, 0.5]))
    assert wrong.worst() == [1, 0, 2]
