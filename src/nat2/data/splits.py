"""Training, validation and test images that never mix."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nat2.errors import DataError


def stratified(
    labels: NDArray[np.int64],
    classes: Sequence[str],
    fractions: Sequence[float],
    generator: np.random.Generator,
) -> list[NDArray[np.int64]]:
    """Divide a set into parts with the same share of every class.

    Args:
        labels: Class of each image, shape (n,).
        classes: Names of the classes, for the error.
        fractions: Share of each part but the first, which keeps the rest; each part gets at least one image per class.
        generator: Source of the order.

    Returns:
        Sorted indices of the first part (the rest), then of the part for each of `fractions`.

    Raises:
        DataError: naming each class that has fewer images than there are parts.
    """
    needed = len(fractions) + 1
    counts = np.bincount(labels, minlength=len(classes))
    small = [f"{name} ({count})" for name, count in zip(classes, counts, strict=True) if count < needed]
    if small:
        raise DataError(
            f"every class needs at least {needed} images, one for each of {needed} splits; too few in "
            f"{', '.join(small)}: add images or remove the class"
        )
    parts: list[list[NDArray[np.int64]]] = [[] for _ in range(needed)]
    for label, count in enumerate(counts):
        order = generator.permutation(np.flatnonzero(labels == label))
        taken = 0
        for number, fraction in enumerate(fractions, start=1):
            still_needed = needed - number  # the first part and those to come
            size = min(max(1, round(fraction * count)), count - taken - still_needed)
            parts[number].append(order[taken : taken + size])
            taken += size
        parts[0].append(order[taken:])
    return [np.sort(np.concatenate(part)) for part in parts]
