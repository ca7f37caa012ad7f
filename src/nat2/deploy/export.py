"""Files to ship: weights, architecture and preprocessing, and programs that were checked against torch."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from torch import Tensor

from nat2.data.transform import Pipeline
from nat2.deploy.deployable import Deployable
from nat2.errors import Nat2Error
from nat2.files import save_tensors, write_atomic, write_bytes, write_json
from nat2.supernet.static import StaticNetwork

TOLERANCE = 1e-4  # largest difference of a logit between a program and torch, relative to the largest logit
ROUNDING = 5  # or as many times what torch's own float32 differs from float64: some networks magnify rounding


def export(
    network: StaticNetwork,
    pipeline: Pipeline,
    classes: Sequence[str],
    folder: Path,
    *,
    side: int,
    facts: Mapping[str, Any],
    weights: Sequence[float] = (1.0,),
) -> float:
    """Write a network's files and check them.

    Args:
        network: The fine-tuned network, with one exit or several.
        pipeline: What its inputs were made with.
        classes: Names of the classes, in the order of the logits.
        folder: Where ``model.safetensors``, ``arch.json``, ``preprocessing.json``, ``model.onnx`` (any batch) and
            ``model.pt2`` (a program of torch.export, any batch) go.
        side: Side at which the training images were stored before they were resized to the resolution.
        facts: Kept in ``arch.json`` beside the architecture, e.g. accuracies.
        weights: Of the exits' outputs.

    Returns:
        Largest difference of a logit between ONNX Runtime and torch in double precision.

    Raises:
        Nat2Error: a program's answers differ from torch's.
    """
    deployable = Deployable(network, pipeline.mean, pipeline.std, weights=weights).cpu().eval()
    arch, macro = network.arch, network.macro
    difference = export_programs(deployable, folder)
    save_tensors(folder / "model.safetensors", deployable.state_dict())
    write_json(
        folder / "arch.json",
        {
            "arch": arch.to_json(),
            "macro": asdict(macro),
            "exits": list(network.exit_numbers),
            "exit_weights": deployable.weights.tolist(),
            "classes": list(classes),
            **facts,
        },
    )
    write_json(
        folder / "preprocessing.json",
        {
            "layout": "float32, images x channels x height x width, values 0..1; normalised inside the network",
            "channels": "grey" if macro.channels == 1 else "red, green, blue",
            "steps": [
                f"turn upright, reduce to {side} pixels along the shorter side (bicubic), crop the centre square",
                *([f"crop the middle, {pipeline.center:g} of the side"] if pipeline.center < 1 else []),
                f"divide by 255, resize to {arch.resolution} x {arch.resolution} (bilinear, antialiased)",
            ],
            "side": side,
            "center": pipeline.center,
            "resolution": arch.resolution,
            "mean": list(pipeline.mean),
            "std": list(pipeline.std),
        },
    )
    return difference


def export_programs(model: Deployable, folder: Path) -> float:
    """Write ``model.pt2`` and ``model.onnx`` and read them back; the largest difference of a logit of the latter.

    Raises:
        Nat2Error: a program's answers differ from torch's.
    """
    channels, resolution = model.mean.shape[1], model.network.arch.resolution
    images = torch.rand(3, channels, resolution, resolution, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = copy.deepcopy(model).double()(images.double())
        own = float((model(images) - expected).abs().max())
    if not torch.isfinite(expected).all():
        raise Nat2Error(f"{folder.name} answers with numbers that are not finite; its training diverged")
    buffer = io.BytesIO()
    with quiet_exporter():
        batch = torch.export.Dim("batch", min=1)
        program = torch.export.export(model, (images,), dynamic_shapes={"images": {0: batch}})
        onnx = torch.onnx.export(
            program, (images,), input_names=["images"], output_names=["logits"], dynamo=True, verbose=False
        )
        torch.export.save(program, buffer)
    assert onnx is not None
    write_bytes(folder / "model.pt2", buffer.getvalue())
    write_atomic(folder / "model.onnx", lambda temporary: onnx.save(str(temporary)))
    with quiet_exporter():
        reread = torch.export.load(folder / "model.pt2").module()
    session = open_session(folder / "model.onnx")
    worst = {"torch.export": 0.0, "ONNX Runtime": 0.0}
    for batch_of in (images, images[:1]):
        answers = {"torch.export": reread(batch_of).detach(), "ONNX Runtime": answer(session, batch_of)}
        for name, actual in answers.items():
            worst[name] = max(worst[name], float((actual - expected[: len(batch_of)]).abs().max()))
    for name, difference in worst.items():
        if not difference <= max(TOLERANCE * max(1.0, float(expected.abs().max())), ROUNDING * own):
            raise Nat2Error(
                f"{folder}: the answers of {name} differ from torch's by {difference:.2g}; the files are not to be "
                "used. Please report this with the files and the versions in environment.json"
            )
    return worst["ONNX Runtime"]


def open_session(path: Path | bytes, *, threads: int = 1) -> onnxruntime.InferenceSession:
    """An ONNX file ready to run on the CPU, its idle threads asleep: spinning ones would slow torch down."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def answer(session: onnxruntime.InferenceSession, images: Tensor) -> Tensor:
    """Logits of images (N, channels, R, R) of values 0..1."""
    (logits,) = session.run(["logits"], {"images": images.contiguous().cpu().numpy()})
    return torch.from_numpy(logits)


@contextlib.contextmanager
def quiet_exporter() -> Iterator[None]:
    """Keep the exporter's own chatter off the terminal."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")]
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
