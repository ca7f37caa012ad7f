"""What would go wrong on a GPU, or be slow there, shown on a pretended one."""

from __future__ import annotations

import contextlib
import importlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from nat2.data.transfer import to_device
from nat2.data.transform import ResizedImages
from nat2.deploy.export import export
from nat2.nas.objectives import OBJECTIVES, Objective
from nat2.pipeline.evaluation import Evaluator, try_objectives
from nat2.processes import Processes
from nat2.supernet import StaticNetwork, SuperNetwork, SuperNetworks, extract
from nat2.supernet.static import channels_last
from nat2.training.adapt import Adaptation
from nat2.training.context import TrainingContext
from nat2.training.continued import ContinuedFinetuning
from nat2.training.distill import Teacher, distillation_loss
from nat2.training.graphs import Replayed
from nat2.training.lesson import Lesson, optimizer_of
from nat2.training.optimise import ElasticEpoch, Schedule, match_layouts, sgd, train_epoch
from nat2.training.settings import AdaptSettings, FinetuneSettings, Phase, ShrinkSettings
from nat2.training.shrink import PhaseOutcome, shrink
from tests.pretended import GpuTensor, PretendedGpu, autocast, pretended_gpu
from tests.training.conftest import MACRO, PIPELINE, SPACE, context_of, corners, new_network

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
EVERYTHING = Phase(
    name="all",
    steps=2,
    lr=0.05,
    subnets=2,
    kernels=(3, 5, 7),
    expands=(3, 4, 6),
    depths=(2, 3, 4),
    exits=(1, 2, 3, 4, 5),
)


@pytest.fixture(scope="module")
def gpu() -> Iterator[PretendedGpu]:
    with pretended_gpu() as gpu:
        yield gpu


def on_gpu(gpu: PretendedGpu) -> SuperNetwork:
    return channels_last(new_network(), gpu.device)


def training(gpu: PretendedGpu, state: Path, **changes: Any) -> TrainingContext:
    """What a training loop on the GPU is given; its images are there too."""
    given = {
        "pipeline": replace(PIPELINE, device=gpu.device),
        "processes": Processes(device=gpu.device, autocast=autocast),
        "interval": 0.0,
        **changes,
    }
    return context_of(corners(32).resident(gpu.device), state, **given)


def evaluator(gpu: PretendedGpu) -> Evaluator:
    calibration, validation = (
        ResizedImages(corners(16, seed), replace(PIPELINE, device=gpu.device)) for seed in (0, 1)
    )
    return Evaluator(calibration, validation, Processes(device=gpu.device))


# -- the pretended GPU itself


def test_tensors_of_both_devices_do_not_mix(gpu: PretendedGpu) -> None:
    here, there = torch.ones(3), torch.ones(3, device=gpu.device)
    assert (here.device.type, there.device.type) == ("cpu", "cuda")
    mixed: list[Callable[[], object]] = [
        lambda: here + there,
        lambda: here[there.long()],
        lambda: there.index_put((there.long(),), here),
        lambda: F.linear(there, torch.ones(2, 3)),
        lambda: torch.cat([here, there]),
        lambda: torch.rand(2, device=gpu.device, generator=torch.Generator()),
    ]
    for operation in mixed:
        with pytest.raises(RuntimeError, match=r"device|generator"):
            operation()
    assert torch.equal((there + torch.tensor(2.0)).cpu(), here + 2)  # a number is no tensor of the host


def test_the_numbers_are_those_of_the_cpu_forwards_and_backwards(gpu: PretendedGpu) -> None:
    ours, theirs = on_gpu(gpu), new_network()
    images, labels = torch.rand(4, 1, 16, 16), torch.arange(4)
    for network, device in ((ours, gpu.device), (theirs, torch.device("cpu"))):
        F.cross_entropy(network(images.to(device), SPACE.smallest), labels.to(device)).backward()  # type: ignore[no-untyped-call]
    for found, expected in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert (found.grad is None) == (expected.grad is None)
        if expected.grad is not None:
            assert isinstance(found.grad, GpuTensor)
            torch.testing.assert_close(found.grad.cpu(), expected.grad, rtol=1e-3, atol=1e-4)


def odd(x: Tensor) -> list[Tensor]:
    """Tensors whose strides an operation of the CPU does not keep: that of the dimension of one entry is arbitrary."""
    return [x.as_strided((4, 1, 4, 4), (16, 1, 4, 1))] * 3


