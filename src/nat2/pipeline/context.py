"""Everything that the stages of a run share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from nat2.data.dataset import Dataset, Split
from nat2.data.transform import Pipeline, ResizedImages
from nat2.nas.archive import Evaluation
from nat2.nas.feasible import exact
from nat2.nas.functions import ExactCost
from nat2.nas.objectives import Objective
from nat2.pipeline.clock import StageClock
from nat2.pipeline.evaluation import Evaluator, exact_costs
from nat2.pipeline.prepare import introduction
from nat2.processes import ALONE, Processes
from nat2.progress import Reporter
from nat2.runs.config import RunConfig
from nat2.runs.facts import Fact
from nat2.runs.folder import RunFolder
from nat2.runs.plan import RunPlan
from nat2.space import Arch, Macro, SearchSpace
from nat2.supernet import SuperNetworks
from nat2.training.context import TrainingContext, joint_statistics
from nat2.training.teacher import calibration_images


def pipeline_of(config: RunConfig, dataset: Dataset, *, device: torch.device = ALONE.device) -> Pipeline:
    """What a run makes its inputs with."""
    return Pipeline(
        dataset.mean,
        dataset.std,
        config.augmentation,
        device=device,
        center=config.center or 1.0,
        span=dataset.span,
    )


@dataclass(frozen=True)
class RunContext:
    """A run in progress."""

    plan: RunPlan
    folder: RunFolder
    dataset: Dataset
    pipeline: Pipeline
    progress: Reporter
    processes: Processes
    evaluator: Evaluator
    calibration: Split
    """Training images for batch-norm statistics and for the ranges of 8-bit activations."""
    costs: Mapping[str, ExactCost]
    """The functions of exact objectives, by name."""
    clock: StageClock

    @staticmethod
    def of(plan: RunPlan, dataset: Dataset, folder: RunFolder, progress: Reporter, processes: Processes) -> RunContext:
        """The context of a plan."""
        config = plan.config
        pipeline = pipeline_of(config, dataset, device=processes.device)
        most = config.search.val_images
        calibration = calibration_images(dataset.train, config.shrink.calibration_images)
        return RunContext(
            plan=plan,
            folder=folder,
            dataset=dataset,
            pipeline=pipeline,
            progress=progress,
            processes=processes,
            evaluator=Evaluator(
                ResizedImages(calibration, pipeline),
                ResizedImages(dataset.val.spread(most) if most else dataset.val, pipeline),
                processes,
                latency_batch=config.latency_batch,
                latency_threads=config.latency_threads,
            ),
            calibration=calibration,
            costs=exact_costs(plan.quantities, plan.space, plan.macros),
            clock=StageClock(folder if processes.first else None),
        )

    @property
    def config(self) -> RunConfig:
        """The settings of the stages; what its texts mean is in the plan."""
        return self.plan.config

    @property
    def macros(self) -> tuple[Macro, ...]:
        """The macro-architecture of each width, narrowest first."""
        return self.plan.macros

    @property
    def space(self) -> SearchSpace:
        """What is searched."""
        return self.plan.space

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """What is optimised, the error first."""
        return self.plan.objectives

    @property
    def recorded(self) -> tuple[Objective, ...]:
        """What is recorded in addition, and held within the budget."""
        return self.plan.recorded

    def training(self, state: Path, *, unit: str) -> TrainingContext:
        """What a training loop is given.

        Args:
            state: File of its resume point.
            unit: What its steps are called in the progress.
        """
        return TrainingContext(
            split=replace(self.dataset.train.resident(self.pipeline.device), balanced=self.config.balance),
            pipeline=self.pipeline,
            state=state,
            seed=self.config.seed,
            processes=self.processes,
            sync_batch_norm=self.config.sync_batch_norm,
            interval=self.config.checkpoint_seconds,
            progress=self.progress,
            unit=unit,
        )

    def evaluated(self, networks: SuperNetworks, arch: Arch) -> Evaluation[Arch]:
        """What the search would record of a network with the present weights; the user's and measured objectives
        aside."""
        known = [each for each in self.quantities if each.cost == "exact"]
        (values,) = exact(known, self.costs, self.space.encode(arch)[None])
        computed = {each.name: float(value) for each, value in zip(known, values, strict=True)}
        known = [each for each in self.quantities if each.function is None]
        return Evaluation(arch, {**self.evaluator.evaluate(networks, known)(arch), **computed})

    @property
    def quantities(self) -> tuple[Objective, ...]:
        """Everything that is known of a network."""
        return self.plan.quantities

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of what is measured of a network."""
        return tuple(each.name for each in self.quantities)

    @property
    def introduction(self) -> list[Fact]:
        """What a user should see before hours of work begin."""
        return introduction(self.plan, self.dataset) + self._processes_facts()

    def _processes_facts(self) -> list[Fact]:
        """How several processes divide the work."""
        processes, batch_size = self.processes, self.config.shrink.batch_size
        if processes.size == 1:
            return []
        trainers = processes.trainers.size
        who = f"{processes.size}" if trainers == processes.size else f"{processes.size}, of which {trainers} train"
        if trainers == 1 or batch_size is None:
            return [("processes", who)]
        joint = joint_statistics(batch_size, self.config.sync_batch_norm, processes)
        whose = "the whole batch" if joint else "the images of each process"
        return [("processes", f"{who}; batch norms take their statistics from {whose}")]
