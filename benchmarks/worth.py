"""Is a run worth its time? Against networks made by hand in the same processor time, on several sets of images.

    python benchmarks/worth.py --images FOLDER --json worth.json            two seeds, some hours on one core
    python benchmarks/worth.py --images FOLDER --quick                      three sets, one seed, 15 minutes

For each set and seed: a run (of default length, or with `--time`); three networks made by hand
(`benchmarks/handmade.py`), each in a third of the run's processor time; and the medium one in all of it. Those begin
with random weights. Compared is what a user takes of the run, the most accurate on validation images with no more
parameters, on the same test images. FOLDER holds sets as folders with `train.npz` and `test.npz` or `val.npz`: image
files joined end to end (`data`), where each begins (`offsets`), and `labels`; or one .npz file of arrays. Sets that
it does not hold are left out; the drawn shapes and the bundled digits need none. What is done is kept under `--keep`,
one file for each set and seed, and not repeated.
"""

from __future__ import annotations

import io
import json
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from handmade import SIZES, best_within, made_by_hand
from numpy.typing import NDArray
from PIL import Image
from table import Row, parser, show, write

import nat2
from nat2.allocator import keep_freed_memory
from nat2.runs.accuracy import standard_error
from nat2.runs.config import RunConfig, read_config

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.shapes import write_shapes

FILES = {  # folder, and how many training images; 0 for all
    "EuroSAT": ("eurosat_rgb_subset", 0),
    "sign-digits": ("sign_digits_64", 0),
    "CIFAR-10": ("cifar10", 10_000),
    "Tiny-ImageNet-50": ("tiny_imagenet_50", 0),
    "Fashion-MNIST": ("fashion_mnist_subset", 0),
}
OWN = ("shapes", "digits")
QUICK = ("EuroSAT", "shapes", "digits")
QUICK_TIME = "100s"
TITLE = "A run against networks made by hand in the same time"
ALL_THE_TIME = "one network in all the time"
MEAN_TARGET, WORST_TARGET, PARAMS_TARGET = 1.0, -0.5, 0.5


def images_of(folder: Path, most: int) -> dict[str, NDArray[np.generic]]:
    """The arrays of a set as nat2 reads them from an .npz file."""
    arrays: dict[str, NDArray[np.generic]] = {}
    for split in ("train", "test"):
        file = folder / f"{split}.npz"
        held = np.load(file if file.exists() else folder / "val.npz")
        data, offsets, labels = held["data"], held["offsets"], held["labels"].astype(np.int64)
        chosen = np.arange(len(labels))
        if split == "train" and most:
            chosen = np.sort(np.random.default_rng(0).permutation(len(labels))[:most])
        images = [Image.open(io.BytesIO(data[offsets[n] : offsets[n + 1]].tobytes())) for n in chosen]
        mode = "RGB" if any(image.mode != "L" for image in images) else "L"
        arrays[f"x_{split}"] = np.stack([np.asarray(image.convert(mode)) for image in images])
        arrays[f"y_{split}"] = labels[chosen]
    return arrays


def source(name: str, images: Path | None, scratch: Path, *, most: int = 0) -> str | None:
    """What --data takes for a set, or for some of its training images; None if its images are not there."""
    if name == "digits":
        return name
    if name == "shapes":
        write_shapes(scratch / "shapes" / "train", count=40)
        write_shapes(scratch / "shapes" / "test", count=200, seed=1)
        return str(scratch / "shapes")
    if images is None:
        return None
    folder, most = images / FILES[name][0], most or FILES[name][1]
    if (folder / f"{folder.name}.npz").exists():
        return str(folder / f"{folder.name}.npz")
    if not (folder / "train.npz").exists():
        return None
    file = scratch / f"{folder.name}.npz"
    np.savez(file, **images_of(folder, most))  # type: ignore[arg-type]
    return str(file)


def measure(config: RunConfig, scratch: Path) -> dict[str, Any]:
    """One set and seed: what the run and the networks by hand reach."""
    began = time.process_time()
    found = nat2.run(config, out=scratch / "run", quiet=True, fresh=True)
    seconds = time.process_time() - began
    augmentation = read_config(scratch / "run" / "config.yaml").augmentation  # the same for all
    config = replace(config, pretrained="none", time="", augmentation=augmentation)
    by_hand = [made_by_hand(config, name, seconds / len(SIZES)) for name in SIZES]
    rival = made_by_hand(config, "medium", seconds)
    best = max(found, key=lambda each: each.val_accuracy)
    return {
        "seconds": seconds,
        "found": [
            {"params": each.params, "val": each.val_accuracy, "test": each.test_accuracy, "id": each.id}
            for each in found
        ],
        "by hand": [asdict(each) for each in by_hand],
        "within": [
            None if (ours := best_within(found, each.params)) is None else [ours.params, ours.test_accuracy]
            for each in by_hand
        ],
        "best": [best.params, best.test_accuracy],
        "test images": best.test_images,
        "equal": [
            min((each.params for each in found if each.test_accuracy >= made.accuracy), default=None)
            for made in by_hand
        ],
        "rival": asdict(rival),
    }


