"""The files to ship: weights, architecture, preprocessing, and programs verified against torch."""

from __future__ import annotations

import copy
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import onnxruntime
import torch
from torch import Tensor

from nat2.data.transform import Pipeline
from nat2.deploy.deployable import Deployable
from nat2.deploy.description import preprocessing
from nat2.deploy.onnx_graph import INPUT, OUTPUT, onnx_model
from nat2.errors import Nat2Error
from nat2.files import save_tensors, write_bytes, write_json
from nat2.supernet.static import StaticNetwork

FILES = (
    "model.onnx",
    "model-int8.onnx",
    "model.pt2",
    "microcontroller/model.tflite",
    "phone/model-int8.tflite",
    "phone/model-float16.tflite",
    "executorch/model-float32.pte",
    "executorch/model-int8.pte",
    "coreml/model.mlpackage",
    "model.safetensors",
    "arch.json",
    "preprocessing.json",
)
"""The files of an exported network, apart from ``result.json``."""
TOLERANCE = 1e-4  # largest allowed difference of a logit between a program and torch, relative to the largest logit
ROUNDING = 5  # or this many times the float32 error of torch itself: some networks amplify rounding errors


def export(
    network: StaticNetwork,
    pipeline: Pipeline,
    classes: Sequence[str],
    folder: Path,
    *,
    side: int,
    facts: Mapping[str, object],
    weights: Sequence[float] = (1.0,),
    pt2: bool = False,
) -> float:
    """Write the files of a network and verify them.

    Args:
        network: The fine-tuned network, with one exit or several.
        pipeline: The one it was trained with.
        classes: Names of the classes, in the order of the logits.
        folder: Where ``model.safetensors``, ``arch.json``, ``preprocessing.json`` and ``model.onnx`` (any batch) go.
        side: Side at which the training images were stored before they were resized to the resolution.
        facts: Further entries of ``arch.json``, e.g. accuracies.
        weights: Of the exits in the joint answer.
        pt2: Also write ``model.pt2`` (a program of torch.export, any batch size), which takes seconds.

    Returns:
        Largest difference of a logit between ONNX Runtime and torch in double precision.

    Raises:
        Nat2Error: the outputs of a program differ from torch's.
    """
    deployable = Deployable(network, pipeline.mean, pipeline.std, weights=weights).cpu().eval()
    arch, macro = network.arch, network.macro
    difference = write_onnx(deployable, folder, classes=classes)
    if pt2:
        write_program(deployable, folder)
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
    prepared = preprocessing(pipeline, side=side, resolution=arch.resolution)
    write_json(folder / "preprocessing.json", prepared)
    return difference


def write_onnx(model: Deployable, folder: Path, *, classes: Sequence[str] = ()) -> float:
    """Write ``model.onnx`` if ONNX Runtime agrees with torch; returns the largest difference of a logit.

    Args:
        model: In evaluation mode, on the CPU.
        folder: Where the file goes.
        classes: Their names, stored in the file.

    Raises:
        Nat2Error: the logits differ from torch's in double precision, or are not finite.
    """
    content = onnx_model(model, classes=classes).SerializeToString(deterministic=True)
    session = open_session(content)
    difference = _Reference.of(model, folder).check("ONNX Runtime", lambda images: answer(session, images))
    write_bytes(folder / "model.onnx", content)
    return difference


def write_program(model: Deployable, folder: Path) -> float:
    """Write ``model.pt2``, a program of torch.export, if it agrees with the network; returns the largest difference.

    Same arguments and errors as `write_onnx`. The weights are stored contiguously, whatever their layout here:
    not every runtime accepts other strides.
    """
    reference, buffer = _Reference.of(model, folder), io.BytesIO()
    with quiet_exporter():
        batch = torch.export.Dim("batch", min=1)
        program = torch.export.export(_contiguous(model), (reference.images,), dynamic_shapes={"images": {0: batch}})
        for node in program.graph.nodes:  # stack traces hold file paths of this machine
            node.meta.pop("stack_trace", None)
        torch.export.save(program, buffer)
        reread = torch.export.load(io.BytesIO(buffer.getvalue())).module()
    difference = reference.check("torch.export", lambda images: reread(images).detach())
    write_bytes(folder / "model.pt2", buffer.getvalue())
    return difference


def file_sizes(folder: Path) -> dict[str, int]:
    """Size in bytes of each file of an exported network by name, without ``result.json``, which stores them.

    A package that is a folder counts as a file.
    """
    sizes = {}
    for name in FILES:
        path = folder / name
        parts = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
        if parts:
            sizes[name] = sum(each.stat().st_size for each in parts)
    return sizes


def _contiguous(model: Deployable) -> Deployable:
    """A copy with contiguous tensors."""
    model = copy.deepcopy(model)
    for tensor in (*model.parameters(), *model.buffers()):
        # Not `contiguous()`, which leaves the strides of 1 x 1 kernels as they are.
        tensor.data = torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor.data)
    return model


@torch.no_grad()
def tolerance_for(model: Deployable, images: Tensor) -> tuple[Tensor, float]:
    """Logits of images (0..1) in double precision, and by how much those of another runtime may differ."""
    logits = copy.deepcopy(model).double()(images.double())
    own = float((model(images) - logits).abs().max())
    return logits, max(TOLERANCE * max(1.0, float(logits.abs().max())), ROUNDING * own)


@dataclass(frozen=True)
class _Reference:
    """Logits of a network in double precision, and the tolerance for other runtimes."""

    folder: Path
    images: Tensor
    logits: Tensor
    tolerance: float

    @staticmethod
    def of(model: Deployable, folder: Path) -> _Reference:
        """The logits for random images."""
        channels, resolution = model.mean.shape[1], model.network.arch.resolution
        images = torch.rand(3, channels, resolution, resolution, generator=torch.Generator().manual_seed(0))
        logits, tolerance = tolerance_for(model, images)
        if not torch.isfinite(logits).all():
            raise Nat2Error(f"{folder.name} answers with numbers that are not finite; its training diverged")
        return _Reference(folder, images, logits, tolerance)

    def check(self, name: str, run: Callable[[Tensor], Tensor]) -> float:
        """The largest difference of a logit, for one image and for several.

        Raises:
            Nat2Error: it is more than the tolerance.
        """
        batches = (self.images, self.images[:1])
        worst = max(float((run(images) - self.logits[: len(images)]).abs().max()) for images in batches)
        if not worst <= self.tolerance:
            raise Nat2Error(
                f"{self.folder}: the answers of {name} differ from torch's by {worst:.2g}, so its file was not "
                "written. Please report this with model.safetensors, arch.json and the versions in environment.json"
            )
        return worst


def open_session(path: Path | bytes, *, threads: int = 1) -> onnxruntime.InferenceSession:
    """A session on the CPU whose idle threads sleep: spinning ones would slow torch down."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def answer(session: onnxruntime.InferenceSession, images: Tensor) -> Tensor:
    """Logits of images (N, channels, R, R) of values 0..1."""
    (logits,) = session.run([OUTPUT], {INPUT: images.contiguous().cpu().numpy()})
    return torch.from_numpy(logits)


@contextmanager
def quiet_exporter() -> Iterator[None]:
    """Silence the exporter's log messages and warnings."""
    logger = logging.getLogger("torch.export")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
