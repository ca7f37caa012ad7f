"""The building blocks of fine-tuning: some steps of one network, and the logits of its exits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from nat2.data.dataset import Split
from nat2.data.transfer import to_device
from nat2.data.transform import Pipeline, ResizedImages, training_batches
from nat2.errors import RunError
from nat2.seeds import numpy_generator, torch_generator
from nat2.supernet.static import StaticNetwork, by_exit
from nat2.training.distill import Teacher, exit_weights, joint_accuracy, joint_loss
from nat2.training.length import batch_size_for
from nat2.training.optimise import Schedule, match_layouts, mix, mixed_loss, read_epoch, set_learning_rate
from nat2.training.rate import rate_for
from nat2.training.settings import FinetuneSettings


@dataclass(frozen=True)
class Lesson:
    """What is taught, and how."""

    pipeline: Pipeline
    settings: FinetuneSettings
    seed: int
    batch_size: int
    teacher: Teacher | None = None

    @staticmethod
    def of(pipeline: Pipeline, settings: FinetuneSettings, seed: int, images: int, teacher: Teacher | None) -> Lesson:
        """For a number of training images; `teacher` is used only if its weight is not 0."""
        batch_size = batch_size_for(settings.batch_size, images)
        return Lesson(pipeline, settings, seed, batch_size, teacher if settings.kd_ratio else None)

    @property
    def rate(self) -> float:
        """The learning rate for this batch size."""
        return rate_for(self.settings.lr, self.batch_size, self.settings.optimizer)

    def train(
        self,
        network: StaticNetwork,
        optimizer: torch.optim.Optimizer,
        split: Split,
        schedule: Schedule,
        *,
        steps: range,
        part: int,
    ) -> float:
        """Train a network for some steps; their mean loss.

        Args:
            network: Changed in place; of several exits all are trained jointly.
            optimizer: Steps once a batch.
            split: The images.
            schedule: Learning rate by step.
            steps: Their numbers in the schedule.
            part: Names these steps among all others of the network; decides their random numbers.

        Raises:
            RunError: a loss or a weight is not finite.
        """
        pipeline, settings, teacher = self.pipeline, self.settings, self.teacher
        exits = network.exit_numbers if len(network.exit_numbers) > 1 else ()
        purpose: tuple[str | int, ...] = ("finetune", network.arch.key, *exits, part)
        crops, choices = torch_generator(self.seed, *purpose), numpy_generator(self.seed, *purpose)
        weights = to_device(exit_weights(settings.ramp, len(network.exit_numbers))[0], pipeline.device)
        order = training_batches(
            split, self.batch_size, torch_generator(self.seed, *purpose, "order"), steps=len(steps)
        )
        network.train()
        total = torch.zeros((), device=pipeline.device)
        for step, (pixels, labels) in zip(steps, split.batches(order), strict=True):
            images = pipeline.augmented(pixels, network.arch.resolution, crops)
            labels = to_device(labels, pipeline.device)
            images, kept, others = mix(images, labels, pipeline.augmentation.mixup, choices)
            loss_of = partial(
                joint_loss,
                by_exit(network(images)),
                weights=weights,
                targets=teacher(images) if teacher is not None else None,
                ratio=settings.kd_ratio,
                label_smoothing=settings.label_smoothing,
            )
            loss = mixed_loss(loss_of, labels, others, kept)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            match_layouts(network.parameters())
            set_learning_rate(optimizer, schedule(step))
            optimizer.step()
            total += loss.detach()
        network.eval()
        loss_sum, finite = read_epoch(total, network)
        mean = loss_sum / max(1, len(steps))
        if not math.isfinite(mean) or not finite:
            raise RunError(f"fine-tuning {network.arch.id} diverged (loss {mean}); try a smaller --finetune.lr")
        return mean


def optimizer_of(network: nn.Module, settings: FinetuneSettings) -> torch.optim.Optimizer:
    """The optimiser that the settings ask for; each step sets its learning rate."""
    if settings.optimizer == "sgd":
        return torch.optim.SGD(network.parameters(), lr=0.0, momentum=0.9, weight_decay=settings.decay)
    return torch.optim.AdamW(network.parameters(), lr=0.0, weight_decay=settings.decay)


@torch.no_grad()
def answers_of(network: StaticNetwork, images: ResizedImages) -> Tensor:
    """Logits of the images, shape (exits, N, classes)."""
    network.eval()
    return torch.cat([by_exit(network(batch)) for batch in images.batches(network.arch.resolution)], dim=1)


def measure(answers: Tensor, labels: Tensor, settings: FinetuneSettings) -> tuple[float, float]:
    """Joint cross entropy of the exits, and accuracy of their joint answer."""
    losses, outputs = exit_weights(settings.ramp, len(answers))
    return float(joint_loss(answers, labels, losses)), joint_accuracy(answers, labels, outputs)
