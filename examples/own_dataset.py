"""A data set of your own: arrays in memory, to an .npz file, to a network, to an answer.

    python examples/own_dataset.py            # some minutes
    python examples/own_dataset.py --quick    # less than a minute, and less accurate

Replace `pictures` by your own images and labels; a folder with one folder per class needs no code at all.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

import nat2

SHAPES = ("circle", "square", "triangle")
SIDE = 24


def picture(shape: str, generator: np.random.Generator) -> Image.Image:
    """One bright shape somewhere on a noisy background."""
    image = Image.fromarray(generator.integers(0, 90, (SIDE, SIDE, 3), dtype=np.uint8))
    x, y = (int(value) for value in generator.integers(1, 9, 2))
    size, colour = int(generator.integers(10, 15)), tuple(int(value) for value in generator.integers(120, 256, 3))
    draw, box = ImageDraw.Draw(image), (x, y, x + size, y + size)
    if shape == "circle":
        draw.ellipse(box, fill=colour)
    elif shape == "square":
        draw.rectangle(box, fill=colour)
    else:
        draw.polygon([(x, y + size), (x + size / 2, y), (x + size, y + size)], fill=colour)
    return image


def pictures(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Images, 8-bit, shape (count, height, width, 3), and the name of each one's class."""
    generator = np.random.default_rng(0)
    labels = np.array([SHAPES[number % len(SHAPES)] for number in range(count)])
    return np.stack([np.asarray(picture(label, generator)) for label in labels]), labels


def main() -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few images and a small search")
    quick = parser.parse_args().quick

    images, labels = pictures(60 if quick else 1500)
    np.savez("shapes.npz", images=images, labels=labels)  # splits are cut by class and seed

    small = {"archive": 8, "generations": 1, "candidates": 2, "top": 4, "predictor": "ridge"}
    changes = {"search": small, "adapt": {"epochs": 1}, "finetune": {"epochs": 2, "variant": "single"}} if quick else {}
    config = nat2.RunConfig.of(
        "quick", data="shapes.npz", width=0.25, resolutions="16,20", networks=1 if quick else 4, **changes
    )
    results = nat2.run(config, out=Path("runs/shapes"))
    best = max(results, key=lambda result: result.val_accuracy)

    picture("circle", np.random.default_rng(1)).save("new.png")
    for image, answers in nat2.predict(Path("runs/shapes/networks") / best.id, ["new.png"]):
        print(image, answers)


if __name__ == "__main__":
    main()
