"""Extract a plain network that needs neither search space nor super-network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nat2.space.arch import Arch
from nat2.supernet.layers import ElasticDepthwise, Statistics
from nat2.supernet.network import SuperNetwork
from nat2.supernet.slices import sliced
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
    with torch.device("meta"):  # neither draws nor copies weights that would be replaced
        static = StaticNetwork(network.macro, arch, exits=exits)
    shared = network.state_dict()
    modules = dict(network.named_modules())
    weights: dict[str, Tensor] = {}
    for name, target in static.state_dict().items():
        path, _, field = name.rpartition(".")
        module = modules[path]
        if field == "num_batches_tracked":
            weights[name] = torch.zeros((), dtype=target.dtype, device=device)
        elif isinstance(module, ElasticDepthwise):
            size = target.shape[-1]
            kernel = module.kernel(size, sliced(module.parts(size, len(target))))
            # The largest kernel is the shared weight itself; smaller ones have just been computed.
            weights[name] = _copied(kernel) if kernel._is_view() or isinstance(kernel, nn.Parameter) else kernel
        elif statistics is not None and field in ("running_mean", "running_var"):
            weights[name] = statistics[path][field == "running_var"].clone()
        else:
            leading = tuple(slice(0, size) for size in target.shape)
            weights[name] = _copied(shared[name][leading])
    static.load_state_dict(weights, assign=True)
    return channels_last(static, device).eval()


def _copied(weight: Tensor) -> Tensor:
    """A copy that shares no memory, laid out channels last where it has a choice."""
    return weight.clone(memory_format=torch.channels_last if weight.dim() == 4 else torch.contiguous_format)
