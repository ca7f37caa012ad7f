"""The last stage of a run: which networks are returned, and their fine-tuning, test and export."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch

from nat2.data.transform import ResizedImages
from nat2.deploy.export import export
from nat2.job import Job
from nat2.nas.archive import Evaluation
from nat2.nas.budget import spelled, told
from nat2.nas.found import Found
from nat2.nas.select import recommend
from nat2.reports.results import Result
from nat2.space import Arch
from nat2.supernet import StaticNetwork, SuperNetwork, SuperNetworks, extract, normalize_by_stored
from nat2.training.finetune import finetune
from nat2.training.optimise import accuracy


def returned(job: Job, found: Found[Arch]) -> list[Evaluation[Arch]]:
    """The networks to polish: of the front, the best in each objective and the high-trade-off ones."""
    # Of networks that are otherwise equal, the faster.
    front = sorted(found.front, key=lambda evaluation: evaluation["macs"])
    values = np.stack([each.minimised(np.array([e[each.name] for e in front])) for each in job.objectives], axis=1)
    lowest = values[:, 0].min()
    noise = math.sqrt(lowest * (1 - lowest) / len(job.evaluator.validation))
    chosen = [front[index] for index in recommend(values, job.config.networks, noise=noise)]
    job.progress.stage("fine-tune", 2 * job.config.finetune.epochs * len(chosen))
    job.progress.say(f"fine-tune: {len(chosen)} of the {len(front)} networks that no other beats")
    if not found.feasible:
        bounds = [each for each in (*job.objectives, *job.also) if each.bounded]
        nearest = ", ".join(f"{each.name} {spelled(front[0][each.name], each.unit)}" for each in bounds)
        job.progress.say(
            f"no network that was evaluated keeps the budget ({', '.join(map(told, bounds))}); the nearest are "
            f"returned, the first with {nearest}"
        )
    return sorted(chosen, key=lambda evaluation: (evaluation["params"], evaluation["macs"]))


def polish_networks(job: Job, networks: SuperNetworks, found: Found[Arch], lap: Callable[[], None]) -> list[Result]:
    """Stage 3: fine-tune, test and export the networks to return, each by one process."""
    chosen, here = job.processes.once(lambda: returned(job, found)), set()

    def work(evaluation: Evaluation[Arch]) -> tuple[Result, float | None]:
        here.add(evaluation.arch)
        return polish(job, networks[evaluation.arch.width], evaluation)

    results = []
    for evaluation, (result, difference), _ in job.processes.spread(
        work, chosen, costs=[evaluation["macs"] for evaluation in chosen]
    ):
        results.append(result)
        if evaluation.arch not in here:
            job.progress.step(2 * job.config.finetune.epochs)
        if difference is not None:
            job.progress.say(
                f"exported {result.id}: {result.params:,} parameters, {100 * result.test_accuracy:.1f} % on the test "
                f"images; ONNX Runtime agrees with torch to {difference:.0e}"
            )
        lap()
    return results


def polish(job: Job, network: SuperNetwork, evaluation: Evaluation[Arch]) -> tuple[Result, float | None]:
    """Fine-tune one network, test it once, export it; or read what was done before.

    Returns:
        What is told of it, and the largest difference of a logit between ONNX Runtime and torch (None if it was done
        before).
    """
    arch = evaluation.arch
    done = job.folder.result(arch.id)
    if done is not None:
        job.progress.step(2 * job.config.finetune.epochs)
        return done, None
    inherited = extract(network, arch, job.evaluator.statistics(network, arch))
    finetuned = finetune(
        inherited,
        job.dataset.train,
        job.dataset.val,
        job.pipeline,
        job.config.finetune,
        state=job.folder.state / f"finetune-{arch.id}.safetensors",
        seed=job.config.seed,
        interval=job.config.checkpoint_seconds,
        say=job.progress.say,
        tick=job.progress.step,
    )
    test_accuracy = _test(job, finetuned.network)
    params, macs = int(evaluation["params"]), int(evaluation["macs"])
    fixed = ("error", "params", "macs")
    result = Result(
        id=arch.id,
        arch=arch.key,
        error=evaluation["error"],
        params=params,
        macs=macs,
        inherited_val_accuracy=1 - job.evaluator.error(network, arch, normalize=normalize_by_stored),
        calibrated_val_accuracy=finetuned.calibrated_val_accuracy,
        val_accuracy=finetuned.val_accuracy,
        test_accuracy=test_accuracy,
        finetune_epochs=finetuned.epochs,
        others={name: value for name, value in evaluation.values.items() if name not in fixed},
    )
    facts = {
        "accuracy": {"validation": result.val_accuracy, "test": test_accuracy},
        "params": params,
        "macs": macs,
        **result.others,
    }
    folder = job.folder.network(arch.id)
    difference = export(
        finetuned.network, job.pipeline, job.dataset.classes, folder, side=job.dataset.side, facts=facts
    )
    job.folder.keep(result)
    return result, difference


@torch.no_grad()
def _test(job: Job, network: StaticNetwork) -> float:
    images = ResizedImages(job.dataset.test, job.pipeline)
    return accuracy(network, images.batches(network.arch.resolution), images.labels)
