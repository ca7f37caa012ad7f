"""From a finished run to an answer: pick a network under a budget, export it, run its ONNX file.

python examples/pick_and_deploy.py runs/photos new.jpg --macs 20000000
"""

import argparse
import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

import nat2


def pick(run: Path, macs: float) -> str:
    """The network most accurate on the validation images that takes at most `macs` operations."""
    with (run / "pareto.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    affordable = [row for row in rows if int(row["macs"]) <= macs]
    if not affordable:
        raise SystemExit(f"the cheapest network takes {min(int(row['macs']) for row in rows):,} operations")
    return max(affordable, key=lambda row: float(row["val_accuracy"]))["id"]


def prepare(path: Path, steps: dict[str, Any]) -> np.ndarray:
    """An image file as the network's input: float32, shape (1, channels, R, R), values 0 to 1."""
    side, size = steps["side"], steps["resolution"]
    image = ImageOps.exif_transpose(Image.open(path)).convert("L" if steps["channels"] == "grey" else "RGB")
    image = ImageOps.fit(image, (side, side), Image.Resampling.BICUBIC)
    middle = max(1, round(side * steps["center"]))
    first = (side - middle) // 2
    image = image.crop((first, first, first + middle, first + middle))
    bands = [band.convert("F").resize((size, size), Image.Resampling.BILINEAR) for band in image.split()]
    return np.stack([np.asarray(band, dtype=np.float32) for band in bands])[None] / 255


def main() -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("image", type=Path, help="an image to classify")
    parser.add_argument("--macs", type=float, default=float("inf"), help="most operations per image")
    parser.add_argument("--to", type=Path, default=Path("deploy"), help="where to write the network")
    given = parser.parse_args()

    (folder,) = nat2.export(given.run, [pick(given.run, given.macs)], to=given.to)

    # From here on nat2 is not needed.
    steps = json.loads((folder / "preprocessing.json").read_text())
    classes = json.loads((folder / "arch.json").read_text())["classes"]
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"images": prepare(given.image, steps)})
    shares = np.exp(logits[0] - logits.max())
    for label in np.argsort(-shares)[:3]:
        print(f"{classes[label]}: {100 * shares[label] / shares.sum():.1f} %")


if __name__ == "__main__":
    main()
