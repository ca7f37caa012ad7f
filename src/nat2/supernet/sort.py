"""Channel sorting: the most important middle channels come first, so that narrow sub-networks get them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import torch
from torch import Tensor

from nat2.space.macro import MAX_EXPAND
from nat2.supernet.layers import ElasticBatchNorm, ElasticMBConv
from nat2.supernet.network import SuperNetwork


@torch.no_grad()
def sort_channels(network: SuperNetwork, *, supported: Iterable[int] = ()) -> None:
    """Sort the middle channels of every inverted bottleneck by importance, descending, in place.

    The importance of a channel is the L1 norm of the projection's weights that read it (OFA, elastic width). The
    largest network's function does not change. Channels move only between the widths that trained
    sub-networks use.

    Args:
        network: The super-network.
        supported: Expand ratios that have been trained, apart from the largest.
    """
    ratios = sorted({*supported, MAX_EXPAND})
    for module in network.modules():
        if isinstance(module, ElasticMBConv):
            bounds = [0, *(module.shape.mid_channels(ratio) for ratio in ratios)]
            importance = module.project.weight.abs().sum((0, 2, 3))
            order = torch.cat(
                [
                    low + torch.argsort(importance[low:high], descending=True, stable=True)
                    for low, high in itertools.pairwise(bounds)
                ]
            )
            _permute(module, order)


def _permute(module: ElasticMBConv, order: Tensor) -> None:
    for tensor in (module.expand.weight, module.depthwise.weight):
        tensor.copy_(tensor[order])
    module.project.weight.copy_(module.project.weight[:, order])
    for norm in (module.expand_bn, module.depthwise_bn):
        _permute_norm(norm, order)
    if module.se is not None:
        reduce, expand = module.se.reduce, module.se.expand
        assert reduce.bias is not None
        assert expand.bias is not None
        expand.weight.copy_(expand.weight[order])
        expand.bias.copy_(expand.bias[order])
        reduce.weight.copy_(reduce.weight[:, order])
        hidden = torch.argsort(expand.weight.abs().sum((0, 2, 3)), descending=True, stable=True)
        expand.weight.copy_(expand.weight[:, hidden])
        reduce.weight.copy_(reduce.weight[hidden])
        reduce.bias.copy_(reduce.bias[hidden])


def _permute_norm(norm: ElasticBatchNorm, order: Tensor) -> None:
    for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        tensor.copy_(tensor[order])
