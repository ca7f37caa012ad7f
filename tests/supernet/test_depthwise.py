"""Depthwise convolution equals torch's, forwards and backwards."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from nat2.supernet import depthwise as module
from nat2.supernet.depthwise import depthwise


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [3, 5, 7])
@pytest.mark.parametrize("side", [1, 2, 3, 4, 8, 9])
@pytest.mark.parametrize("by_columns", [True, False])
@pytest.mark.parametrize("images_at_once", [2, 100])  # of three: the last part is smaller
def test_values_and_gradients_are_those_of_torch(
    side: int, size: int, stride: int, by_columns: bool, images_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CHUNK", images_at_once * 8 * side * (side + 1))
    monkeypatch.setattr(module, "_columns_pay", lambda x: by_columns)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 8, side, side + 1, generator=generator).to(memory_format=torch.channels_last).requires_grad_()
    weight = torch.randn(8, 1, size, size, generator=generator, requires_grad=True)
    plain = F.conv2d(x, weight, stride=stride, padding=size // 2, groups=8)
    ours = depthwise(x, weight, stride=stride)
    torch.testing.assert_close(ours, plain)
    factor = torch.randn(plain.shape, generator=generator)

    def gradients(y: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad((y * factor).sum(), (x, weight))

    for actual, expected in zip(gradients(ours), gradients(plain), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def test_nothing_is_computed_for_an_input_that_does_not_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*arguments: object) -> Tensor:
        raise AssertionError

    monkeypatch.setattr(module, "_columns_pay", lambda x: True)
    monkeypatch.setattr(module, "_input_gradient", forbidden)
    weight = torch.randn(8, 1, 5, 5, requires_grad=True)
    depthwise(torch.randn(2, 8, 9, 9), weight, stride=1).sum().backward()  # type: ignore[no-untyped-call]
    assert weight.grad is not None


def test_no_images_have_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_columns_pay", lambda x: True)
    weight = torch.randn(8, 1, 5, 5, requires_grad=True)
    depthwise(torch.randn(0, 8, 9, 9), weight, stride=1).sum().backward()  # type: ignore[no-untyped-call]
    assert weight.grad is not None
    assert not weight.grad.any()
