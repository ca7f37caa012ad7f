"""Trained networks without a search: one of the list, with a new classifier, for a training loop of your own."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from nat2.data.transform import Pipeline
from nat2.deploy.export import export
from nat2.errors import ConfigError
from nat2.nas.budget import parse_count
from nat2.seeds import torch_generator
from nat2.shipped import DEFAULT
from nat2.shipped.networks import ListedNetwork, listed, macro_of, of_name, read_table
from nat2.space import Arch
from nat2.supernet import SuperNetwork, extract
from nat2.supernet.checkpoint import load_pretrained
from nat2.supernet.static import StaticNetwork, channels_last
from nat2.supernet.statistics import unpacked
from nat2.supernet.weights import open_checkpoint
from nat2.validation import user_path

_MOST_CLASSES = 100_000


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """The input that a network expects: square images of `resolution` pixels, values 0 to 1, normalised by channel."""

    resolution: int
    """Side of the input in pixels."""
    mean: tuple[float, ...]
    """Subtracted from values 0 to 1, by channel (red, green, blue; or grey)."""
    std: tuple[float, ...]
    """Divided by, by channel."""

    def __call__(self, pixels: Tensor) -> Tensor:
        """Turn 8-bit images into inputs: crop the centre square, resize (bilinear, antialiased), scale, normalise.

        Args:
            pixels: Shape (N, channels, H, W) or (channels, H, W), type uint8.

        Returns:
            Shape (N, channels, R, R), with N = 1 for a single image.

        Raises:
            ConfigError: another type, shape or number of channels.
        """
        images = pixels[None] if pixels.dim() == 3 else pixels
        if pixels.dtype != torch.uint8 or images.dim() != 4 or images.shape[1] != len(self.mean):
            raise ConfigError(
                f"images must be uint8 tensors of shape (N, {len(self.mean)}, H, W); got {pixels.dtype} of shape "
                f"{tuple(pixels.shape)}"
            )
        side = min(images.shape[2:])
        top, left = ((length - side) // 2 for length in images.shape[2:])
        square = images[..., top : top + side, left : left + side]
        return Pipeline(self.mean, self.std, device=pixels.device)(square, self.resolution)


class Network(StaticNetwork):
    """What `create` returns: a plain torch module that maps inputs (N, channels, R, R) to logits (N, classes)."""

    def __init__(self, network: StaticNetwork, preprocessing: Preprocessing, listed: ListedNetwork) -> None:
        """Take over the weights of `network`."""
        super().__init__(network.macro, network.arch)
        self.preprocessing = preprocessing
        """The input that it expects."""
        self.listed = listed
        """Its name, costs, and accuracy on Tiny ImageNet with the original classifier."""
        self.load_state_dict(network.state_dict())
        channels_last(self)


def create(
    name: str = "",
    *,
    classes: int,
    params: int | str | None = None,
    macs: int | str | None = None,
    resolution: int | None = None,
    channels: int = 3,
    pretrained: bool = True,
    seed: int = 0,
) -> Network:
    """Return a trained network as a plain torch module, ready to be fine-tuned by any training loop.

    Of the networks in `nat2.list_networks` it is the one with the best accuracy on Tiny ImageNet within the budget; if
    several are equal within the standard error, the one with the most parameters. Its batch norms hold calibrated
    statistics, and its classifier is new: random weights for `classes` classes.

    Args:
        name: A network of the list, instead of a budget.
        classes: Number of classes, at least 2.
        params: Most trainable parameters, classifier included; a number, or a text like ``50k``.
        macs: Most multiply-accumulates for one image; a number, or a text like ``2M``.
        resolution: Side of the square input in pixels, 32 to 128; by default the one at which the network was measured.
        channels: Channels of the images: 3, or another number, for which the first convolution is adapted.
        pretrained: False for the same network with random weights.
        seed: Decides the random weights.

    Returns:
        The network, in training mode; its `preprocessing` says what its input must be.

    Raises:
        ConfigError: no network fits the budget, there is none of this name, or a value is outside its range.
        CheckpointError: the weights or the table of networks are missing or damaged.
    """
    found = _found(name, classes, channels, resolution, {"params": params, "macs": macs})
    table = read_table()
    arch, macro = Arch.from_key(found.key), macro_of(DEFAULT, classes=classes, channels=channels)
    network = SuperNetwork(macro, generator=torch_generator(seed, "create", found.name))
    plain = StaticNetwork(macro, arch)
    statistics = None
    if pretrained:
        load_pretrained(network, open_checkpoint(DEFAULT.name).of(DEFAULT.width))
        statistics = unpacked(plain, table.statistics[found.name])
    mean, std = (values if channels == 3 else (sum(values) / 3,) * channels for values in (table.mean, table.std))
    preprocessing = Preprocessing(resolution=arch.resolution, mean=mean, std=std)
    created = Network(extract(network, arch, statistics), preprocessing, found)
    return created.requires_grad_(True).train()


def _found(
    name: str, classes: int, channels: int, resolution: int | None, bounds: dict[str, int | str | None]
) -> ListedNetwork:
    """The network of this name, or the most accurate one within the bounds."""
    _check("classes", classes, 2, _MOST_CLASSES)
    _check("channels", channels, 1, 1024)
    if resolution is not None:
        _check("resolution", resolution, *DEFAULT.sides)
    limits = {kind: parse_count(kind, value) for kind, value in bounds.items() if value is not None}
    if name and limits:
        raise ConfigError(f"give the name of a network or a budget, not both; got {name!r} and {', '.join(limits)}")
    if name:
        return of_name(name, classes, channels=channels, resolution=resolution)
    networks = listed(classes, channels=channels, resolution=resolution)
    fitting = [each for each in networks if all(getattr(each, kind) <= most for kind, most in limits.items())]
    if not fitting:
        least = {kind: min(networks, key=lambda each: getattr(each, kind)) for kind in limits}
        nearest = "; ".join(f"least {kind}: {getattr(each, kind):,} ({each.name})" for kind, each in least.items())
        asked = " and ".join(f"at most {most:,} {kind}" for kind, most in limits.items())
        at = f" at {resolution} pixels" if resolution else ""
        raise ConfigError(f"no listed network with {classes} classes{at} has {asked}; {nearest}")
    return best_of(fitting, read_table().images)


def best_of(networks: Sequence[ListedNetwork], images: int) -> ListedNetwork:
    """The network with the best accuracy; of those within its standard error the one with the most parameters.

    Differences below the standard error are noise, and larger networks gain more from fine-tuning.

    Args:
        networks: At least one.
        images: How many images the accuracies are from.
    """
    best = max(each.accuracy for each in networks)
    error = math.sqrt(best * (1 - best) / images)
    return max(
        (each for each in networks if each.accuracy >= best - error), key=lambda each: (each.params, each.accuracy)
    )


def _check(name: str, value: object, least: int, most: int) -> None:
    if type(value) is not int or not least <= value <= most:
        raise ConfigError(f"`{name}` must be a whole number from {least} to {most:,}; got {value!r}")


def write_network(network: Network, folder: Path | str) -> Path:
    """Write a created network as the files of an exported one, which `nat2.load`, ``nat2 latency`` and others read.

    Args:
        network: Changed to evaluation mode.
        folder: New or empty; gets ``model.safetensors``, ``arch.json``, ``preprocessing.json`` and ``model.onnx``.

    Raises:
        ConfigError: the folder holds files.
        RunError: the folder cannot be written.
    """
    folder = user_path(folder, "--out")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"--out {folder} exists and is not an empty folder; choose another one")
    expected = network.preprocessing
    classes = [str(number) for number in range(network.macro.classes)]
    facts = {"created": dataclasses.asdict(network.listed)}
    pipeline = Pipeline(expected.mean, expected.std)
    export(network, pipeline, classes, folder, side=expected.resolution, facts=facts)
    return folder
