"""What every training loop shares: optimiser, learning rate, one epoch of sub-networks, and its resume point."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from nat2.data.augment import neighbours
from nat2.data.transfer import to_device
from nat2.data.transform import steps_per_epoch, training_batches
from nat2.errors import CheckpointError, RunError
from nat2.files import JsonObject, load_tensors, save_tensors
from nat2.progress import SILENT, Reporter
from nat2.seeds import numpy_generator, torch_generator
from nat2.space.arch import Arch
from nat2.supernet.checkpoint import load_weights
from nat2.supernet.layers import normalize_by_batch, normalize_by_joint_batch
from nat2.supernet.network import SuperNetwork, SuperNetworks
from nat2.training.context import TrainingContext, joint_statistics
from nat2.training.distill import Teacher

Sample = Callable[[np.random.Generator, int, int], Arch]
"""Draws a sub-network of a training step, given a generator, the batch's resolution, and its number in the step."""
Loss = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""Takes logits, labels and the teacher's probabilities."""


@dataclass(frozen=True)
class Schedule:
    """Cosine learning rate over a number of steps, after a linear warm-up."""

    base: float
    steps: int
    warmup_steps: int = 0
    warmup_from: float | None = None
    """Learning rate at the first step of the warm-up; `base` by default, so that the warm-up is constant."""
    final: float = 0.0

    def __call__(self, step: int) -> float:
        """Learning rate of step `step`, counted from 0."""
        if step < self.warmup_steps:
            start = self.base if self.warmup_from is None else self.warmup_from
            return start + (self.base - start) * step / self.warmup_steps
        done = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return self.final + (self.base - self.final) * (1 + math.cos(math.pi * min(1.0, done))) / 2


