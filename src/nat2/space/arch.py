"""Architectures as data: what one sub-network of the super-network is."""

from __future__ import annotations

import hashlib
import math
import operator
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from nat2.errors import ArchError

_LAYER = re.compile(r"(?:k([0-9]+)e([0-9]+))?(c?)(t?)")
_KEY = re.compile(r"r([0-9]+)-w([0-9.]+)-(.+)")

MBCONV, CONVOLUTION, TRANSFORMATION = 4, 2, 1
"""Bits of `Layer.blocks`: which of the parallel blocks of a layer are active, their outputs summed (OFAv2)."""


class Layer(NamedTuple):
    """One layer: an inverted bottleneck (MBConv); in the parallel families, the blocks next to it or in its place."""

    kernel: int
    """Size of the depthwise kernel; 0 without an inverted bottleneck."""
    expand: int
    """Expand ratio; 0 without an inverted bottleneck."""
    blocks: int = MBCONV
    """Active blocks, a sum of MBCONV, CONVOLUTION (1x1) and TRANSFORMATION; 1..7."""

    @property
    def canonical(self) -> Layer:
        """The same layer, without kernel size and expand ratio if it has no inverted bottleneck."""
        return self if self.blocks & MBCONV else Layer(0, 0, self.blocks)

    def __str__(self) -> str:
        mbconv = f"k{self.kernel}e{self.expand}" if self.blocks & MBCONV else ""
        return mbconv + "c" * bool(self.blocks & CONVOLUTION) + "t" * bool(self.blocks & TRANSFORMATION)


