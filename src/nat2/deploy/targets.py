"""Where a network can run: what `nat2 export --for TARGET` adds to the files of an exported network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from nat2.deploy.browser import write_browser
from nat2.deploy.device_export import DEVICES
from nat2.deploy.onnxruntime_web import web_runtime
from nat2.deploy.triton import write_triton
from nat2.errors import ConfigError


@dataclass(frozen=True)
class TargetOptions:
    """What may be said about a target on the command line."""

    onnxruntime_web: str = ""
    """Where the npm package is; by default it is downloaded."""


@dataclass(frozen=True)
class Target:
    """A place where networks run."""

    name: str
    help: str
    """Half a sentence for ``--help``."""
    write: Callable[[Path, Mapping[str, object], TargetOptions], Path]
    """Writes a folder for the target into the folder of an exported network, given facts to show, such as its
    accuracy; returns what to open or use first."""
    check: Callable[[TargetOptions], object] = lambda options: None
    """Refuses options that cannot be used, before anything is written."""


TARGETS = {
    each.name: each
    for each in (
        Target(
            "browser",
            "a page that classifies pictures offline",
            lambda network, facts, options: write_browser(network, facts=facts, runtime=options.onnxruntime_web),
            check=lambda options: web_runtime(options.onnxruntime_web),
        ),
        Target(
            "server",
            "a model repository of Triton Inference Server, on processors",
            lambda network, facts, options: write_triton(network, "server", gpu=False),
        ),
        Target(
            "gpu",
            "the same on GPUs, through TensorRT",
            lambda network, facts, options: write_triton(network, "gpu", gpu=True),
        ),
    )
}


def target_named(name: str) -> Target:
    """A target.

    Raises:
        ConfigError: there is none of this name.
    """
    if name not in TARGETS:
        raise ConfigError(f"--for must be one of {', '.join([*DEVICES, *TARGETS])}; got {name!r}")
    return TARGETS[name]
