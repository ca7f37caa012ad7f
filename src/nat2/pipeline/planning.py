"""How long each stage of a run lasts, so that all of them together take the time that the user gives."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nat2.data.dataset import Dataset
from nat2.errors import ConfigError, RunError
from nat2.nas.settings import SearchSettings
from nat2.pipeline.context import RunContext
from nat2.pipeline.prepare import prepare
from nat2.pipeline.speed import (
    Speed,
    finetuning_seconds,
    measure_speed,
    stage_seconds,
    untrained,
)
from nat2.processes import Processes
from nat2.progress import SILENT, Progress, duration
from nat2.runs.config import RunConfig, parse_time, read_config
from nat2.runs.folder import RunFolder
from nat2.runs.plan import RunPlan, resolutions_for
from nat2.runs.timeplan import StageEntry, TimePlan
from nat2.training.length import Length, batch_size_for
from nat2.training.settings import AdaptSettings, FinetuneSettings, Phase
from nat2.wording import counted

_SHARES = {"train": 0.08, "search": 0.15, "fine-tune and export": 0.77}
"""How `quick` divides the time; the other presets keep the published proportions. See docs/training.md."""
_FROM_RANDOM = {"train": 0.2, "search": 0.2, "fine-tune and export": 0.6}
"""The same with random weights."""
CLOSING_SECONDS = 4.0
"""Networks are compared, tables, plot and report are written."""
_MOST_PASSES = 600  # of the fine-tuning over the images: more do not help
_FEWEST_STEPS = 50  # of the fine-tuning
_FEWEST_NETWORKS = 4  # whose fine-tuning begins
_FEWEST_ADAPTING = 20  # steps per generation: fewer change little, but have the whole archive evaluated again
_LARGER = (128, 96, 80)  # sides of images that are searched where they have them and the time allows
_AMPLE = 1.5  # how many times as long as a run of default length the time has to be for that
_HALVINGS = 20  # of an interval in which a length lies
_LATE = 1.15  # how many times the given time the shortest possible run may take


def plan_for(
    given: RunConfig, plan: RunPlan, dataset: Dataset, processes: Processes, *, progress: Progress, began: float
) -> tuple[RunPlan, Dataset, TimePlan]:
    """Decide the lengths that the user left open, so that the run ends `given.time` after it began.

    Args:
        given: What the user wrote; what it changes of its preset is kept.
        plan: The run of default length.
        dataset: The images.
        processes: Those that will do it; the first decides.
        progress: Says what is going on.
        began: When the run did, by `time.monotonic`.

    Returns:
        The run, the images (read again if they are larger now), and the account of what was decided.

    Raises:
        ConfigError: even the shortest run takes longer.
    """
    progress.say(f"measuring how fast this machine is, to plan for {given.time}")
    speed = _speed(plan, dataset, processes)
    images, total = len(dataset.train), given.seconds
    why = ""
    default = sum(stage_seconds(plan, images, speed).values())
    sides = _larger_sides(given, plan, default, total)
    if sides is not None:
        before = plan.space.resolutions
        why = (
            f"{', '.join(map(str, sides))} pixels instead of {', '.join(map(str, before))}: the images have them, and "
            f"a run of default length would take only {duration(default)}"
        )
        plan, dataset = prepare(replace(given, resolutions=",".join(map(str, sides))), processes, progress=progress)
        speed = _speed(plan, dataset, processes)
    spent = processes.once(lambda: time.monotonic() - began)
    left = max(0.0, total - spent - CLOSING_SECONDS)
    config = _lengthened(given, plan, images, speed, left)
    plan = replace(plan, config=config)
    seconds = stage_seconds(plan, images, speed)
    takes = spent + CLOSING_SECONDS + sum(seconds.values())
    if takes > _LATE * total:
        raise ConfigError(
            f"--time must be at least {duration(takes / _LATE)} for {given.data} on this machine, in which the "
            f"shortest run takes {duration(takes)}; got {given.time}. Give more, or fewer --networks or smaller "
            "--resolutions"
        )
    plan_of_stages = account(plan, images, {"read and plan": spent, **seconds}, resolutions=why)
    settled = not _Open.of(given).finetune
    return plan, dataset, replace(plan_of_stages, settled=settled, extended=settled)


def preview(given: RunConfig, plan: RunPlan, images: int, speed: Speed, times: Sequence[str]) -> list[TimePlan]:
    """The plans of runs of the default length and of several others, at the usual resolutions.

    Args:
        given: What the user wrote.
        plan: The run of default length.
        images: Training images.
        speed: Of this machine.
        times: Such as ``15m``.
    """
    plans = [account(plan, images, stage_seconds(plan, images, speed))]
    for each in times:
        config = _lengthened(given, plan, images, speed, max(0.0, parse_time(each) - CLOSING_SECONDS))
        longer = replace(plan, config=replace(config, time=each))
        plans.append(account(longer, images, stage_seconds(longer, images, speed)))
    return plans


def account(
    plan: RunPlan, images: int, seconds: Mapping[str, float] | None = None, *, resolutions: str = ""
) -> TimePlan:
    """The plan of a run in words; a pass shows every training image once.

    Args:
        plan: The run.
        images: Training images.
        seconds: Expected, by stage, if that is known.
        resolutions: Why these were chosen, if others than usual were.
    """
    config = plan.config
    batch_size = batch_size_for(config.shrink.batch_size, images)
    training = [phase.length(images, batch_size) for phase in config.phases]
    steps, search = sum(each.steps for each in training), config.search
    parts = [f"{steps:,} steps ({_passes(steps, training[0])})"] if training else []
    searching = f"{counted(search.networks, 'network')} in {counted(search.generations, 'generation')}"
    if config.adapt.adapts and search.generations:
        searching += f", {config.adapt.length(images).steps:,} steps of adaptation in each"
    length = config.finetune.length(images)
    alike = config.networks == 1 or config.finetune.restart or not config.finetune.cost_exponent
    each = f"{length.steps:,} steps {'each' if alike else 'each in the mean'}"
    finetuning = f"{counted(config.networks, 'network')}, {each} ({_passes(length.steps, length)})"
    words = {"train": ", ".join(parts), "search": searching, "fine-tune and export": finetuning}
    expected: Mapping[str, float] = dict.fromkeys(words, 0.0) if seconds is None else seconds
    stages = tuple(StageEntry(name, words.get(name, ""), value) for name, value in expected.items())
    return TimePlan(time=config.time, stages=stages, resolutions=resolutions)


def _passes(steps: int, length: Length) -> str:
    passes = steps / max(1, length.epoch)
    return f"{passes:.1f} passes" if passes < 10 else f"{passes:.0f} passes"


def recall_lengths(config: RunConfig, stored: Path) -> RunConfig:
    """The configuration of a run that has begun, with the lengths that were decided by its time.

    Args:
        config: As given.
        stored: The run's own configuration, a YAML file.

    Raises:
        RunError: the run was planned for another time.
    """
    try:
        begun = read_config(stored)
    except ConfigError:  # reported when the folder is claimed
        return config
    if begun.time != config.time:
        planned, given = (f"--time {time}" if time else "no --time" for time in (begun.time, config.time))
        raise RunError(
            f"{stored.parent} holds a run that was planned with {planned}; got {given}. Give the same to continue it, "
            "another folder with --out, or --fresh to discard it"
        )
    if not config.time:
        return config
    open_ = _Open.of(config)
    lengths = ("archive", "generations", "candidates", "top")
    search = {name: getattr(begun.search, name) for name in lengths} if open_.search else {}
    adapt = begun.adapt
    adapt = replace(config.adapt, epochs=adapt.epochs, steps=adapt.steps, warmup_epochs=adapt.warmup_epochs)
    tuned = ("epochs", "steps", "measured_at", "most_macs")
    finetune = replace(config.finetune, **{name: getattr(begun.finetune, name) for name in tuned})
    return replace(
        config,
        resolutions=begun.resolutions if config.resolutions == "auto" else config.resolutions,
        phases=begun.phases if open_.phases else config.phases,
        search=replace(config.search, **search),
        adapt=adapt if open_.adapt else config.adapt,
        finetune=finetune if open_.finetune else config.finetune,
        networks=begun.networks if open_.networks else config.networks,
    )


def _speed(plan: RunPlan, dataset: Dataset, processes: Processes) -> Speed:
    with tempfile.TemporaryDirectory() as temporary, RunFolder(Path(temporary)) as folder:
        context = RunContext.of(plan, dataset, folder, SILENT, processes)
        speed = measure_speed(context, [untrained(context, number) for number in range(len(plan.macros))])
    return processes.once(lambda: speed)


def _larger_sides(given: RunConfig, plan: RunPlan, default: float, total: float) -> tuple[int, ...] | None:
    """Image sides beyond the usual ones, where the images have them and the time allows."""
    usual = plan.space.resolutions[-1]
    if given.resolutions != "auto" or plan.side <= usual:
        return None
    for side in _LARGER:
        if usual < side <= plan.side and total >= _AMPLE * default * (side / usual) ** 2:
            return resolutions_for(side, most=side)
    return None


def _lengthened(given: RunConfig, plan: RunPlan, images: int, speed: Speed, left: float) -> RunConfig:
    """The configuration with its stages as long as their shares of the time that is left."""
    open_ = _Open.of(given)
    config = plan.config
    default = stage_seconds(plan, images, speed)
    total = sum(default.values())
    shares = _SHARES if plan.pretrained else _FROM_RANDOM
    if config.preset != "quick":
        shares = {name: each / total for name, each in default.items()}
    if open_.phases and default["train"]:
        config = replace(config, phases=_phases(plan, images, speed, shares["train"] * left))
    scales = [0.8**number for number in range(-20, 41)] if open_.search or open_.adapt else [1.0]
    for scale in scales:  # the longest search that its share allows
        config = replace(
            config,
            search=scaled_search(plan.config.search, scale) if open_.search else config.search,
            adapt=scaled_adapt(plan.config.adapt, scale, images) if open_.adapt else config.adapt,
        )
        if open_.adapt and config.preset == "quick" and config.adapt.length(images).steps < _FEWEST_ADAPTING:
            config = replace(config, adapt=replace(config.adapt, epochs=None, steps=0))
        seconds = stage_seconds(replace(plan, config=config), images, speed)
        if seconds["search"] <= shares["search"] * left:
            break
    if open_.finetune:
        rest = left - seconds["train"] - seconds["search"]
        # Bounds are those of the usual length, which the present one may be already.
        usual = replace(config, finetune=plan.config.finetune)
        config = _finetuning(usual, images, speed, rest, networks_open=open_.networks)
    return config


def _phases(plan: RunPlan, images: int, speed: Speed, seconds: float) -> tuple[Phase, ...]:
    """The phases of the super-network's training as long as its share of the time allows."""
    config = plan.config
    batch_size = batch_size_for(config.shrink.batch_size, images)

    def of(factor: float) -> tuple[Phase, ...]:
        return tuple(scaled_phase(phase, factor, images, batch_size) for phase in config.phases)

    low, high = 0.0, 1.0
    while _train_seconds(plan, of(high), images, speed) < seconds:
        low, high = high, 2 * high
    for _ in range(_HALVINGS):  # the validation between epochs grows in steps, so there is no formula
        middle = (low + high) / 2
        low, high = (middle, high) if _train_seconds(plan, of(middle), images, speed) <= seconds else (low, middle)
    return of(low)


