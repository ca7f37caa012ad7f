"""Elastic layers: the weights of the largest choice, of which each forward pass uses the slice it needs.

Nothing here remembers which choice is active: kernel size and expand ratio come with the call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import reduce
from typing import Any

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
from nat2.supernet.static import ACTIVATIONS, SqueezeExcite, pool

EPSILON = 1e-5

Statistics = Mapping[str, tuple[Tensor, Tensor]]
"""Mean and variance of every batch norm that an architecture uses, by the module's path."""


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


Normalize = Callable[[ElasticBatchNorm, Tensor], Tensor]
"""How a forward pass normalises: takes the batch norm and its input, gives its output."""


def normalize_by_batch(norm: ElasticBatchNorm, x: Tensor) -> Tensor:
    """Use the batch's own statistics, as in training; stores nothing."""
    c = x.shape[1]
    return F.batch_norm(x, None, None, norm.weight[:c], norm.bias[:c], training=True, eps=EPSILON)


def normalize_by_joint_batch(add: Callable[[Tensor], Tensor]) -> Normalize:
    """Use the statistics of a batch that is divided among processes, as if it were not; `add` sums over them."""

    def normalize(norm: ElasticBatchNorm, x: Tensor) -> Tensor:
        c = x.shape[1]
        y: Tensor = _JointBatchNorm.apply(x, norm.weight[:c], norm.bias[:c], add)  # type: ignore[no-untyped-call]
        return y

    return normalize


