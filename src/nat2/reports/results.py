"""A returned network's facts, the table of them, and which to take for which need."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from nat2.deploy.anytime import Operating
from nat2.space.arch import Arch


@dataclass(frozen=True)
class Result:
    """One network that was fine-tuned, tested and exported."""

    id: str
    """Name of its folder: the architecture's id, and ``-ee`` behind it if several exits were trained together."""
    arch: str
    """The architecture's key."""
    error: float
    """Share of misclassified validation images when the search measured it, with its last exit, before fine-tuning."""
    params: int
    macs: int
    inherited_val_accuracy: float
    """With the adapted super-network's weights and batch-norm statistics, as they are."""
    calibrated_val_accuracy: float
    """With the adapted super-network's weights and statistics calibrated for this network."""
    val_accuracy: float
    """Of fine-tuning's first phase at its best epoch, which saw training images only."""
    test_accuracy: float
    """Of the exported weights on the test images."""
    finetune_epochs: int
    """The best epoch; 0 if the inherited weights stayed the best."""
    others: dict[str, float] = field(default_factory=dict)
    """Whatever else the search measured, e.g. ``memory`` (bytes), ``latency`` (ms)."""
    exits: tuple[int, ...] = ()
    """The exits that answer together, ascending; by default the architecture's own."""
    anytime: tuple[Operating, ...] = ()
    """With several exits: accuracy against mean operations by threshold, cheapest first."""
    int8_test_accuracy: float | None = None
    """Of the quantised network on the test images, if there is one."""

    def __post_init__(self) -> None:
        """Read what JSON makes of tuples and dataclasses."""
        object.__setattr__(self, "exits", tuple(self.exits) or (Arch.from_key(self.arch).exit,))
        points = (each if isinstance(each, Operating) else Operating(**each) for each in self.anytime)
        object.__setattr__(self, "anytime", tuple(points))

    def row(self, objectives: Sequence[str], others: Iterable[str] = ()) -> dict[str, Any]:
        """A row of pareto.csv: id and architecture, the objectives, then everything else.

        Args:
            objectives: What was searched.
            others: What was measured of any network; empty where it was not measured of this one.
        """
        facts = asdict(self)
        measured = facts.pop("others")
        facts = dict.fromkeys([*objectives, *others]) | facts | measured
        del facts["anytime"]  # a curve has no place in a row; it is in result.json
        facts["exits"] = "+".join(map(str, self.exits))
        first = ["id", "arch", *objectives, "params", "macs", "val_accuracy", "test_accuracy"]
        return {name: facts[name] for name in dict.fromkeys([*first, *facts])}


def picks(results: Sequence[Result]) -> dict[str, Result]:
    """Which network to take for which need; decided on validation images, never on the test.

    ``small and good`` is the smallest within one percentage point of the most accurate.
    """
    best = max(result.val_accuracy for result in results)
    return {
        "most accurate": min((r for r in results if r.val_accuracy == best), key=lambda r: r.params),
        "small and good": min((r for r in results if r.val_accuracy >= best - 0.01), key=lambda r: r.params),
        "fewest parameters": min(results, key=lambda r: (r.params, r.macs, -r.val_accuracy)),
        "fewest operations": min(results, key=lambda r: (r.macs, r.params, -r.val_accuracy)),
    }


def table(results: Sequence[Result], milliseconds: Mapping[str, float] | None = None) -> Table:
    """The networks by size, for the terminal; with their latencies if they are given."""
    shown = Table(
        "network",
        "pixels",
        "exits",
        "params",
        "MACs",
        *(["ms"] if milliseconds else []),
        "found",
        "tuned",
        "test %",
        box=SIMPLE_HEAD,
        collapse_padding=True,
        pad_edge=False,
    )
    for column in shown.columns:
        column.no_wrap = True
        column.justify = "left" if column.header == "network" else "right"
    for result in sorted(results, key=lambda r: (r.params, r.macs)):
        arch = Arch.from_key(result.arch)
        shown.add_row(
            result.id,
            str(arch.resolution),
            "+".join(map(str, result.exits)),
            f"{result.params:,}",
            f"{result.macs:,}",
            *([f"{milliseconds[result.id]:.2f}" if result.id in milliseconds else ""] if milliseconds else []),
            f"{100 * result.calibrated_val_accuracy:.1f}",
            f"{100 * result.val_accuracy:.1f}",
            f"{100 * result.test_accuracy:.1f}",
        )
    shown.caption = (
        "found and tuned (fine-tuned): accuracy on validation images; test: on images that nothing else has seen"
    )
    return shown
