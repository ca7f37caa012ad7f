"""What becomes of a network on each target: bytes, accuracy by the runtime that runs it, and what the extra weighs.

    python benchmarks/targets.py --images FOLDER --keep networks --json targets.json

Three hand-designed networks (`benchmarks/int8.py`) are fine-tuned on EuroSAT and written for every target whose extra
is installed. Extras need not be installed side by side: run it with each environment's Python, with the same `--keep`,
which holds the networks, and the same `--json`, in which rows of targets that are not installed stay as they are.
FOLDER: see `benchmarks/worth.py`.
"""

from __future__ import annotations

import importlib.util
import json
import re
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution, requires
from pathlib import Path

import numpy as np
import onnx
import torch
from int8 import BATCH, Trained, trained
from packaging.requirements import Requirement
from table import Row, parser, show
from tuned import CALIBRATION
from worth import source

from nat2.allocator import keep_freed_memory
from nat2.deploy import coreml, executorch
from nat2.deploy.converted import Converted
from nat2.deploy.export import answer, open_session
from nat2.deploy.one_image import program
from nat2.deploy.operators import Ranges, read_model, read_operators
from nat2.deploy.quantise import quantise
from nat2.deploy.ranges import in_integers
from nat2.deploy.samples import TestImages
from nat2.deploy.tflite import tflite
from nat2.deploy.tflite_runtime import Runtime, run_tflite

SIZES = ("tiny", "small", "medium")
EXTRAS = {
    "microcontroller": ("tflite_micro", "tflite-micro"),
    "phone": ("ai_edge_litert", "ai-edge-litert"),
    "executorch": ("executorch", "executorch"),
    "coreml": ("coremltools", "coremltools"),
}
"""What each extra installs: as it is imported, and as it is called on PyPI."""


@dataclass(frozen=True)
class Network:
    """A trained network, in floating point and ready for integers, and images."""

    trained: Trained
    model: onnx.ModelProto
    ranges: Ranges
    test: TestImages


def kept(folder: Path, images: Path, size: str, *, steps: int, int8_steps: int, count: int) -> Network:
    """One of the sizes, from the folder if it is there."""
    place = folder / size
    if not (place / "images.pt").exists():
        with tempfile.TemporaryDirectory() as scratch:
            data = source("EuroSAT", images, Path(scratch))
            if data is None:
                raise SystemExit(f"{images} does not hold EuroSAT")
            made = trained(data, size, steps, place)
        torch.save({"train": made.train, "test": made.test, "labels": made.labels}, place / "images.pt")
    held = torch.load(place / "images.pt")
    network = Trained(place / "model.onnx", held["train"], held["test"][:count], held["labels"][:count])
    if not (place / "ranges.json").exists():
        some = torch.split(network.train[:CALIBRATION], BATCH)
        model, ranges = in_integers(network.file, some, training=network.batches(int8_steps), steps=int8_steps)
        quantise(network.file, place / "model-int8.onnx", some)
        onnx.save(model, place / "integers.onnx")
        (place / "ranges.json").write_text(json.dumps(ranges))
    ranges = {name: (low, high) for name, (low, high) in json.loads((place / "ranges.json").read_text()).items()}
    test = TestImages.of(network.file, torch.split(network.test, 200), network.labels)
    return Network(network, onnx.load(place / "integers.onnx"), ranges, test)


def by_onnx_runtime(network: Network) -> Iterator[tuple[str, Converted, str]]:
    """The files that every export has."""
    for name in ("model.onnx", "model-int8.onnx"):
        file = network.trained.file.with_name(name)
        session = open_session(file)
        logits = torch.cat([answer(session, batch) for batch in torch.split(network.trained.test, 200)])
        yield name, Converted.of(file.stat().st_size, logits.double().numpy(), network.test, 0.0), ""


def by_tflite(runtime: Runtime, network: Network) -> Iterator[tuple[str, Converted, str]]:
    """Files for microcontrollers or phones."""
    contents = {"model.tflite" if runtime == "micro" else "model-int8.tflite": (network.model, network.ranges)}
    if runtime == "litert":
        contents["model-float16.tflite"] = (read_model(network.trained.file), {})
    for name, (model, ranges) in contents.items():
        began = time.process_time()
        content = tflite(read_operators(model), "int8" if ranges else "float16", ranges or None)
        seconds = time.process_time() - began
        found = run_tflite(runtime, content, network.test.images)
        arena = f", {found.arena:,} bytes of RAM" if found.arena else ""
        yield name, Converted.of(len(content), found.logits, network.test, seconds), arena


