"""What the tests share."""

from __future__ import annotations

import os
from pathlib import Path

import hypothesis
import pytest
import torch

SHARED_DATA = Path(os.environ.get("NAT2_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the project."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"the real data are not at {SHARED_DATA} (set NAT2_TEST_DATA to their folder)")
    return SHARED_DATA


hypothesis.settings.register_profile(
    "nat2", deadline=None, derandomize=True, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("nat2")
torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else min(2, len(os.sched_getaffinity(0))))