@dataclass(frozen=True)
class Arch:
    """One sub-network. Only what is expressed is stored, so equal networks are equal objects.

    The number of layers in a stage is its depth, the number of stages is the exit that is used (1..5).
    Skipped layers and stages beyond the exit are not stored, so two equal networks cannot differ in them.
    """

    resolution: int
    """Side of the square input image, in pixels."""
    width: float
    """Width multiplier of the super-network that the weights come from."""
    stages: tuple[tuple[Layer, ...], ...]
    """The active layers of each stage that is executed."""

    def __post_init__(self) -> None:
        """Check the form, and take kernel size and expand ratio from layers without an inverted bottleneck.

        Raises:
            ArchError: there is no network of this form in any super-network.
        """
        object.__setattr__(self, "width", float(self.width))
        layers = [layer for stage in self.stages for layer in stage]
        if not 1 <= len(self.stages) <= 5 or not all(1 <= len(stage) <= 4 for stage in self.stages):
            raise ArchError(f"an architecture has 1 to 5 stages of 1 to 4 layers; got {list(map(len, self.stages))}")
        if self.resolution < 1 or not 0 < self.width < math.inf:
            raise ArchError(f"resolution and width must be above 0; got {self.resolution} and {self.width}")
        for layer in layers:
            if not 1 <= layer.blocks <= 7 or (layer.blocks & MBCONV and (layer.kernel < 1 or layer.expand < 1)):
                raise ArchError(
                    "a layer has active blocks 1..7, and with an inverted bottleneck (4) a kernel size and an expand "
                    f"ratio of at least 1; got {tuple(layer)}"
                )
        if not all(layer.blocks & MBCONV for layer in layers):
            stages = tuple(tuple(layer.canonical for layer in stage) for stage in self.stages)
            object.__setattr__(self, "stages", stages)

    @property
    def exit(self) -> int:
        """The exit that is used, counted from 1 (the one closest to the input)."""
        return len(self.stages)

    @property
    def depths(self) -> tuple[int, ...]:
        """Active layers of each executed stage."""
        return tuple(len(stage) for stage in self.stages)

    @property
    def key(self) -> str:
        """The architecture as one readable string, e.g. ``r64-w1.0-k3e4.k5e6-k7e3.k3e3``; its identity.

        In the parallel families ``c`` adds the 1x1 convolution and ``t`` the transformation: ``k3e4ct``, ``c``.
        """
        stages = "-".join(".".join(map(str, stage)) for stage in self.stages)
        return f"r{self.resolution}-w{self.width}-{stages}"

    @property
    def id(self) -> str:
        """Eight hexadecimal digits derived from `key`, for file names and tables."""
        return hashlib.sha256(self.key.encode()).hexdigest()[:8]

    def to_json(self) -> dict[str, object]:
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
            return Arch(resolution=operator.index(resolution), width=float(width), stages=layers)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
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
        match = _KEY.fullmatch(key)
        if match is None:
            raise ArchError(f"an architecture's key looks like r64-w1.0-k3e4.k5e6; got {key!r}")
        resolution, width, stages = match.groups()
        return Arch.from_json(
            {
                "resolution": int(resolution),
                "width": width,
                "stages": [stage.split(".") for stage in stages.split("-")],
            }
        )

    def to_ofa(self) -> dict[str, object]:
        """The dictionary of the OFA tools: flat ``ks`` and ``e`` of 20 values, ``d`` of 5, exit ``nd``, ``r``, ``w``.

        Values that the network does not use are the smallest. Parallel blocks add ``nw`` of 20 values, 1..7.
        """
        ks, e, d, nw = [3] * 20, [3] * 20, [2] * 5, [MBCONV] * 20
        for stage, layers in enumerate(self.stages):
            d[stage] = len(layers)
            for place, layer in enumerate(layers, start=4 * stage):
                nw[place] = layer.blocks
                if layer.blocks & MBCONV:
                    ks[place], e[place] = layer.kernel, layer.expand
        parallel = {"nw": nw} if set(nw) != {MBCONV} else {}
        return {"ks": ks, "e": e, "d": d, "nd": self.exit, "r": self.resolution, "w": self.width, **parallel}

    @staticmethod
    def from_ofa(data: Mapping[str, Any], *, resolution: int | None = None, width: float | None = None) -> Arch:
        """Read the dictionary of the OFA tools; `resolution` and `width` are used where it has no ``r`` or ``w``.

        ``ks``, ``e`` and ``nw`` hold 20 values, or one per active layer (as in ``.subnet`` files); a single number
        applies to all layers, and without ``nw`` every layer is an inverted bottleneck.

        Raises:
            ArchError: a key is absent, a list has the wrong length, or a value is not a whole number in its range.
        """
        resolution = resolution if data.get("r") is None else data["r"]
        width = width if data.get("w") is None else data["w"]
        if resolution is None or width is None:
            raise ArchError("the OFA dictionary has no `r` or no `w`; pass `resolution=` and `width=`")
        try:
            resolution, width = operator.index(resolution), float(width)
            exit_number = operator.index(data.get("nd", 5))
            d = _broadcast(data["d"], 5)
            ks, e, nw = (_broadcast(data.get(key, MBCONV) if key == "nw" else data[key], 20) for key in _OFA_LISTS)
        except (KeyError, TypeError, ValueError) as error:
            raise ArchError(
                f"an OFA dictionary holds whole numbers in `ks`, `e`, `d`, `nd` and `nw`; got {data!r}"
            ) from error
        active = sum(d[:exit_number])
        if len(d) != 5 or not {len(ks), len(e), len(nw)} <= {20, active, sum(d)}:
            raise ArchError(
                "an OFA dictionary holds `d` of 5 values, and `ks`, `e` and `nw` of 20 values or of one per active "
                f"layer; got {len(d)}, {len(ks)}, {len(e)} and {len(nw)}"
            )
        if not 1 <= exit_number <= 5 or not all(1 <= depth <= 4 for depth in d) or not set(nw) <= set(range(1, 8)):
            raise ArchError(f"`nd` lies in 1..5, `d` in 1..4 and `nw` in 1..7; got {exit_number}, {d} and {nw}")

        def layer(stage: int, position: int) -> Layer:
            ragged = sum(d[:stage]) + position
            return Layer(*(values[4 * stage + position if len(values) == 20 else ragged] for values in (ks, e, nw)))

        stages = tuple(tuple(layer(stage, position) for position in range(d[stage])) for stage in range(exit_number))
        return Arch(resolution=resolution, width=width, stages=stages)

    @staticmethod
    def from_nat(text: str, *, resolutions: Sequence[int], widths: Sequence[float] = (1.0, 1.2)) -> Arch:
        """Read NAT's string of 22 genes, e.g. ``08 0 1100 1440 5510 5220 8877`` (spaces are ignored).

        One or two digits index the resolutions, one the widths, and twenty are layer genes: 0 skips a layer, ``1 +
        3 x (index of the expand ratio in 3, 4, 6) + (index of the kernel size in 3, 5, 7)`` is a layer (NAT, encoding).

        Raises:
            ArchError: the string has another form, an index is too large, or a stage has fewer than two layers.
        """
        digits = "".join(text.split())
        if len(digits) not in (22, 23) or not (digits.isascii() and digits.isdecimal()):
            raise ArchError(
                f"NAT's string has one or two digits of resolution, one of width and 20 of layers; got {text!r}"
            )
        indices, layers = (int(digits[:-21]), int(digits[-21])), digits[-20:]
        if indices[0] >= len(resolutions) or indices[1] >= len(widths):
            raise ArchError(
                f"{text!r} asks for resolution {indices[0]} of {len(resolutions)} and width {indices[1]} of "
                f"{len(widths)}, counted from 0; pass the lists that it was encoded with"
            )
        genes = [[int(digit) for digit in layers[start : start + 4] if digit != "0"] for start in range(0, 20, 4)]
        if any(len(stage) < 2 for stage in genes):
            raise ArchError(f"in NAT's encoding every stage has at least two layers; got {text!r}")
        stages = tuple(tuple(Layer((3, 5, 7)[(v - 1) % 3], (3, 4, 6)[(v - 1) // 3]) for v in stage) for stage in genes)
        return Arch(resolution=int(resolutions[indices[0]]), width=float(widths[indices[1]]), stages=stages)

    def to_nat(self, *, resolutions: Sequence[int], widths: Sequence[float] = (1.0, 1.2)) -> str:
        """NAT's string of 22 genes, the form that `from_nat` reads.

        Raises:
            ArchError: the network is outside NAT's space: another resolution, width, depth, exit, layer, or block.
        """
        try:
            genes = [
                [1 + 3 * (3, 4, 6).index(layer.expand) + (3, 5, 7).index(layer.kernel) for layer in stage]
                for stage in self.stages
            ]
            head = f"{list(resolutions).index(self.resolution):02d} {list(widths).index(self.width)}"
            blocks = {layer.blocks for stage in self.stages for layer in stage}
            if self.exit != 5 or blocks != {MBCONV} or not all(2 <= depth <= 4 for depth in self.depths):
                raise ValueError("another exit, block or depth")
        except ValueError as error:
            raise ArchError(f"{self.key} is not in NAT's space ({error})") from None
        return " ".join([head, *("".join(map(str, stage)).ljust(4, "0") for stage in genes)])

    def __str__(self) -> str:
        return self.key


def _parse_layer(text: str) -> Layer:
    match = _LAYER.fullmatch(text)
    if match is None or not text:
        raise ValueError(f"{text!r} is not a layer")
    kernel, expand, convolution, transformation = match.groups()
    beside = CONVOLUTION * bool(convolution) + TRANSFORMATION * bool(transformation)
    return Layer(int(kernel or 0), int(expand or 0), (MBCONV if kernel else 0) + beside)


_OFA_LISTS = ("ks", "e", "nw")


def _broadcast(value: int | Iterable[int], count: int) -> list[int]:
    """A list of whole numbers; a single one is repeated `count` times."""
    if isinstance(value, Iterable):
        return [operator.index(each) for each in value]
    return [operator.index(value)] * count