def by_executorch(network: Network) -> Iterator[tuple[str, Converted, str]]:
    """Files for ExecuTorch."""
    programs = {
        executorch.FLOAT: program(read_model(network.trained.file)),
        executorch.INTEGER: program(network.model, network.ranges),
    }
    for name, (_, converted) in executorch.convert(programs, network.test).items():
        yield name, converted, ""


def by_coreml(network: Network) -> Iterator[tuple[str, Converted, str]]:
    """The package for Core ML, computed by torch."""
    yield coreml.PACKAGE, coreml.convert(read_model(network.trained.file), network.test)[1], ", not run by Core ML"


TARGETS = {
    "ONNX Runtime": by_onnx_runtime,
    "microcontroller": lambda network: by_tflite("micro", network),
    "phone": lambda network: by_tflite("litert", network),
    "executorch": by_executorch,
    "coreml": by_coreml,
}


def rows_of(size: str, network: Network, targets: Sequence[str]) -> Iterator[Row]:
    """Rows of one network for some targets."""
    params = sum(int(np.prod(each.dims)) for each in network.model.graph.initializer)
    whole = 100 * network.test.accuracy()
    for target in targets:
        for name, found, also in TARGETS[target](network):
            what = f"{size}, {target}, {name}"
            seconds = f", {found.seconds:.1f} s to convert" if found.seconds else ""
            detail = f"{params:,} weights, {100 * found.accuracy:.2f} % of {len(network.test.labels)} test images{also}"
            yield Row(f"{what}: bytes", found.bytes, unit="bytes", detail=detail + seconds)
            detail = f"{100 * found.agreement:.1f} % the same class as ONNX Runtime in floating point"
            yield Row(f"{what}: lost", whole - 100 * found.accuracy, unit="points", detail=detail)


def megabytes(extra: str) -> float:
    """What an extra adds to an installation of nat2, from the packages that are installed here."""
    base: dict[str, int] = {}
    _install([each.name for each in map(Requirement, requires("nat2") or ()) if not each.marker], base)
    added: dict[str, int] = {}
    _install([EXTRAS[extra][1]], added)
    return sum(size for name, size in added.items() if name not in base) / 1e6


def _install(names: list[str], sizes: dict[str, int]) -> None:
    """Add the bytes of packages, and of what they need, by name."""
    for name in (re.sub(r"[-_.]+", "-", each).lower() for each in names):
        if name in sizes:
            continue
        try:
            found = distribution(name)
        except PackageNotFoundError:
            continue
        paths = (Path(str(found.locate_file(each))) for each in found.files or ())
        sizes[name] = sum(path.stat().st_size for path in paths if path.is_file())
        further = map(Requirement, found.requires or ())
        _install([each.name for each in further if not each.marker or each.marker.evaluate({"extra": ""})], sizes)


def earlier(file: Path | None, names: set[str]) -> list[Row]:
    """Rows of an earlier result that were not measured now."""
    if file is None or not file.exists():
        return []
    found = json.loads(file.read_text())["rows"]
    fields = ("name", "value", "target", "better", "unit", "detail")
    return [Row(**{key: row[key] for key in fields}) for row in found if row["name"] not in names]


def main() -> None:
    """Measure, print, write."""
    options = parser(str(__doc__).partition("\n")[0])
    options.add_argument("--images", type=Path, required=True, help="folder of the sets")
    options.add_argument("--keep", type=Path, required=True, help="folder for the networks")
    options.add_argument("--sizes", nargs="+", choices=SIZES, default=[*SIZES])
    options.add_argument("--targets", nargs="+", choices=TARGETS, default=[*TARGETS])
    options.add_argument("--test", type=int, default=800, help="test images")
    options.add_argument("--steps", type=int, default=600, help="of fine-tuning a network")
    options.add_argument("--int8_steps", type=int, default=200, help="of fine-tuning in 8 bits")
    given = options.parse_args()
    keep_freed_memory()
    installed = {name for name, (module, _) in EXTRAS.items() if importlib.util.find_spec(module) is not None}
    targets = [name for name in given.targets if name not in EXTRAS or name in installed]
    print(f"targets: {', '.join(targets)}", flush=True)
    rows: list[Row] = []
    for size in given.sizes:
        network = kept(given.keep, given.images, size, steps=given.steps, int8_steps=given.int8_steps, count=given.test)
        for row in rows_of(size, network, targets):
            rows.append(row)
            print(f"{row.name} {row.value:,.2f}; {row.detail}", flush=True)
    for extra in sorted(installed & set(targets)):
        rows.append(Row(f"{extra}: installed by the extra", megabytes(extra), unit="MB"))
    rows += earlier(given.json, {row.name for row in rows})
    show("networks of EuroSAT on every target", sorted(rows, key=lambda row: row.name), given.json)


if __name__ == "__main__":
    main()
