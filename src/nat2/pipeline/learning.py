"""What is said when a stage has learned nothing, and what to do about it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from nat2.runs.accuracy import Accuracy

_CHANCE = 0.97  # of the loss of guessing, above which nothing was learned
_BLIND = 0.1  # a tau below which the predictor orders networks little better than chance


def nothing_trained(loss: float | None, classes: int, accuracies: Sequence[Accuracy]) -> str:
    """A sentence if the super-network has learned nothing, else nothing.

    Args:
        loss: Mean training loss at the end; None where a teacher's part is in it.
        classes: How many there are; guessing has the loss ln(classes).
        accuracies: Of some of its networks on validation images.
    """
    guesses = not any(accuracy.beats_chance for accuracy in accuracies)
    if loss is not None and loss > _CHANCE * math.log(classes):
        why = f"its loss of {loss:.2f} is that of guessing, ln({classes}) = {math.log(classes):.2f}"
    elif guesses:
        why = "neither its largest nor its smallest network beats chance on the validation images"
    else:
        return ""
    return (
        f"the super-network has learned nothing: {why}. Check that the labels belong to the images, add images, or "
        "give its phases more steps or other learning rates (`phases` in a file for --config)"
    )


def nothing_predicted(taus: Sequence[float | None], images: int) -> str:
    """A sentence if the accuracy predictor could not distinguish good networks from bad ones, else nothing.

    Args:
        taus: Kendall's tau of each generation's predictions; None where it could not be computed.
        images: Validation images.
    """
    known = [tau for tau in taus if tau is not None]
    if not known or np.mean(known) >= _BLIND:
        return ""
    return (
        f"predicted and measured accuracies hardly agree (mean tau {np.mean(known):.2f}), so the search was close to "
        f"random: the networks differ by less than {images:,} validation images can show, or the super-network has "
        "learned too little. Add images, or train it longer"
    )
