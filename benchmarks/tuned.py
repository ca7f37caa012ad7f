"""A network made by hand that is fine-tuned as a run fine-tunes those that it returns, for the benchmarks of that."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch
from torch.optim import Optimizer

from nat2.data.dataset import Dataset, Split
from nat2.data.settings import Augmentation
from nat2.data.transform import Pipeline, ResizedImages
from nat2.pipeline.context import pipeline_of
from nat2.pipeline.pretrained import begin_with
from nat2.runs.plan import RunPlan
from nat2.seeds import torch_generator
from nat2.shipped import DEFAULT
from nat2.space import Arch, Layer, Macro
from nat2.supernet import StaticNetwork, SuperNetwork, calibrate, extract
from nat2.supernet.static import channels_last
from nat2.training.lesson import Lesson, answers_of, measure, optimizer_of
from nat2.training.optimise import Schedule
from nat2.training.settings import FinetuneSettings

Shape = tuple[int, int, Layer]
"""How many stages, how deep each, and their layers."""
Result = TypeVar("Result")
CALIBRATION = 256  # images
_WARMUP = 0.05  # of the steps


def timed(work: Callable[[], Result]) -> tuple[Result, float]:
    """What it returns, and its processor seconds."""
    began = time.process_time()
    result = work()
    return result, time.process_time() - began


def arch_of(macro: Macro, resolution: int, shape: Shape) -> Arch:
    """The architecture of a shape."""
    stages, depth, layer = shape
    return Arch(resolution=resolution, width=macro.width, stages=((layer,) * depth,) * stages)


@dataclass(frozen=True)
class Setting:
    """What a network is trained with, besides its shape."""

    purpose: tuple[str, ...]
    """Decides the random weights, with the seed of the run."""
    steps: int
    trained: bool = True
    """Begin with the weights that come with nat2, not with random ones."""
    finetune: FinetuneSettings = field(default_factory=FinetuneSettings)
    augmentation: Augmentation | None = None
    """By default that of the run."""


@dataclass(frozen=True)
class Tuning:
    """A network, and what trains it on the training and validation images."""

    network: StaticNetwork
    pipeline: Pipeline
    dataset: Dataset
    images: Split
    settings: FinetuneSettings
    lesson: Lesson
    schedule: Schedule
    optimizer: Optimizer

    @staticmethod
    def of(plan: RunPlan, dataset: Dataset, shape: Shape, setting: Setting) -> Tuning:
        """Make the network, with statistics of the training images."""
        (macro,), resolution, config = plan.macros, plan.space.resolutions[-1], plan.config
        augmentation = setting.augmentation or config.augmentation
        pipeline = pipeline_of(replace(config, augmentation=augmentation), dataset)
        images = dataset.train.joined(dataset.val)
        weights = SuperNetwork(macro, generator=torch_generator(config.seed, *setting.purpose)).eval()
        if setting.trained:
            begin_with(weights, DEFAULT.name)
        arch = arch_of(macro, resolution, shape)
        some = ResizedImages(images.part(torch.linspace(0, len(images) - 1, CALIBRATION).long()), pipeline)
        network = channels_last(extract(weights, arch, calibrate(weights, arch, some.batches(resolution))))
        network.requires_grad_(True)
        settings = setting.finetune.settled(len(images))
        lesson = Lesson.of(pipeline, settings, config.seed, len(images), None)
        schedule = Schedule(lesson.rate, setting.steps, round(_WARMUP * setting.steps), 0.1 * lesson.rate)
        return Tuning(network, pipeline, dataset, images, settings, lesson, schedule, optimizer_of(network, settings))

    def train(self, steps: range, *, part: int = 0) -> None:
        """Some of the steps."""
        self.lesson.train(self.network, self.optimizer, self.images, self.schedule, steps=steps, part=part)

    def accuracy(self, network: StaticNetwork | None = None) -> float:
        """Share of the test images that the network, or another one, classifies rightly."""
        test = ResizedImages(self.dataset.test, self.pipeline)
        return measure(answers_of(network or self.network, test), test.labels, self.settings)[1]
