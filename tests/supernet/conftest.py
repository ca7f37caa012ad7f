"""Super-networks small enough for many tests."""

from __future__ import annotations

import pytest
import torch

from nat2.space import Macro
from nat2.supernet import SuperNetwork
from nat2.supernet.static import channels_last

FAMILIES = {
    "EE_D": Macro(classes=5, width=0.35),
    "EE_B": Macro(classes=5, width=0.35, dense_skips=False),
    "EE_DP": Macro(classes=5, width=0.35, parallel_blocks=True),
    "EE_P": Macro(classes=5, width=0.35, dense_skips=False, parallel_blocks=True),
    "SE_D": Macro(classes=5, width=0.35, early_exits=False),
    "SE_B": Macro(classes=5, width=0.35, early_exits=False, dense_skips=False),
    "SE_DP": Macro(classes=5, width=0.35, early_exits=False, parallel_blocks=True),
    "SE_P": Macro(classes=5, width=0.35, early_exits=False, dense_skips=False, parallel_blocks=True),
}


def random_network(macro: Macro, seed: int = 0) -> SuperNetwork:
    """Random in everything, stored statistics and kernel transforms too."""
    generator = torch.Generator().manual_seed(seed)
    network = channels_last(SuperNetwork(macro, generator=generator)).eval()
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            noise = torch.randn(tensor.shape, generator=generator)
            if name.endswith("running_var"):
                tensor.copy_(1 + noise.abs())
            elif "running" in name or tensor.dim() == 1:
                tensor.add_(0.2 * noise)
            elif "matrix" in name:
                tensor.add_(0.1 * noise)
    return network


@pytest.fixture(params=FAMILIES)
def network(request: pytest.FixtureRequest) -> SuperNetwork:
    return random_network(FAMILIES[request.param])
