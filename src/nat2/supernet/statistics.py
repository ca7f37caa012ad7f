"""Batch-norm statistics of one network as one vector, for storing them without the images that they came from."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nat2.errors import CheckpointError
from nat2.supernet.layers import Statistics
from nat2.supernet.static import StaticNetwork


def packed(network: StaticNetwork, statistics: Statistics) -> Tensor:
    """Mean and standard deviation of each batch norm, in the order of the network's modules, as one vector.

    Args:
        network: Any network of the architecture.
        statistics: What `calibrate` measured of it.
    """
    parts = [
        part for path, _ in _norms(network) for part in (statistics[path][0], statistics[path][1].clamp(min=0).sqrt())
    ]
    return torch.cat(parts)


def unpacked(network: StaticNetwork, vector: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Statistics from what `packed` returned, in any floating-point type.

    Raises:
        CheckpointError: the vector is of another network, or not finite.
    """
    channels = [norm.num_features for _, norm in _norms(network)]
    if vector.shape != (2 * sum(channels),) or not torch.isfinite(vector).all():
        raise CheckpointError(
            f"the stored statistics of {network.arch.key} are damaged: {2 * sum(channels)} finite numbers are needed, "
            f"got a tensor of shape {tuple(vector.shape)}"
        )
    parts = iter(torch.split(vector.float(), [count for count in channels for _ in range(2)]))
    return {path: (next(parts), next(parts).square()) for path, _ in _norms(network)}


def _norms(network: StaticNetwork) -> list[tuple[str, nn.BatchNorm2d]]:
    return [(path, module) for path, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)]
