"""Before any work starts: images are read, and the configuration becomes a plan that leaves nothing open."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from nat2.data.augment import DEFAULT_CROP
from nat2.data.dataset import UNEQUAL, Dataset, open_source, read_dataset
from nat2.data.depth import SIXTEEN_BITS, ValueRange
from nat2.data.known import Known
from nat2.errors import ConfigError
from nat2.nas.feasible import check_budget
from nat2.nas.predictors import check_predictor
from nat2.pipeline.evaluation import exact_costs, quantities
from nat2.pipeline.pretrained import download, settle
from nat2.processes import ALONE, Processes
from nat2.progress import SILENT, Reporter
from nat2.reports.curves import check_curves
from nat2.runs.config import RunConfig, absolute
from nat2.runs.facts import Fact, images_fact, search_facts
from nat2.runs.plan import Choices, RunPlan, macros_for, resolutions_for
from nat2.shipped import DEFAULT
from nat2.space import Macro, SearchSpace
from nat2.space.boards import ANYWHERE, SHARE, Board, TargetName, board_named
from nat2.training.length import batch_size_for, growth
from nat2.training.settings import SCHEDULES
from nat2.training.shrink import phases_for
from nat2.validation import parts_of

_MOST_CLASSES = 20  # that are listed
_LONGEST = 40  # letters of a class's name
_FEWEST = 32  # validation images that say something of a network


def prepare(config: RunConfig, processes: Processes = ALONE, *, progress: Reporter = SILENT) -> tuple[RunPlan, Dataset]:
    """Read the images and settle what the configuration leaves open. Its texts are read here, once.

    Args:
        config: What the user wrote, or the configuration of a run that has begun.
        processes: Those that would divide each batch.
        progress: Shows how many images have been read.

    Raises:
        Nat2Error: the images or the settings cannot be used.
    """
    if config.tensorboard:
        check_curves()
    check_predictor(config.search.predictor)
    download(Choices.of(config), progress)
    source = open_source(config.data, config.reading)
    choices = Choices.of(config).with_weights(source.side)
    sides = choices.resolutions or resolutions_for(source.side, shipped=choices.pretrained == (DEFAULT.name,))
    progress.stage("read", images=source.count)
    dataset = read_dataset(
        config.data,
        side=sides[-1],
        source=source,
        seed=config.seed,
        val_fraction=config.val_fraction,
        test_fraction=config.test_fraction,
        progress=progress,
    )
    progress.rest()
    choices = settle(choices, sides)
    macros = macros_for(choices, classes=len(dataset.classes), channels=dataset.channels, resolutions=sides)
    settled = _settled(config, choices, dataset, macros, sides)
    space = SearchSpace.of(macros, sides)
    phases_for(space, settled.phases)
    objectives, recorded = quantities(settled)
    plan = RunPlan(
        config=settled,
        macros=macros,
        space=space,
        objectives=objectives,
        recorded=recorded,
        pretrained=tuple(parts_of(settled.pretrained)),
        side=source.side,
    )
    _check(plan, dataset, processes)
    return plan, dataset


def _settled(
    config: RunConfig, choices: Choices, dataset: Dataset, macros: Sequence[Macro], sides: Sequence[int]
) -> RunConfig:
    """The configuration as config.yaml holds it."""
    quick = config.preset == "quick"
    # From trained weights crops cost accuracy (benchmarks/finetuning.py).
    crop = 1.0 if quick and choices.pretrained else DEFAULT_CROP
    known = dataset.known or Known(crop_scale=crop, policy="auto" if quick else "none")
    augmentation = config.augmentation
    schedule = config.schedule
    if schedule == "auto":
        schedule = "short-transfer" if choices.pretrained else "uniform"
    transfers = schedule.endswith("transfer") and not config.phases
    shrink, images = config.shrink, len(dataset.train)
    return dataclasses.replace(
        absolute(dataclasses.replace(config, pretrained=",".join(choices.pretrained))),
        family=macros[0].family,
        resolutions=",".join(map(str, sides)),
        width=",".join(str(macro.width) for macro in macros),
        stem_stride=macros[0].stem_stride,
        center=known.center if config.center is None else config.center,
        augmentation=dataclasses.replace(
            augmentation,
            flip=augmentation.flip and dataset.flip,
            crop_scale=known.crop_scale if augmentation.crop_scale is None else augmentation.crop_scale,
            policy=known.policy if augmentation.policy is None else augmentation.policy,
        ),
        shrink=dataclasses.replace(
            shrink,
            batch_size=shrink.batch_size or batch_size_for(None, images),
            teacher=shrink.teacher or ("widest" if transfers else "progressive"),
            clip=(5.0 if transfers else 0.0) if shrink.clip is None else shrink.clip,
        ),
        adapt=config.adapt.settled(images),
        finetune=config.finetune.settled(images),
        schedule=schedule,
        phases=config.phases or tuple(phase.longer(growth(images)) for phase in SCHEDULES[schedule]),
    )


def _check(plan: RunPlan, dataset: Dataset, processes: Processes) -> None:
    """Refuse what does not go together."""
    config = plan.config
    costs = exact_costs(plan.quantities, plan.space, plan.macros)
    change = "the space (--width, --resolutions, --family)"
    check_budget(plan.space, plan.quantities, costs, seed=config.seed, change=change)
    for size in (config.shrink.batch_size, config.adapt.batch_size):
        processes.trainers.check_batch(batch_size_for(size, len(dataset.train)))
    share = config.search.rungs[0][1]
    images = min(len(dataset.val), config.search.val_images or len(dataset.val))
    first = share * images
    if share < 1 and first < _FEWEST:
        raise ConfigError(
            f"`preprocess` halving would begin with {first:.0f} of {images} validation images, which says "
            f"nothing; it needs {_FEWEST}: choose a smaller --search.oversample, or --search.preprocess oversample"
        )


def introduction(plan: RunPlan, dataset: Dataset) -> list[Fact]:
    """What a user should see before hours of work begin."""
    splits = {"train": dataset.train, "val": dataset.val, "test": dataset.test}
    images = {name: len(split) for name, split in splits.items()}
    return [
        images_fact(images, classes=len(dataset.classes), channels=dataset.channels),
        ("classes", told_classes(dataset)),
        (
            "pixels",
            f"mean {', '.join(f'{mean:.3f}' for mean in dataset.mean)} and standard deviation "
            f"{', '.join(f'{deviation:.3f}' for deviation in dataset.std)} of the training images, in 0..1",
        ),
        *([("range", _sentence(dataset.span))] if dataset.span else []),
        *(("note", note) for note in dataset.notes),
        *([("device", _told_board(board_named(plan.config.device)))] if plan.config.device else []),
        *target_facts(plan.config.target),
        *balance_facts(dataset, balance=plan.config.balance),
        *search_facts(plan.macros, plan.space, plan.objectives, plan.recorded),
    ]


def target_facts(target: TargetName) -> list[Fact]:
    """What a target means for a run."""
    return [] if target == ANYWHERE else [("target", f"{target}; its files are written at the end")]


def _told_board(board: Board) -> str:
    return f"{board.name}: {board.summary}; {100 * SHARE:.0f} % of flash and RAM for the network"


def balance_facts(dataset: Dataset, *, balance: bool) -> list[Fact]:
    """How training draws the classes; nothing if they have similar numbers of images and each is drawn once an epoch.

    Args:
        dataset: The images.
        balance: Whether every class is drawn equally often.
    """
    counts = torch.bincount(dataset.train.labels, minlength=len(dataset.classes))
    if balance:
        return [("balance", "training draws the images of every class equally often")]
    if int(counts.max()) < UNEQUAL * int(counts.min()):
        return []
    return [
        (
            "balance",
            "training draws every image equally often, so small classes are learned least; --balance draws every class "
            "equally often",
        )
    ]


def _sentence(span: ValueRange) -> str:
    if span == SIXTEEN_BITS:
        return "no training image is deeper than 8 bits; of those in other splits 65,535 becomes white"
    return (
        f"of images deeper than 8 bits {span.low:.6g} becomes black and {span.high:.6g} white, as measured on the "
        "training images"
    )


def told_classes(dataset: Dataset) -> str:
    """The classes with their images in all splits; of many the first, the last, the smallest and the largest."""
    labels = torch.cat([dataset.train.labels, dataset.val.labels, dataset.test.labels])
    counts = torch.bincount(labels, minlength=len(dataset.classes)).tolist()
    listed = [
        f"{name if len(name) <= _LONGEST else name[:_LONGEST] + '...'} {count:,}"
        for name, count in zip(dataset.classes, counts, strict=True)
    ]
    if len(listed) <= _MOST_CLASSES:
        return ", ".join(listed)
    least, most = counts.index(min(counts)), counts.index(max(counts))
    between = len(listed) - _MOST_CLASSES + 2
    return (
        f"{', '.join(listed[: _MOST_CLASSES - 4])}, {between} more, {', '.join(listed[-2:])}; "
        f"fewest: {listed[least]}, most: {listed[most]}"
    )
