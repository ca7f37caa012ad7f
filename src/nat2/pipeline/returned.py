"""A network that is returned: its test, its files, and how long it takes here."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from nat2.data.transform import ResizedImages, shuffled_batches
from nat2.deploy.anytime import ExitLogits, OperatingPoint, curve
from nat2.deploy.export import export, file_sizes
from nat2.deploy.latency import FILES, Runtime, measure_exported
from nat2.deploy.quantise import accuracy_of, quantise
from nat2.files import write_csv
from nat2.nas.archive import Evaluation
from nat2.pipeline.context import RunContext
from nat2.pipeline.evaluation import BYTES
from nat2.runs.predictions import answers_on, write_answers
from nat2.runs.results import Result
from nat2.seeds import torch_generator
from nat2.space import Arch, cost
from nat2.supernet import SuperNetwork, normalize_by_stored
from nat2.training.distill import ensemble, exit_weights, joint_accuracy
from nat2.training.finetune import Finetuned
from nat2.training.lesson import answers_of

_INT8_BATCH = 64
ENSEMBLE = "-ee"
"""What the id of a network with several exits ends in."""


@dataclass(frozen=True)
class Work:
    """A network to fine-tune, test and export."""

    evaluation: Evaluation[Arch]
    """What the search measured of it."""
    exits: tuple[int, ...]
    """Its own exit, or all up to there, which are then trained jointly, and pruned."""
    length: float = 1.0
    """Its steps, relative to `finetune.steps`."""

    @property
    def id(self) -> str:
        """Names its folder."""
        return self.evaluation.arch.id + (ENSEMBLE if len(self.exits) > 1 else "")


def measure_and_export(
    context: RunContext, network: SuperNetwork, work: Work, finetuned: Finetuned
) -> tuple[Result, float]:
    """Test and export a fine-tuned network.

    Args:
        context: What the stages share.
        network: The super-network of its width.
        work: The network.
        finetuned: What became of it.

    Returns:
        What is reported of it, and the largest difference of a logit between ONNX Runtime and torch.
    """
    evaluation, exits = work.evaluation, work.exits
    static, folder = finetuned.network, context.folder.network(work.id)
    test = ResizedImages(context.dataset.test, context.pipeline)
    tested = ExitLogits(answers_of(static, test), test.labels)
    weights = torch.tensor(finetuned.weights)
    costs = cost(static.macro, static.arch, exits=static.exit_numbers)
    fixed = ("error", "params", "macs")
    others = {name: value for name, value in evaluation.values.items() if name not in fixed}
    if len(exits) > 1:  # what was measured of the network with one exit does not hold
        others = {"memory": float(BYTES * costs.memory)}
        if "latency" in context.columns:
            others["latency"] = context.evaluator.latency(static).median
    result = Result(
        id=work.id,
        arch=static.arch.key,
        error=evaluation["error"],
        params=costs.params,
        macs=costs.macs,
        inherited_val_accuracy=_inherited(context, network, evaluation.arch, exits),
        calibrated_val_accuracy=finetuned.calibrated_val_accuracy,
        val_accuracy=finetuned.val_accuracy,
        test_accuracy=joint_accuracy(tested.logits, tested.labels, weights),
        finetune_epochs=finetuned.epochs,
        others=others,
        exits=static.exit_numbers,
        anytime=_anytime(context, finetuned, tested, weights),
    ).measured_on(context.folder.images())
    result = _with_answers(context, result, {"val": finetuned.val_logits, "test": tested.logits}, weights)
    facts = {
        "accuracy": {"validation": result.val_accuracy, "test": result.test_accuracy},
        "params": result.params,
        "macs": result.macs,
        **result.others,
        "anytime": [dataclasses.asdict(point) for point in result.anytime],
    }
    classes, side = context.dataset.classes, context.dataset.side
    difference = export(
        static,
        context.pipeline,
        classes,
        folder,
        side=side,
        facts=facts,
        weights=finetuned.weights,
        pt2=context.config.pt2,
    )
    if context.config.int8 or "int8_error" in context.columns:
        result = dataclasses.replace(result, int8_test_accuracy=quantised(context, folder, static.arch.resolution))
    result = dataclasses.replace(result, files=file_sizes(folder))
    context.folder.keep(result)
    return result, difference


def _with_answers(context: RunContext, result: Result, logits: Mapping[str, Tensor], weights: Tensor) -> Result:
    """Keep what a network answered (logits of its exits, by split), for the report; the result with what it tells."""
    dataset, classes = context.dataset, context.dataset.classes
    splits = {"val": dataset.val, "test": dataset.test}
    answers = answers_on({name: (ensemble(logits[name], weights), splits[name]) for name in splits}, classes)
    write_answers(context.folder.network(result.id), answers, classes)
    val, test = (answers.predictions[name].confusion(len(classes)) for name in splits)
    return result.with_answers(val, test)


def training_images(context: RunContext, resolution: int, steps: int) -> Iterator[Tensor]:
    """Batches of training images for so many steps of a quantisation-aware fine-tuning."""
    pipeline, train = context.pipeline, context.dataset.train
    order = shuffled_batches(len(train), _INT8_BATCH, torch_generator(context.config.seed, "int8"), steps=steps)
    return (pipeline.prepared(pixels, resolution).cpu() for pixels, _ in train.batches(order))


def quantised(context: RunContext, folder: Path, resolution: int, *, steps: int = 0) -> float:
    """Write ``model-int8.onnx`` beside an exported network's ``model.onnx``; its accuracy on the test images.

    Args:
        context: The run.
        folder: Of the network.
        resolution: Side of its inputs.
        steps: Gradient steps of quantisation-aware fine-tuning on the training images.
    """
    pipeline, test = context.pipeline, context.dataset.test
    quantise(
        folder / "model.onnx",
        folder / "model-int8.onnx",
        pipeline.shipped(context.calibration, resolution),
        training=training_images(context, resolution, steps),
        steps=steps,
    )
    return accuracy_of(folder / "model-int8.onnx", pipeline.shipped(test, resolution), test.labels)


@torch.no_grad()
def _inherited(context: RunContext, network: SuperNetwork, arch: Arch, exits: tuple[int, ...]) -> float:
    """Validation accuracy with the super-network's weights and statistics as they are."""
    images, outputs = context.evaluator.validation, exit_weights(context.config.finetune.ramp, len(exits))[1]
    logits = [
        network(batch, arch, normalize=normalize_by_stored, exits=exits) for batch in images.batches(arch.resolution)
    ]
    return joint_accuracy(torch.cat(logits, dim=1), images.labels, outputs)


def _anytime(
    context: RunContext, finetuned: Finetuned, tested: ExitLogits, weights: Tensor
) -> tuple[OperatingPoint, ...]:
    """The curve of a network with several exits; its thresholds are chosen on the validation images."""
    network = finetuned.network
    exits = network.exit_numbers
    if len(exits) == 1:
        return ()
    macs = [cost(network.macro, network.arch, exits=exits[: count + 1]).macs for count in range(len(exits))]
    return curve(ExitLogits(finetuned.val_logits, context.evaluator.validation.labels), tested, weights, macs)


def remeasure(context: RunContext, results: Sequence[Result]) -> None:
    """Measure how long every returned network takes here, one after the other, and write latency.csv."""
    config, device = context.config, context.processes.device
    rows = []
    for result in results:
        folder = context.folder.network(result.id)
        runtimes: list[Runtime] = ["onnx", *(["int8"] if (folder / FILES["int8"]).exists() else [])]  # type: ignore[list-item]
        runtimes += ["torch"] if device.type == "cuda" else []
        for runtime in runtimes:
            measured = measure_exported(
                folder, runtime=runtime, batch=config.latency_batch, threads=config.latency_threads, device=device
            )
            rows.append(measured.row())
    write_csv(context.folder.latencies, rows)
