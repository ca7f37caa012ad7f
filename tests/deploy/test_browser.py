"""The page for browsers: prepares pictures as `nat2 predict` does, answers as it does, and works from a file."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from nat2.data.depth import ValueRange
from nat2.data.transform import Pipeline
from nat2.deploy import browser as module
from nat2.deploy.browser import check_image, write_browser
from nat2.deploy.deployable import load
from nat2.deploy.export import export
from nat2.deploy.onnxruntime_web import WebRuntime, web_runtime
from nat2.deploy.predict import Classifier, predict
from nat2.errors import RunError
from nat2.space import Arch, Macro
from tests.deploy.networks import random_network
from tests.reports.browser import CHROMIUM, Browser

CLASSES = ["<b>cat</b>", "dog & bone", "Vögel", "</script>", "e", "f", "g"]
READY = "document.body.classList.contains('ready')"
SIDE, SIZE = 24, 16

needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="needs the program chromium (Debian: apt install chromium)"
)


def network(
    folder: Path, *, channels: int = 3, side: int = SIDE, center: float = 0.9, span: ValueRange | None = None
) -> Path:
    """An exported network."""
    macro = Macro(classes=len(CLASSES), channels=channels, width=0.25, stem_stride=1)
    model = random_network(macro, Arch.from_key(f"r{SIZE}-w0.25-k3e3.k5e4"), seed=channels)
    pipeline = Pipeline((0.4,) * channels, (0.25,) * channels, center=center, span=span)
    export(model.network, pipeline, CLASSES, folder, side=side, facts={})
    return folder


STUB = WebRuntime(
    "0",
    """var ort = { env: { wasm: {} },
      Tensor: class { constructor(kind, data, shape) { this.data = data; } },
      InferenceSession: { create: async () => ({ run: async ({ images }) => {
        self.seen = images.data; return { logits: { data: Float32Array.from([3, 1, 2, 0, -1, -2, -3]) } }; } }) } };
    //# sourceMappingURL=nowhere.map""",
    "export default 1;",
    b"",
)
"""Answers the same to every picture, and keeps what it was given."""


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("needs the program chromium")
    with Browser(tmp_path_factory.mktemp("chromium")) as started:
        yield started


@pytest.fixture
def stubbed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "web_runtime", lambda given: STUB)


def handed_over(chromium: Browser, image: Path) -> Any:
    """All answers of the page to an image file."""
    content = base64.b64encode(image.read_bytes()).decode()
    chromium.run(f"self.file = new File([bytes('{content}')], {json.dumps(image.name)})")
    return chromium.run("nat2.classify(self.file)")


def noise(width: int, height: int, bands: int = 3) -> Image.Image:
    """Rough at every scale, so that each weight of a resize matters."""
    values = np.random.default_rng(width).integers(0, 256, (height, width, bands), dtype=np.uint8)
    return Image.fromarray(values[..., 0] if bands == 1 else values)


def palette() -> Image.Image:
    return noise(40, 31).quantize(17)


def half_clear() -> Image.Image:
    image = noise(33, 41).convert("RGBA")
    image.putalpha(noise(33, 41, 1))
    return image


EXACT = {
    "wide": noise(97, 40),
    "odd by one": noise(51, 50),
    "as stored": noise(SIDE, SIDE),
    "as wide as stored": noise(SIDE, 40),
    "smaller": noise(9, 7),
    "one pixel": noise(1, 1),
    "larger than a strip": noise(1300, 900),
    "grey": noise(60, 44, 1),
    "black and white": noise(60, 44, 1).convert("1"),
    "of a palette": palette(),
}


@needs_chromium
@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_become_the_inputs_of_predict(stubbed: None, chromium: Browser, tmp_path: Path, channels: int) -> None:
    folder = network(tmp_path / "n", channels=channels)
    chromium.open(write_browser(folder, facts={}), drawn=READY)
    classifier = Classifier.of(folder)
    for name, image in EXACT.items():
        image.save(tmp_path / "image.png")
        handed_over(chromium, tmp_path / "image.png")
        expected = classifier._prepared(tmp_path / "image.png")
        assert isinstance(expected, torch.Tensor), expected
        actual = torch.tensor(chromium.run("[...seen]")).view(expected.shape)
        torch.testing.assert_close(
            actual, expected, rtol=0, atol=1e-6, msg=f"{name}: {(actual - expected).abs().max()}"
        )


@needs_chromium
def test_decoders_differ_by_little(stubbed: None, chromium: Browser, tmp_path: Path) -> None:
    folder = network(tmp_path / "n", center=1.0)
    chromium.open(write_browser(folder, facts={}), drawn=READY)
    classifier = Classifier.of(folder)
    smooth = noise(30, 20).resize((300, 200), Image.Resampling.BICUBIC)
    turned = Image.Exif()
    turned[0x0112] = 6
    smooth.save(tmp_path / "photo.jpg", quality=90)
    smooth.save(tmp_path / "turned.jpg", quality=90, exif=turned)
    smooth.save(tmp_path / "photo.webp", lossless=True)
    half_clear().save(tmp_path / "half clear.png")
    smooth.resize((50, 300)).save(tmp_path / "high.png")  # Pillow 13 resizes these along the other axis first
    for name in ("photo.jpg", "turned.jpg", "photo.webp", "half clear.png", "high.png"):
        handed_over(chromium, tmp_path / name)
        expected = classifier._prepared(tmp_path / name)
        assert isinstance(expected, torch.Tensor), expected
        off = (torch.tensor(chromium.run("[...seen]")).view(expected.shape) - expected).abs()
        assert off.max() < 4 / 255, name
        assert off.mean() < 1 / 255, name


