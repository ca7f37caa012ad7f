"""What trained weights save a super-network: its warm-up on new images, beside a training from random weights.

    python benchmarks/warmup.py --images FOLDER --json warmup.json
    python benchmarks/warmup.py --images FOLDER --sets EuroSAT --ways "heads first" "learning rate halved"

For each set a super-network is trained from random weights as a run trains it (`--pretrained none`), and its processor
time is taken; then super-networks begin with the weights that come with nat2, and are trained as a run does that for a
quarter, half and all of this time. Measured is the test accuracy of the smallest, the median and the largest
sub-network, with calibrated statistics. With `--ways`, other ways to warm up are compared at half of the time. FOLDER:
see `benchmarks/worth.py`.
"""

from __future__ import annotations

import contextlib
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from shrinking import measure, median_of
from table import Row, parser, show, write
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook
from tuned import timed
from worth import FILES, OWN, source

from nat2.allocator import keep_freed_memory
from nat2.data.dataset import Dataset
from nat2.data.transform import Pipeline, ResizedImages
from nat2.pipeline.context import pipeline_of
from nat2.pipeline.planning import scaled_phase
from nat2.pipeline.prepare import prepare
from nat2.pipeline.stages import new_supernet
from nat2.processes import ALONE
from nat2.runs.config import RunConfig
from nat2.runs.plan import RunPlan
from nat2.supernet import SuperNetwork
from nat2.training.context import TrainingContext
from nat2.training.length import batch_size_for
from nat2.training.settings import Phase
from nat2.training.shrink import shrink
from nat2.training.teacher import calibration_images

TITLE = "The warm-up of a super-network, from trained and from random weights"
SETS = {"EuroSAT": 0, "CIFAR-10": 5_000, "sign-digits": 0, "Fashion-MNIST": 0, "shapes": 0}  # training images; 0: all
GREY = ("Fashion-MNIST", "digits")
SHARES = {"a quarter": 0.25, "half": 0.5, "all": 1.0}
NETWORKS = ("smallest", "median", "largest")
SHORTEST = "a quarter"
TRIED = 12  # steps by which the speed is measured


@dataclass(frozen=True)
class Way:
    """How a warm-up differs from that of a run."""

    rate: float = 1.0
    """Factor of the learning rate."""
    body: float = 1.0
    """The same, for all weights but the classifiers, which are new."""
    heads: float = 0.0
    """Share of the steps, from the first, in which only the classifiers learn."""
    largest: float = 0.0
    """Share of the steps, from the first, in which the largest network learns with all its exits."""
    towards: float = 0.0
    """Weight of a pull towards the weights that the training began with (L2-SP)."""


USUAL = "as a run does"
WAYS = {
    USUAL: Way(),
    "learning rate halved": Way(rate=0.5),
    "learning rate doubled": Way(rate=2.0),
    "heads first": Way(heads=0.2),
    "body at a third of the rate": Way(body=1 / 3),
    "largest network first": Way(largest=0.3),
    "kept near the old weights": Way(towards=0.01),
}


@dataclass(frozen=True)
class Trainer:
    """A set, and what trains super-networks on it."""

    plan: RunPlan
    dataset: Dataset
    pipeline: Pipeline
    scratch: Path

    @staticmethod
    def of(config: RunConfig, scratch: Path) -> Trainer:
        """Read the images, and decide what a run would."""
        plan, dataset = prepare(config)
        return Trainer(plan, dataset, pipeline_of(plan.config, dataset), scratch)

    def network(self) -> SuperNetwork:
        """A super-network that has not begun to learn."""
        return new_supernet(self.plan, self.plan.macros[0], ALONE)[0]

    def phase(self, steps: int = 0, rate: float = 1.0) -> Phase:
        """The only phase of a run's training, of another length and with so many times the learning rate."""
        (phase,), images = self.plan.config.phases, len(self.dataset.train)
        batch_size = batch_size_for(self.plan.config.shrink.batch_size, images)
        factor = steps / phase.length(images, batch_size).steps if steps else 1.0
        return replace(scaled_phase(phase, factor, images, batch_size), lr=rate * phase.lr)

    def train(self, network: SuperNetwork, phase: Phase) -> None:
        """Train it as a run does."""
        plan = self.plan
        with tempfile.TemporaryDirectory(dir=self.scratch) as folder:
            context = TrainingContext(
                split=self.dataset.train,
                pipeline=self.pipeline,
                state=Path(folder) / "state.safetensors",
                seed=plan.config.seed,
            )
            supported = plan.space.expands if plan.pretrained else ()
            list(shrink(network, plan.space, [phase], plan.config.shrink, context, supported=supported))
        network.eval()

    def accuracies(self, network: SuperNetwork) -> dict[str, float]:
        """Of three sub-networks on the test images, in percent."""
        space, count = self.plan.space, self.plan.config.shrink.calibration_images
        calibration = ResizedImages(calibration_images(self.dataset.train, count), self.pipeline)
        test = ResizedImages(self.dataset.test, self.pipeline)
        archs = dict(zip(NETWORKS, (space.smallest, median_of(space), space.largest), strict=True))
        return {name: 100 * measure(network, arch, calibration, test) for name, arch in archs.items()}


