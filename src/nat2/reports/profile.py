"""What a run will involve, for the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table

from nat2.nas.budget import format_bound, format_value
from nat2.progress import duration
from nat2.runs.profile import Profile, Span
from nat2.runs.timeplan import TimePlan
from nat2.space.boards import Board


def profile_table(profile: Profile) -> list[Table | str]:
    """The facts, the table of objectives, the budget, and the estimated time of the run."""
    spans = Table("of a network", "least", "median", "most", box=SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    for column in spans.columns[1:]:
        column.justify = "right"
    for span in profile.spans:
        values = (span.least, span.median, span.most)
        spans.add_row(span.objective.name, *(format_value(value, span.objective.unit) for value in values))
    spans.caption = "median: of networks as the search draws them; latency: of a few, untrained"
    lines = [f"{name:>18}: {text}" for name, text in profile.facts if name != "budget"]
    lines.append(f"{'search space':>18}: {_power(profile.size)} networks")
    ends = []
    if profile.bounds:
        ends.append(f"{'budget':>18}: {', '.join(map(format_bound, profile.bounds))}")
        exact = [bound for bound in profile.bounds if bound.cost == "exact"]
        if exact:
            share = 100 * profile.kept
            often = f"{share:.3g} %" if share else "less than 0.01 %"
            ends.append(f"{'can be met':>18}: by {often} of networks as the search draws them; it looks for more")
    if profile.board is not None:
        ends.append(f"{'latency there':>18}: {_latency_there(profile.board, profile.spans)}")
    parts = ", ".join(f"{name} {duration(seconds)}" for name, seconds in profile.seconds.items())
    ends.append(f"{'a run takes about':>18}: {duration(sum(profile.seconds.values()))} here ({parts})")
    return ["\n".join(lines), spans, _plans(profile.plans), "\n".join(ends)]


def _latency_there(board: Board, spans: Sequence[Span]) -> str:
    """How long an image takes on a board, estimated from multiply-accumulates."""
    macs = next(span for span in spans if span.objective.name == "macs")
    taken = [board.milliseconds(each) for each in (macs.least, macs.median, macs.most)]
    if None in taken:
        return f"unknown; no published throughput of {board.chip} to estimate it from"
    least, median, most = (format_value(each, "ms") for each in taken if each is not None)
    return f"{least} to {most}, median {median}; estimated from MACs ({board.source})"


def _plans(plans: Sequence[TimePlan]) -> Table:
    """What would be done in several times."""
    shown = Table("--time", "takes", "train", "search", "fine-tune", box=SIMPLE_HEAD, show_lines=True, pad_edge=False)
    for plan in plans:
        shown.add_row(plan.time or "default", duration(plan.seconds), *(stage.amount for stage in plan.stages))
    shown.caption = "longer runs train each network longer and look at more of them; what came of it on three sets of "
    shown.caption += "images is in docs/training.md"
    return shown


def _power(count: int) -> str:
    exponent = int(math.log10(count))
    return f"{count:,}" if exponent < 6 else f"{count / 10**exponent:.1f} x 10^{exponent}"
