"""The largest network as a teacher, and the training images for batch-norm statistics."""

from __future__ import annotations

from nat2.data.dataset import Split
from nat2.data.transform import Pipeline, ResizedImages
from nat2.space.space import SearchSpace
from nat2.supernet.calibrate import calibrate
from nat2.supernet.extract import extract
from nat2.supernet.network import SuperNetwork
from nat2.training.distill import Teacher
from nat2.training.settings import ShrinkSettings


def largest_as_teacher(
    network: SuperNetwork, space: SearchSpace, split: Split, pipeline: Pipeline, settings: ShrinkSettings
) -> Teacher:
    """Extract the largest network with all its exits, its statistics calibrated at its own resolution."""
    exits = network.macro.exits
    images = ResizedImages(calibration_images(split, settings.calibration_images), pipeline)
    statistics = calibrate(network, space.largest, images.batches(space.largest.resolution), exits=exits)
    return Teacher(extract(network, space.largest, statistics, exits=exits), settings.ramp)


def calibration_images(split: Split, count: int) -> Split:
    """The training images for batch-norm statistics: the same evenly spread `count` on every call."""
    return split.spread(count)
