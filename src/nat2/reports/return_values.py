"""What the commands return from Python: lists that display as tables."""

from __future__ import annotations

from pathlib import Path

from nat2.nas.archive import Evaluation
from nat2.nas.budget import format_value
from nat2.nas.objectives import OBJECTIVES
from nat2.runs.accuracy import Accuracy
from nat2.runs.results import Result
from nat2.space.arch import Arch
from nat2.tables import Row, TableList


class Results(TableList[Result]):
    """The networks of a run, smallest first."""

    def rows(self) -> list[Row]:
        """Size and accuracies of each."""
        balanced = any(each.test_balanced for each in self)

        def percent(accuracy: Accuracy | None) -> str:
            return "" if accuracy is None else f"{100 * accuracy.share:.1f}"

        return [
            {
                "network": each.id,
                "pixels": str(Arch.from_key(each.arch).resolution),
                "params": f"{each.params:,}",
                "MACs": f"{each.macs:,}",
                "validation %": f"{100 * each.val_accuracy:.1f}",
                "test %": f"{100 * each.test_accuracy:.1f}",
            }
            | (
                {"balanced validation %": percent(each.val_balanced), "balanced test %": percent(each.test_balanced)}
                if balanced
                else {}
            )
            for each in self
        ]


class Front(TableList[Evaluation[Arch]]):
    """The networks of a search that no other beats."""

    def rows(self) -> list[Row]:
        """What was measured of each."""
        return [
            {"network": each.arch.id, "pixels": str(each.arch.resolution)}
            | {
                name: format_value(value, OBJECTIVES[name].unit if name in OBJECTIVES else "")
                for name, value in each.values.items()
            }
            for each in self
        ]


class Supernets(TableList[Path]):
    """The files of trained super-networks, narrowest first."""

    def rows(self) -> list[Row]:
        """Path and size of each."""
        return [
            {"super-network": str(each), "MB": f"{each.stat().st_size / 1e6:.1f}" if each.exists() else "missing"}
            for each in self
        ]
