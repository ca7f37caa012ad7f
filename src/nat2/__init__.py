"""Neural Architecture Transfer 2: small, fast, accurate image classifiers for your own data."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from nat2.environment import set_defaults

set_defaults()  # before anything loads torch

if TYPE_CHECKING:
    from nat2.deploy.deployable import load
    from nat2.deploy.latency import latency
    from nat2.deploy.predict import predict
    from nat2.nas.functions import SearchFunctions
    from nat2.nas.objectives import Objective, ShareNoise, objective
    from nat2.nas.search import Limits, Search
    from nat2.nas.settings import SearchSettings
    from nat2.pipeline.api import finetune, run, search, search_run, train
    from nat2.pipeline.create import create
    from nat2.pipeline.export import export
    from nat2.pipeline.profile import profile
    from nat2.reports.report import report
    from nat2.runs.config import RunConfig
    from nat2.shipped.networks import list_networks
    from nat2.space.arch import Arch
    from nat2.space.named import NamedArch, NamedSpace, categorical, integer, ordered
    from nat2.space.searchable import IntegerSpace
    from nat2.space.space import SearchSpace

__version__ = version("nat2")

_PUBLIC = {
    "Arch": "nat2.space.arch",
    "IntegerSpace": "nat2.space.searchable",
    "Limits": "nat2.nas.search",
    "NamedArch": "nat2.space.named",
    "NamedSpace": "nat2.space.named",
    "Objective": "nat2.nas.objectives",
    "RunConfig": "nat2.runs.config",
    "Search": "nat2.nas.search",
    "SearchFunctions": "nat2.nas.functions",
    "SearchSettings": "nat2.nas.settings",
    "SearchSpace": "nat2.space.space",
    "ShareNoise": "nat2.nas.objectives",
    "categorical": "nat2.space.named",
    "create": "nat2.pipeline.create",
    "export": "nat2.pipeline.export",
    "finetune": "nat2.pipeline.api",
    "integer": "nat2.space.named",
    "latency": "nat2.deploy.latency",
    "list_networks": "nat2.shipped.networks",
    "load": "nat2.deploy.deployable",
    "objective": "nat2.nas.objectives",
    "ordered": "nat2.space.named",
    "predict": "nat2.deploy.predict",
    "profile": "nat2.pipeline.profile",
    "report": "nat2.reports.report",
    "run": "nat2.pipeline.api",
    "search": "nat2.pipeline.api",
    "search_run": "nat2.pipeline.api",
    "train": "nat2.pipeline.api",
}
__all__ = [
    "Arch",
    "IntegerSpace",
    "Limits",
    "NamedArch",
    "NamedSpace",
    "Objective",
    "RunConfig",
    "Search",
    "SearchFunctions",
    "SearchSettings",
    "SearchSpace",
    "ShareNoise",
    "__version__",
    "categorical",
    "create",
    "export",
    "finetune",
    "integer",
    "latency",
    "list_networks",
    "load",
    "objective",
    "ordered",
    "predict",
    "profile",
    "report",
    "run",
    "search",
    "search_run",
    "train",
]


def __getattr__(name: str) -> Any:
    """Import public names when they are first used: torch alone takes seconds, and ``nat2 --help`` needs none of it."""
    if name == "testing":
        return import_module("nat2.testing")
    if name not in _PUBLIC:
        raise AttributeError(f"module 'nat2' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
