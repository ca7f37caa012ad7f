"""Files to ship: safetensors weights, architecture as JSON, and an ONNX file that was checked against torch."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from torch import Tensor, nn

from nat2.data.transform import Pipeline
from nat2.deploy.description import check_description
from nat2.errors import CheckpointError, Nat2Error
from nat2.files import load_tensors, save_tensors, write_atomic, write_json
from nat2.space.arch import Arch
from nat2.space.macro import Macro
from nat2.supernet.checkpoint import load_weights
from nat2.supernet.static import StaticNetwork, channels_last

TOLERANCE = 1e-4  # largest difference of a logit between ONNX Runtime and torch, relative to the largest logit


class Deployable(nn.Module):
    """A network that takes images of values 0..1 and normalises them itself."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: StaticNetwork, mean: Sequence[float], std: Sequence[float]) -> None:
        """Wrap a network with the statistics of its training images."""
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, channels, R, R) of values 0..1 to logits (N, classes)."""
        logits: Tensor = self.network((images - self.mean) / self.std)
        return logits


def export(
    network: StaticNetwork,
    pipeline: Pipeline,
    classes: Sequence[str],
    folder: Path,
    *,
    side: int,
    facts: Mapping[str, Any],
) -> float:
    """Write a network's files and check them.

    Args:
        network: The fine-tuned network.
        pipeline: What its inputs were made with.
        classes: Names of the classes, in the order of the logits.
        folder: Where ``model.safetensors``, ``arch.json`` and ``model.onnx`` go.
        side: Side at which the training images were stored before they were resized to the resolution.
        facts: Kept in ``arch.json`` beside the architecture, e.g. accuracies.

    Returns:
        Largest difference of a logit between ONNX Runtime and torch.

    Raises:
        Nat2Error: ONNX Runtime's answers differ from torch's.
    """
    deployable = Deployable(network, pipeline.mean, pipeline.std).cpu().eval()
    arch = network.arch
    difference = _export_onnx(deployable, folder / "model.onnx", arch.resolution)
    save_tensors(folder / "model.safetensors", deployable.state_dict())
    write_json(
        folder / "arch.json",
        {
            "arch": arch.to_json(),
            "macro": asdict(network.macro),
            "classes": list(classes),
            "input": {
                "layout": "float32, images x channels x height x width, values 0..1; normalised inside the network",
                "channels": "grey" if network.macro.channels == 1 else "red, green, blue",
                "steps": [
                    f"turn upright, reduce to {side} pixels along the shorter side (bicubic), crop the centre square",
                    *([f"crop the middle, {pipeline.center:g} of the side"] if pipeline.center < 1 else []),
                    f"divide by 255, resize to {arch.resolution} x {arch.resolution} (bilinear, antialiased)",
                ],
                "side": side,
                "center": pipeline.center,
                "resolution": arch.resolution,
            },
            **facts,
        },
    )
    return difference


def load(folder: Path | str) -> Deployable:
    """Read an exported network, ready to answer (in evaluation mode).

    Raises:
        CheckpointError: a file is missing or damaged.
    """
    folder = Path(folder)
    description = describe(folder)
    try:
        macro, arch = Macro(**description["macro"]), Arch.from_json(description["arch"])
        macro.check(arch)
    except (Nat2Error, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder / 'arch.json'} is damaged ({error}); export the network again") from error
    tensors, _ = load_tensors(folder / "model.safetensors")
    channels = [0.0] * macro.channels
    deployable = Deployable(StaticNetwork(macro, arch), channels, channels)
    load_weights(deployable, tensors)
    return channels_last(deployable).eval()


def describe(folder: Path) -> dict[str, Any]:
    """What ``arch.json`` says of an exported network: architecture, classes, input.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    try:
        description = json.loads((folder / "arch.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{folder} does not hold an exported network ({error}); name a folder like runs/<data>/networks/<id>"
        ) from error
    return check_description(folder / "arch.json", description)


def _export_onnx(model: Deployable, path: Path, resolution: int) -> float:
    channels = model.mean.shape[1]
    images = torch.rand(3, channels, resolution, resolution, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model(images)
    if not torch.isfinite(expected).all():
        raise Nat2Error(f"{path.parent.name} answers with numbers that are not finite; its training diverged")
    with quiet_exporter():
        program = torch.onnx.export(
            model,
            (images,),
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes={"images": {0: torch.export.Dim("batch", min=1)}},
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    write_atomic(path, lambda temporary: program.save(str(temporary)))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # its pool of spinning threads would slow torch down
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    worst = 0.0
    for batch in (images, images[:1]):
        actual = torch.from_numpy(session.run(["logits"], {"images": batch.numpy()})[0])
        worst = max(worst, float((actual - expected[: len(batch)]).abs().max()))
    if not worst <= TOLERANCE * max(1.0, float(expected.abs().max())):
        raise Nat2Error(
            f"{path}: ONNX Runtime's answers differ from torch's by {worst:.2g}; the file is not to be used. Please "
            "report this with the file and the versions in environment.json"
        )
    return worst


@contextlib.contextmanager
def quiet_exporter() -> Iterator[None]:
    """Keep the exporter's own chatter off the terminal."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