@pytest.mark.parametrize(
    ("work", "launches", "copies", "waits"),
    [
        (lambda x, half: x.view(2, 32)[0], 0, 0, 0),
        (lambda x, half: x * 2 + 1, 2, 0, 0),
        (lambda x, half: x.zero_(), 1, 0, 0),
        (lambda x, half: x.cpu(), 0, 1, 1),
        (lambda x, half: float(x.sum()), 1, 1, 1),
        (lambda x, half: torch.ones(3).to(x.device), 0, 1, 1),
        (lambda x, half: torch.ones(3).to(x.device, non_blocking=True), 0, 1, 1),
        (lambda x, half: to_device(torch.ones(3), x.device), 0, 1, 0),
        (lambda x, half: x[torch.arange(2)], 1, 1, 1),
        (lambda x, half: x[to_device(torch.arange(2), x.device)], 1, 1, 0),
        (lambda x, half: x[x > 0], 2, 0, 1),
        (lambda x, half: torch._foreach_add_(list(x), list(x)), 1, 0, 0),
        (lambda x, half: torch._foreach_add_(list(x.view(8, 8).T), list(x.view(8, 8))), 8, 0, 0),  # with gaps
        (lambda x, half: torch._foreach_copy_([half] * 3, [x] * 3), 1, 0, 0),
        (lambda x, half: torch._foreach_add_(torch._foreach_add(odd(x), odd(x)), odd(x)), 2, 0, 0),
        (lambda x, half: F.conv2d(x.view(1, 4, 4, 4), x.view(4, 4, 2, 2)), 1, 0, 0),
        (lambda x, half: F.conv2d(x.view(1, 4, 4, 4), x.view(4, 4, 2, 2), x[:4]), 2, 0, 0),  # with a bias
        (lambda x, half: torch._foreach_add_([x] * 3, [half] * 3), 3, 0, 0),  # of two types
    ],
)
def test_launches_copies_and_waits_are_counted(
    gpu: PretendedGpu, work: Callable[[Tensor, Tensor], object], launches: int, copies: int, waits: int
) -> None:
    x = torch.rand(64).to(gpu.device)
    half = x.bfloat16()
    counts = gpu.count(lambda: work(x, half))
    assert (counts.launches.total(), counts.copies.total(), counts.waits.total()) == (launches, copies, waits)


# -- the library on it


def test_shrinking_runs_and_resumes(gpu: PretendedGpu, tmp_path: Path) -> None:
    phases = [replace(EVERYTHING, name="joint", joint=True), EVERYTHING]
    settings = ShrinkSettings(batch_size=8, calibration_images=8, corners=1)

    def run(network: SuperNetwork) -> list[PhaseOutcome]:
        context, measures = training(gpu, tmp_path / "state"), evaluator(gpu)
        return list(shrink(network, SPACE, phases, settings, context, validate=measures.error))

    first, again = on_gpu(gpu), on_gpu(gpu)
    assert [outcome.phase for outcome in run(first)] == phases
    assert run(again) == []
    for one, other in zip(first.parameters(), again.parameters(), strict=True):
        assert isinstance(other, GpuTensor)
        assert torch.equal(one.cpu(), other.cpu())


def test_adaptation_runs_and_resumes(gpu: PretendedGpu, tmp_path: Path) -> None:
    settings = AdaptSettings(steps=1, batch_size=8)

    def adapted(generations: int) -> SuperNetwork:
        network = on_gpu(gpu)
        teacher = Teacher(extract(network, SPACE.largest, exits=MACRO.exits), "DESC")
        for generation in range(1, generations + 1):
            context = training(gpu, tmp_path / "state")
            adaptation = Adaptation(SuperNetworks([network]), SPACE, teacher, settings, context, generations=2)
            adaptation.advance(generation, SPACE.encode(SPACE.smallest)[None])
        return network

    def alike(one: SuperNetwork, other: SuperNetwork) -> bool:
        pairs = zip(one.parameters(), other.parameters(), strict=True)
        return all(isinstance(b, GpuTensor) and torch.equal(a.cpu(), b.cpu()) for a, b in pairs)

    first, second = adapted(1), adapted(2)
    assert not alike(on_gpu(gpu), first)
    assert not alike(first, second)
    assert alike(second, adapted(2))  # finds both generations done