def seconds_per_step(trainer: Trainer) -> float:
    """Of the only phase, from a few of its steps."""
    network = trainer.network()
    trainer.train(network, trainer.phase(2))  # the first steps take longer
    return timed(lambda: trainer.train(network, trainer.phase(TRIED)))[1] / TRIED


def warmed_up(trainer: Trainer, steps: int, way: Way) -> SuperNetwork:
    """A super-network after so many steps."""
    network = trainer.network()
    heads, largest = round(way.heads * steps), round(way.largest * steps)
    if heads:
        classifiers = [each.classifier for each in network.exits.values()]
        network.requires_grad_(False)
        nn.ModuleList(classifiers).requires_grad_(True)  # type: ignore[arg-type]
        trainer.train(network, trainer.phase(heads, way.rate))
        network.requires_grad_(True)
    if largest:
        trainer.train(network, replace(trainer.phase(largest, way.rate), joint=True))
    with changed_gradients(network, way):
        trainer.train(network, trainer.phase(steps - heads - largest, way.rate))
    return network


@contextlib.contextmanager
def changed_gradients(network: SuperNetwork, way: Way) -> Iterator[None]:
    """Scale the gradients of the body, and add those of the pull, before each step of an optimiser."""
    body = [each for name, each in network.named_parameters() if "classifier" not in name]
    begun = [each.detach().clone() for each in body] if way.towards else []

    @torch.no_grad()
    def change(*_: object) -> None:
        for number, parameter in enumerate(body):
            if parameter.grad is not None:
                parameter.grad.mul_(way.body)
                if way.towards:
                    parameter.grad.add_(parameter - begun[number], alpha=way.towards)

    handle = register_optimizer_step_pre_hook(change) if way.body != 1 or way.towards else None
    try:
        yield
    finally:
        if handle is not None:
            handle.remove()


def rows_of(name: str, data: str, seed: int, ways: list[str], scratch: Path) -> Iterator[Row]:
    """Random weights, trained ones in parts of their time, and other ways in half of it."""
    random = Trainer.of(RunConfig(data=data, seed=seed, pretrained="none"), scratch)
    network = random.network()
    _, whole = timed(lambda: random.train(network, random.phase()))
    reached = random.accuracies(network)
    for which, value in reached.items():
        yield Row(f"{name}, random weights, {which}", value, unit="%", detail=f"{whole:.0f} s")
    trained = Trainer.of(RunConfig(data=data, seed=seed), scratch)
    if not trained.plan.pretrained:
        return
    most = whole / seconds_per_step(trained)
    warmups = [(share, part, USUAL) for share, part in SHARES.items()] if not ways else []
    for share, part, way in warmups or [("half", SHARES["half"], each) for each in (USUAL, *ways)]:
        steps = max(1, round(part * most))
        network, seconds = timed(lambda at=way, of=steps: warmed_up(trained, of, WAYS[at]))  # type: ignore[misc]
        for which, value in trained.accuracies(network).items():
            detail = f"{steps} steps, {seconds:.0f} s, {value - reached[which]:+.1f} points"
            yield Row(f"{name}, trained weights in {share} of the time, {way}, {which}", value, unit="%", detail=detail)


def summary(rows: list[Row]) -> list[Row]:
    """For each network, the mean over the sets in colour of what trained weights are ahead in the shortest time."""
    found = []
    for which in NETWORKS:
        title = f"trained weights in {SHORTEST} of the time, {USUAL}, {which}"
        gains = [
            row.value - _value(rows, f"{name}, random weights, {which}")
            for row in rows
            if row.name.endswith(title) and (name := row.name.partition(",")[0]) not in GREY
        ]
        if gains:
            detail = f"{len(gains)} trainings on sets in colour"
            found.append(Row(f"mean: {title}", statistics.mean(gains), 0.0, "higher", "points", detail))
    return found


def _value(rows: list[Row], name: str) -> float:
    return next(row.value for row in rows if row.name == name)


def main() -> None:
    """Measure, print, write."""
    options = parser(str(__doc__).partition("\n")[0])
    options.add_argument("--images", type=Path, help="folder of the sets")
    options.add_argument("--sets", nargs="+", choices=(*FILES, *OWN), default=[*SETS])
    options.add_argument("--ways", nargs="+", choices=WAYS, default=[], metavar="WAY")
    options.add_argument("--seed", type=int, default=0)
    given = options.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)  # processor time is compared
    rows: list[Row] = []
    for name in given.sets:
        with tempfile.TemporaryDirectory() as scratch:
            data = source(name, given.images, Path(scratch), most=SETS.get(name, 0))
            if data is None:
                print(f"{name}: its images are not in {given.images}", flush=True)
                continue
            for row in rows_of(name, data, given.seed, given.ways, Path(scratch)):
                print(f"{row.name} {row.value:.1f} %; {row.detail}", flush=True)
                rows.append(row)
                if given.json is not None:
                    write(TITLE, rows + summary(rows), given.json)
    show(TITLE, rows + summary(rows), given.json)


if __name__ == "__main__":
    main()
