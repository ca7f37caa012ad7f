"""What a search wants evaluated next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic

from nat2.nas.archive import Archive, Evaluation, Origin
from nat2.space.searchable import A


@dataclass(frozen=True, kw_only=True)
class Batch(Generic[A]):
    """Distinct architectures to evaluate with one version of the weights."""

    archs: tuple[A, ...]
    """None: nothing can be evaluated before more results are known."""
    weights: int
    """Version of the weights."""
    generation: int
    origin: Origin
    share: float = 1.0
    """Part of the images to evaluate on."""

    def found(self, archive: Archive[A]) -> list[Evaluation[A]]:
        """The evaluations that an archive holds, in order; the others are still out."""
        found = (archive.find(arch, weights=self.weights, share=self.share) for arch in self.archs)
        return [each for each in found if each is not None]
