"""What good networks have in common: how often each choice occurs in them."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nat2.space.arch import MBCONV, Arch, Layer
from nat2.space.macro import STAGES


@dataclass(frozen=True)
class Histogram:
    """How often each value of one choice occurs."""

    title: str
    values: tuple[str, ...]
    counts: tuple[int, ...]

    @property
    def shares(self) -> tuple[float, ...]:
        """Of the values; 0 if nothing was counted."""
        total = sum(self.counts)
        return tuple(count / total if total else 0.0 for count in self.counts)


def histograms(archs: Sequence[Arch], every: Sequence[Arch]) -> dict[str, list[Histogram]]:
    """By group of choices; the values are those that occur in `every`, the networks from which `archs` were chosen.

    A stage is counted if it is executed, a layer if it has an inverted bottleneck.
    """

    def whole(title: str, value: Callable[[Arch], float]) -> Histogram:
        return _histogram(title, [value(arch) for arch in archs], [value(arch) for arch in every])

    groups = {"network": [whole("pixels", lambda arch: arch.resolution), whole("exit", lambda arch: arch.exit)]}
    if len({arch.width for arch in every}) > 1:
        groups["network"].append(whole("width", lambda arch: arch.width))
    for name, value in _BY_STAGE.items():
        groups[name] = [
            _histogram(
                f"stage {stage + 1}",
                [each for arch in archs for each in value(arch, stage)],
                [each for arch in every for number in range(STAGES) for each in value(arch, number)],
            )
            for stage in range(max(arch.exit for arch in every))
        ]
    if any(layer.blocks != MBCONV for arch in every for stage in arch.stages for layer in stage):
        kinds = [_blocks(layer) for arch in archs for stage in arch.stages for layer in stage]
        there = sorted({_blocks(layer) for arch in every for stage in arch.stages for layer in stage})
        groups["parallel blocks"] = [Histogram("all layers", tuple(there), tuple(kinds.count(each) for each in there))]
    return groups


def _layers(arch: Arch, stage: int) -> list[Layer]:
    return [layer for layer in (arch.stages[stage] if stage < arch.exit else ()) if layer.blocks & MBCONV]


_BY_STAGE: dict[str, Callable[[Arch, int], list[float]]] = {
    "layers": lambda arch, stage: [arch.depths[stage]] if stage < arch.exit else [],
    "kernel": lambda arch, stage: [layer.kernel for layer in _layers(arch, stage)],
    "expand ratio": lambda arch, stage: [layer.expand for layer in _layers(arch, stage)],
}


def _blocks(layer: Layer) -> str:
    """The active blocks of a layer, without its kernel and expand ratio."""
    names = str(layer).lstrip("ke0123456789")
    words = (
        ["bottleneck"] * bool(layer.blocks & MBCONV) + ["1x1"] * ("c" in names) + ["transformation"] * ("t" in names)
    )
    return " + ".join(words)


def _histogram(title: str, values: Sequence[float], every: Sequence[float]) -> Histogram:
    counted, there = Counter(values), sorted(set(every))
    return Histogram(title, tuple(f"{value:g}" for value in there), tuple(counted[value] for value in there))


_HEADINGS = {
    "network": "The whole network",
    "layers": "Layers of a stage",
    "kernel": "Kernel size",
    "expand ratio": "Expand ratio",
    "parallel blocks": "Parallel blocks",
}


def genes_html(archs: Sequence[Arch], every: Sequence[Arch]) -> str:
    """Small multiples: one bar per value, its share as a length and as a number."""
    parts = []
    for name, group in histograms(archs, every).items():
        parts.append(f"<h3>{_HEADINGS[name]}</h3><div class='multiples'>")
        parts += [_multiple(each) for each in group]
        parts.append("</div>")
    return "".join(parts)


def _multiple(histogram: Histogram) -> str:
    title = html.escape(histogram.title)
    if not sum(histogram.counts):
        return f"<div class='multiple none'>{title}: none</div>"
    rows = "".join(
        f"<tr><th scope='row'>{html.escape(value)}</th><td><span class='bar' style='--share:{share:.4f}'></span></td>"
        f"<td class='n'>{100 * share:.0f}&nbsp;%</td></tr>"
        for value, share in zip(histogram.values, histogram.shares, strict=True)
    )
    words = " words" if max(map(len, histogram.values)) > 5 else ""
    return f"<table class='multiple{words}'><caption>{title}</caption>{rows}</table>"
