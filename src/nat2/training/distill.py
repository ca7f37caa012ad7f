"""Losses: several exits at once, and distillation from the ensemble of a teacher's exits."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nat2.data.transfer import to_device
from nat2.supernet.slices import autocast_type
from nat2.supernet.static import StaticNetwork
from nat2.training.graphs import Replayed
from nat2.training.settings import Ramp


def exit_weights(ramp: Ramp, count: int) -> tuple[Tensor, Tensor]:
    """Weights of the losses and of the outputs of `count` exits, exit 1 first; each sums to 1 (AEP)."""
    ascending = torch.arange(1, count + 1) / (count * (count + 1) / 2)
    descending = ascending.flip(0)
    if ramp == "UNIF":
        uniform = torch.full((count,), 1 / count)
        return uniform, uniform
    losses = ascending if ramp == "ASC" else descending
    outputs = descending if ramp == "DESC" else ascending
    return losses, outputs


def ensemble(logits: Tensor, weights: Tensor) -> Tensor:
    """The exits' joint answer: the weighted sum of raw logits, shape (exits, N, classes) to (N, classes)."""
    return torch.einsum("enc,e->nc", logits, to_device(weights.to(logits.dtype), logits.device))


def joint_accuracy(logits: Tensor, labels: Tensor, weights: Tensor) -> float:
    """Share of images (0..1) that the exits together classify rightly; logits of shape (exits, N, classes)."""
    return int((ensemble(logits, weights).argmax(1) == labels).sum()) / len(labels)


def joint_loss(
    logits: Tensor,
    labels: Tensor,
    weights: Tensor,
    *,
    targets: Tensor | None = None,
    ratio: float = 1.0,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Weighted sum of the exits' losses, each as of `distillation_loss`; logits of shape (exits, N, classes)."""
    losses = [distillation_loss(each, labels, targets, ratio=ratio, label_smoothing=label_smoothing) for each in logits]
    return torch.stack(losses) @ to_device(weights.to(logits.dtype), logits.device)


def distillation_loss(
    logits: Tensor,
    labels: Tensor,
    targets: Tensor | None,
    *,
    ratio: float = 1.0,
    label_smoothing: float = 0.0,
) -> Tensor:
    """``ratio * KD + CE``, where KD is the cross entropy with the teacher's probabilities (temperature 1).

    Args:
        logits: The student's, shape (N, classes).
        labels: Shape (N,).
        targets: The teacher's probabilities, shape (N, classes); None for no distillation.
        ratio: Weight of the distillation.
        label_smoothing: Smoothing of the labels' own cross entropy.
    """
    loss = F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
    if targets is None:
        return loss
    distilled = F.cross_entropy(logits, targets)
    return loss + (distilled if ratio == 1 else ratio * distilled)


class Teacher:
    """A fixed plain network whose exits answer together (ENS-KD), or whose only exit answers (KD)."""

    def __init__(self, network: StaticNetwork, ramp: Ramp) -> None:
        """Wrap a calibrated network."""
        self.network = network.eval().requires_grad_(False)
        self._device = next(network.parameters()).device
        self._weights = exit_weights(ramp, len(network.exit_numbers))[1].to(self._device)
        self._converted: dict[torch.dtype, StaticNetwork] = {}
        self.replayed = Replayed(self.__call__)
        """The same as a CUDA graph."""

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Probabilities, shape (N, classes)."""
        kind = autocast_type(self._device)
        logits = self.network(images) if kind is None else self._in(kind)(images)
        if logits.dim() == 3:
            logits = ensemble(logits, self._weights)
        probabilities: Tensor = logits.softmax(1)
        return probabilities

    def _in(self, kind: torch.dtype) -> StaticNetwork:
        """A copy whose weights have the type that autocast would convert them to in every pass."""
        if kind not in self._converted:
            network = copy.deepcopy(self.network)
            for module in network.modules():
                if isinstance(module, nn.Conv2d | nn.Linear):
                    module.to(kind)
            self._converted[kind] = network
        return self._converted[kind]
