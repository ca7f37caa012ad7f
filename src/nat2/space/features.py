"""What an accuracy predictor sees of networks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nat2.space.arch import CONVOLUTION, MBCONV, TRANSFORMATION

if TYPE_CHECKING:
    from nat2.space.space import Genomes, SearchSpace

Features = NDArray[np.float64]


def one_hot(genomes: Genomes, lower: Genomes, upper: Genomes) -> Features:
    """One column per gene and value, shape (n, values of all genes) (NAT's encoding)."""
    columns = [
        genomes[:, gene, None] == np.arange(low, high + 1)
        for gene, (low, high) in enumerate(zip(lower, upper, strict=True))
    ]
    return np.concatenate(columns, axis=1).astype(np.float64)


def structure(space: SearchSpace, genomes: Genomes) -> Features:
    """Each layer, and sums of the layers over each stage and over the whole network.

    A layer is its active blocks, its kernel size and its expand ratio, the latter two from -1 (the smallest) to 1; a
    layer that is not executed is 0 everywhere. The sums over stages and over the network come in addition, so that a
    linear model can learn the coarse effects from few networks and the fine ones from many. Resolution, width and exit
    are one column each and one per value; the resolution also multiplies the sums of the network, because the gain of a
    larger network depends on it.
    """
    n = len(genomes)
    described = np.zeros((len(space.settings) + 1, 3 + 2 * space.parallel_blocks))
    for code, layer in enumerate(space.settings, start=1):
        if layer.blocks & MBCONV:
            described[code, :3] = 1, _place(space.kernels, layer.kernel), _place(space.expands, layer.expand)
        if space.parallel_blocks:
            described[code, 3:] = bool(layer.blocks & CONVOLUTION), bool(layer.blocks & TRANSFORMATION)
    stages = space.stage_genes(genomes)
    executed = np.arange(stages.shape[1])[None, :, None] < space.exit_numbers(genomes)[:, None, None]
    layers = described[np.where(executed, stages, 0)]
    sums = layers.sum(axis=2)
    totals = sums.sum(axis=1)
    depths = (np.where(executed, stages, 0) > 0).sum(axis=2)
    head = genomes[:, : space.first_layer_gene]
    ends = space.lower[: space.first_layer_gene], space.upper[: space.first_layer_gene]
    resolution = 2 * head[:, :1] / max(1, ends[1][0]) - 1
    between = (depths > space.depths[0]) & (depths < space.depths[-1])
    parts = [head, one_hot(head, *ends), layers.reshape(n, -1), sums.reshape(n, -1), totals, resolution * totals]
    return np.concatenate([*parts, between], axis=1).astype(np.float64)


def _place(choices: tuple[int, ...], value: int) -> float:
    """The position of a choice, from -1 (the smallest) to 1."""
    return 2 * choices.index(value) / (len(choices) - 1) - 1 if len(choices) > 1 else 0.0
