"""Networks whose weights and statistics are random, so that every part of them matters to the answer."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import torch
from google.protobuf.message import Message

from nat2.deploy.deployable import Deployable
from nat2.space import Arch, Macro, SearchSpace
from nat2.supernet import StaticNetwork


def random_network(macro: Macro, arch: Arch, *, exits: tuple[int, ...] | None = None, seed: int = 0) -> Deployable:
    """A network with its normalisation, its exits unequally weighted."""
    generator = torch.Generator().manual_seed(seed)
    network = StaticNetwork(macro, arch, exits=exits)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 2, generator=generator)
            elif "bn." in name and name.endswith("weight"):
                tensor.uniform_(0.5, 1.5, generator=generator)
            elif tensor.dim() > 1:
                tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5, generator=generator)
            elif tensor.is_floating_point():
                tensor.normal_(0, 0.3, generator=generator)
    mean, std = [0.4, 0.5, 0.6, 0.7, 0.3][: macro.channels], [0.2, 0.3, 0.25, 0.4, 0.3][: macro.channels]
    weights = range(1, len(network.exit_numbers) + 1)
    return Deployable(network, mean, std, weights=[*map(float, weights)]).eval()


def draw(macro: Macro, resolution: int, *, seed: int) -> Arch:
    """A network of a super-network."""
    space = SearchSpace.of(macro, (resolution,))
    return space.decode(np.random.default_rng(seed).integers(space.lower, space.upper + 1))


def images_for(model: Deployable, count: int) -> torch.Tensor:
    """Random ones, the same for every call."""
    side = model.network.arch.resolution
    return torch.rand(count, model.mean.shape[1], side, side, generator=torch.Generator().manual_seed(count))


def strings(message: Message) -> Iterator[str]:
    """Every text in an ONNX file, and raw bytes that are text."""
    for field, value in message.ListFields():
        values = value if field.is_repeated else [value]
        for each in values:
            if isinstance(each, Message):
                yield from strings(each)
            elif isinstance(each, str):
                yield each


def operators(model: onnx.ModelProto) -> set[str]:
    """Types of the operators of a model."""
    return {node.op_type for node in model.graph.node}