@pytest.mark.parametrize("exits", [None, (1, 2)])
def test_a_network_is_fine_tuned_measured_and_exported(
    gpu: PretendedGpu, tmp_path: Path, exits: tuple[int, ...] | None
) -> None:
    network = on_gpu(gpu)
    arch = SPACE.largest
    inherited = extract(network, arch, evaluator(gpu).statistics(network, arch, exits=exits), exits=exits)
    context = training(gpu, tmp_path / "finetune", processes=Processes(device=gpu.device))
    settings = FinetuneSettings(steps=4, batch_size=8)
    finetuned = ContinuedFinetuning(inherited, corners(8, 1), settings, context).finished()
    export(
        finetuned.network,
        context.pipeline,
        ("a", "b", "c", "d"),
        tmp_path,
        side=16,
        facts={},
        weights=finetuned.weights,
    )
    assert (tmp_path / "model.onnx").exists()


def test_an_objective_of_ones_own_gets_its_network_on_the_cpu(gpu: PretendedGpu) -> None:
    seen: list[str] = []

    def energy(network: StaticNetwork) -> float:
        seen.append(next(network.parameters()).device.type)
        return float(network(torch.rand(2, 1, 16, 16)).abs().mean())

    own = [
        Objective(name="heat", cost="predicted", function=energy),
        Objective(name="energy", cost="measured", function=energy),
    ]
    network, measures = on_gpu(gpu), evaluator(gpu)
    networks = SuperNetworks([network])
    try_objectives(measures, networks, SPACE, own)
    found = measures.evaluate(networks, [OBJECTIVES["error"], own[0]])(SPACE.smallest)
    assert found["heat"] > 0
    assert float(measures.measurements(networks, own)["energy"](SPACE.smallest)) > 0
    assert set(seen) == {"cpu"}
    assert next(network.parameters()).device.type == "cuda"


def test_gradients_get_the_layout_of_their_weights_where_it_says_nothing_else(gpu: PretendedGpu) -> None:
    """Else an optimiser updates every weight in kernels of its own."""
    values = torch.randn(4, 3, 1, 1)
    pointwise, depthwise, other = (
        torch.nn.Parameter(torch.randn(shape).to(memory_format=torch.channels_last).to(gpu.device))
        for shape in ((4, 3, 1, 1), (4, 1, 3, 3), (4, 3, 3, 3))
    )
    gradients = [values, torch.randn(4, 1, 3, 3), torch.randn(4, 3, 3, 3)]
    weights = [pointwise, depthwise, other, torch.nn.Parameter(values.to(gpu.device))]
    for weight, gradient in zip(weights, gradients, strict=False):
        weight.grad = gradient.to(gpu.device)
    assert pointwise.grad is not None
    assert pointwise.grad.stride() != pointwise.stride()
    counts = gpu.count(lambda: match_layouts(weights))
    assert (counts.launches.total(), counts.copies.total()) == (0, 0)
    for weight, gradient in zip(weights, gradients, strict=False):
        assert weight.grad is not None
        assert torch.equal(weight.grad.cpu(), gradient)
        assert (weight.grad.stride() == weight.stride()) == (weight is not other)


# -- CUDA graphs


@pytest.mark.parametrize("context", [contextlib.nullcontext, autocast])
def test_a_replayed_teacher_answers_as_before(
    gpu: PretendedGpu, context: Callable[[], contextlib.AbstractContextManager[None]]
) -> None:
    """Whatever it is given, of several shapes in turn."""
    teacher = Teacher(extract(on_gpu(gpu), SPACE.largest, exits=MACRO.exits), "DESC")
    kept = []
    with context():
        for seed, side in enumerate((16, 16, 12, 16, 12)):
            images = torch.rand(2, 1, side, side, generator=torch.Generator().manual_seed(seed)).to(gpu.device)
            found = teacher.replayed(images)
            assert torch.equal(found.cpu(), teacher(images).cpu())
            kept.append((found, found.cpu()))
        counts = gpu.count(lambda: teacher.replayed(images))
    assert all(torch.equal(found.cpu(), then) for found, then in kept)  # later calls leave earlier answers alone
    assert dict(counts.launches + Counter()) == {"copy_": 1, "graph": 1, "clone": 1}
    assert counts.waits.total() == 0


def test_few_shapes_are_recorded_and_others_computed(gpu: PretendedGpu) -> None:
    replayed = Replayed(lambda x: x * 2)
    for size in (*range(1, 12), 3, 11):
        x = torch.rand(size).to(gpu.device)
        counts = gpu.count(lambda x=x: replayed(x))  # type: ignore[misc]
        assert torch.equal(replayed(x).cpu(), 2 * x.cpu())
        assert counts.launches["graph"] == (size <= 8)


