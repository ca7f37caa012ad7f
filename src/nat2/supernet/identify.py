"""Identify weights, published or our own: family, width and classes, from the tensors."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from nat2.space.macro import MAX_DEPTH, MAX_EXPAND, MAX_KERNEL, STAGES, Macro, make_divisible
from nat2.supernet.checkpoint import one_spelling

Shapes = Mapping[str, tuple[int, ...]]

_IMAGENET_CLASSES = 1000
_PUBLISHED_STRIDE = 2
_OWNERS = {"nat2": "nat2's", "ofa": "OFA's", "ofav2": "OFAv2's"}


@dataclass(frozen=True)
class _Layout:
    """Patterns of the tensor names that identify a network, in the normalised spelling."""

    stem: str
    last: str
    """Last batch norm of a layer; its groups are stage and layer, or the layer alone."""
    exit: str
    """Prefix of an exit; its group is the exit's number."""
    mix: str
    first_exit: int = 1
    """Number of the first exit."""


_LAYOUTS = {
    "nat2": _Layout(
        "stem.conv.weight", r"stages\.(\d+)\.(\d+)\.(?:mbconv\.)?project_bn\.weight", r"exits\.(\d+)\.", "mix.weight"
    ),
    "ofav2": _Layout(
        "head_stage.first_conv.conv.weight",
        r"body_stages\.(\d+)\.layers(?:_blocks)?\.(\d+)\.(?:0\.)?conv\.point_linear\.bn\.weight",
        r"(?:exit_stages\.(\d+)|exit_stage)\.",
        "feature_mix_layer.conv.weight",
        first_exit=0,
    ),
    "ofa": _Layout(
        "first_conv.conv.weight", r"blocks\.([1-9]\d*)\.conv\.point_linear\.bn\.weight", "()",
        "feature_mix_layer.conv.weight",
    ),
}  # fmt: skip
_KERNEL = re.compile(r"(?:stages\.|blocks\.[1-9]|body_stages\.).*(?:depthwise|depth_conv\.conv)\.weight")
_EXPAND = re.compile(r".*(?:inverted_bottleneck\.conv|stages\.\d+\.\d+\.(?:mbconv\.)?expand)\.weight")


@dataclass(frozen=True, kw_only=True)
class Identity:
    """A super-network or one of its networks, as identified from the tensors."""

    layout: Literal["nat2", "ofa", "ofav2"]
    families: tuple[str, ...]
    """Those that have these tensors, the likeliest first: dense skips have no tensors."""
    width: float | None
    """Width multiplier; None if no width has these channels."""
    classes: int
    stem_stride: int | None
    """Stride of the first convolution in training, which no tensor shows; None if unknown."""
    layers: int = STAGES * MAX_DEPTH
    whole: bool = True
    """Whether every layer has its largest kernel and expand ratio."""
    doubled_exits: bool = False
    """Whether the exits' channels are multiplied by the width twice, as the authors' code does."""
    observed: tuple[object, ...] = field(default=(), repr=False)

    @property
    def imagenet(self) -> bool:
        """Whether it is one of those that OFA's authors trained on ImageNet."""
        return self.layout == "ofa" and self.classes == _IMAGENET_CLASSES

    @property
    def complete(self) -> bool:
        """Whether it is a super-network, or its largest network."""
        return self.whole and self.layers == STAGES * MAX_DEPTH

    def __str__(self) -> str:
        owner = _OWNERS[self.layout]
        if not self.complete:
            return f"a single network of {self.layers} layers in {owner} layout"
        width = "channels of no width multiplier" if self.width is None else f"width {self.width}"
        return f"a super-network in {owner} layout: {' or '.join(self.families)}, {width}, {self.classes} classes"

    def _fits(self, family: str) -> bool:
        """Whether a family can take these weights: its own, or a body with a single exit for one with early exits.

        Dense skips have no weights, so a body without them serves one with them; parallel blocks have.
        """
        if family in self.families:
            return True
        exits, _, body = family.partition("_")
        return exits == "EE" and any(
            each.startswith("SE_") and ("P" in each) == ("P" in body) and ("D" in body or "D" not in each[3:])
            for each in self.families
        )

    def flags(self, macro: Macro) -> list[str]:
        """The flags that would turn a macro-architecture into this one, apart from classes, channels and stride."""
        needed = [] if self._fits(macro.family) else [f"--family {self.families[0]}"]
        if self.width is not None and _channels(macro, self.doubled_exits, len(self.observed)) != self.observed:
            needed.append(f"--width {self.width}")
        return needed