@dataclass(frozen=True)
class Comparison:
    """A returned network beside one made by hand, on the same test images."""

    set: str
    seed: int
    rival: str
    made: float
    """Accuracy of the network by hand."""
    made_params: int
    ours: float
    params: int
    images: int
    """Test images."""

    @property
    def points(self) -> float:
        return 100 * (self.ours - self.made)

    @property
    def row(self) -> Row:
        name = f"{self.set}, seed {self.seed}: nat2 minus {self.rival}"
        by_hand = f"by hand {100 * self.made:.1f} % with {self.made_params:,} parameters"
        detail = f"{by_hand}, nat2 {100 * self.ours:.1f} % with {self.params:,}"
        return Row(name, self.points, unit="points", detail=detail)


def comparisons(name: str, seed: int, kept: dict[str, Any]) -> list[Comparison]:
    """What was measured of a set and seed: beside each size by hand that a returned network keeps, and beside one
    network in all the time."""
    images = kept["test images"]
    pairs = [(each["name"], each, ours) for each, ours in zip(kept["by hand"], kept["within"], strict=True) if ours]
    pairs.append((ALL_THE_TIME, kept["rival"], kept["best"]))
    return [
        Comparison(name, seed, rival, made["accuracy"], made["params"], ours[1], ours[0], images)
        for rival, made, ours in pairs
    ]


def worst(compared: list[Comparison]) -> tuple[str, float, float]:
    """The set on which nat2 is furthest behind beyond the standard error, the points in the mean of its seeds, and the
    standard error of these: of two shares of as many test images."""
    found = []
    for name in dict.fromkeys(each.set for each in compared):
        seeds = [each for each in compared if each.set == name]
        shares = [(share, each.images) for each in seeds for share in (each.ours, each.made)]
        error = sum(standard_error(share, images) ** 2 for share, images in shares) ** 0.5
        found.append((name, statistics.mean(each.points for each in seeds), 100 * error / len(seeds)))
    return min(found, key=lambda each: each[1] + each[2])


def summary(compared: list[Comparison], kept: list[dict[str, Any]]) -> list[Row]:
    """Means over sets and seeds, beside their targets."""
    result = []
    for size in (*SIZES, ALL_THE_TIME):
        some = [each for each in compared if each.rival == size]
        if not some:
            continue
        values = [each.points for each in some]
        error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
        against = MEAN_TARGET if size in SIZES else WORST_TARGET
        detail = f"standard error {error:.1f}, {len(values)} comparisons"
        result.append(Row(f"mean: nat2 minus {size}", statistics.mean(values), against, "higher", "points", detail))
        if size in SIZES:
            name, points, error = worst(some)
            title = f"worst set: nat2 minus {size}, and a standard error"
            detail = f"{name}: {points:.2f} with a standard error of {error:.2f}"
            result.append(Row(title, points + error, WORST_TARGET, "higher", "points", detail))
    shares = [
        needed / made["params"]
        for each in kept
        for needed, made in zip(each["equal"], each["by hand"], strict=True)
        if needed is not None
    ]
    if shares:
        detail = f"of {3 * len(kept)} networks by hand {len(shares)} are equalled"
        name = "parameters that nat2 needs to equal a network by hand, mean share"
        result.append(Row(name, statistics.mean(shares), PARAMS_TARGET, detail=detail))
    return result


def main() -> None:
    """Measure, print, write."""
    options = parser(str(__doc__).partition("\n")[0])
    options.add_argument("--images", type=Path, help="folder of the sets")
    options.add_argument("--sets", nargs="+", choices=(*FILES, *OWN), default=[*FILES, *OWN])
    options.add_argument("--seeds", type=int, default=2)
    options.add_argument("--keep", type=Path, default=Path("runs/worth"), help="folder of what is done")
    options.add_argument("--time", default="", help="length of the runs, like 2m; by default that of a run without it")
    options.add_argument("--pretrained", default="auto", help="weights that the runs begin with")
    options.add_argument("--quick", action="store_true", help=f"{', '.join(QUICK)}, one seed, runs of {QUICK_TIME}")
    given = options.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)  # processor time is compared
    sets, seeds = (QUICK, 1) if given.quick else (given.sets, given.seeds)
    length = QUICK_TIME if given.quick else given.time
    rows: list[Row] = []
    done: list[dict[str, Any]] = []
    compared: list[Comparison] = []
    for seed in range(seeds):
        for name in sets:
            file = given.keep / "-".join([name, *filter(None, [length]), given.pretrained, f"{seed}.json"])
            if not file.exists():
                with tempfile.TemporaryDirectory() as scratch:
                    data = source(name, given.images, Path(scratch))
                    if data is None:
                        print(f"{name}: its images are not in {given.images}", flush=True)
                        continue
                    config = RunConfig.of("quick", data=data, seed=seed, time=length, pretrained=given.pretrained)
                    measured = measure(config, Path(scratch))
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(json.dumps(measured, indent=2) + "\n")
            kept = json.loads(file.read_text())
            done.append(kept)
            compared += (added := comparisons(name, seed, kept))
            seconds = Row(f"{name}, seed {seed}: processor seconds of the run", kept["seconds"], unit="s")
            for row in (shown := [seconds, *(each.row for each in added)]):
                print(f"{row.value:8.2f} {row.unit}  {row.name}; {row.detail}", flush=True)
            rows += shown
            if given.json is not None:
                write(TITLE, rows + summary(compared, done), given.json)
    show(TITLE, rows + summary(compared, done), given.json)


if __name__ == "__main__":
    main()