def test_what_waits_cannot_be_recorded(gpu: PretendedGpu) -> None:
    with pytest.raises(RuntimeError, match="capturing"):
        Replayed(lambda x: x * float(x.sum()))(torch.rand(3).to(gpu.device))


def test_training_with_graphs_ends_with_the_same_weights(gpu: PretendedGpu) -> None:
    def trained(graphs: bool) -> SuperNetwork:
        network = on_gpu(gpu)
        epoch = ElasticEpoch(
            batch_size=8,
            resolutions=SPACE.resolutions,
            sample=lambda generator, resolution, number: SPACE.sample_elastic(generator, resolution=resolution),
            loss=distillation_loss,
            teacher=Teacher(extract(network, SPACE.largest, exits=MACRO.exits), "DESC"),
        )
        context = training(
            gpu, Path("nowhere"), processes=Processes(device=gpu.device, autocast=autocast, graphs=graphs)
        )
        schedule = Schedule(0.05, 4)
        train_epoch(
            network, sgd(network, weight_decay=0.0), epoch, context, purpose=("x",), schedule=schedule, first_step=0
        )
        return network

    for found, expected in zip(trained(True).parameters(), trained(False).parameters(), strict=True):
        assert torch.equal(found.detach().cpu(), expected.detach().cpu())


# -- how much is asked of a GPU


@pytest.mark.parametrize("kind", ["shrinking", "adaptation", "fine-tuning"])
def test_drawing_every_class_equally_often_waits_for_nothing(gpu: PretendedGpu, kind: str) -> None:
    """Also once validation images are added."""
    split = replace(corners(24), balanced=True).resident(gpu.device)
    pipeline = replace(PIPELINE, device=gpu.device)
    network = on_gpu(gpu)
    if kind == "fine-tuning":
        split = split.joined(corners(8, 1))
        static = extract(network, SPACE.smallest).requires_grad_(True)
        settings = FinetuneSettings(batch_size=8)
        lesson, optimizer = Lesson.of(pipeline, settings, 0, len(split), None), optimizer_of(static, settings)

        def train(part: int) -> object:
            return lesson.train(static, optimizer, split, Schedule(1e-3, 4), steps=range(2), part=part)
    else:
        epoch = ElasticEpoch(
            batch_size=8,
            resolutions=(16,),
            sample=lambda generator, resolution, number: SPACE.smallest,
            loss=lambda logits, labels, targets: F.cross_entropy(logits, labels),
            clip=5.0 if kind == "adaptation" else None,
        )
        context = context_of(split, pipeline=pipeline, processes=Processes(device=gpu.device))
        sgd_ = sgd(network, weight_decay=0.0)

        def train(part: int) -> object:
            schedule = Schedule(1e-3, 4)
            return train_epoch(network, sgd_, epoch, context, purpose=(part,), schedule=schedule, first_step=0)

    train(0)  # makes what is made once, such as constants on the device
    counts = gpu.count(lambda: train(1))
    assert dict(counts.waits) == {"copy to the host": 1}  # the reading of the loss


def test_the_labels_are_known_on_the_host_without_waiting(gpu: PretendedGpu) -> None:
    split = corners(12).resident(gpu.device)
    some = split.part(torch.tensor([3, 1, 2]))
    for each in (split, some, split.joined(corners(6)), split.joined(some), some.joined(split)):
        assert isinstance(each.labels, GpuTensor)
        assert torch.equal(each.host_labels, each.labels.cpu())
        assert gpu.count(lambda each=each: each.host_labels).waits.total() == 0  # type: ignore[misc]


@pytest.fixture(scope="module")
def launches() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield importlib.import_module("launches")


def test_launches_copies_and_waits_are_no_more_than_those_kept(launches: ModuleType) -> None:
    """`python benchmarks/launches.py --json benchmarks/results/launches.json` keeps others."""
    kept = json.loads((BENCHMARKS / "results" / "launches.json").read_text())
    same = kept["versions"]["torch"] == torch.__version__.partition("+")[0]
    limits = {row["name"]: row["value"] * (1 if same else 1.1) for row in kept["rows"]}
    rows = launches.measure(short=True)
    assert len(rows) >= 8
    assert [f"{row.name}: {row.value} > {limits[row.name]}" for row in rows if row.value > limits[row.name]] == []
    assert [row.name for row in rows if row.met is False] == []
