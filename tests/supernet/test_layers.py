"""Batch norm over a batch that several processes hold parts of, by the example of one that holds all."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from nat2.supernet.layers import EPSILON, ElasticBatchNorm, normalize_by_batch, normalize_by_joint_batch


@pytest.mark.parametrize(("mean", "deviation"), [(0.0, 1.0), (10.0, 0.1), (100.0, 0.05)])
def test_the_joint_batch_is_normalised_as_a_batch_of_one_process(mean: float, deviation: float) -> None:
    generator = torch.Generator().manual_seed(0)
    norm = ElasticBatchNorm(6)
    norm.weight.data.uniform_(0.5, 2, generator=generator)
    results = []
    for normalize in (normalize_by_batch, normalize_by_joint_batch(lambda sums: sums)):
        x = mean + deviation * torch.randn(8, 4, 5, 5, generator=generator.manual_seed(1))
        x.requires_grad_(True)
        norm.zero_grad()
        y = normalize(norm, x, norm.weight[:4], norm.bias[:4])
        (y * torch.randn(y.shape, generator=generator.manual_seed(2))).sum().backward()  # type: ignore[no-untyped-call]
        results.append((y.detach(), x.grad, norm.weight.grad[:4], norm.bias.grad[:4]))  # type: ignore[index]
    weight, bias = norm.weight[:4].double(), norm.bias[:4].double()
    exact = F.batch_norm(x.detach().double(), None, None, weight, bias, training=True, eps=EPSILON)
    rounding = 1e-5 * (1 + mean / deviation)  # of the images themselves
    assert (results[1][0] - exact).abs().max() < rounding
    for ours, theirs in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(ours, theirs, atol=20 * rounding, rtol=1e-3)