@needs_chromium
def test_the_page_shows_answers_and_complaints(stubbed: None, chromium: Browser, tmp_path: Path) -> None:
    chromium.complaints.clear()
    chromium.requests.clear()
    page = write_browser(network(tmp_path / "it's <n>"), facts={"network": "1a2b", "test accuracy": "<88 %"})
    noise(30, 30).save(tmp_path / "one.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG broken")
    for phone, size in ((False, (1200, 900)), (True, (390, 844))):
        chromium.open(page, size=size, phone=phone, drawn=READY)
        content = base64.b64encode((tmp_path / "one.png").read_bytes()).decode()
        chromium.run(f"showFiles([new File([bytes('{content}')], 'one.png'), new File(['x'], '<i>.png')])")
        rows = chromium.run("[...document.querySelectorAll('#answers li')].map(each => each.innerText)")
        assert [each.split("\n")[0] for each in rows] == ["<b>cat</b>", "Vögel", "dog & bone", "</script>", "e"]
        assert rows[0].endswith("63.3 %")
        problem = chromium.run("document.getElementById('problem').innerText")
        assert problem.startswith("<i>.png was not classified: it is no picture")
        assert "network 1a2b; test accuracy <88 %; runtime ONNX Runtime Web 0" in chromium.run(
            "document.body.innerText"
        )
        assert chromium.run("document.documentElement.scrollWidth") <= size[0]
    assert "differently" in chromium.run("document.getElementById('state').innerText")  # the stub's answers are made up
    assert not chromium.complaints
    assert all(each.startswith(("file:", "blob:")) for each in chromium.requests)


@needs_chromium
def test_a_network_of_deep_images_takes_none_that_browsers_reduce(
    stubbed: None, chromium: Browser, tmp_path: Path
) -> None:
    deep = np.random.default_rng(0).integers(0, 4000, (20, 20)).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    noise(20, 20).save(tmp_path / "plain.png")
    for span, refused in ((ValueRange(0, 4000), True), (None, False)):
        chromium.open(write_browser(network(tmp_path / "n", span=span), facts={}), drawn=READY)
        assert handed_over(chromium, tmp_path / "plain.png")[0]["class"] == CLASSES[0]
        content = base64.b64encode((tmp_path / "deep.png").read_bytes()).decode()
        chromium.run(f"showFiles([new File([bytes('{content}')], 'deep.png')])")
        assert ("use nat2 predict" in chromium.run("document.getElementById('problem').innerText")) is refused


@needs_chromium
def test_ten_pictures_are_answered_as_predict_answers(chromium: Browser, tmp_path: Path) -> None:
    try:
        web_runtime()
    except RunError as error:
        pytest.skip(str(error))
    folder = network(tmp_path / "n")
    chromium.open(write_browser(folder, facts={}), drawn=READY)
    assert "as it was trained" in chromium.run("document.getElementById('state').innerText")
    for number in range(10):
        noise(60 + 7 * number, 58 - 3 * number).save(tmp_path / f"{number}.png")
    answers = predict(folder, [tmp_path / f"{number}.png" for number in range(10)], top=len(CLASSES))
    for path, expected in answers:
        actual = [(each["class"], each["probability"]) for each in handed_over(chromium, path)]
        assert [name for name, _ in actual] == [name for name, _ in expected]
        np.testing.assert_allclose([share for _, share in actual], [share for _, share in expected], atol=1e-5)


def test_the_check_image_has_every_grey_level_and_the_answer_of_the_network(stubbed: None, tmp_path: Path) -> None:
    folder = network(tmp_path / "n")
    write_browser(folder, facts={})
    stored = json.loads((folder / "browser" / "network.js").read_text().removeprefix("self.NETWORK=")[:-2])
    images = check_image(3, SIZE)
    assert images.shape == (1, 3, SIZE, SIZE)
    assert len(set(images.flatten().tolist())) == 256
    assert (float(images.min()), float(images.max())) == (0, 1)
    with torch.no_grad():
        np.testing.assert_allclose(stored["check"]["logits"], load(folder).double()(images.double())[0], atol=1e-9)
    assert base64.b64decode(stored["model"]) == (folder / "model.onnx").read_bytes()
    assert stored["crop"] == {"first": 1, "middle": 22, "size": SIZE}  # the middle 90 % of 24 pixels


def test_names_cannot_end_a_script_and_no_map_is_asked_for(stubbed: None, tmp_path: Path) -> None:
    folder = network(tmp_path / "n")
    page = write_browser(folder, facts={"network": "<script>"})
    assert page == folder / "browser" / "index.html"
    assert "</script>" not in (folder / "browser" / "network.js").read_text()
    assert "sourceMappingURL" not in (folder / "browser" / "runtime.js").read_text()
    assert "&lt;script&gt;" in page.read_text()
    assert "&lt;b&gt;cat&lt;/b&gt;, dog &amp; bone" in page.read_text()
    assert "Permission is hereby granted" in (folder / "browser" / "LICENSE-onnxruntime-web.txt").read_text()