class _JointBatchNorm(torch.autograd.Function):
    """Batch norm over the images of all processes: one exchange of sums forward, one backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, add: Callable[[Tensor], Tensor]) -> Tensor:
        var, mean = (each.double() for each in torch.var_mean(x.float(), (0, 2, 3), correction=0))
        count = mean.new_full((1,), x.numel() / x.shape[1])
        # In double precision, because a mean that is large beside the deviation would swallow it.
        sums = add(torch.cat([count * mean, count * (var + mean.square()), count]))
        mean, square = (sums[:-1] / sums[-1]).chunk(2)
        var = (square - mean.square()).clamp_(min=0).float()
        mean, count = mean.float(), sums[-1].float()
        ctx.save_for_backward(x, weight, mean, (var + EPSILON).rsqrt(), count)
        ctx.add = add
        return F.batch_norm(x, mean, var, weight, bias, eps=EPSILON)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight, mean, scale, count = ctx.saved_tensors
        gradient = gradients[0].float()
        normalized = (x.float() - mean.view(1, -1, 1, 1)) * scale.view(1, -1, 1, 1)
        by_bias, by_weight = gradient.sum((0, 2, 3)), (gradient * normalized).sum((0, 2, 3))
        # The gradients of weight and bias stay this process's: they are added with all others after the pass.
        bias_mean, weight_mean = (ctx.add(torch.cat([by_bias, by_weight])) / count).chunk(2)
        inner = gradient - bias_mean.view(1, -1, 1, 1) - normalized * weight_mean.view(1, -1, 1, 1)
        by_x = inner * (weight * scale).view(1, -1, 1, 1)
        return by_x.to(x.dtype), by_weight, by_bias, None


def normalize_by_stored(norm: ElasticBatchNorm, x: Tensor) -> Tensor:
    """Use the leading slice of the statistics that came with the weights."""
    c = x.shape[1]
    mean, var = norm.running_mean[:c], norm.running_var[:c]
    return F.batch_norm(x, mean, var, norm.weight[:c], norm.bias[:c], eps=EPSILON)


def normalize_by(statistics: Statistics) -> Normalize:
    """Use the given statistics, those of `calibrate`."""

    def normalize(norm: ElasticBatchNorm, x: Tensor) -> Tensor:
        mean, var = statistics[norm.path]
        c = x.shape[1]
        return F.batch_norm(x, mean, var, norm.weight[:c], norm.bias[:c], eps=EPSILON)

    return normalize


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

    def kernel(self, size: int, channels: int) -> Tensor:
        """The kernels of a size for the leading channels, shape (channels, 1, size, size)."""
        if size == MAX_KERNEL:
            return self.weight[:channels]
        matrix: Tensor = self.matrix_7to5
        if size == 3:  # one map in place of two: the rows of the first that the second reads
            matrix = self.matrix_5to3 @ matrix.view(5, 5, 25)[1:-1, 1:-1].reshape(9, 25)
        centre = self.weight[:channels, 0, 1:-1, 1:-1].reshape(channels, 25)
        return F.linear(centre, matrix).view(channels, 1, size, size)

    def forward(self, x: Tensor, size: int) -> Tensor:
        """Convolve (N, C, H, W) with kernels of `size`."""
        return depthwise(x, self.kernel(size, x.shape[1]), stride=self.stride)


class ElasticSqueezeExcite(SqueezeExcite):
    """Squeeze-and-excite on the leading channels, with as many hidden units as they ask for."""

    def forward(self, x: Tensor) -> Tensor:
        """Gate `x`, shape (N, C, H, W)."""
        c = x.shape[1]
        s = squeeze_channels(c)
        assert self.reduce.bias is not None
        assert self.expand.bias is not None
        hidden = F.conv2d(x.mean((2, 3), keepdim=True), self.reduce.weight[:s, :c], self.reduce.bias[:s])
        gate = F.conv2d(F.relu(hidden), self.expand.weight[:c, :s], self.expand.bias[:c])
        return x * F.hardsigmoid(gate)


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
        """Map (N, in, H, W) to (N, out, H / stride, W / stride) by the chosen kernel and expand ratio."""
        mid = self.shape.mid_channels(layer.expand)
        activate = ACTIVATIONS[self.shape.activation]
        y = activate(normalize(self.expand_bn, F.conv2d(x, self.expand.weight[:mid])))
        y = activate(normalize(self.depthwise_bn, self.depthwise(y, layer.kernel)))
        if self.se is not None:
            y = self.se(y)
        y = normalize(self.project_bn, F.conv2d(y, self.project.weight[:, :mid]))
        return x + y if self.shape.residual else y


class ElasticParallelBlocks(nn.Module):
    """Up to three blocks on the same input, their outputs summed; only the inverted bottleneck is elastic in itself."""

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
        """Map (N, in, H, W) to (N, out, H / stride, W / stride) by the active blocks."""
        return reduce(torch.add, self._outputs(x, layer, normalize))

    def _outputs(self, x: Tensor, layer: Layer, normalize: Normalize) -> Iterator[Tensor]:
        activate = ACTIVATIONS[self.shape.activation]
        if layer.blocks & MBCONV:
            yield self.mbconv(x, layer, normalize)
        if layer.blocks & CONVOLUTION:
            yield activate(normalize(self.conv_bn, self.conv(x)))
        if layer.blocks & TRANSFORMATION:
            yield activate(normalize(self.transform_bn, self.transform(pool(x, self.shape.stride))))


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
        y = ACTIVATIONS[self.activation](normalize(self.depthwise_bn, self.depthwise(x)))
        return x + normalize(self.project_bn, self.project(y))


class ElasticStem(nn.Module):
    """First convolution and static block; nothing in it is elastic but how it normalises."""

    def __init__(self, macro: Macro) -> None:
        """Hold the weights for the channels and width of `macro`."""
        super().__init__()
        self.conv = nn.Conv2d(macro.channels, macro.stem_channels, 3, macro.stem_stride, 1, bias=False)
        self.bn = ElasticBatchNorm(macro.stem_channels)
        self.block = FirstBlock(macro.first_shape)

    def forward(self, images: Tensor, normalize: Normalize) -> Tensor:
        """Map images (N, channels, R, R) to features."""
        features: Tensor = self.block(F.hardswish(normalize(self.bn, self.conv(images))), normalize)
        return features


class ElasticExit(nn.Module):
    """An exit of the super-network; nothing in it is elastic but how it normalises."""

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
        y = F.hardswish(normalize(self.expand_bn, self.expand(x)))
        y = F.hardswish(self.mix(y.mean((2, 3))))
        logits: Tensor = self.classifier(F.dropout(y, self.dropout, self.training))
        return logits
