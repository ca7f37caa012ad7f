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
    sums: dict[str, Tensor] = {}
    images_seen = 0

    for images in batches:
        size = len(images)
        if size < 2:
            raise ConfigError("calibration needs batches of at least two images; one has no batch statistics")

        measured: dict[str, Tensor] = {}
        biased: list[float] = []

        def record(
            norm: ElasticBatchNorm,
            x: Tensor,
            weight: Tensor,
            bias: Tensor,
            *,
            measured: dict[str, Tensor] = measured,
            biased: list[float] = biased,
        ) -> Tensor:
            c = x.shape[1]
            measured[norm.path] = norm.running_mean.new_zeros(2, c)
            mean, var = measured[norm.path]
            values = x.numel() // c
            biased.append((values - 1) / values)
            # With momentum 1 torch writes the batch's mean and unbiased variance in the pass that it makes anyway.
            return F.batch_norm(x, mean, var, weight, bias, training=True, momentum=1.0, eps=EPSILON)

        network(images, arch, normalize=record, exits=exits)
        # All batch norms together: few kernels on a GPU.
        torch._foreach_mul_([variance for _, variance in measured.values()], biased)
        if sums:
            torch._foreach_add_(list(sums.values()), list(measured.values()), alpha=size)
        else:
            sums = measured
            torch._foreach_mul_(list(sums.values()), size)
        images_seen += size
    if not images_seen:
        raise ConfigError("calibration needs at least one batch of training images; got none")
    means = torch._foreach_div(list(sums.values()), images_seen)
    return {path: (mean, variance) for path, (mean, variance) in zip(sums, means, strict=True)}


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
