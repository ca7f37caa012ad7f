"""Elastic layers: the weights of the largest choice, of which each forward pass uses a slice.

No layer keeps track of the active choice: kernel size and expand ratio are arguments of the call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import reduce
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nat2.space.arch import CONVOLUTION, MBCONV, TRANSFORMATION, Layer
from nat2.space.macro import (
    MAX_EXPAND,
    MAX_KERNEL,
    Activation,
    ExitShape,
    LayerShape,
    Macro,
    squeeze_channels,
)
from nat2.supernet.depthwise import depthwise
from nat2.supernet.pointwise import pointwise
from nat2.supernet.slices import Index, first, sliced
from nat2.supernet.static import ACTIVATIONS, SqueezeExcite, pool

EPSILON = 1e-5

Statistics = Mapping[str, tuple[Tensor, Tensor]]
"""Mean and variance of every batch norm that an architecture uses, by module path."""


class ElasticBatchNorm(nn.Module):
    """Batch norm on the leading channels; how it normalises is the caller's choice (`Normalize`)."""

    weight: nn.Parameter
    bias: nn.Parameter
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        """Hold scale, shift and stored statistics for `channels`."""
        super().__init__()
        self.path = ""  # set by the network; the key of `Statistics`
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))


Normalize = Callable[[ElasticBatchNorm, Tensor, Tensor, Tensor], Tensor]
"""How a forward pass normalises: takes the batch norm, its input, and the scale and shift of the input's channels, and
gives its output."""


