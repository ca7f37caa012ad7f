"""The record of a generation: how its candidates were found, how well they were predicted, and what that took."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Generic, NamedTuple

from nat2.space.searchable import A


class Quality(NamedTuple):
    """How well predictions agreed with later measurements."""

    tau: float | None
    """Kendall's rank correlation; None if there are fewer than two different values."""
    rho: float | None
    """Spearman's rank correlation; None if there are fewer than two different values."""
    rmse: float
    """Root mean square error, in the unit of the predicted quantity."""


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """How the candidates of a generation were found."""

    predictor: str
    """Of the first objective."""
    predictors: Mapping[str, str]
    """By name of the quantity, for all that is predicted."""
    bounded: bool
    """Whether there is a budget."""
    feasible: float
    """Share of the proposals that are predicted to keep it."""
    duplicate: float
    """Share of the proposals that were evaluated before."""
    predict_seconds: float
    """Fitting the predictors."""
    evolve_seconds: float
    """Evolving on their predictions."""
    select_seconds: float
    """Choosing among the proposals."""


@dataclass(frozen=True, kw_only=True)
class GenerationFacts:
    """Counts, predictor quality and seconds of a generation; generation 0 has no candidates."""

    evaluations: int
    failed: int
    """How many of them."""
    seconds: float
    """In total."""
    candidates: int | None = None
    proposal: Proposal | None = None
    quality: Quality | None = None
    """Of the candidates' predicted first objective; None if none of them could be evaluated."""
    quality_of: Mapping[str, Quality] = field(default_factory=dict)
    """The same for all other predicted quantities, by name."""
    good: Sequence[Sequence[int]] | None = None
    """Genomes that adaptation learned from; None if the weights are fixed."""
    evaluate_seconds: float = 0.0
    """Evaluating the candidates."""
    adapt_seconds: float = 0.0
    again_seconds: float = 0.0
    """Evaluating the archive again."""

    def to_json(self) -> str:
        """A flat JSON object: counts, the fields of the proposal, ``tau``, ``rho`` and ``rmse`` of the first
        objective, those of the others prefixed with their name (``latency_tau``), and seconds.
        """
        flat: dict[str, object] = {"evaluations": self.evaluations, "failed": self.failed}
        if self.candidates is not None:
            flat["candidates"] = self.candidates
        if self.proposal is not None:
            flat |= asdict(self.proposal)
        if self.quality is not None:
            flat |= self.quality._asdict()
        for name, found in self.quality_of.items():
            flat |= {f"{name}_{part}": value for part, value in found._asdict().items()}
        if self.good is not None:
            flat["good"] = self.good
        flat |= {name: seconds for name in _PARTS if (seconds := getattr(self, name))}
        return json.dumps(flat | {"seconds": self.seconds})

    @staticmethod
    def from_json(text: str) -> GenerationFacts:
        """Read what `to_json` wrote.

        Raises:
            ValueError: it is something else, or incomplete.
        """
        flat: dict[str, Any] = json.loads(text)
        try:
            others = [key.removesuffix("_rmse") for key in flat if key.endswith("_rmse")]
            return GenerationFacts(
                evaluations=flat["evaluations"],
                failed=flat["failed"],
                seconds=flat["seconds"],
                candidates=flat.get("candidates"),
                proposal=Proposal(**{name: flat[name] for name in _PROPOSED}) if "predictor" in flat else None,
                quality=Quality(*(flat[part] for part in Quality._fields)) if "rmse" in flat else None,
                quality_of={name: Quality(*(flat[f"{name}_{part}"] for part in Quality._fields)) for name in others},
                good=flat.get("good"),
                **{name: flat.get(name, 0.0) for name in _PARTS},
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"incomplete facts of a generation: {error!r}") from error


_PROPOSED = tuple(each.name for each in fields(Proposal))
_PARTS = ("evaluate_seconds", "adapt_seconds", "again_seconds")


@dataclass(frozen=True)
class Generation(Generic[A]):
    """The archive after a generation, and the facts of that generation."""

    number: int
    members: tuple[A, ...]
    """Architectures."""
    hypervolume: float
    facts: GenerationFacts

    def summary(self, last: int) -> str:
        """One line for the log; `last` is the number of the last generation."""
        facts, proposal, quality = self.facts, self.facts.proposal, self.facts.quality
        line = f"generation {self.number} of {last}, hypervolume {self.hypervolume:.4f}"
        if proposal is not None and quality is not None:
            tau = "-" if quality.tau is None else f"{quality.tau:.2f}"
            line += f", {facts.candidates} new networks predicted by {proposal.predictor} with tau {tau}"
            line += f", {100 * proposal.feasible:.0f} % of proposals within the budget" if proposal.bounded else ""
        if facts.failed:
            line += f", {facts.failed} evaluations failed"
        return line

    def row(self) -> dict[str, object]:
        """A row of ``log.csv``."""
        facts, proposal, quality = self.facts, self.facts.proposal, self.facts.quality
        return {
            "generation": self.number,
            "hypervolume": self.hypervolume,
            "archive": len(self.members),
            "evaluations": facts.evaluations,
            "failed": facts.failed,
            "candidates": facts.candidates,
            "predictor": proposal and proposal.predictor,
            "tau": quality and quality.tau,
            "rho": quality and quality.rho,
            "rmse": quality and quality.rmse,
            "feasible": proposal and proposal.feasible,
            "duplicate": proposal and proposal.duplicate,
            "predict_seconds": round(proposal.predict_seconds if proposal else 0.0, 3),
            "evolve_seconds": round(proposal.evolve_seconds if proposal else 0.0, 3),
            "select_seconds": round(proposal.select_seconds if proposal else 0.0, 3),
            "evaluate_seconds": round(facts.evaluate_seconds, 3),
            "adapt_seconds": round(facts.adapt_seconds, 3),
            "again_seconds": round(facts.again_seconds, 3),
            "seconds": round(facts.seconds, 3),
        }
