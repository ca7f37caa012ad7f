"""What the tests share."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import torch

from nat2.cli.parser import build_parser
from tests.zygote import Zygote

SHARED_DATA = Path(os.environ.get("NAT2_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture(scope="session", autouse=True)
def _parsers_are_built_once() -> Iterator[None]:
    """Most of what a refusal takes is building the parser; a process of its own needs it once, the tests hundreds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nat2.cli.build_parser", functools.cache(build_parser))
        yield


@pytest.fixture(scope="session", autouse=True)
def _images_are_cached_elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Not in the cache folder of whoever runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NAT2_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the project."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"the real data are not at {SHARED_DATA} (set NAT2_TEST_DATA to their folder)")
    return SHARED_DATA


@pytest.fixture(scope="session")
def folder_recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images in `photos` and what recipes/folder.yaml made of them, in seconds, in `runs/photos`.

    A network with two exits was fine-tuned beside.
    """
    from nat2.pipeline.api import finetune
    from nat2.runs.config import read_config
    from tests.tiny import TWO_EXITS, follow, write_corners

    place = tmp_path_factory.mktemp("recipe")
    write_corners(place / "photos")
    run = follow(Path(__file__).parents[1] / "recipes" / "folder.yaml", place)
    with contextlib.chdir(place):
        finetune(read_config(run / "config.yaml"), networks=[TWO_EXITS], out=run, quiet=True)
    run.rename(place / "runs" / "photos")
    return place


@pytest.fixture(scope="session")
def zygote() -> Iterator[Zygote]:
    process = Zygote()
    yield process
    process.close()


@pytest.fixture(scope="session")
def other_zygote() -> Iterator[Zygote]:
    process = Zygote()
    yield process
    process.close()


hypothesis.settings.register_profile(
    "nat2", deadline=None, derandomize=True, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("nat2")
torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else min(2, len(os.sched_getaffinity(0))))
