"""What trained weights save: the same network fine-tuned from those that come with nat2, and from random ones.

    python benchmarks/transfer.py --images FOLDER --json transfer.json

The same architecture (`benchmarks/handmade.py`), images, augmentation and number of gradient steps on both sides; each
number of steps is a training of its own, along a cosine that ends there. Also compared: trained weights after the
fewest steps with random weights after the most. FOLDER: see `benchmarks/worth.py`.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

from handmade import SIZES
from table import Row, parser, show, write
from tuned import Setting, Tuning
from worth import FILES, OWN, source

from nat2.allocator import keep_freed_memory
from nat2.pipeline.prepare import prepare
from nat2.runs.config import RunConfig

TITLE = "From the weights that come with nat2, and from random ones"
SOONER = "still ahead by"


def accuracies(data: str, size: str, steps: int, seed: int) -> dict[str, float]:
    """Share of test images classified rightly after so many steps, by what the training began with."""
    plan, dataset = prepare(RunConfig(data=data, seed=seed))
    found = {}
    for start in ("trained", "random"):
        tuning = Tuning.of(plan, dataset, SIZES[size], Setting(("transfer", size), steps, trained=start == "trained"))
        tuning.train(range(steps))
        found[start] = tuning.accuracy()
    return found


def rows_of(name: str, data: str, size: str, lengths: Sequence[int], seed: int) -> list[Row]:
    """The gain after each number of steps, and what is left of it when random weights get the most steps."""
    found = {steps: accuracies(data, size, steps, seed) for steps in lengths}
    rows = [_row(f"{name}, {steps} steps: gain", each["trained"], each["random"]) for steps, each in found.items()]
    few, many = min(lengths), max(lengths)
    if few < many:
        title = f"{name}, trained weights after {few} steps and random ones after {many}: {SOONER}"
        rows.append(_row(title, found[few]["trained"], found[many]["random"]))
    for row in rows:
        print(f"{row.name} {row.value:.1f}; {row.detail}", flush=True)
    return rows


def _row(name: str, trained: float, random: float) -> Row:
    detail = f"{100 * trained:.1f} against {100 * random:.1f} %"
    return Row(name, 100 * (trained - random), unit="points", detail=detail)


def summary(rows: list[Row]) -> list[Row]:
    """For each size, the mean over the sets of what trained weights are ahead after the fewest steps."""
    means = []
    for size in SIZES:
        values = [row.value for row in rows if row.name.endswith(SOONER) and f", {size}, " in row.name]
        if values:
            means.append(Row(f"mean, {size}: {SOONER}", statistics.mean(values), 0.0, "higher", "points"))
    return means


def main() -> None:
    """Measure, print, write."""
    options = parser(str(__doc__).partition("\n")[0])
    options.add_argument("--images", type=Path, help="folder of the sets")
    options.add_argument("--sets", nargs="+", choices=(*FILES, *OWN), default=[*FILES])
    options.add_argument("--sizes", nargs="+", choices=SIZES, default=[*SIZES])
    options.add_argument("--steps", nargs="+", type=int, default=[100, 300])
    options.add_argument("--seeds", type=int, default=1)
    given = options.parse_args()
    keep_freed_memory()
    rows: list[Row] = []
    for name in given.sets:
        with tempfile.TemporaryDirectory() as scratch:
            data = source(name, given.images, Path(scratch))
            if data is None:
                print(f"{name}: its images are not in {given.images}", flush=True)
                continue
            for size, seed in itertools.product(given.sizes, range(given.seeds)):
                rows += rows_of(f"{name}, {size}, seed {seed}", data, size, given.steps, seed)
                if given.json is not None:
                    write(TITLE, rows + summary(rows), given.json)
    show(TITLE, rows + summary(rows), given.json)


if __name__ == "__main__":
    main()
