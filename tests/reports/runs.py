"""Run folders as a run leaves them, made in a moment: random networks, their true costs, invented accuracies."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from nat2.data.dataset import Split
from nat2.deploy.anytime import OperatingPoint
from nat2.files import write_csv, write_json
from nat2.nas.archive import Archive, Evaluation, EvaluationRecord
from nat2.nas.generation import Generation, GenerationFacts, Proposal, Quality
from nat2.runs.config import RunConfig
from nat2.runs.predictions import answers_on, write_answers
from nat2.runs.results import Result
from nat2.space import Arch, Macro, SearchSpace, cost

MACRO = Macro(classes=4, channels=1, width=0.25, stem_stride=1)
SPACE = SearchSpace.of(MACRO, (12, 16))


def networks(count: int, seed: int = 0) -> list[Arch]:
    """Different ones, the smallest first."""
    generator = np.random.default_rng(seed)
    drawn = {SPACE.smallest: None}
    while len(drawn) < count:
        drawn[SPACE.decode(generator.integers(SPACE.lower, SPACE.upper + 1))] = None
    return sorted(drawn, key=lambda arch: cost(MACRO, arch).params)


def measured(arch: Arch, gain: float = 0.0) -> dict[str, float]:
    costs = cost(MACRO, arch)
    error = 0.9 / (1 + costs.params / 9000) + 0.08 * (int(arch.id, 16) % 1000 / 1000) - gain
    return {"error": min(max(error, 0.0), 1.0), "params": costs.params, "macs": costs.macs, "memory": 4 * costs.memory}


def fine_tuned(arch: Arch, /, **changes: Any) -> Result:
    values = measured(arch)
    found = 1 - values["error"]
    known: dict[str, Any] = {"error": values["error"], "params": int(values["params"]), "macs": int(values["macs"])}
    accuracies = [found - 0.1, found, 0.5 + found / 2, 0.95 - found / 10]  # the test says otherwise
    others = {name: value for name, value in values.items() if name not in known}
    known |= dict(zip(_ACCURACIES, accuracies, strict=True))
    result = Result(arch.id, arch.key, **known, others=others, finetune_epochs=3)
    return replace(result, **changes)


_ACCURACIES = ("inherited_val_accuracy", "calibrated_val_accuracy", "val_accuracy", "test_accuracy")


def early_exits(arch: Arch) -> Result:
    """The multi-exit network of an architecture, cut behind its second exit."""
    cut = replace(arch, stages=arch.stages[:2])
    costs = cost(MACRO, cut, exits=(1, 2))
    points = tuple(
        OperatingPoint(
            threshold, costs.macs * share, costs.macs * share, 0.9 - 0.1 * (1 - share), 0.89 - 0.1 * (1 - share)
        )
        for threshold, share in ((0.5, 0.6), (0.8, 0.8), (1.1, 1.0))
    )
    return fine_tuned(
        arch,
        id=f"{arch.id}-ee",
        arch=cut.key,
        params=costs.params,
        macs=costs.macs,
        exits=(1, 2),
        anytime=points,
        int8_test_accuracy=0.87,
    )


def write_mistakes(folder: Path, classes: list[str], *, each: int = 8, seed: int = 0) -> None:
    """Answers on `each` validation and test images of every class, most of them right."""
    generator = torch.Generator().manual_seed(seed)
    splits = {}
    for name in ("val", "test"):
        labels = torch.arange(len(classes)).repeat(each)
        pixels = torch.randint(0, 256, (len(labels), 1, 16, 16), dtype=torch.uint8, generator=generator)
        logits = torch.randn(len(labels), len(classes), generator=generator)
        logits[torch.arange(len(labels)), labels] += 2
        splits[name] = (logits, Split(pixels, labels, [f"<class>/{name} & {n}.png" for n in range(len(labels))]))
    write_answers(folder, answers_on(splits, classes), classes)


PROPOSAL = Proposal(
    predictor="lgb", predictors={"error": "lgb"}, bounded=False, feasible=1.0, duplicate=0.25, predict_seconds=0.5,
    evolve_seconds=0.25, select_seconds=0.125,
)  # fmt: skip


def write_run(
    folder: Path,
    *,
    generations: int = 2,
    seed: int = 0,
    state: str = "finished",
    latency: bool = True,
    fingerprint: str = "aa",
    budget: str = "",
    answers: bool = True,
) -> list[Result]:
    """A run folder; `state` is ``training``, ``searching`` (a generation is missing) or ``finished``."""
    folder.mkdir(parents=True)
    config = RunConfig(data="corners", family="EE_D", width=0.25, resolutions="12,16", stem_stride=1, budget=budget)
    settled = config.to_dict()
    settled["search"]["generations"] = generations
    (folder / "config.yaml").write_text(yaml.safe_dump(settled, sort_keys=False))
    images = {split: {f"<class {n}>": 8 for n in range(4)} for split in ("train", "val", "test")}
    data = {"name": "corners", "fingerprint": fingerprint, "channels": 1, "images": images, "notes": ["a note"]}
    write_json(folder / "data.json", data)
    write_json(folder / "environment.json", {"python": "3.11.7", "processors": 2, "packages": {"torch": "2.13.0"}})
    write_json(folder / "seconds.json", {"train": 61.0, "search": 5.0})
    if state == "training":
        return []
    archs = networks(14, seed)
    done = generations if state == "finished" else generations - 1
    with Archive[Arch](folder / "archive.db", ("error", "params", "macs", "memory")) as archive:
        high = float(budget.partition("<=")[2]) if budget else np.inf
        noted = {
            name: ["min", "predicted" if name == "error" else "exact", -np.inf, np.inf] for name in archive.columns
        }
        noted["params"][3] = high
        archive.note("search", json.dumps({"seed": 0, "adapts": True, "space": [[], []], **noted}))
        archive.add(Evaluation(SPACE.largest, {}, "it would not run"), EvaluationRecord(0, 0, "initial", 1.0, 0.1, 0))
        for number in range(done + 1):
            for arch in archs[: 8 + 2 * number]:
                origin = "re-evaluation" if number else "initial"
                values = measured(arch, 0.05 * (number - done))
                archive.add(Evaluation(arch, values), EvaluationRecord(number, number, origin, 1.0, 0.1, 0))  # type: ignore[arg-type]
            facts = GenerationFacts(evaluations=10, failed=0, seconds=1.5)
            if number:
                facts = replace(facts, candidates=2, proposal=PROPOSAL, quality=Quality(0.7, 0.8, 0.02))
            archive.close_generation(Generation(number, tuple(archs[2 * number :][:8]), 0.5 + 0.1 * number, facts))
    if state != "finished":
        return []
    members = archs[2 * done :][:8]
    results = [fine_tuned(members[n]) for n in (1, 3, 5, 7)] + [early_exits(members[7])]
    for result in results:
        write_json(folder / "networks" / result.id / "result.json", asdict(result))
        if answers:
            write_mistakes(folder / "networks" / result.id, list(images["test"]), seed=len(result.exits))
    write_json(folder / "results.json", [result.id for result in results])
    if latency:
        rows = [
            {"id": result.id, "runtime": runtime, "batch": 1, "threads": 2, "device": "cpu", "median": median,
             "lower": 0.9 * median, "upper": 1.1 * median, "runs": 50}
            for number, result in enumerate(results)
            for runtime, median in (("onnx", 0.2 + 0.1 * number), ("torch", 1.0 + number))
        ]  # fmt: skip
        write_csv(folder / "latency.csv", rows)
    return results
