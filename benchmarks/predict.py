"""How many images a second `nat2 predict` classifies: small PNG files, and photographs of 12 megapixels."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from nat2.data.transform import Pipeline
from nat2.deploy.export import export
from nat2.deploy.predict import Classifier
from nat2.space import Macro, SearchSpace
from nat2.supernet import SuperNetwork, extract

SIDE = 64
KINDS = {"64 x 64 PNG": ((64, 64), "png", 1000), "4000 x 3000 JPEG": ((4000, 3000), "jpg", 40)}


def main() -> None:
    """Classify copies of a photograph with a random network of middling size."""
    macro = Macro(classes=10, channels=3, width=0.5, stem_stride=1)
    space = SearchSpace.of((macro,), (SIDE,))
    arch = space.sample_distinct(1, np.random.default_rng(0))[0]
    network = extract(SuperNetwork(macro, generator=torch.Generator().manual_seed(0)), arch)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "network"
        export(network, Pipeline((0.5,) * 3, (0.25,) * 3), [*"abcdefghij"], folder, side=SIDE, facts={})
        classifier = Classifier.of(folder)
        for name, (size, suffix, count) in KINDS.items():
            file = Path(temporary) / f"image.{suffix}"
            Image.fromarray(load_sample_images().images[0]).resize(size).save(file)
            began = time.perf_counter()
            answered = sum(not each.error for each in classifier.classify([file] * count))
            print(f"{name}: {answered / (time.perf_counter() - began):,.0f} images/s")


if __name__ == "__main__":
    main()
