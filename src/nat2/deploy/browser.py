"""A page that classifies pictures in a browser, with the network and its runtime beside it in one folder."""

from __future__ import annotations

import base64
import gzip
import html
import json
import re
from collections.abc import Mapping
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

import torch
from torch import Tensor

from nat2.deploy.deployable import Deployable, load
from nat2.deploy.description import describe
from nat2.deploy.export import tolerance_for
from nat2.deploy.onnxruntime_web import WebRuntime, web_runtime
from nat2.files import JsonObject, write_text
from nat2.wording import counted, first_few

FOLDER = "browser"
PAGE, RUNTIME, NETWORK, NOTICE = "index.html", "runtime.js", "network.js", "LICENSE-onnxruntime-web.txt"
_NAMED = 6  # classes in the page's first sentence


def write_browser(network: Path, *, facts: Mapping[str, object], runtime: Path | str | None = None) -> Path:
    """Write the folder ``browser`` beside an exported network's files.

    ``index.html`` opens from the disk as well as from any web server, and fetches nothing from elsewhere. The page
    checks on each device that the network answers as it does in torch.

    Args:
        network: Folder of an exported network, with ``model.onnx``.
        facts: What the page says below, e.g. the accuracy: names and values.
        runtime: See `web_runtime`.

    Returns:
        The page.

    Raises:
        CheckpointError: the folder does not hold an exported network.
        ConfigError: `runtime` does not exist.
        RunError: the runtime cannot be had, or the folder cannot be written.
    """
    description, model, web = describe(network), load(network), web_runtime(runtime)
    folder = network / FOLDER
    write_text(folder / RUNTIME, _runtime_script(web))
    write_text(folder / NETWORK, f"self.NETWORK={_script_json(_network(network, description, model))};\n")
    write_text(folder / NOTICE, _web("notice.txt"))
    write_text(folder / PAGE, _page(description, {**facts, "runtime": f"ONNX Runtime Web {web.version}"}))
    return folder / PAGE


def _page(description: JsonObject, facts: Mapping[str, object]) -> str:
    classes = description["classes"]
    lead = f"{counted(len(classes), 'class')}: {first_few(classes, _NAMED)}"
    content = {
        "TITLE": "What is in the picture?",
        "STYLE": _web("page.css"),
        "LEAD": html.escape(lead),
        "FACTS": html.escape("; ".join(f"{name} {value}" for name, value in facts.items())),
        "SCRIPT": _web("images.js") + _web("page.js"),
    }
    return re.sub(r"<!--([A-Z]+)-->", lambda match: content[match[1]], _web("page.html"))


def _network(folder: Path, description: JsonObject, model: Deployable) -> dict[str, object]:
    """What the scripts know of a network."""
    inputs, channels = description["input"], model.mean.shape[1]
    side, resolution = inputs["side"], inputs["resolution"]
    middle = max(1, round(side * inputs["center"]))
    images = check_image(channels, resolution)
    logits, tolerance = tolerance_for(model, images)
    return {
        "classes": description["classes"],
        "channels": channels,
        "side": side,
        "crop": {"first": (side - middle) // 2, "middle": middle, "size": resolution},
        "deep": inputs.get("range") is not None,
        "check": {"logits": logits[0].tolist(), "tolerance": tolerance},
        "model": base64.b64encode((folder / "model.onnx").read_bytes()).decode(),
    }


def check_image(channels: int, resolution: int) -> Tensor:
    """The image whose answer the page knows, shape (1, channels, R, R); the same as in ``page.js``."""
    values = (torch.arange(channels * resolution**2, dtype=torch.float64) * 7919) % 256 / 255
    return values.float().view(1, channels, resolution, resolution)


def _runtime_script(web: WebRuntime) -> str:
    """One classic script: pages that were opened from a disk may load neither modules nor binaries."""
    packed = _packed(web.wasm)
    script = re.sub(r"\n\s*//# sourceMappingURL=.*", "", web.script)  # the map is not in the folder
    return f"{script}\nself.RUNTIME={_script_json({'module': web.module, 'wasm': packed})};\n"


@lru_cache(1)  # of all networks of a run: it takes seconds
def _packed(content: bytes) -> str:
    return base64.b64encode(gzip.compress(content, 9, mtime=0)).decode()


def _script_json(data: object) -> str:
    return json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _web(name: str) -> str:
    return files("nat2.deploy").joinpath("web", name).read_text(encoding="utf-8")
