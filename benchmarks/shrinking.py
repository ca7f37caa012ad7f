"""Does early-exit shrinking with a re-extracted teacher beat OFA? The form of OFAv2's table, at a small scale.

Trains EE_D, EE_B and SE_B (OFA) on a part of a data set with one budget (epochs, steps and sub-networks a step), each
with a teacher that is fixed and one that is extracted anew before each phase, and measures the smallest, the median and
the largest open sub-network, and the best of the corner networks, on validation images after each phase.

    python benchmarks/shrinking.py --data cifar-10-binary.tar.gz --out runs/shrinking
"""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from table import Row, parser, show

from nat2.allocator import keep_freed_memory
from nat2.data.dataset import Dataset, Split, read_dataset
from nat2.data.settings import Augmentation
from nat2.data.transform import Pipeline, ResizedImages
from nat2.files import save_tensors, write_json
from nat2.seeds import numpy_generator, torch_generator
from nat2.space import Arch, Macro, SearchSpace
from nat2.supernet import SuperNetwork, calibrate, normalize_by
from nat2.supernet.static import channels_last
from nat2.training.context import TrainingContext
from nat2.training.optimise import accuracy
from nat2.training.settings import SHORT, Phase, ShrinkSettings
from nat2.training.shrink import PhaseOutcome, corner_networks, opened_by, shrink
from nat2.training.teacher import calibration_images

FAMILIES = ("EE_D", "EE_B", "SE_B")
TEACHERS = ("fixed", "progressive")
RESOLUTIONS = (24, 28, 32)
STEPS = 25  # of the short schedule, for which an epoch stands here


def budget(phases: tuple[Phase, ...], *, early_exits: bool, factor: float) -> list[Phase]:
    """The short schedule without levels; a family without exits trains its kernels while the others open exits."""
    kept = []
    for phase in phases:
        if phase.name == "level":
            continue
        if phase.name == "height" and not early_exits:
            phase = dataclasses.replace(phase, name="kernel again", exits=(5,), levels=(3,))
        epochs = max(1, round(factor * (phase.steps or 0) / STEPS))
        warmup = (phase.warmup_steps or 0) / STEPS
        kept.append(dataclasses.replace(phase, steps=None, epochs=epochs, warmup_steps=None, warmup_epochs=warmup))
    return kept


def measure(network: SuperNetwork, arch: Arch, calibration: ResizedImages, images: ResizedImages) -> float:
    """Validation accuracy of a sub-network with calibrated statistics."""
    statistics = calibrate(network, arch, calibration.batches(arch.resolution))
    with torch.no_grad():
        batches = images.batches(arch.resolution)
        return accuracy(lambda x: network(x, arch, normalize=normalize_by(statistics)), batches, images.labels)