def _train_seconds(plan: RunPlan, phases: tuple[Phase, ...], images: int, speed: Speed) -> float:
    longer = replace(plan, config=replace(plan.config, phases=phases))
    return stage_seconds(longer, images, speed)["train"]


@dataclass(frozen=True)
class _Open:
    """Which lengths the user left to the preset."""

    phases: bool
    search: bool
    adapt: bool
    finetune: bool
    networks: bool

    @staticmethod
    def of(given: RunConfig) -> _Open:
        usual = RunConfig.of(given.preset)

        def same(group: str, *names: str) -> bool:
            return all(getattr(getattr(given, group), name) == getattr(getattr(usual, group), name) for name in names)

        return _Open(
            phases=not given.phases,
            search=same("search", "archive", "generations", "candidates"),
            adapt=same("adapt", "epochs", "steps"),
            finetune=same("finetune", "epochs", "steps", "measured_at", "most_macs"),
            networks=given.networks == usual.networks,
        )


def left_open(given: RunConfig) -> bool:
    """Whether there is anything that a time could decide."""
    open_ = _Open.of(given)
    return open_.phases or open_.search or open_.adapt or open_.finetune


def scaled_phase(phase: Phase, factor: float, images: int, batch_size: int) -> Phase:
    """A phase of `factor` times its length, in steps."""
    length = phase.length(images, batch_size)
    warmup = phase.warmup_epochs * length.epoch if phase.warmup_steps is None else phase.warmup_steps
    return replace(
        phase,
        epochs=None,
        steps=max(1, round(factor * length.steps)),
        warmup_epochs=0.0,
        warmup_steps=round(factor * warmup),
    )


