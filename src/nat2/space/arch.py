"""Architectures as data: what one sub-network of the super-network is."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from nat2.errors import ArchError

_LAYER = re.compile(r"k(\d+)e(\d+)")


class Layer(NamedTuple):
    """One inverted bottleneck (MBConv): depthwise kernel size and expand ratio."""

    kernel: int
    expand: int

    def __str__(self) -> str:
        return f"k{self.kernel}e{self.expand}"


@dataclass(frozen=True)
class Arch:
    """One sub-network. Only what is expressed is stored, so equal networks are equal objects.

    The number of layers in a stage is its depth, the number of stages is the exit that answers (1..5).
    Kernel sizes of skipped layers and stages beyond the exit do not exist here; they have no value to differ in.
    """

    resolution: int
    """Side of the square input image, in pixels."""
    width: float
    """Width multiplier of the super-network that the weights come from."""
    stages: tuple[tuple[Layer, ...], ...]
    """The active layers of each stage that is executed."""

    @property
    def exit(self) -> int:
        """The exit that answers, counted from 1 (the exit closest to the input)."""
        return len(self.stages)

    @property
    def depths(self) -> tuple[int, ...]:
        """Active layers of each executed stage."""
        return tuple(len(stage) for stage in self.stages)

    @property
    def key(self) -> str:
        """The architecture as one readable string, e.g. ``r64-w1.0-k3e4.k5e6-k7e3.k3e3``; its identity."""
        stages = "-".join(".".join(map(str, stage)) for stage in self.stages)
        return f"r{self.resolution}-w{self.width}-{stages}"

    @property
    def id(self) -> str:
        """Eight hexadecimal digits derived from `key`, for file names and tables."""
        return hashlib.sha256(self.key.encode()).hexdigest()[:8]

    def to_json(self) -> dict[str, Any]:
        """Plain data: ``{"resolution": 64, "width": 1.0, "stages": [["k3e4", "k5e6"], ...]}``."""
        return {
            "resolution": self.resolution,
            "width": self.width,
            "stages": [[str(layer) for layer in stage] for stage in self.stages],
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Arch:
        """Read what `to_json` wrote.

        Raises:
            ArchError: a field is missing, of the wrong type, or a layer is not written like ``k3e4``.
        """
        try:
            resolution, width, stages = data["resolution"], data["width"], data["stages"]
            layers = tuple(tuple(_parse_layer(text) for text in stage) for stage in stages)
            if isinstance(stages, str) or not layers or not all(layers):
                raise ValueError("`stages` must be lists of at least one layer each")
            return Arch(resolution=int(resolution), width=float(width), stages=layers)
        except (KeyError, TypeError, ValueError) as error:
            raise ArchError(
                "an architecture is an object with `resolution`, `width` and `stages` (lists of layers like "
                f'"k3e4"); got {data!r} ({type(error).__name__}: {error})'
            ) from None

    @staticmethod
    def from_key(key: str) -> Arch:
        """Read what `key` gives.

        Raises:
            ArchError: the string is not an architecture's key.
        """
        resolution, _, rest = key.partition("-")
        width, _, stages = rest.partition("-")
        if not (resolution.startswith("r") and width.startswith("w")):
            raise ArchError(f"an architecture's key looks like r64-w1.0-k3e4.k5e6; got {key!r}")
        return Arch.from_json(
            {
                "resolution": resolution[1:],
                "width": width[1:],
                "stages": [stage.split(".") for stage in stages.split("-")],
            }
        )

    def to_ofa(self) -> dict[str, Any]:
        """The dictionary of the OFA tools: flat ``ks`` and ``e`` of 20 values, ``d`` of 5, exit ``nd``, ``r``, ``w``.

        Positions that the network does not use hold the smallest values.
        """
        ks, e, d = [3] * 20, [3] * 20, [2] * 5
        for stage, layers in enumerate(self.stages):
            d[stage] = len(layers)
            for position, layer in enumerate(layers):
                ks[4 * stage + position], e[4 * stage + position] = layer
        return {"ks": ks, "e": e, "d": d, "nd": self.exit, "r": self.resolution, "w": self.width}

    @staticmethod
    def from_ofa(data: Mapping[str, Any], *, resolution: int | None = None, width: float | None = None) -> Arch:
        """Read the dictionary of the OFA tools; `resolution` and `width` stand in for absent ``r`` and ``w``.

        Raises:
            ArchError: a list has the wrong length, or neither the dictionary nor the call gives a value.
        """
        ks, e, d = list(data["ks"]), list(data["e"]), list(data["d"])
        if len(d) != 5 or len(ks) != len(e) or len(ks) not in (20, sum(d)):
            raise ArchError(
                "an OFA dictionary holds `d` of 5 values, and `ks` and `e` of 20 values or of one an active layer; "
                f"got {len(d)}, {len(ks)} and {len(e)}"
            )
        resolution = data.get("r", resolution)
        width = data.get("w", width)
        if resolution is None or width is None:
            raise ArchError("the OFA dictionary has no `r` or no `w`; pass `resolution=` and `width=`")
        starts = [4 * stage for stage in range(5)] if len(ks) == 20 else [sum(d[:stage]) for stage in range(5)]
        return Arch(
            resolution=int(resolution),
            width=float(width),
            stages=tuple(
                _layers(ks[start : start + depth], e[start : start + depth])
                for start, depth in list(zip(starts, d, strict=True))[: data.get("nd", 5)]
            ),
        )

    def __str__(self) -> str:
        return self.key


def _parse_layer(text: str) -> Layer:
    match = _LAYER.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a layer")
    return Layer(int(match[1]), int(match[2]))


def _layers(ks: Sequence[int], e: Sequence[int]) -> tuple[Layer, ...]:
    return tuple(Layer(int(kernel), int(expand)) for kernel, expand in zip(ks, e, strict=True))