def median_of(space: SearchSpace) -> Arch:
    """The network with every choice in the middle."""

    def middle(values: tuple[int, ...]) -> tuple[int, ...]:
        return (sorted(values)[len(values) // 2],) if values else ()

    return dataclasses.replace(
        space,
        resolutions=middle(space.resolutions),
        kernels=middle(space.kernels),
        expands=middle(space.expands),
        depths=middle(space.depths),
        exits=middle(space.exits),
    ).largest


def train(family: str, teacher: str, dataset: Dataset, folder: Path, options: dict[str, float]) -> dict[str, Any]:
    """Train one super-network, or continue; what was measured after each phase."""
    done = folder / "result.json"
    if done.exists():
        result: dict[str, Any] = json.loads(done.read_text())
        return result
    folder.mkdir(parents=True, exist_ok=True)
    macro = Macro.of_family(family, classes=len(dataset.classes), channels=dataset.channels, width=0.5, stem_stride=2)
    space = SearchSpace.of(macro, RESOLUTIONS)
    pipeline = Pipeline(dataset.mean, dataset.std, Augmentation())
    seed = int(options["seed"])
    network = channels_last(SuperNetwork(macro, dropout=0.1, generator=torch_generator(seed, "weights")))
    settings = ShrinkSettings(teacher=teacher, ramp="ASC")  # type: ignore[arg-type]
    calibration = ResizedImages(calibration_images(dataset.train, settings.calibration_images), pipeline)
    validation = ResizedImages(dataset.val, pipeline)
    rows: list[dict[str, object]] = []
    seconds, began = 0.0, time.monotonic()
    if (folder / "rows.json").exists():
        rows, seconds = json.loads((folder / "rows.json").read_text())

    def report(outcome: PhaseOutcome) -> None:
        nonlocal seconds, began
        seconds += time.monotonic() - began
        opened = opened_by(outcome.phase, space)
        corners = corner_networks(dataclasses.replace(opened, resolutions=(32,)), 16, numpy_generator(0, "corners"))
        row: dict[str, object] = {"phase": outcome.phase.name}
        for name, arch in (("smallest", opened.smallest), ("median", median_of(opened)), ("largest", opened.largest)):
            row[name] = measure(network, arch, calibration, validation)
        best = max(corners, key=lambda arch: measure(network, arch, calibration, validation))
        row["best"] = measure(network, best, calibration, validation)
        rows.append(row | {"seconds": round(seconds)})
        write_json(folder / "rows.json", [rows, seconds])
        print(f"{family} {teacher}: {row}, {seconds:.0f} s", flush=True)
        began = time.monotonic()

    phases = budget(SHORT, early_exits=macro.early_exits, factor=options["factor"])
    state = folder / "s.safetensors"
    context = TrainingContext(split=dataset.train, pipeline=pipeline, state=state, seed=seed)
    for outcome in shrink(network, space, phases, settings, context):
        report(outcome)
    save_tensors(folder / "supernet.safetensors", network.state_dict())
    result = {"family": family, "teacher": teacher, "rows": rows, "seconds": seconds}
    write_json(done, result)
    return result


def part_of(split: Split, count: int) -> Split:
    """An equal number of images of every class, the first of each."""
    classes = int(split.labels.max()) + 1
    each = [torch.nonzero(split.labels == label)[: count // classes, 0] for label in range(classes)]
    indices = torch.cat(each).sort().values
    return split.part(indices)


def cell(row: dict[str, float]) -> str:
    best, *ends = (100 * row[name] for name in ("best", "smallest", "median", "largest"))
    return f"{best:.1f} ({ends[0]:.0f} / {ends[1]:.0f} / {ends[2]:.0f})"


def main() -> None:
    arguments = parser(__doc__ or "")
    arguments.add_argument("--data", required=True, help="what nat2 run --data takes")
    arguments.add_argument("--out", type=Path, default=Path("runs/shrinking"), help="resume points and results")
    arguments.add_argument("--train", type=int, default=10_000, help="training images")
    arguments.add_argument("--val", type=int, default=2_000, help="validation images")
    arguments.add_argument("--factor", type=float, default=1.0, help="epochs, in multiples of the short schedule's")
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--threads", type=int, default=2)
    given = arguments.parse_args()
    keep_freed_memory()
    torch.set_num_threads(given.threads)
    dataset = read_dataset(given.data, side=RESOLUTIONS[-1], seed=given.seed)
    dataset = dataclasses.replace(
        dataset, train=part_of(dataset.train, given.train), val=part_of(dataset.val, given.val)
    )
    options = {"seed": given.seed, "factor": given.factor}
    results = [
        train(family, teacher, dataset, given.out / f"{family}-{teacher}", options)
        for teacher in TEACHERS[::-1]
        for family in FAMILIES
    ]
    table = Table(title="validation accuracy, %: best corner network (smallest / median / largest)", box=None)
    names = list(dict.fromkeys(str(row["phase"]) for row in results[0]["rows"]))
    for heading in ("", *names, "seconds"):
        table.add_column(heading, justify="right")
    best = {}
    for result in results:
        rows = result["rows"]
        cells = [cell(row) for row in rows]
        name = f"{result['family']}{'-pet' if result['teacher'] == 'progressive' else ''}"
        table.add_row(name, *cells, f"{result['seconds']:.0f}")
        best[name] = 100 * rows[-1]["best"]
    Console(width=160).print(table)
    show(
        "the published order",
        [
            Row("EE_D with a re-extracted teacher over OFA", best["EE_D-pet"] - best["SE_B"], 0, "higher", "points"),
            Row("EE_B with a re-extracted teacher over OFA", best["EE_B-pet"] - best["SE_B"], 0, "higher", "points"),
            *(
                Row(
                    f"re-extracted over fixed teacher, {each}",
                    best[f"{each}-pet"] - best[each],
                    None,
                    "higher",
                    "points",
                )
                for each in FAMILIES
            ),
        ],
        given.json,
    )


if __name__ == "__main__":
    main()