def normalize_by_batch(norm: ElasticBatchNorm, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Use the batch's statistics, as in training; nothing is stored."""
    return F.batch_norm(x, None, None, weight, bias, training=True, eps=EPSILON)


def normalize_by_joint_batch(add: Callable[[Tensor], Tensor]) -> Normalize:
    """Use the statistics of a batch that is split across processes; `add` sums over them."""

    def normalize(norm: ElasticBatchNorm, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        y: Tensor = _JointBatchNorm.apply(x, weight, bias, add)  # type: ignore[no-untyped-call]
        return y

    return normalize


class _Context(Protocol):
    """What the forward pass saves for the backward pass."""

    add: Callable[[Tensor], Tensor]
    saved_tensors: tuple[Tensor, Tensor, Tensor, Tensor, Tensor]

    def save_for_backward(self, *tensors: Tensor) -> None: ...


class _JointBatchNorm(torch.autograd.Function):
    """Batch norm over the images of all processes: one exchange of sums forward, one backward."""

    @staticmethod
    def forward(ctx: _Context, x: Tensor, weight: Tensor, bias: Tensor, add: Callable[[Tensor], Tensor]) -> Tensor:
        var, mean = (each.double() for each in torch.var_mean(x.float(), (0, 2, 3), correction=0))
        count = mean.new_full((1,), x.numel() / x.shape[1])
        # In double precision: a mean much larger than the deviation would cancel it.
        sums = add(torch.cat([count * mean, count * (var + mean.square()), count]))
        mean, square = (sums[:-1] / sums[-1]).chunk(2)
        var = (square - mean.square()).clamp_(min=0).float()
        mean, count = mean.float(), sums[-1].float()
        ctx.save_for_backward(x, weight, mean, (var + EPSILON).rsqrt(), count)
        ctx.add = add
        return F.batch_norm(x, mean, var, weight, bias, eps=EPSILON)

    @staticmethod
    def backward(ctx: _Context, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight, mean, scale, count = ctx.saved_tensors
        gradient = gradients[0].float()
        normalized = (x.float() - mean.view(1, -1, 1, 1)) * scale.view(1, -1, 1, 1)
        by_bias, by_weight = gradient.sum((0, 2, 3)), (gradient * normalized).sum((0, 2, 3))
        # The gradients of weight and bias stay local: they are summed with all others after the pass.
        bias_mean, weight_mean = (ctx.add(torch.cat([by_bias, by_weight])) / count).chunk(2)
        inner = gradient - bias_mean.view(1, -1, 1, 1) - normalized * weight_mean.view(1, -1, 1, 1)
        by_x = inner * (weight * scale).view(1, -1, 1, 1)
        return by_x.to(x.dtype), by_weight, by_bias, None


def normalize_by_stored(norm: ElasticBatchNorm, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Use the leading slice of the statistics that came with the weights."""
    c = x.shape[1]
    return F.batch_norm(x, norm.running_mean[:c], norm.running_var[:c], weight, bias, eps=EPSILON)


def normalize_by(statistics: Statistics) -> Normalize:
    """Use the given statistics, those of `calibrate`."""

    def normalize(norm: ElasticBatchNorm, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        mean, var = statistics[norm.path]
        return F.batch_norm(x, mean, var, weight, bias, eps=EPSILON)

    return normalize


def whole(normalize: Normalize, norm: ElasticBatchNorm, x: Tensor) -> Tensor:
    """Normalise all channels of a batch norm."""
    return normalize(norm, x, norm.weight, norm.bias)


class ElasticDepthwise(nn.Module):
    """Depthwise convolution whose smaller kernels are learned linear maps of the centre of the larger (OFA).

    ``W5 = M7to5 vec(centre of W7)`` and ``W3 = M5to3 vec(centre of W5)``, the matrices shared by all channels and
    identity at first, so that a smaller kernel starts as the centre crop.
    """

    def __init__(self, channels: int, stride: int) -> None:
        """Hold kernels of size 7 for `channels`."""
        super().__init__()
        self.stride = stride
        self.weight = nn.Parameter(torch.empty(channels, 1, MAX_KERNEL, MAX_KERNEL))
        self.matrix_7to5 = nn.Parameter(torch.eye(25))
        self.matrix_5to3 = nn.Parameter(torch.eye(9))

    def slice_for(self, size: int, channels: int) -> tuple[Tensor, Index]:
        """The part of the weights that kernels of a size are computed from: all, or the centre."""
        if size == MAX_KERNEL:
            return self.weight, first(channels)
        return self.weight, (slice(channels), 0, slice(1, -1), slice(1, -1))

    def kernel(self, size: int, part: Tensor) -> Tensor:
        """The kernels of a size, shape (channels, 1, size, size), computed from the part that `slice_for` returns."""
        if size == MAX_KERNEL:
            return part
        matrix: Tensor = self.matrix_7to5
        if size == 3:  # one map instead of two, restricted to the rows of the first that the second reads
            matrix = self.matrix_5to3 @ matrix.view(5, 5, 25)[1:-1, 1:-1].reshape(9, 25)
        return F.linear(part.reshape(len(part), 25), matrix).view(len(part), 1, size, size)

    def forward(self, x: Tensor, size: int, part: Tensor) -> Tensor:
        """Convolve (N, C, H, W) with kernels of `size`."""
        return depthwise(x, self.kernel(size, part), stride=self.stride)


class ElasticSqueezeExcite(SqueezeExcite):
    """Squeeze-and-excite on the leading channels, with the matching number of hidden units."""

    def slices(self, channels: int) -> list[tuple[Tensor, Index]]:
        """The parts of the weights for this many channels, in the order that `gate` takes."""
        hidden = squeeze_channels(channels)
        assert self.reduce.bias is not None
        assert self.expand.bias is not None
        return [
            (self.reduce.weight, first(hidden, channels)),
            (self.reduce.bias, first(hidden)),
            (self.expand.weight, first(channels, hidden)),
            (self.expand.bias, first(channels)),
        ]

    def gate(self, x: Tensor, parts: Sequence[Tensor]) -> Tensor:
        """Gate `x`, shape (N, C, H, W)."""
        reduce, reduce_bias, expand, expand_bias = parts
        hidden = F.relu(pointwise(x.mean((2, 3), keepdim=True), reduce, reduce_bias))
        return x * F.hardsigmoid(pointwise(hidden, expand, expand_bias))


class ElasticMBConv(nn.Module):
    """Inverted bottleneck with elastic kernel size and expand ratio."""

    def __init__(self, shape: LayerShape) -> None:
        """Hold the weights of the largest kernel and expand ratio."""
        super().__init__()
        mid = shape.mid_channels(MAX_EXPAND)
        self.shape = shape
        self.expand = nn.Conv2d(shape.in_channels, mid, 1, bias=False)
        self.expand_bn = ElasticBatchNorm(mid)
        self.depthwise = ElasticDepthwise(mid, shape.stride)
        self.depthwise_bn = ElasticBatchNorm(mid)
        self.se = ElasticSqueezeExcite(mid) if shape.squeeze_excite else None
        self.project = nn.Conv2d(mid, shape.out_channels, 1, bias=False)
        self.project_bn = ElasticBatchNorm(shape.out_channels)

    def forward(self, x: Tensor, layer: Layer, normalize: Normalize) -> Tensor:
        """Map (N, in, H, W) to (N, out, H / stride, W / stride) with the given kernel and expand ratio."""
        mid = self.shape.mid_channels(layer.expand)
        activate = ACTIVATIONS[self.shape.activation]
        expand, scale, shift, depthwise_part, depthwise_scale, depthwise_shift, project, *gate = sliced(
            [
                (self.expand.weight, first(mid)),
                (self.expand_bn.weight, first(mid)),
                (self.expand_bn.bias, first(mid)),
                self.depthwise.slice_for(layer.kernel, mid),
                (self.depthwise_bn.weight, first(mid)),
                (self.depthwise_bn.bias, first(mid)),
                (self.project.weight, (slice(None), slice(mid))),
                *(self.se.slices(mid) if self.se is not None else []),
            ]
        )
        y = activate(normalize(self.expand_bn, pointwise(x, expand), scale, shift))
        y = self.depthwise(y, layer.kernel, depthwise_part)
        y = activate(normalize(self.depthwise_bn, y, depthwise_scale, depthwise_shift))
        if self.se is not None:
            y = self.se.gate(y, gate)
        y = whole(normalize, self.project_bn, pointwise(y, project))
        return x + y if self.shape.residual else y


class ElasticParallelBlocks(nn.Module):
    """Up to three blocks on the same input, their outputs summed; only the inverted bottleneck is elastic."""

    def __init__(self, shape: LayerShape) -> None:
        """Hold the weights of all three (see `nat2.supernet.static.ParallelBlocks`)."""
        super().__init__()
        channels = shape.in_channels, shape.out_channels
        self.shape = shape
        self.mbconv = ElasticMBConv(shape)
        self.conv = nn.Conv2d(*channels, 1, shape.stride, bias=False)
        self.conv_bn = ElasticBatchNorm(shape.out_channels)
        self.transform = nn.Conv2d(*channels, 1) if channels[0] != channels[1] else nn.Identity()
        self.transform_bn = ElasticBatchNorm(shape.out_channels)

    def forward(self, x: Tensor, layer: Layer, normalize: Normalize) -> Tensor:
        """Map (N, in, H, W) to (N, out, H / stride, W / stride) with the active blocks."""
        return reduce(torch.add, self._outputs(x, layer, normalize))

    def _outputs(self, x: Tensor, layer: Layer, normalize: Normalize) -> Iterator[Tensor]:
        activate = ACTIVATIONS[self.shape.activation]
        if layer.blocks & MBCONV:
            yield self.mbconv(x, layer, normalize)
        if layer.blocks & CONVOLUTION:
            yield activate(whole(normalize, self.conv_bn, self.conv(x)))
        if layer.blocks & TRANSFORMATION:
            yield activate(whole(normalize, self.transform_bn, self.transform(pool(x, self.shape.stride))))


class FirstBlock(nn.Module):
    """The static block after the stem's convolution: depthwise and projection with a shortcut."""

    def __init__(self, shape: LayerShape) -> None:
        """Hold the weights; kernel 3, expand ratio 1."""
        super().__init__()
        channels = shape.in_channels
        self.activation: Activation = shape.activation
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.depthwise_bn = ElasticBatchNorm(channels)
        self.project = nn.Conv2d(channels, channels, 1, bias=False)
        self.project_bn = ElasticBatchNorm(channels)

    def forward(self, x: Tensor, normalize: Normalize) -> Tensor:
        """Map (N, C, H, W) to the same shape."""
        y = ACTIVATIONS[self.activation](whole(normalize, self.depthwise_bn, self.depthwise(x)))
        return x + whole(normalize, self.project_bn, pointwise(y, self.project.weight))


class ElasticStem(nn.Module):
    """First convolution and static block; only the normalisation is elastic."""

    def __init__(self, macro: Macro) -> None:
        """Hold the weights for the channels and width of `macro`."""
        super().__init__()
        self.conv = nn.Conv2d(macro.channels, macro.stem_channels, 3, macro.stem_stride, 1, bias=False)
        self.bn = ElasticBatchNorm(macro.stem_channels)
        self.block = FirstBlock(macro.first_shape)

    def forward(self, images: Tensor, normalize: Normalize) -> Tensor:
        """Map images (N, channels, R, R) to features."""
        features: Tensor = self.block(F.hardswish(whole(normalize, self.bn, self.conv(images))), normalize)
        return features


class ElasticExit(nn.Module):
    """An exit of the super-network; only the normalisation is elastic."""

    def __init__(self, shape: ExitShape, classes: int, dropout: float) -> None:
        """Hold the weights."""
        super().__init__()
        self.expand = nn.Conv2d(shape.in_channels, shape.expand_channels, 1, bias=False)
        self.expand_bn = ElasticBatchNorm(shape.expand_channels)
        self.mix = nn.Linear(shape.expand_channels, shape.mix_channels, bias=False)
        self.dropout = dropout
        self.classifier = nn.Linear(shape.mix_channels, classes)

    def forward(self, x: Tensor, normalize: Normalize) -> Tensor:
        """Map features (N, C, H, W) to logits (N, classes)."""
        y = F.hardswish(whole(normalize, self.expand_bn, pointwise(x, self.expand.weight)))
        y = F.hardswish(self.mix(y.mean((2, 3))))
        logits: Tensor = self.classifier(F.dropout(y, self.dropout, self.training))
        return logits
