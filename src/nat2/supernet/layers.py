"""Elastic layers: the weights of the largest choice, of which each forward pass uses a slice.

No layer keeps track of the active choice: kernel size and expand ratio are arguments of the call. `parts` says which
slices of its weights a layer needs, `forward` takes them in the same order from an iterator: the network makes those of
all its layers at once (`nat2.supernet.slices`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
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
from nat2.supernet.slices import Part, first
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

    def parts(self, channels: int | None = None) -> list[Part]:
        """Scale and shift of the leading channels, by default of all."""
        index = () if channels is None else first(channels)
        return [Part(self.weight, index, exact=True), Part(self.bias, index, exact=True)]


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

    def parts(self, size: int, channels: int) -> list[Part]:
        """What kernels of a size are computed from: the weights, or their centre and the maps to smaller kernels."""
        if size == MAX_KERNEL:
            return [Part(self.weight, first(channels))]
        found = [Part(self.weight, (slice(channels), 0, slice(1, -1), slice(1, -1))), Part(self.matrix_7to5)]
        return found if size == 5 else [*found, Part(self.matrix_5to3)]

    def kernel(self, size: int, parts: Iterator[Tensor]) -> Tensor:
        """The kernels of a size, shape (channels, 1, size, size)."""
        weight = next(parts)
        if size == MAX_KERNEL:
            return weight
        matrix = next(parts)
        if size == 3:  # one map instead of two, restricted to the rows of the first that the second reads
            matrix = next(parts) @ matrix.view(5, 5, 25)[1:-1, 1:-1].reshape(9, 25)
        return F.linear(weight.reshape(len(weight), 25), matrix).view(len(weight), 1, size, size)

    def forward(self, x: Tensor, size: int, parts: Iterator[Tensor]) -> Tensor:
        """Convolve (N, C, H, W) with kernels of `size`."""
        return depthwise(x, self.kernel(size, parts), stride=self.stride)


class ElasticSqueezeExcite(SqueezeExcite):
    """Squeeze-and-excite on the leading channels, with the matching number of hidden units."""

    def parts(self, channels: int) -> list[Part]:
        """The weights for this many channels."""
        hidden = squeeze_channels(channels)
        assert self.reduce.bias is not None
        assert self.expand.bias is not None
        return [
            Part(self.reduce.weight, first(hidden, channels)),
            Part(self.reduce.bias, first(hidden)),
            Part(self.expand.weight, first(channels, hidden)),
            Part(self.expand.bias, first(channels)),
        ]

    def gate(self, x: Tensor, parts: Iterator[Tensor]) -> Tensor:
        """Gate `x`, shape (N, C, H, W)."""
        hidden = F.relu(pointwise(x.mean((2, 3), keepdim=True), next(parts), next(parts)))
        return x * F.hardsigmoid(pointwise(hidden, next(parts), next(parts)))


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

    def parts(self, layer: Layer) -> list[Part]:
        """The weights for the given kernel and expand ratio."""
        mid = self.shape.mid_channels(layer.expand)
        return [
            Part(self.expand.weight, first(mid)),
            *self.expand_bn.parts(mid),
            *self.depthwise.parts(layer.kernel, mid),
            *self.depthwise_bn.parts(mid),
            *(self.se.parts(mid) if self.se is not None else []),
            Part(self.project.weight, (slice(None), slice(mid))),
            *self.project_bn.parts(),
        ]

    def forward(self, x: Tensor, layer: Layer, normalize: Normalize, parts: Iterator[Tensor]) -> Tensor:
        """Map (N, in, H, W) to (N, out, H / stride, W / stride) with the given kernel and expand ratio."""
        activate = ACTIVATIONS[self.shape.activation]
        y = activate(normalize(self.expand_bn, pointwise(x, next(parts)), next(parts), next(parts)))
        y = self.depthwise(y, layer.kernel, parts)
        y = activate(normalize(self.depthwise_bn, y, next(parts), next(parts)))
        if self.se is not None:
            y = self.se.gate(y, parts)
        y = normalize(self.project_bn, pointwise(y, next(parts)), next(parts), next(parts))
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

    def parts(self, layer: Layer) -> list[Part]:
        """The weights of the active blocks."""
        found: list[Part] = []
        if layer.blocks & MBCONV:
            found += self.mbconv.parts(layer)
        if layer.blocks & CONVOLUTION:
            found += [Part(self.conv.weight), *self.conv_bn.parts()]
        if layer.blocks & TRANSFORMATION:
            if isinstance(self.transform, nn.Conv2d):
                assert self.transform.bias is not None
                found += [Part(self.transform.weight), Part(self.transform.bias)]
            found += self.transform_bn.parts()
        return found

    def forward(self, x: Tensor, layer: Layer, normalize: Normalize, parts: Iterator[Tensor]) -> Tensor:
        """Map (N, in, H, W) to (N, out, H / stride, W / stride) with the active blocks."""
        return reduce(torch.add, self._outputs(x, layer, normalize, parts))

    def _outputs(self, x: Tensor, layer: Layer, normalize: Normalize, parts: Iterator[Tensor]) -> Iterator[Tensor]:
        activate = ACTIVATIONS[self.shape.activation]
        if layer.blocks & MBCONV:
            yield self.mbconv(x, layer, normalize, parts)
        if layer.blocks & CONVOLUTION:
            y = F.conv2d(x, next(parts), stride=self.shape.stride)
            yield activate(normalize(self.conv_bn, y, next(parts), next(parts)))
        if layer.blocks & TRANSFORMATION:
            y = pool(x, self.shape.stride)
            if isinstance(self.transform, nn.Conv2d):
                y = F.conv2d(y, next(parts), next(parts))
            yield activate(normalize(self.transform_bn, y, next(parts), next(parts)))


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

    def parts(self) -> list[Part]:
        """All weights."""
        depthwise = [Part(self.depthwise.weight), *self.depthwise_bn.parts()]
        return [*depthwise, Part(self.project.weight), *self.project_bn.parts()]

    def forward(self, x: Tensor, normalize: Normalize, parts: Iterator[Tensor]) -> Tensor:
        """Map (N, C, H, W) to the same shape."""
        y = F.conv2d(x, next(parts), padding=1, groups=x.shape[1])
        y = ACTIVATIONS[self.activation](normalize(self.depthwise_bn, y, next(parts), next(parts)))
        return x + normalize(self.project_bn, pointwise(y, next(parts)), next(parts), next(parts))


class ElasticStem(nn.Module):
    """First convolution and static block; only the normalisation is elastic."""

    def __init__(self, macro: Macro) -> None:
        """Hold the weights for the channels and width of `macro`."""
        super().__init__()
        self.conv = nn.Conv2d(macro.channels, macro.stem_channels, 3, macro.stem_stride, 1, bias=False)
        self.bn = ElasticBatchNorm(macro.stem_channels)
        self.block = FirstBlock(macro.first_shape)

    def parts(self) -> list[Part]:
        """All weights."""
        return [Part(self.conv.weight), *self.bn.parts(), *self.block.parts()]

    def forward(self, images: Tensor, normalize: Normalize, parts: Iterator[Tensor]) -> Tensor:
        """Map images (N, channels, R, R) to features."""
        y = F.conv2d(images, next(parts), stride=self.conv.stride, padding=1)
        y = F.hardswish(normalize(self.bn, y, next(parts), next(parts)))
        features: Tensor = self.block(y, normalize, parts)
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

    def parts(self) -> list[Part]:
        """All weights."""
        layers = [self.mix.weight, self.classifier.weight, self.classifier.bias]
        return [Part(self.expand.weight), *self.expand_bn.parts(), *map(Part, layers)]

    def forward(self, x: Tensor, normalize: Normalize, parts: Iterator[Tensor]) -> Tensor:
        """Map features (N, C, H, W) to logits (N, classes)."""
        y = F.hardswish(normalize(self.expand_bn, pointwise(x, next(parts)), next(parts), next(parts)))
        y = F.hardswish(F.linear(y.mean((2, 3)), next(parts)))
        return F.linear(F.dropout(y, self.dropout, self.training), next(parts), next(parts))
