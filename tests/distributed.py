"""What the tests run in several processes: functions that a new interpreter can import."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import torch

from nat2.data.dataset import Split
from nat2.data.settings import Augmentation
from nat2.data.transform import Pipeline
from nat2.errors import ConfigError
from nat2.nas.archive import Archive
from nat2.processes import Processes, connect, with_helpers
from nat2.space import Arch, Macro, SearchSpace
from nat2.supernet import SuperNetwork, calibrate
from nat2.supernet.static import channels_last
from nat2.training.context import TrainingContext
from nat2.training.optimise import ElasticEpoch, Schedule, sgd, train_epoch
from nat2.training.settings import Phase, ShrinkSettings
from nat2.training.shrink import opened_by, shrink
from tests.nas.worlds import World, look_for, new_archive

MACRO = Macro(classes=4, channels=1, width=0.25, stem_stride=1)
SPACE = SearchSpace.of(MACRO, (12, 16))
PHASES = [
    Phase(name="full", epochs=1, lr=0.1, joint=True),
    Phase(name="all", epochs=1, lr=0.05, subnets=2, kernels=(3, 5, 7), depths=(2, 3, 4), exits=(1, 2, 3, 4, 5),
          expands=(3, 4, 6)),
]  # fmt: skip


def images(count: int = 50) -> Split:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 4
    pixels = torch.randint(0, 120, (count, 1, 16, 16), dtype=torch.uint8, generator=generator)
    for number, label in enumerate(labels.tolist()):
        pixels[number, 0, 8 * (label // 2) :, 8 * (label % 2) :][:8, :8] += 90
    return Split(pixels, labels)


def everything(folder: Path) -> dict[str, object]:
    """All that is compared between one process and two."""
    torch.set_num_threads(1)
    processes = connect()
    found: dict[str, object] = {"steps": step_losses(processes)}
    for kind, mixup, clip in (("shrink", 0.0, 0.0), ("clipped", 0.0, 0.5), ("mixed", 0.4, 0.0)):
        found |= phase_losses(processes, folder, kind, mixup, clip)
    found |= searched(processes, folder)
    found |= own_statistics(processes, folder)
    found |= helped(processes)
    found["exchanged"] = exchanged(processes)
    divided = processes.spread(lambda number: number**2, range(11), costs=range(11))
    found["spread"] = [(number, result) for number, result, _ in divided]
    found["caught"] = [
        error_of(lambda: processes.once(lambda: refuse("bad"))),
        error_of(lambda: list(processes.spread(bad_seven, range(9), costs=[1] * 9))),
    ]
    return found


def searched(processes: Processes, folder: Path) -> dict[str, object]:
    """A search on a made-up world: the archive of this process, and whether the others hold the same."""
    opened: list[Archive[Arch]] = []

    def open_file() -> bytes:
        opened.append(new_archive(folder / "archive.db"))
        return opened[0].content()

    content = processes.once(open_file)
    archive = opened[0] if opened else Archive.copy(content, ("error", "params", "macs"))
    found = look_for(World(), archive, processes=processes, generations=2)
    rows = [(evaluation.arch.key, evaluation["error"], row.weights) for evaluation, row in archive.evaluations()]
    archive.close()
    first = processes.once(lambda: rows)
    same = processes.spread(lambda _: rows == first, (0, 1), costs=(1, 1))
    return {
        "archive": rows,
        "front": [each.arch.key for each in found.members],
        "archives agree": [each for _, each, _ in same],
    }


def phase_losses(processes: Processes, folder: Path, kind: str, mixup: float, clip: float) -> dict[str, object]:
    """Losses of the phases of a short training, and whether all processes hold the same weights behind it."""
    pipeline = Pipeline((0.3,), (0.25,), Augmentation(flip=False, mixup=mixup))
    network = channels_last(SuperNetwork(MACRO, generator=torch.Generator().manual_seed(0)))
    settings = ShrinkSettings(batch_size=25, calibration_images=16, clip=clip)
    context = TrainingContext(
        split=images(), pipeline=pipeline, state=folder / kind / "s.safetensors", seed=0, processes=processes
    )
    losses = [outcome.loss for outcome in shrink(network, SPACE, PHASES, settings, context)]
    mine = torch.cat([parameter.detach().reshape(-1) for parameter in network.parameters()])
    first = torch.tensor(processes.once(lambda: mine.tolist()))
    same = processes.spread(lambda _: torch.equal(mine, first), (0, 1), costs=(1, 1))
    return {kind: losses, f"{kind}, processes agree": [each for _, each, _ in same]}


def own_statistics(processes: Processes, folder: Path) -> dict[str, object]:
    """Training with the statistics of each process's images: at a stretch, and in two parts."""
    pipeline = Pipeline((0.3,), (0.25,), Augmentation(flip=False))
    settings = ShrinkSettings(batch_size=25, calibration_images=16)
    weights, loss = [], 0.0
    for kind, stops in (("whole", [None]), ("parts", [1, None])):
        for stop in stops:
            network = channels_last(SuperNetwork(MACRO, generator=torch.Generator().manual_seed(0)))
            context = TrainingContext(
                split=images(), pipeline=pipeline, state=folder / f"own {kind}" / "s.safetensors", seed=0,
                processes=processes, sync_batch_norm="per-process",
            )  # fmt: skip
            for outcome in itertools.islice(shrink(network, SPACE, PHASES, settings, context), stop):
                loss = outcome.loss
        weights.append(network.state_dict())
    statistics = calibrate(network, SPACE.largest, [torch.ones(4, 1, 16, 16).cumsum(2)])
    mine = [*network.state_dict().values(), *(each for pair in statistics.values() for each in pair)]
    return {
        "own": loss,
        "own, in parts": all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0]),
        "own, processes agree": agree(processes, mine),
    }


