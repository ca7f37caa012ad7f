"""The plain network of one architecture: ordinary torch modules, no weight sharing.

Its modules have the same names as the super-network's: a tensor here is a slice of the tensor of that name there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import reduce
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nat2.space.arch import CONVOLUTION, MBCONV, TRANSFORMATION, Arch, Layer
from nat2.space.macro import Activation, ExitShape, LayerShape, Macro, squeeze_channels
from nat2.supernet.depthwise import depthwise
from nat2.supernet.pointwise import pointwise

AnyModule = TypeVar("AnyModule", bound=nn.Module)

# In place where autograd allows it: the preceding batch norm does not need its output.
ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {"relu": F.relu_, "hswish": F.hardswish}


def channels_last(module: AnyModule, device: torch.device | None = None) -> AnyModule:
    """Move a module to a device (its own by default) and lay its kernels out channels last: 2-8 times faster here."""
    module.to(device=device)
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return module


class BatchNorm(nn.BatchNorm2d):
    """Batch norm that does not count its batches.

    Torch increments ``num_batches_tracked`` in every training step, one kernel for each norm, and reads it only if the
    momentum is None.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (N, C, H, W)."""
        if self.momentum is None:
            return super().forward(x)
        mean, var = self.running_mean, self.running_var
        return F.batch_norm(x, mean, var, self.weight, self.bias, self.training, self.momentum, self.eps)


class SqueezeExcite(nn.Module):
    """Scale each channel by a gate computed from the means of all channels (reduction 4, h-sigmoid)."""

    def __init__(self, channels: int) -> None:
        """Build for `channels`."""
        super().__init__()
        squeeze = squeeze_channels(channels)
        self.reduce = nn.Conv2d(channels, squeeze, 1)
        self.expand = nn.Conv2d(squeeze, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Gate `x`, shape (N, C, H, W)."""
        hidden = F.relu(pointwise(x.mean((2, 3), keepdim=True), self.reduce.weight, self.reduce.bias))
        return x * F.hardsigmoid(pointwise(hidden, self.expand.weight, self.expand.bias))


