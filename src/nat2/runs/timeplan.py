"""The account of a run that was planned for a time: what each stage does, and how long it was expected to take."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class StageEntry:
    """One stage."""

    name: str
    amount: str
    """What is done, in words: steps, networks, generations."""
    seconds: float
    """Expected."""


@dataclass(frozen=True)
class TimePlan:
    """All stages."""

    time: str
    """What was given: ``30m``; empty for a run of default length."""
    stages: tuple[StageEntry, ...]
    resolutions: str = ""
    """Why these were chosen, if others than usual were."""
    settled: bool = False
    """Whether the length of the fine-tuning is final: it is decided again when it begins, by the time that is left."""
    extended: bool = False
    """Whether that of its second phase is final: it is decided again once it is known who is trained further."""

    @property
    def sentence(self) -> str:
        """The stages in a line."""
        return "; ".join(f"{stage.name} {stage.amount}" for stage in self.stages if stage.amount)

    @property
    def seconds(self) -> float:
        """Expected in all."""
        return sum(stage.seconds for stage in self.stages)
