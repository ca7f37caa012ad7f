"""What a search returns: the Pareto front, its high trade-offs, the best network under a budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic

import numpy as np

from nat2.errors import ConfigError, RunError
from nat2.nas.archive import Evaluation, EvaluationRecord
from nat2.nas.budget import format_bound, format_value, parse_budget
from nat2.nas.front import minimised, violations
from nat2.nas.generation import Generation
from nat2.nas.objectives import Objective
from nat2.nas.plots import plot_front, plot_history, quantity_of
from nat2.nas.propose import to_expect
from nat2.nas.select import trade_offs
from nat2.nas.task import Task
from nat2.space.searchable import A
from nat2.tables import Row, as_html_table, as_text_table

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class SearchResult(Generic[A]):
    """The result of a search."""

    members: tuple[Evaluation[A], ...]
    """The last archive."""
    front: tuple[Evaluation[A], ...]
    """The non-dominated evaluations with the last weights that keep the budget, in the order of the last objective; if
    none keeps the budget, those that violate it least. Noisy values (`Objective.noise`) are the `expected` ones."""
    high_trade_off: tuple[Evaluation[A], ...]
    """The front, highest trade-off first: those that lose most for what their neighbours gain over them (NAT)."""
    evaluated: tuple[Evaluation[A], ...]
    """Everything that was evaluated with the last weights."""
    feasible: bool
    """Whether the front keeps the budget."""
    generations: tuple[Generation[A], ...]
    quantities: tuple[Objective, ...]
    objectives: tuple[Objective, ...] = ()
    """What was optimised, of the quantities."""
    history: tuple[tuple[Evaluation[A], EvaluationRecord], ...] = field(default=(), repr=False)
    """All evaluations in order, failed ones too, with how they came about."""
    expected: tuple[Evaluation[A], ...] = field(default=(), repr=False)
    """`evaluated` with the values to expect if noisy ones were measured again: between what was measured and what is
    predicted, by how far each can be wrong."""
    exhausted: str = ""
    """That nothing is left to evaluate, if that is why the search ended."""

    def __repr__(self) -> str:
        return as_text_table(self._rows())

    def _repr_html_(self) -> str:
        return as_html_table(self._rows())

    def _rows(self) -> list[Row]:
        """The front."""
        names = [each.name for each in self.quantities]
        return [{"network": str(each.arch)} | {name: f"{each[name]:.4g}" for name in names} for each in self.front]

    def to_dataframe(self) -> pandas.DataFrame:
        """All evaluations in order, failed ones too, as a pandas table.

        It has the architecture, the parameters of a `NamedSpace`, one column per quantity, ``failure``, whether it is
        on the ``front``, and how the evaluation came about (`EvaluationRecord`).

        Raises:
            ConfigError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise ConfigError("to_dataframe() needs pandas: pip install pandas") from error
        front, weights = {each.arch for each in self.front}, max(record.weights for _, record in self.history)
        rows = []
        for evaluation, record in self.history:
            arch = evaluation.arch
            parameters = dict(arch) if isinstance(arch, Mapping) else {}
            values = {each.name: evaluation.values.get(each.name) for each in self.quantities}
            last = not evaluation.failure and record.share == 1 and record.weights == weights
            facts = {"failure": evaluation.failure, "front": last and arch in front, **record._asdict()}
            rows.append({"arch": str(arch), **parameters, **values, **facts})
        return pandas.DataFrame(rows)

    def plot_front(self, x: str = "", y: str = "") -> Figure:
        """Draw all evaluations and the front as a Matplotlib figure; ``savefig("front.png")`` writes it.

        Args:
            x: Name of a quantity; by default the second objective.
            y: Name of a quantity; by default the first objective.

        Raises:
            ConfigError: there is no such quantity, or only one objective.
        """
        names = [each.name for each in self.objectives]
        if len(names) < 2 and not (x and y):
            raise ConfigError("a front has two objectives; name two quantities, or see plot_history()")
        chosen = (quantity_of(self.quantities, name) for name in (x or names[1], y or names[0]))
        return plot_front(self.evaluated, self.front, *chosen)

    def plot_history(self) -> Figure:
        """Draw the hypervolume of the front, or the best value of one objective, against the number of evaluations."""
        return plot_history(self.evaluated, self.objectives, self.quantities)

    @staticmethod
    def of(task: Task[A], generations: Sequence[Generation[A]]) -> SearchResult[A]:
        """The result of a search so far.

        Raises:
            RunError: no evaluation has succeeded.
        """
        weights = task.version(generations[-1].number) if generations else 0
        every = task.archive.known(weights)
        if not every:
            raise RunError("there is no result yet: no evaluation has succeeded")
        archs = generations[-1].members if generations else [each.arch for each in every]
        members = [task.archive.find(arch, weights=weights) for arch in archs]
        expected = to_expect(task, every)
        front = [expected[number] for number in task.front(expected)]
        front.sort(key=lambda evaluation: tuple(evaluation[each.name] for each in task.objectives[::-1]))
        values = task.values(front)
        _, different = np.unique(values, axis=0, return_index=True)
        order = different[np.argsort(-trade_offs(values[different]), kind="stable")]
        return SearchResult(
            members=tuple(member for member in members if member is not None),
            front=tuple(front),
            high_trade_off=tuple(front[int(number)] for number in order),
            evaluated=tuple(every),
            expected=tuple(expected),
            feasible=bool((task.violations(front) <= 0).all()),
            generations=tuple(generations),
            quantities=task.quantities,
            objectives=task.objectives,
            history=tuple(task.archive.evaluations()),
            exhausted=task.archive.noted("exhausted") or "",
        )

    def best(self, budget: str = "") -> Evaluation[A]:
        """The evaluation that is best in the first objective within the search's budget and this one, with values as on
        the `front`.

        Args:
            budget: Further bounds, e.g. ``params<=200k``; on any recorded quantity.

        Raises:
            ConfigError: no network keeps them.
        """
        bounds = parse_budget(budget, self.quantities, named="budget")
        missing = [bound.name for bound in bounds if bound.name not in {each.name for each in self.quantities}]
        if missing:
            raise ConfigError(f"{', '.join(missing)} was not recorded in this search; give it as an objective")
        bounds += tuple(each for each in self.quantities if each.bounded)
        kept = violations(self.expected, bounds) <= 0
        if not kept.any():
            spans = ", ".join(
                f"{bound.name} from {format_value(min(values), bound.unit)} to {format_value(max(values), bound.unit)}"
                for bound, values in ((each, [e[each.name] for e in self.expected]) for each in bounds)
            )
            raise ConfigError(
                f"nothing that was evaluated keeps {', '.join(map(format_bound, bounds))}; it has {spans}"
            )
        values = minimised(self.expected, self.quantities[:1])[:, 0]
        return self.expected[int(np.where(kept, values, np.inf).argmin())]