class MBConv(nn.Module):
    """Inverted bottleneck: 1x1 expansion, depthwise convolution, squeeze-and-excite, 1x1 projection."""

    def __init__(self, shape: LayerShape, layer: Layer) -> None:
        """Build; an expand ratio of 1 has no expansion."""
        super().__init__()
        mid = shape.mid_channels(layer.expand)
        self.activation: Activation = shape.activation
        self.residual = shape.residual
        self.stride = shape.stride
        self.expand: nn.Module | None = None
        if layer.expand != 1:
            self.expand = nn.Conv2d(shape.in_channels, mid, 1, bias=False)
            self.expand_bn = BatchNorm(mid)
        self.depthwise = nn.Conv2d(mid, mid, layer.kernel, shape.stride, layer.kernel // 2, groups=mid, bias=False)
        self.depthwise_bn = BatchNorm(mid)
        self.se = SqueezeExcite(mid) if shape.squeeze_excite else None
        self.project = nn.Conv2d(mid, shape.out_channels, 1, bias=False)
        self.project_bn = BatchNorm(shape.out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in, H, W) to (N, out, H / stride, W / stride)."""
        activate = ACTIVATIONS[self.activation]
        y = x
        if self.expand is not None:
            y = activate(self.expand_bn(self.expand(y)))
        y = depthwise(y, self.depthwise.weight, stride=self.stride)
        y = activate(self.depthwise_bn(y))
        if self.se is not None:
            y = self.se(y)
        y = self.project_bn(self.project(y))
        result: Tensor = x + y if self.residual else y
        return result


class ParallelBlocks(nn.Module):
    """Up to three blocks on the same input, their outputs summed (OFAv2, parallel blocks).

    An inverted bottleneck; a 1x1 convolution; a transformation that only matches size and channels: max pooling where
    the layer has a stride, a 1x1 convolution with bias where channels change. Both of the latter end in batch norm and
    the stage's activation.
    """

    def __init__(self, shape: LayerShape, layer: Layer) -> None:
        """Build the active blocks."""
        super().__init__()
        channels = shape.in_channels, shape.out_channels
        self.shape = shape
        self.mbconv = MBConv(shape, layer) if layer.blocks & MBCONV else None
        self.conv: nn.Module | None = None
        if layer.blocks & CONVOLUTION:
            self.conv = nn.Conv2d(*channels, 1, shape.stride, bias=False)
            self.conv_bn = BatchNorm(shape.out_channels)
        self.transforms = bool(layer.blocks & TRANSFORMATION)
        if self.transforms:
            self.transform = nn.Conv2d(*channels, 1) if channels[0] != channels[1] else nn.Identity()
            self.transform_bn = BatchNorm(shape.out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in, H, W) to (N, out, H / stride, W / stride)."""
        return reduce(torch.add, self._outputs(x))

    def _outputs(self, x: Tensor) -> Iterator[Tensor]:
        activate = ACTIVATIONS[self.shape.activation]
        if self.mbconv is not None:
            yield self.mbconv(x)
        if self.conv is not None:
            yield activate(self.conv_bn(self.conv(x)))
        if self.transforms:
            yield activate(self.transform_bn(self.transform(pool(x, self.shape.stride))))


def pool(x: Tensor, stride: int) -> Tensor:
    """The largest of each `stride` x `stride` pixels, fewer at the border; `x` itself at stride 1."""
    return F.max_pool2d(x, stride, ceil_mode=True) if stride > 1 else x


class Stem(nn.Module):
    """First convolution and the static inverted bottleneck after it."""

    def __init__(self, macro: Macro) -> None:
        """Build for the channels and width of `macro`."""
        super().__init__()
        self.conv = nn.Conv2d(macro.channels, macro.stem_channels, 3, macro.stem_stride, 1, bias=False)
        self.bn = BatchNorm(macro.stem_channels)
        self.block = MBConv(macro.first_shape, Layer(3, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, channels, R, R) to features."""
        features: Tensor = self.block(F.hardswish(self.bn(self.conv(x))))
        return features


class Exit(nn.Module):
    """Classifier after a stage: 1x1 convolution, global pooling, 1x1 convolution, linear."""

    def __init__(self, shape: ExitShape, classes: int) -> None:
        """Build; the convolution after the pooling is a linear layer, which is the same function."""
        super().__init__()
        self.expand = nn.Conv2d(shape.in_channels, shape.expand_channels, 1, bias=False)
        self.expand_bn = BatchNorm(shape.expand_channels)
        self.mix = nn.Linear(shape.expand_channels, shape.mix_channels, bias=False)
        self.classifier = nn.Linear(shape.mix_channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map features (N, C, H, W) to logits (N, classes)."""
        y = F.hardswish(self.expand_bn(self.expand(x)))
        y = F.hardswish(self.mix(y.mean((2, 3))))
        logits: Tensor = self.classifier(y)
        return logits


def dense_sum(outputs: list[Tensor]) -> Tensor:
    """The features passed on after the last layer so far of a stage with dense skips, given every layer's output.

    The outputs of all layers except the last two are added: the residual of the last layer already includes the one
    before it (OFAv2, dense skip connections). With one or two layers nothing is added.
    """
    total = outputs[-1]
    for earlier in outputs[:-2]:
        total = total + earlier
    return total


def by_exit(logits: Tensor) -> Tensor:
    """Logits of one exit or of several, always of shape (exits, N, classes)."""
    return logits[None] if logits.dim() == 2 else logits


class StaticNetwork(nn.Module):
    """The network of one architecture, with its own exit or with several."""

    def __init__(self, macro: Macro, arch: Arch, *, exits: tuple[int, ...] | None = None) -> None:
        """Build with random weights; `exits` are counted from 1 and none lies beyond the architecture's.

        Raises:
            ArchError: there is no such network in the super-network, or it does not reach an exit.
        """
        super().__init__()
        self.macro = macro
        self.arch = arch
        self.exit_numbers = macro.check(arch, exits)
        build = ParallelBlocks if macro.parallel_blocks else MBConv
        self.stem = Stem(macro)
        self.stages = nn.ModuleList(
            nn.ModuleList(build(shape, layer) for shape, layer in zip(shapes, layers, strict=False))
            for shapes, layers in zip(macro.layer_shapes, arch.stages[: max(self.exit_numbers)], strict=False)
        )
        self.exits = nn.ModuleDict(
            {str(number): Exit(macro.exit_shape(number), macro.classes) for number in self.exit_numbers}
        )

    def forward(self, images: Tensor) -> Tensor:
        """Logits of shape (N, classes), or (exits, N, classes) if there are several exits."""
        logits = []
        x = self.stem(images)
        for number in range(1, len(self.stages) + 1):
            x = self.run_stage(number, x)
            if number in self.exit_numbers:
                logits.append(self.exits[str(number)](x))
        return logits[0] if len(logits) == 1 else torch.stack(logits)

    def run_stage(self, number: int, x: Tensor) -> Tensor:
        """Features behind stage `number` (from 1), given those before it."""
        outputs: list[Tensor] = []
        for layer in self.stages[number - 1]:  # type: ignore[attr-defined]
            x = layer(x)
            if self.macro.dense_skips:
                outputs.append(x)
                x = dense_sum(outputs)
        return x
