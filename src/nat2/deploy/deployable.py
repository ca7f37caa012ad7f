"""A network as it is shipped: images of values 0..1 in, logits out, of all exits or of the first confident one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from nat2.deploy.anytime import confidence
from nat2.deploy.description import describe
from nat2.errors import CheckpointError, Nat2Error
from nat2.files import load_tensors
from nat2.space.arch import Arch
from nat2.space.macro import Macro
from nat2.supernet.checkpoint import load_weights
from nat2.supernet.static import StaticNetwork, channels_last
from nat2.validation import user_path


class Deployable(nn.Module):
    """A network that takes images of values 0..1 and normalises them itself."""

    mean: Tensor
    std: Tensor
    weights: Tensor

    def __init__(
        self,
        network: StaticNetwork,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        weights: Sequence[float] = (1.0,),
    ) -> None:
        """Wrap a network with the mean and deviation of its training images and the weights of its exits."""
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))
        self.register_buffer("weights", torch.tensor(weights) / sum(weights))

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, channels, R, R) of values 0..1 to logits (N, classes), the weighted mean over the exits."""
        logits: Tensor = self.network(self.normalize(images))
        return torch.einsum("enc,e->nc", logits, self.weights) if logits.dim() == 3 else logits

    def normalize(self, images: Tensor) -> Tensor:
        """Images normalised as in training."""
        return (images - self.mean) / self.std

    @torch.no_grad()
    def anytime(self, images: Tensor, *, threshold: float) -> tuple[Tensor, Tensor]:
        """Answer with the first exit that is confident enough; nothing behind it is computed.

        Args:
            images: Shape (N, channels, R, R), values 0..1.
            threshold: The least confidence, 0..1, of the joint answer of the exits so far; above 1 all are computed.

        Returns:
            Logits (N, classes), and the number of the exit that answered (N,).
        """
        logits = images.new_empty(len(images), self.network.macro.classes)
        answered_by = torch.zeros(len(images), dtype=torch.int64, device=images.device)
        waiting = torch.arange(len(images), device=images.device)
        total, weight = images.new_zeros(()), 0.0
        x = self.network.stem(self.normalize(images))
        for number in range(1, len(self.network.stages) + 1):
            x = self.network.run_stage(number, x)
            if number not in self.network.exit_numbers:
                continue
            share = self.weights[self.network.exit_numbers.index(number)]
            total, weight = total + share * self.network.exits[str(number)](x), weight + float(share)
            answers = total / weight
            sure = confidence(answers) >= threshold
            if number == self.network.exit_numbers[-1]:
                sure[:] = True
            logits[waiting[sure]] = answers[sure]
            answered_by[waiting[sure]] = number
            x, total, waiting = x[~sure], total[~sure], waiting[~sure]
            if not len(waiting):
                break
        return logits, answered_by


def load(folder: Path | str) -> Deployable:
    """Load an exported network in evaluation mode; the super-network is not needed.

    Raises:
        CheckpointError: a file is missing or damaged.
    """
    folder = user_path(folder, "NETWORK")
    description = describe(folder)
    try:
        macro, arch = Macro(**description["macro"]), Arch.from_json(description["arch"])
        network = StaticNetwork(macro, arch, exits=tuple(description["exits"]))
    except (Nat2Error, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder / 'arch.json'} is damaged ({error}); export the network again") from error
    tensors, _ = load_tensors(folder / "model.safetensors")
    channels = [0.0] * macro.channels
    deployable = Deployable(network, channels, channels, weights=[1.0] * len(network.exit_numbers))
    load_weights(deployable, tensors)
    return channels_last(deployable).eval()