def sgd(network: nn.Module, *, weight_decay: float, nesterov: bool = True) -> torch.optim.SGD:
    """SGD with momentum 0.9 and no weight decay on batch norms and biases (OFA)."""
    named = list(network.named_parameters())
    decayed = [p for name, p in named if p.dim() > 1]
    plain = [p for name, p in named if p.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.SGD(groups, lr=0.0, momentum=0.9, nesterov=nesterov)


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Set the learning rate of all parameters."""
    for group in optimizer.param_groups:
        group["lr"] = value


def match_layouts(parameters: Iterable[nn.Parameter]) -> None:
    """Give each gradient on a GPU the strides of its parameter where they differ in dimensions of one entry only.

    Such strides say nothing, but if those of one tensor differ, optimisers on GPUs update all tensors one by one
    instead of in a few kernels. Nothing is copied.
    """
    for parameter in parameters:
        gradient = parameter.grad
        if gradient is None or gradient.device.type == "cpu" or gradient.stride() == parameter.stride():
            continue
        places = zip(parameter.shape, gradient.stride(), parameter.stride(), strict=True)
        if all(ours == theirs for size, ours, theirs in places if size != 1):
            parameter.grad = gradient.as_strided(parameter.size(), parameter.stride())


@dataclass(frozen=True, kw_only=True)
class ElasticEpoch:
    """How the sub-networks of an epoch are trained; phases and adaptation fill it in."""

    batch_size: int
    resolutions: tuple[int, ...]
    sample: Sample
    loss: Loss
    subnets: int = 1
    """Sub-networks a step, whose gradients are added."""
    exits: tuple[int, ...] | None = None
    """Exits trained jointly; by default the sub-network's own."""
    teacher: Teacher | None = None
    clip: float | None = None
    """Largest norm of the gradient, applied after each sub-network."""
    steps: int | None = None
    """Batches; by default those of a pass over the images."""


def train_epoch(
    network: SuperNetwork | SuperNetworks,
    optimizer: torch.optim.Optimizer,
    epoch: ElasticEpoch,
    context: TrainingContext,
    *,
    purpose: tuple[str | int, ...],
    schedule: Schedule,
    first_step: int,
) -> float:
    """Train a super-network for one epoch, or for `epoch.steps`, and return the mean loss of a sub-network.

    Args:
        network: Changed in place.
        optimizer: Steps once a batch.
        epoch: What is trained, and how.
        context: Images, seed and processes. With joint batch statistics the number of processes changes the result
            by rounding only, but for dropout.
        purpose: Names this epoch among all others; decides its random numbers.
        schedule: Learning rate by step.
        first_step: Number of the epoch's first step in the schedule.

    Raises:
        RunError: the loss is not finite.
    """
    processes = context.processes
    processes.share(network.parameters())
    network.train()
    total = torch.zeros((), device=context.pipeline.device)
    if processes.trainers.rank >= 0:
        total = _train(network, optimizer, epoch, context, purpose=purpose, schedule=schedule, first_step=first_step)
    network.eval()
    if processes.trainers is not processes:
        processes.share([*network.parameters(), total])
    steps = steps_per_epoch(len(context.split), epoch.batch_size) if epoch.steps is None else epoch.steps
    loss_sum, finite = read_epoch(total, network)
    mean = loss_sum / steps
    if not math.isfinite(mean) or not finite:
        raise RunError(
            f"training diverged in {'/'.join(map(str, purpose))} (loss {mean}); the last good state is kept. The usual "
            "causes are a learning rate that is too high or images that are all alike"
        )
    return mean


def _train(
    network: SuperNetwork | SuperNetworks,
    optimizer: torch.optim.Optimizer,
    epoch: ElasticEpoch,
    context: TrainingContext,
    *,
    purpose: tuple[str | int, ...],
    schedule: Schedule,
    first_step: int,
) -> Tensor:
    """The steps of `train_epoch` in a process that trains; returns the sum of the losses, shape ()."""
    processes, pipeline, seed = context.processes.trainers, context.pipeline, context.seed
    device = pipeline.device
    choices = numpy_generator(seed, *purpose, "archs")
    torch.manual_seed(int(choices.integers(2**62)) + processes.rank)  # dropout
    order = training_batches(
        context.split, epoch.batch_size, torch_generator(seed, *purpose, "order"), steps=epoch.steps
    )
    crops = torch_generator(seed, *purpose, "augmentation")
    total = torch.zeros((), device=device)
    joint = joint_statistics(epoch.batch_size, context.sync_batch_norm, context.processes)
    normalize = normalize_by_joint_batch(processes.sum) if joint else normalize_by_batch
    mine = processes.part(epoch.batch_size)
    teacher = epoch.teacher.replayed if epoch.teacher is not None and processes.graphs else epoch.teacher
    for step, (pixels, labels) in enumerate(context.split.batches(indices[mine] for indices in order), first_step):
        resolution = int(choices.choice(epoch.resolutions))
        images = pipeline.augmented(pixels, resolution, crops, count=epoch.batch_size, part=mine)
        labels = to_device(labels, device)
        share = len(labels) / epoch.batch_size
        images, kept, others = mix(images, labels, pipeline.augmentation.mixup, choices)
        with processes.autocast():
            targets = teacher(images) if teacher is not None else None
        optimizer.zero_grad(set_to_none=True)
        for number in range(epoch.subnets):
            arch = epoch.sample(choices, resolution, number)
            with processes.autocast():
                logits = network(images, arch, exits=epoch.exits, normalize=normalize).float()
            loss = mixed_loss(partial(_loss_of, epoch.loss, logits, targets), labels, others, kept)
            loss = loss if share == 1 else share * loss  # a multiplication less forwards and backwards
            if epoch.clip is not None and number and not processes.first:
                optimizer.zero_grad(set_to_none=False)  # the first process has what was added before
            loss.backward()  # type: ignore[no-untyped-call]
            if epoch.clip is not None:
                processes.sum_gradients(network.parameters())
                trained = network[arch.width] if isinstance(network, SuperNetworks) else network
                nn.utils.clip_grad_norm_(trained.parameters(), epoch.clip)
            total += loss.detach()
        if epoch.clip is None:
            processes.sum_gradients(network.parameters())
        set_learning_rate(optimizer, schedule(step))
        optimizer.step()
        context.step()
    return processes.sum(total.div_(epoch.subnets))


def _loss_of(loss: Loss, logits: Tensor, targets: Tensor | None, labels: Tensor) -> Tensor:
    return loss(logits, labels, targets)


def mix(
    images: Tensor, labels: Tensor, strength: float, generator: np.random.Generator
) -> tuple[Tensor, float, Tensor]:
    """Mix each image with its neighbour in the batch (mixup): the images, the share that they keep, the other labels.

    Neighbours, because the batch is in random order anyway and processes that divide it keep them together.
    """
    if not strength:
        return images, 1.0, labels
    kept = float(generator.beta(strength, strength))
    other = neighbours(len(images), images.device)
    return kept * images + (1 - kept) * images[other], kept, labels[other]


def mixed_loss(loss: Callable[[Tensor], Tensor], labels: Tensor, others: Tensor, kept: float) -> Tensor:
    """The loss with the labels of mixed images, each in its share."""
    return loss(labels) if kept == 1 else kept * loss(labels) + (1 - kept) * loss(others)


def read_epoch(total: Tensor, network: nn.Module) -> tuple[float, bool]:
    """The sum of an epoch's losses, and whether every weight is finite, in the only wait for a GPU in an epoch."""
    largest = torch.stack(torch._foreach_norm([each.detach() for each in network.parameters()], math.inf))
    value, finite = torch.stack([total, largest.isfinite().all().to(total.dtype)]).tolist()
    return value, bool(finite)


def save_state(
    path: Path,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    metadata: Mapping[str, object],
    *,
    keep_previous: bool = True,
) -> None:
    """Write weights, optimiser and where training stands: the resume point. The previous one is kept."""
    tensors = {f"weights.{name}": tensor for name, tensor in network.state_dict().items()}
    for name, parameter in network.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            if value is not None:
                tensors[f"optimizer.{key}.{name}"] = torch.as_tensor(value)
    following = path.with_name(f"{path.stem}-next{path.suffix}")
    save_tensors(following, tensors, metadata)
    if keep_previous and path.exists():
        path.replace(previous(path))
    following.replace(path)


def previous(path: Path) -> Path:
    """Where the resume point before that of `path` is kept."""
    return path.with_name(f"{path.stem}-previous{path.suffix}")


def has_state(path: Path) -> bool:
    """Whether there is a resume point."""
    return path.exists() or previous(path).exists()


def load_state(
    path: Path,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    progress: Reporter = SILENT,
) -> JsonObject:
    """Read what `save_state` wrote into a network and its optimiser, and return the metadata.

    If the file cannot be read, the one before is taken, which `progress` reports.

    Raises:
        CheckpointError: both files are damaged or absent, or the weights belong to another network.
    """
    tensors, metadata = read_state(path, progress=progress)
    load_weights(network, _under("weights.", tensors))
    parameters = dict(network.named_parameters())
    optimizer.state.clear()
    for name, tensor in _under("optimizer.", tensors).items():
        key, _, parameter_name = name.partition(".")
        if parameter_name not in parameters:
            raise CheckpointError(f"{path} holds the optimiser's state of {parameter_name}, which does not exist")
        parameter = parameters[parameter_name]
        if key != "step":  # a file has no memory layout: momentum gets that of its parameter, which is channels_last
            tensor = torch.empty_like(parameter, requires_grad=False).copy_(tensor)
        optimizer.state[parameter][key] = tensor
    return metadata


def read_state(path: Path, *, progress: Reporter = SILENT) -> tuple[dict[str, Tensor], JsonObject]:
    """The tensors and metadata of a resume point, or of the one before if it cannot be read.

    Raises:
        CheckpointError: neither can be read.
    """
    try:
        return load_tensors(path)
    except CheckpointError as error:
        if not previous(path).exists():
            raise
        found = load_tensors(previous(path))
        what = f"is damaged ({error.__cause__})" if path.exists() else "is missing"
        progress.say(f"{path.name} {what}; going on from the checkpoint before it")
        return found


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def accuracy(answer: Callable[[Tensor], Tensor], batches: Iterable[Tensor], labels: Tensor) -> float:
    """Share of images (0..1) that `answer` (inputs to logits) classifies rightly."""
    predicted = torch.cat([answer(batch).argmax(1) for batch in batches])
    return int((predicted == labels).sum()) / len(labels)
