"""What a super-network with a single exit gives to one with early exits, against random weights in the same steps.

    python benchmarks/single_exit.py --images FOLDER --json single_exit.json          some 10 minutes on one core

The published super-networks of Once-for-All have a single exit. A small SE_B, trained briefly on CIFAR-10, stands for
them: an EE_D takes over its body and last exit and is trained on EuroSAT, as is another one from random weights. The
test accuracies are those of the largest and the smallest network at three exits, with calibrated statistics. FOLDER:
see `benchmarks/worth.py`.
"""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import torch
from table import Row, parser, show
from worth import source

import nat2
from nat2.allocator import keep_freed_memory
from nat2.data.transform import Pipeline, ResizedImages
from nat2.pipeline.prepare import prepare
from nat2.pipeline.pretrained import begin_with
from nat2.runs.config import RunConfig
from nat2.space import Arch
from nat2.supernet import SuperNetwork, calibrate, normalize_by
from nat2.training.settings import SHORT_TRANSFER, UNIFORM, Phase

WIDTH, RESOLUTIONS = 0.35, "32,40,48"


def trained(data: str, phase: Phase, steps: int, out: Path, **settings: Any) -> tuple[RunConfig, Path]:
    """Train a super-network for some steps; its configuration and file."""
    config = RunConfig(
        data=data,
        width=WIDTH,
        resolutions=RESOLUTIONS,
        stem_stride=2,
        phases=(dataclasses.replace(phase, steps=steps, warmup_steps=steps // 10),),
        **settings,
    )
    (file,) = nat2.train(config, out=out, quiet=True, fresh=True)
    return config, file


@torch.no_grad()
def accuracies(config: RunConfig, file: Path) -> dict[str, float]:
    """Test accuracy of the largest and the smallest network, by name and exit."""
    plan, dataset = prepare(config)
    network = SuperNetwork(plan.macros[0]).eval()
    begin_with(network, str(file))
    pipeline = Pipeline(dataset.mean, dataset.std)
    train = ResizedImages(dataset.train.part(torch.linspace(0, len(dataset.train) - 1, 256).long()), pipeline)
    test, found = ResizedImages(dataset.test, pipeline), {}
    for size, whole in (("largest", plan.space.largest), ("smallest", plan.space.smallest)):
        for number in (1, 3, 5):
            layers = whole.stages[0]  # every stage of either network has the same
            arch = Arch(resolution=whole.resolution, width=WIDTH, stages=(layers,) * number)
            normalize = normalize_by(calibrate(network, arch, train.batches(arch.resolution)))
            answers = torch.cat([network(each, arch, normalize=normalize) for each in test.batches(arch.resolution)])
            found[f"{size}, exit {number}"] = float((answers.argmax(1) == test.labels).float().mean())
    return found


def main() -> None:
    """Measure, print, write."""
    options = parser(str(__doc__).partition("\n")[0])
    options.add_argument("--images", type=Path, required=True, help="folder of the sets")
    options.add_argument("--stand-in-steps", type=int, default=1000)
    options.add_argument("--steps", type=int, default=300)
    given = options.parse_args()
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        images = {name: source(name, given.images, place) for name in ("CIFAR-10", "EuroSAT")}
        if None in images.values():
            raise SystemExit(f"CIFAR-10 and EuroSAT are needed in {given.images}")
        stand_in = place / "stand-in"
        _, file = trained(
            str(images["CIFAR-10"]), UNIFORM[0], given.stand_in_steps, stand_in, family="SE_B", pretrained="none"
        )
        print(f"the stand-in is trained: {given.stand_in_steps} steps", flush=True)
        starts: dict[str, tuple[Phase, str]] = {"body": (SHORT_TRANSFER[0], str(file)), "random": (UNIFORM[0], "none")}
        found = {}
        for start, (phase, pretrained) in starts.items():
            config, path = trained(
                str(images["EuroSAT"]), phase, given.steps, place / start, family="EE_D", pretrained=pretrained
            )
            found[start] = accuracies(config, path)
            print(start, {name: round(100 * share, 1) for name, share in found[start].items()}, flush=True)
    rows = []
    for name, inherited in found["body"].items():
        random = found["random"][name]
        detail = f"{100 * inherited:.1f} against {100 * random:.1f} %"
        rows.append(Row(f"{name}: gain", 100 * (inherited - random), None, "higher", "points", detail))
    show("EE_D from a single-exit super-network against random weights, EuroSAT", rows, given.json)


if __name__ == "__main__":
    main()