def scaled_search(search: SearchSettings, scale: float) -> SearchSettings:
    """A search whose archive, generations and candidates grow alike, from the smallest that is one to the published."""

    def between(value: int, least: int, most: int) -> int:
        return max(min(value, least), min(max(value, most), round(value * scale)))

    archive = between(search.archive, 12, 300)
    return replace(
        search,
        archive=archive,
        generations=between(search.generations, 1, 30),
        candidates=between(search.candidates, 6, 32),
        top=max(4, min(search.top, archive // 2) if scale < 1 else round(search.top * archive / search.archive)),
    )


def scaled_adapt(adapt: AdaptSettings, scale: float, images: int) -> AdaptSettings:
    """An adaptation whose generations have `scale` times the steps."""
    if not adapt.adapts:
        return adapt
    return replace(
        adapt,
        epochs=None,
        steps=max(5, round(scale * adapt.length(images).steps)),
        warmup_epochs=min(1.0, scale) * adapt.warmup_epochs,
    )


def _finetuning(config: RunConfig, images: int, speed: Speed, left: float, *, networks_open: bool) -> RunConfig:
    """As many networks as get half of the usual steps at least, and as many steps as the time allows."""
    fewest = min(_FEWEST_NETWORKS, config.networks) if networks_open else config.networks
    usual = config.finetune.length(images).steps
    for networks in range(config.networks, fewest - 1, -1):
        settings = longest_finetuning(config, images, speed.finetuning * networks, left)
        if settings.length(images).steps >= usual / 2:
            break
    return replace(config, networks=networks, finetune=settings)


def longest_finetuning(
    config: RunConfig, images: int, step_seconds: Sequence[float], left: float, *, fewest: int = 0
) -> FinetuneSettings:
    """The longest fine-tuning that ends in the time that is left, given the seconds of a step of each network."""
    settings, epoch = config.finetune, config.finetune.length(images).epoch

    def of(steps: int) -> FinetuneSettings:
        if settings.restart:
            return replace(settings, epochs=max(1, steps // epoch), steps=None)
        return replace(settings, epochs=None, steps=steps)

    low = max(fewest, _FEWEST_STEPS)
    high = most_steps(settings, images)
    while low < high:
        middle = (low + high + 1) // 2
        needed = sum(finetuning_seconds(of(middle), images, [each], pt2=config.pt2) for each in step_seconds)
        low, high = (middle, high) if needed <= left else (low, middle - 1)
    return of(low)


def most_steps(settings: FinetuneSettings, images: int) -> int:
    """Steps of a network's fine-tuning beyond which it learns nothing more."""
    length = settings.length(images)
    return max(4 * length.steps, _MOST_PASSES * length.epoch)
