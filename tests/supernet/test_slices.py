"""Slices of shared weights: torch's gradients, added in place."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from nat2.supernet.pointwise import as_product
from nat2.supernet.slices import Index, Part, first, sliced

INDICES: list[Index] = [first(3), first(2, 5), (slice(4), 0, slice(1, -1)), (slice(None), slice(2)), first(9)]


def weights() -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.randn(6, 5, 4, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("passes", [1, 2])
def test_gradients_are_those_of_plain_slices(passes: int) -> None:
    ours, theirs = [weights() for _ in INDICES], [weights() for _ in INDICES]
    for number in range(passes):
        parts = list(sliced(list(map(Part, ours, INDICES))))
        plain = [parameter[index] for parameter, index in zip(theirs, INDICES, strict=True)]
        for found, expected in zip(parts, plain, strict=True):
            assert torch.equal(found, expected)
        for tensors in (parts, plain):
            sum((part.square() * (1 + number)).sum() for part in tensors).backward()  # type: ignore[union-attr]
    for found, expected in zip(ours, theirs, strict=True):
        assert found.grad is not None
        assert expected.grad is not None
        assert torch.equal(found.grad, expected.grad)


def test_weights_that_no_pass_used_have_no_gradient() -> None:
    used, unused = weights(), weights()
    one, _ = sliced([Part(used, first(2)), Part(unused, first(2))])
    one.sum().backward()  # type: ignore[no-untyped-call]
    assert used.grad is not None
    assert unused.grad is None


def test_without_gradients_slices_are_views() -> None:
    parameter = weights()
    with torch.no_grad():
        (part,) = sliced([Part(parameter, first(2))])
    assert part.data_ptr() == parameter.data_ptr()
    assert part.grad_fn is None
    (fixed,) = sliced([Part(weights().requires_grad_(False), first(2))])
    assert not fixed.requires_grad


def test_weights_that_are_not_trained_have_no_gradient_beside_those_that_are() -> None:
    trained, fixed = weights(), weights().requires_grad_(False)
    sum(part.sum() for part in sliced([Part(fixed), Part(trained)])).backward()  # type: ignore[union-attr]
    assert trained.grad is not None
    assert fixed.grad is None


@pytest.mark.parametrize("passes", [1, 2])
def test_under_autocast_gradients_are_those_of_weights_that_torch_converts(passes: int) -> None:
    """All in bfloat16, except where it is asked for: the weights of batch norms."""
    ours, theirs = [weights() for _ in INDICES], [weights() for _ in INDICES]
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
    for _ in range(passes):
        with torch.autocast("cpu", torch.bfloat16):
            parts = list(sliced(list(map(Part, ours, INDICES))))
            (exact,) = sliced([Part(weights(), exact=True)])
            plain = [parameter[index].bfloat16() for parameter, index in zip(theirs, INDICES, strict=True)]
        assert exact.dtype == torch.float32
        assert all(torch.equal(found, expected) for found, expected in zip(parts, plain, strict=True))
        for tensors in (parts, plain):
            sum((part.flatten()[:4] * x.bfloat16()).square().sum() for part in tensors).backward()  # type: ignore[union-attr]
    for found, expected in zip(ours, theirs, strict=True):
        assert found.grad is not None
        assert expected.grad is not None
        assert found.grad.dtype == torch.float32
        assert torch.equal(found.grad, expected.grad)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_a_pointwise_convolution_is_a_matrix_product(layout: torch.memory_format, bias: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 5, 4, 6, generator=generator).contiguous(memory_format=layout).requires_grad_()
    weight = torch.randn(7, 5, 1, 1, generator=generator).requires_grad_()
    shift = torch.randn(7, generator=generator) if bias else None
    up = torch.randn(3, 7, 4, 6, generator=generator)
    found, expected = as_product(x, weight, shift), F.conv2d(x, weight, shift)
    torch.testing.assert_close(found, expected)
    ours, theirs = (torch.autograd.grad(y, (x, weight), up) for y in (found, expected))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)
    assert as_product(x.to(memory_format=torch.channels_last), weight).is_contiguous(memory_format=torch.channels_last)
