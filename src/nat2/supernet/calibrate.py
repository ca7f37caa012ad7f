"""Batch-norm statistics of one sub-network, measured without touching the super-network."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional as F

from nat2.errors import ConfigError
from nat2.space.arch import Arch
from nat2.supernet.layers import EPSILON, ElasticBatchNorm, Statistics
from nat2.supernet.network import SuperNetwork


@torch.no_grad()
def calibrate(
    network: SuperNetwork, arch: Arch, batches: Iterable[Tensor], *, exits: tuple[int, ...] | None = None
) -> Statistics:
    """Measure the statistics that a sub-network needs for inference.

    Each batch is normalised by its own statistics on the way; mean and biased variance of every batch norm's input
    are averaged over the batches, weighted by their size (OFA, re-calibration). The network is not changed.

    Args:
        network: The super-network.
        arch: The sub-network.
        batches: Training images at the architecture's resolution, each of shape (N, channels, R, R).
        exits: Exits to measure instead of the architecture's own.

    Raises:
        ConfigError: there are no batches, or one of a single image.
        ArchError: it is not a sub-network of this network, or does not reach an exit.
    """
    sums: dict[str, tuple[Tensor, Tensor]] = {}
    images_seen = 0

    for images in batches:
        size = len(images)
        if size < 2:
            raise ConfigError("calibration needs batches of at least two images; one has no batch statistics")

        def record(norm: ElasticBatchNorm, x: Tensor, weight: Tensor, bias: Tensor, *, size: int = size) -> Tensor:
            c = x.shape[1]
            mean, var = torch.zeros_like(norm.running_mean[:c]), torch.zeros_like(norm.running_var[:c])
            # With momentum 1 torch writes the batch's mean and unbiased variance in the pass that it makes anyway.
            y = F.batch_norm(x, mean, var, weight, bias, training=True, momentum=1.0, eps=EPSILON)
            values = x.numel() // c
            var.mul_((values - 1) / values)
            if norm.path in sums:
                sums[norm.path][0].add_(mean, alpha=size)
                sums[norm.path][1].add_(var, alpha=size)
            else:
                sums[norm.path] = (mean.mul_(size), var.mul_(size))
            return y

        network(images, arch, normalize=record, exits=exits)
        images_seen += size
    if not images_seen:
        raise ConfigError("calibration needs at least one batch of training images; got none")
    return {path: (mean / images_seen, var / images_seen) for path, (mean, var) in sums.items()}


@torch.no_grad()
def store_statistics(network: SuperNetwork, statistics: Statistics) -> None:
    """Write what `calibrate` measured of a network into the super-network's own batch norms, which sub-networks share.

    Sub-networks that are not calibrated use their slice of these.

    Args:
        network: Changed in place.
        statistics: Of its largest sub-network, for all exits.
    """
    for path, (mean, var) in statistics.items():
        norm = network.get_submodule(path)
        assert isinstance(norm, ElasticBatchNorm)
        norm.running_mean[: len(mean)].copy_(mean)
        norm.running_var[: len(var)].copy_(var)
