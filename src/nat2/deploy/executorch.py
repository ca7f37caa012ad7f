"""Files for ExecuTorch, PyTorch's runtime on phones, in floating point and in 8 bits, for its backend XNNPACK."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from nat2.deploy.converted import Converted, report
from nat2.deploy.isolated import check_installed, run_script
from nat2.deploy.one_image import program
from nat2.deploy.operators import read_model
from nat2.deploy.ranges import in_integers
from nat2.deploy.samples import Samples, TestImages
from nat2.errors import Nat2Error
from nat2.files import write_bytes

FLOAT, INTEGER = "model-float32.pte", "model-int8.pte"
_CLOSE = 1e-3  # largest difference of a logit in floating point, relative to the largest logit
_SCRIPT = Path(__file__).with_name("executorch_process.py")


def check_executorch() -> None:
    """Raise if ExecuTorch is not installed.

    Raises:
        ConfigError: naming the extra to install.
    """
    check_installed("executorch", "executorch")


def write_executorch(network: Path, folder: Path, samples: Samples) -> list[str]:
    """Write ``model-float32.pte`` and ``model-int8.pte`` of an exported network, measured by ExecuTorch's runtime.

    Args:
        network: Folder of the exported network.
        folder: Where the files go.
        samples: Images.

    Returns:
        What was measured, a sentence for each file.

    Raises:
        ConfigError: ExecuTorch is not installed.
        Nat2Error: a file cannot be made, or the one in floating point does not answer as ``model.onnx`` does.
    """
    check_executorch()
    source, test = network / "model.onnx", samples.test
    integers = in_integers(source, samples.calibration, training=samples.training, steps=samples.steps)
    made = convert({FLOAT: program(read_model(source)), INTEGER: program(*integers)}, test)
    difference = made[FLOAT][1].difference
    if not difference <= _CLOSE:
        raise Nat2Error(
            f"the logits of ExecuTorch differ by {difference:.2g} of the largest from those of ONNX Runtime; use "
            "model.onnx instead"
        )
    for name, (content, _) in made.items():
        write_bytes(folder / name, content)
    return report(folder, network, {name: each for name, (_, each) in made.items()}, test, by="ExecuTorch's runtime")


def convert(programs: Mapping[str, bytes], test: TestImages) -> dict[str, tuple[bytes, Converted]]:
    """Make files for ExecuTorch, and measure them by its runtime.

    Args:
        programs: What each file is made of, as `nat2.deploy.one_image.program` gives it, by name of the file.
        test: Images.

    Returns:
        The content of each file and what was measured, by name.

    Raises:
        Nat2Error: a file cannot be made.
    """
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        sources = {name: (place / name).with_suffix(".pt2") for name in programs}
        for name, path in sources.items():
            path.write_bytes(programs[name])
        np.save(place / "images.npy", np.ascontiguousarray(test.images.transpose(0, 3, 1, 2)))
        outputs = place / "outputs.npz"
        failure = run_script(_SCRIPT, str(place / "images.npy"), str(outputs), *map(str, sources.values()))
        if failure:
            raise Nat2Error(f"ExecuTorch failed ({failure}); please report this with model.onnx")
        made = {}
        with np.load(outputs) as found:
            for name, path in sources.items():
                if f"{path.stem}.failure" in found:
                    why = found[f"{path.stem}.failure"]
                    raise Nat2Error(f"ExecuTorch cannot make {name} ({why}); please report this with model.onnx")
                content, logits = path.with_suffix(".pte").read_bytes(), found[path.stem].astype(np.float64)
                seconds = float(found[f"{path.stem}.seconds"])
                made[name] = content, Converted.of(len(content), logits, test, seconds)
        return made
