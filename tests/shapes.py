"""Drawn shapes: a small set of colour images that a network of a few thousand parameters learns in seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

NAMES = ("circle", "square", "triangle")
SIDE = 32


def draw(name: str, generator: np.random.Generator) -> Image.Image:
    """One shape in a random colour, place and size, on a background of another random colour."""
    background, colour = generator.integers(0, 256, (2, 3))
    while np.abs(background - colour).sum() < 150:  # nobody could see it
        colour = generator.integers(0, 256, 3)
    image = Image.new("RGB", (SIDE, SIDE), tuple(background.tolist()))
    radius = int(generator.integers(5, 13))
    x, y = generator.integers(radius + 1, SIDE - radius - 1, 2).tolist()
    pen, fill = ImageDraw.Draw(image), tuple(colour.tolist())
    if name == "circle":
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)
    elif name == "square":
        pen.rectangle((x - radius, y - radius, x + radius, y + radius), fill=fill)
    else:
        pen.polygon([(x, y - radius), (x - radius, y + radius), (x + radius, y + radius)], fill=fill)
    return image


def write_shapes(root: Path, *, count: int, seed: int = 0) -> Path:
    """A folder of class folders, with `count` images of each shape."""
    generator = np.random.default_rng(seed)
    for name in NAMES:
        (root / name).mkdir(parents=True)
        for number in range(count):
            draw(name, generator).save(root / name / f"{number}.png")
    return root
