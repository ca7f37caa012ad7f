"""The super-network: OFAMobileNetV3 with OFAv2's early exits, dense skips and parallel blocks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from nat2.errors import ArchError, ConfigError
from nat2.space.arch import Arch, Layer
from nat2.space.macro import Macro
from nat2.supernet.layers import (
    ElasticBatchNorm,
    ElasticDepthwise,
    ElasticExit,
    ElasticMBConv,
    ElasticParallelBlocks,
    ElasticStem,
    Normalize,
    normalize_by_batch,
)
from nat2.supernet.slices import Part, sliced
from nat2.supernet.static import dense_sum


class SuperNetwork(nn.Module):
    """All sub-networks of one width multiplier in one set of weights.

    ``network(images, arch)`` is a pure function of weights, images and architecture: no call changes the network,
    so several architectures can be evaluated on it at once.
    """

    def __init__(self, macro: Macro, *, dropout: float = 0.0, generator: torch.Generator | None = None) -> None:
        """Build with random weights drawn from `generator`.

        Args:
            macro: The macro-architecture, with its switches for early exits, dense skips and parallel blocks.
            dropout: Dropout probability in front of each classifier, in training mode.
            generator: Source of the initial weights (He, fan-out); torch's global one by default.
        """
        super().__init__()
        self.macro = macro
        self.stem = ElasticStem(macro)
        build = ElasticParallelBlocks if macro.parallel_blocks else ElasticMBConv
        self.stages = nn.ModuleList(nn.ModuleList(build(shape) for shape in shapes) for shapes in macro.layer_shapes)
        self.exits = nn.ModuleDict(
            {str(n): ElasticExit(macro.exit_shape(n), macro.classes, dropout) for n in macro.exits}
        )
        for path, module in self.named_modules():
            if isinstance(module, ElasticBatchNorm):
                module.path = path
        initialize(self, generator)

    def forward(
        self,
        images: Tensor,
        arch: Arch,
        *,
        normalize: Normalize = normalize_by_batch,
        exits: Sequence[int] | None = None,
    ) -> Tensor:
        """Run one sub-network.

        Args:
            images: Shape (N, channels, R, R).
            arch: The sub-network; its resolution is ignored.
            normalize: How batch norms normalise; by default with the batch's statistics.
            exits: Exits to compute (counted from 1, none beyond the architecture's) instead of its own.

        Returns:
            Logits of shape (N, classes), or (exits, N, classes) if `exits` is given, in ascending order.

        Raises:
            ArchError: it is not a sub-network of this network, or does not reach an exit.
        """
        wanted = self.macro.check(arch, exits)
        logits = []
        executed = arch.stages[: max(wanted)]
        parts = sliced(self._parts(executed, wanted))
        x = self.stem(images, normalize, parts)
        for number, (stage, layers) in enumerate(zip(self.stages, executed, strict=False), start=1):
            outputs: list[Tensor] = []
            for module, layer in zip(stage, layers, strict=False):  # type: ignore[call-overload]
                x = module(x, layer, normalize, parts)
                if self.macro.dense_skips:
                    outputs.append(x)
                    x = dense_sum(outputs)
            if number in wanted:
                logits.append(self.exits[str(number)](x, normalize, parts))
        return logits[0] if exits is None else torch.stack(logits)

    def _parts(self, executed: Sequence[Sequence[Layer]], wanted: Sequence[int]) -> list[Part]:
        """The weights that a forward pass uses, in the order in which it uses them."""
        found = self.stem.parts()
        for number, (stage, layers) in enumerate(zip(self.stages, executed, strict=False), start=1):
            for module, layer in zip(stage, layers, strict=False):  # type: ignore[call-overload]
                found += module.parts(layer)
            if number in wanted:
                found += self.exits[str(number)].parts()  # type: ignore[operator]
        return found


class SuperNetworks(nn.Module):
    """Super-networks of different widths; the architecture's width selects one."""

    def __init__(self, networks: Iterable[SuperNetwork]) -> None:
        """Hold them.

        Raises:
            ConfigError: two have the same width.
        """
        super().__init__()
        networks = list(networks)
        self.by_width = nn.ModuleDict({_width_key(network.macro.width): network for network in networks})
        if len(self.by_width) < len(networks):
            raise ConfigError("super-networks that are searched together must have different widths")

    def __getitem__(self, width: float) -> SuperNetwork:
        """The super-network of a width multiplier.

        Raises:
            ArchError: there is none of this width.
        """
        if _width_key(width) not in self.by_width:
            widths = ", ".join(str(network.macro.width) for network in self)
            raise ArchError(f"there are super-networks of width {widths}; got {width}")
        network = self.by_width[_width_key(width)]
        assert isinstance(network, SuperNetwork)
        return network

    def __iter__(self) -> Iterator[SuperNetwork]:
        """In the order in which they were given."""
        return (network for network in self.by_width.values() if isinstance(network, SuperNetwork))

    def forward(
        self,
        images: Tensor,
        arch: Arch,
        *,
        normalize: Normalize = normalize_by_batch,
        exits: Sequence[int] | None = None,
    ) -> Tensor:
        """Run one sub-network on the super-network of its width, see `SuperNetwork.forward`."""
        logits: Tensor = self[arch.width](images, arch, normalize=normalize, exits=exits)
        return logits


def _width_key(width: float) -> str:
    return f"w{float(width)}".replace(".", "_")  # torch allows no dots in module names


@torch.no_grad()
def initialize(network: nn.Module, generator: torch.Generator | None = None) -> None:
    """Draw weights as OFA does: convolutions He fan-out, linear layers uniform in 1 / sqrt(inputs), biases 0."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | ElasticDepthwise):
            out_channels = module.weight.shape[0]
            # PyTorch's fan-out ignores groups, and so does OFA's: k * k * out channels.
            deviation = (2 / (module.weight[0, 0].numel() * out_channels)) ** 0.5
            module.weight.normal_(0, deviation, generator=generator)
        elif isinstance(module, nn.Linear):
            bound = module.in_features**-0.5
            module.weight.uniform_(-bound, bound, generator=generator)
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            module.bias.zero_()