def identify(state: Mapping[str, Tensor], macro: Macro | None = None) -> Identity | None:
    """Identify a set of weights; None if it belongs to no known kind of super-network.

    Args:
        state: Under our own names or published ones, in any of their spellings.
        macro: The macro-architecture that nat2 stored with them, if any.
    """
    shapes: Shapes = {one_spelling(name): tuple(tensor.shape) for name, tensor in state.items()}
    name = next((name for name, layout in _LAYOUTS.items() if len(shapes.get(layout.stem, ())) == 4), None)
    if name is None:
        return None
    layout = _LAYOUTS[name]
    layers = {match.groups(): shape for key, shape in shapes.items() if (match := re.fullmatch(layout.last, key))}
    exits = dict(_exits(shapes, layout))
    if not layers or not exits:
        return None
    ordered = [layers[key][0] for key in sorted(layers, key=lambda groups: [int(each) for each in groups])]
    observed = (shapes[layout.stem][0], *ordered[::MAX_DEPTH], *(exits[number][0] for number in sorted(exits)))
    width, doubled = (macro.width, macro.doubled_exit_widths) if macro else _width_of(observed)
    early, parallel = len(exits) > 1, any("layers_blocks." in key or ".mbconv." in key for key in shapes)
    both = [
        Macro(classes=2, early_exits=early, dense_skips=dense, parallel_blocks=parallel).family
        for dense in (True, False)
    ]
    return Identity(
        layout=name,  # type: ignore[arg-type]
        families=(macro.family,) if macro else tuple(both[::-1] if name == "ofa" else both),
        width=width,
        classes=max(classes for _, classes in exits.values()),
        stem_stride=macro.stem_stride if macro else (_PUBLISHED_STRIDE if name == "ofa" else None),
        layers=len(layers),
        whole=all(_largest(key, shape) for key, shape in shapes.items()),
        doubled_exits=doubled,
        observed=observed,
    )


def _exits(shapes: Shapes, layout: _Layout) -> Iterator[tuple[int, tuple[tuple[int, ...], int]]]:
    """Number, channels and classes of each exit."""
    for key, shape in shapes.items():
        match = re.fullmatch(f"{layout.exit}{re.escape(layout.mix)}", key)
        if match:
            classifier = key.removesuffix(layout.mix) + "classifier.weight"
            number = int(match[1]) - layout.first_exit if match[1] else STAGES - 1
            yield number, (shape[:2], shapes.get(classifier, (0,))[0])


def _largest(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a layer of a super-network can have a tensor of this shape."""
    if _KERNEL.fullmatch(name) and ".matrix" not in name:
        return shape[-1] == MAX_KERNEL
    if _EXPAND.fullmatch(name):
        return shape[0] == make_divisible(round(shape[1] * MAX_EXPAND))
    return True


def _width_of(observed: tuple[object, ...]) -> tuple[float | None, bool]:
    """The roundest width multiplier with these channels, and whether the exits apply it twice."""
    rounded = [1.0, 1.2, 0.35, *(n / 10 for n in range(1, 81)), *(n / 20 for n in range(3, 160, 2))]
    for width in [*rounded, *(n / 100 for n in range(10, 801))]:
        macro = Macro(classes=2, width=width)
        for doubled in (False, True):
            if _channels(macro, doubled, len(observed)) == observed:
                return width, doubled
    return None, False


def _channels(macro: Macro, doubled: bool, count: int) -> tuple[object, ...]:
    """Channels of the stem, of the stages, and of the exits: all, or the last."""
    exits = range(1, STAGES + 1) if count > STAGES + 2 else (STAGES,)
    wide = Macro(classes=2, width=macro.width, doubled_exit_widths=doubled)
    ends = ((shape.mix_channels, shape.expand_channels) for shape in map(wide.exit_shape, exits))
    return (macro.stem_channels, *(shapes[0].out_channels for shapes in macro.layer_shapes), *ends)
