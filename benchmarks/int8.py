"""What 8 bits cost in accuracy: networks of three sizes, and what each step of the quantisation gains.

    python benchmarks/int8.py --images FOLDER --json int8.json

Each network (`benchmarks/handmade.py`) is fine-tuned from the weights that come with nat2 and exported; then its
accuracy in floating point is compared with that in 8 bits: by ONNX Runtime for the file that `nat2 export --int8`
writes, which leaves what rounding harms most in floating point; simulated for everything in 8 bits, as in files for
microcontrollers, and for the steps that lead there. FOLDER: see `benchmarks/worth.py`.
"""

from __future__ import annotations

import copy
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
import torch
from handmade import SIZES
from table import Row, parser, show
from torch import Tensor
from tuned import CALIBRATION, Setting, Tuning
from worth import source

from nat2.allocator import keep_freed_memory
from nat2.data.transform import shuffled_batches
from nat2.deploy.export import export
from nat2.deploy.quantise import accuracy_of, quantise
from nat2.deploy.rounded import JUDGED_BY, RoundedGraph
from nat2.pipeline.prepare import prepare
from nat2.runs.config import RunConfig
from nat2.seeds import torch_generator
from nat2.space import Layer

SETS = ("EuroSAT", "CIFAR-10")
SHAPES = {"tiny": (1, 2, Layer(3, 3)), **SIZES}
"""As in `SIZES`, and one for the smallest microcontrollers."""
TARGET = 0.5  # points below floating point, in the mean
TEST, BATCH = 2000, 64


@dataclass(frozen=True)
class Trained:
    """An exported network, and images as it takes them."""

    file: Path
    train: Tensor
    test: Tensor
    labels: Tensor

    def batches(self, steps: int) -> Iterator[Tensor]:
        order = shuffled_batches(len(self.train), BATCH, torch_generator(0, "int8"), steps=steps)
        yield from (self.train[part] for part in order)

    def accuracy(self, answer: RoundedGraph, *, exact: bool = False) -> float:
        run = answer.exact if exact else answer
        with torch.no_grad():
            logits = torch.cat([run(batch) for batch in torch.split(self.test, 250)])
        return 100 * float((logits.argmax(1) == self.labels).double().mean())


def trained(data: str, size: str, steps: int, folder: Path) -> Trained:
    """One of the sizes, fine-tuned and exported."""
    plan, dataset = prepare(RunConfig(data=data))
    tuning = Tuning.of(plan, dataset, SHAPES[size], Setting(("int8", size), steps))
    tuning.train(range(steps))
    pipeline, resolution = tuning.pipeline, tuning.network.arch.resolution
    export(tuning.network.eval(), pipeline, dataset.classes, folder, side=dataset.train.pixels.shape[-1], facts={})
    train, test = (torch.cat([*pipeline.shipped(each, resolution)]) for each in (dataset.train, dataset.test))
    return Trained(folder / "model.onnx", train, test[:TEST], dataset.test.labels[:TEST])


def accuracies(network: Trained, steps: int) -> dict[str, float]:
    """Percent of test images: in floating point, after each step towards 8 bits, and of the files."""
    some = network.train[torch.randperm(len(network.train), generator=torch_generator(0, "some"))[:CALIBRATION]]
    graph = RoundedGraph(onnx.load(network.file).graph)
    found = {"float": network.accuracy(graph, exact=True)}
    for name, fit in (("smallest and largest values", False), ("ranges of least error", True)):
        graph.calibrate(torch.split(some, BATCH), fit=fit)
        found[name] = network.accuracy(graph)
    graph.refine(some[:JUDGED_BY])
    found["and those that harm most by the logits"] = network.accuracy(graph)
    whole = copy.deepcopy(graph)
    whole.correct_biases(some)
    found["and biases corrected"] = network.accuracy(whole)
    whole.tune(network.batches(steps), steps=steps)
    found[f"everything in 8 bits, with {steps} steps"] = network.accuracy(whole)
    target = network.file.with_name("model-int8.onnx")
    for name, count in (("as exported", 0), (f"exported with {steps} steps", steps)):
        quantise(network.file, target, torch.split(some, BATCH), training=network.batches(count), steps=count)
        found[name] = 100 * accuracy_of(target, torch.split(network.test, 250), network.labels)
    return found


def main() -> None:
    """Measure, print, write."""
    options = parser(str(__doc__).partition("\n")[0])
    options.add_argument("--images", type=Path, required=True, help="folder of the sets")
    options.add_argument("--sets", nargs="+", choices=SETS, default=[*SETS])
    options.add_argument("--sizes", nargs="+", choices=SIZES, default=[*SIZES])
    options.add_argument("--steps", type=int, default=600, help="of fine-tuning the network")
    options.add_argument("--int8_steps", type=int, default=200, help="of fine-tuning in 8 bits")
    given = options.parse_args()
    keep_freed_memory()
    rows: list[Row] = []
    drops: dict[str, list[float]] = {}
    for name in given.sets:
        for size in given.sizes:
            with tempfile.TemporaryDirectory() as scratch:
                data = source(name, given.images, Path(scratch))
                if data is None:
                    print(f"{name}: its images are not in {given.images}", flush=True)
                    continue
                found = accuracies(trained(data, size, given.steps, Path(scratch) / size), given.int8_steps)
            whole = found.pop("float")
            for how, accuracy in found.items():
                drops.setdefault(how, []).append(whole - accuracy)
                detail = f"{accuracy:.1f} of {whole:.1f} %"
                rows.append(Row(f"{name}, {size}: lost, {how}", whole - accuracy, unit="points", detail=detail))
                print(f"{rows[-1].name} {rows[-1].value:.2f}; {detail}", flush=True)
    for how, values in drops.items():
        target = TARGET if "steps" in how or how == "as exported" else None
        rows.append(Row(f"mean of {len(values)}: lost, {how}", statistics.mean(values), target, unit="points"))
    show("8 bits against floating point", rows, given.json)


if __name__ == "__main__":
    main()
