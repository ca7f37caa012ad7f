"""Extract a plain network that needs neither search space nor super-network."""

from __future__ import annotations

import torch
from torch import Tensor

from nat2.space.arch import Arch
from nat2.supernet.layers import ElasticDepthwise, Statistics
from nat2.supernet.network import SuperNetwork
from nat2.supernet.static import StaticNetwork, channels_last


@torch.no_grad()
def extract(
    network: SuperNetwork,
    arch: Arch,
    statistics: Statistics | None = None,
    *,
    exits: tuple[int, ...] | None = None,
) -> StaticNetwork:
    """Copy a sub-network's weights into a plain network with the same outputs.

    Args:
        network: The super-network.
        arch: The sub-network.
        statistics: What `calibrate` measured, for the same exits; by default the stored statistics are copied.
        exits: Exits to keep (counted from 1, none beyond the architecture's) instead of its own.
    """
    device = next(network.parameters()).device
    with device:
        static = StaticNetwork(network.macro, arch, exits=exits)
    shared = network.state_dict()
    modules = dict(network.named_modules())
    weights: dict[str, Tensor] = {}
    for name, target in static.state_dict().items():
        path, _, field = name.rpartition(".")
        module = modules[path]
        if field == "num_batches_tracked":
            weights[name] = target
        elif isinstance(module, ElasticDepthwise):
            weight, index = module.slice_for(target.shape[-1], len(target))
            weights[name] = module.kernel(target.shape[-1], weight[index])
        elif statistics is not None and field in ("running_mean", "running_var"):
            weights[name] = statistics[path][field == "running_var"]
        else:
            leading = tuple(slice(0, size) for size in target.shape)
            weights[name] = shared[name][leading]
    static.load_state_dict(weights)
    return channels_last(static, device).eval()