def helped(processes: Processes) -> dict[str, object]:
    """Training where the first process trains and the others receive what it has learned."""
    sharing = with_helpers(processes, processes.size)
    network = channels_last(SuperNetwork(MACRO, generator=torch.Generator().manual_seed(0)))
    losses = step_losses(sharing, network)
    return {"helped": losses, "helped, processes agree": agree(processes, list(network.state_dict().values()))}


def agree(processes: Processes, tensors: list[torch.Tensor]) -> bool:
    """Whether all processes hold the same numbers."""
    mine = torch.cat([tensor.detach().reshape(-1) for tensor in tensors]).tolist()
    first = processes.once(lambda: mine)
    return all(same for _, same, _ in processes.spread(lambda _: mine == first, range(4), costs=(1, 1, 1, 1)))


def exchanged(processes: Processes) -> list[object]:
    """Gradients of any memory layout after they were summed; the others' weights after the first has shared its own."""
    shape = (2, 3, 2, 2)
    values = torch.arange(24.0).view(shape)
    layouts = [values.clone().contiguous(memory_format=torch.channels_last), values.clone(), torch.tensor(1.0)]
    parameters = [torch.nn.Parameter(each) for each in (*layouts, torch.ones(3))]
    for parameter in parameters[:-1]:
        parameter.grad = (parameter.detach() + processes.rank).clone()
    processes.sum_gradients(parameters)
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(100 * processes.rank)
    processes.share(parameters)
    gradients = [None if each.grad is None else each.grad.tolist() for each in parameters]
    return [gradients, [each.tolist() for each in parameters]]


def step_losses(processes: Processes, network: SuperNetwork | None = None) -> list[float]:
    """Losses of the first steps of one phase."""
    split = images()
    network = network or channels_last(SuperNetwork(MACRO, generator=torch.Generator().manual_seed(0)))
    opened = opened_by(PHASES[1], SPACE)
    epoch = ElasticEpoch(
        batch_size=len(split), resolutions=(16,),
        sample=lambda generator, resolution, number: opened.sample_elastic(generator, resolution=resolution),
        loss=lambda logits, labels, targets: torch.nn.functional.cross_entropy(logits, labels),
    )  # fmt: skip
    optimizer = sgd(network, weight_decay=0)
    pipeline = Pipeline((0.3,), (0.25,), Augmentation())
    contexts = [
        TrainingContext(split=split, pipeline=pipeline, state=Path("nowhere"), seed=number, processes=processes)
        for number in range(4)
    ]
    return [
        train_epoch(
            network, optimizer, epoch, context, purpose=("x",), schedule=Schedule(0.01, 4), first_step=context.seed
        )
        for context in contexts
    ]


def error_of(work: Callable[[], object]) -> str:
    """The message of the error that it raises."""
    try:
        work()
    except ConfigError as error:
        return str(error)
    return ""


def bad_seven(number: int) -> int:
    """Refuse 7."""
    return number if number != 7 else refuse("bad")


def refuse(name: str) -> int:
    """Refuse."""
    raise ConfigError(f"{name} was asked for")


def refuse_in(rank: int) -> None:
    """Refuse in one process, while the others wait for it."""
    processes = connect()
    if processes.rank == rank:
        refuse(f"worse {rank}")
    processes.sum(torch.ones(1))
