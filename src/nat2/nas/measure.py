"""Evaluate each network once: take it from the archive if it is there, else evaluate it and store it, failures too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from nat2.errors import Nat2Error, RunError
from nat2.nas.archive import Evaluation, EvaluationRecord
from nat2.nas.batch import Batch
from nat2.nas.task import Task
from nat2.progress import FoundDone
from nat2.space.searchable import A

_LARGEST = 1e100  # the variance of larger values overflows
_FEW = 12  # evaluations that can tell whether most fail


def measure(task: Task[A], batch: Batch[A]) -> list[Evaluation[A]]:
    """Evaluate the architectures of a batch; returned in order, failures included."""
    weights, generation, origin, share = batch.weights, batch.generation, batch.origin, batch.share
    known = {arch: task.archive.find(arch, weights=weights, share=share) for arch in batch.archs}
    missing = [arch for arch, found in known.items() if found is None]
    task.progress.step(FoundDone(len(known) - len(missing)), unit="evaluations")
    table = task.exact(task.encode_all(missing)) if missing else {}
    facts = {arch: {name: _plain(column[n]) for name, column in table.items()} for n, arch in enumerate(missing)}
    efforts = [facts[arch].get("macs", 1.0) for arch in missing]
    work = partial(_evaluate, task, share)
    for done in task.processes.rounds(work, missing, costs=efforts):
        # Only one process measures at a time: others at work would slow down what is measured.
        measured, error = task.processes.once(partial(_of_networks, task, done))
        rows = []
        for (arch, _, seconds), outcome in zip(done, measured, strict=False):
            if isinstance(outcome, str):
                made = Evaluation[A](arch, {}, outcome)
            else:
                made = Evaluation(arch, {**facts[arch], **outcome})
            known[arch] = made
            rows.append((made, EvaluationRecord(weights, generation, origin, share, seconds, task.seed)))
        task.record(partial(task.archive.add_all, rows))
        task.progress.step(len(rows), unit="evaluations")
        if error is not None:
            raise error
    return [found for arch in batch.archs if (found := known[arch]) is not None]


def succeeded(evaluations: Sequence[Evaluation[A]]) -> list[Evaluation[A]]:
    """Those that did not fail."""
    return [evaluation for evaluation in evaluations if not evaluation.failure]


def check_failures(task: Task[A], evaluations: Sequence[Evaluation[A]], *, asked: int = 0) -> None:
    """Stop if all or most evaluations failed; the failures are deleted, so that a restarted search repeats them.

    Most of a few evaluations fail by chance where a third of all does, so fewer than twelve count as twelve.

    Args:
        task: What the search works with.
        evaluations: Those that were made.
        asked: How many were asked for, if some are still out.

    Raises:
        RunError: naming the first failure.
    """
    failed = [evaluation for evaluation in evaluations if evaluation.failure]
    made = max(asked, len(evaluations))
    if failed and (len(failed) == made or len(failed) > max(made, _FEW) / 2):
        task.record(partial(task.archive.forget_failures, [evaluation.arch for evaluation in failed]))
        raise RunError(
            f"{len(failed)} of {len(evaluations)} evaluations failed, the first, {failed[0].arch}, with: "
            f"{failed[0].failure}. Fix the evaluation and repeat the call: the results so far are kept"
        )


def reported(task: Task[A], arch: A, given: object) -> Evaluation[A]:
    """The evaluation that a result amounts to: values for all quantities that are not exact, by name, or the only one.

    It is a failure if a value, or an exact quantity of the architecture, is not finite.

    Raises:
        TypeError, ValueError, KeyError: a value is missing or not a number.
    """
    names = [each.name for each in task.of_class("predicted", "measured")]
    exact = {name: _plain(column[0]) for name, column in task.exact(task.encode_all([arch])).items()}
    values = _finite(exact | _named(given, names))
    return Evaluation(arch, {}, values) if isinstance(values, str) else Evaluation(arch, values)


def _named(given: object, names: Sequence[str]) -> dict[str, float]:
    """Values by name."""
    values: Any = given if isinstance(given, Mapping) else {names[0]: given} if len(names) == 1 else None
    if values is None:
        raise TypeError(f"the evaluation returned {given!r}, not a value for each of {', '.join(names)}")
    return {name: float(values[name]) for name in names}


def _evaluate(task: Task[A], share: float, arch: A) -> dict[str, float] | str:
    """The predicted quantities of an architecture, or why there are none."""
    names = [each.name for each in task.of_class("predicted")]
    try:
        evaluate = task.functions.evaluate
        given = evaluate(arch) if share == 1 else evaluate(arch, share=share)  # type: ignore[call-arg]
        if not isinstance(given, Mapping) and len(names) > 1:
            return f"the evaluation returned {given!r}, not a value for each of {', '.join(names)}"
        return _finite(_named(given, names))
    except Nat2Error:
        raise
    except Exception as error:  # one network that cannot be evaluated must not end the search
        return f"{type(error).__name__}: {error}"


def _of_networks(
    task: Task[A], done: Sequence[tuple[A, dict[str, float] | str, float]]
) -> tuple[list[dict[str, float] | str], Nat2Error | None]:
    """What has been evaluated together with its measured quantities, or why there are none: up to the first that ends
    the search, and what ends it.
    """
    complete: list[dict[str, float] | str] = []
    for arch, outcome, _ in done:
        if isinstance(outcome, dict):
            try:
                measured = _of_network(task, arch)
            except Nat2Error as error:
                return complete, error
            outcome = measured if isinstance(measured, str) else outcome | measured
        complete.append(outcome)
    return complete, None


def _of_network(task: Task[A], arch: A) -> dict[str, float] | str:
    """The measured quantities of an architecture, each measured once."""
    values = {}
    for each in task.of_class("measured"):
        known = task.archive.find_value(arch, each.name)
        try:
            values[each.name] = float(task.functions.measured[each.name](arch)) if known is None else known
        except Nat2Error:
            raise
        except Exception as error:  # as above
            return f"{each.name}: {type(error).__name__}: {error}"
    return _finite(values)


def _finite(values: dict[str, float]) -> dict[str, float] | str:
    wrong = [f"{name} is {value}" for name, value in values.items() if not abs(value) <= _LARGEST]
    return ", ".join(wrong) or values


def _plain(value: float) -> float:
    """An integer if the value is one that floating point represents exactly."""
    return int(value) if float(value).is_integer() and abs(value) < 2**53 else float(value)
