"""Networks as files for devices: operators, 8 bits, the layout of memory, and what the runtimes make of them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nat2.deploy.arena import Lifetime, layout, lifetimes, most_at_once, top
from nat2.deploy.deployable import Deployable
from nat2.deploy.export import write_onnx
from nat2.deploy.operators import OperatorGraph, read_model, read_operators
from nat2.deploy.ranges import activation_ranges, in_integers
from nat2.deploy.tflite import Scale, scales_of, tflite
from nat2.deploy.tflite_process import as_bytes
from nat2.deploy.tflite_runtime import run_tflite
from nat2.errors import CheckpointError, Nat2Error
from nat2.space import Arch, Macro
from nat2.space.device import device_cost, device_part
from tests.deploy.networks import draw, images_for, random_network
from tests.deploy.operators import run
from tests.strategies import macros

KEY = "r16-w0.35-k3e3.k5e6.k3e3-k3e4.k7e3-k5e3.k3e3.k3e4.k7e3-k3e3.k5e4-k3e3.k3e6"
GREY = Macro(classes=10, channels=1, width=0.35, stem_stride=1)
LITERT = importlib.util.find_spec("ai_edge_litert") is not None
MICRO = importlib.util.find_spec("tflite_micro") is not None


def exported(model: Deployable, folder: Path) -> tuple[Path, OperatorGraph]:
    folder.mkdir(parents=True, exist_ok=True)
    write_onnx(model, folder, classes=[f"class {n}" for n in range(model.network.macro.classes)])
    return folder / "model.onnx", read_operators(read_model(folder / "model.onnx"))


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> tuple[Deployable, Path, OperatorGraph]:
    model = random_network(GREY, Arch.from_key(KEY))
    return model, *exported(model, tmp_path_factory.mktemp("device"))


@given(macros(widths=(0.35, 0.5)), st.integers(0, 1000), st.sampled_from((16, 17, 30, 33)))
@settings(max_examples=12, deadline=None)
def test_the_operators_compute_what_the_network_does(
    tmp_path_factory: pytest.TempPathFactory, macro: Macro, seed: int, resolution: int
) -> None:
    model = random_network(macro, draw(macro, resolution, seed=seed), seed=seed)
    _, graph = exported(model, tmp_path_factory.mktemp("operators"))
    images = images_for(model, 2)
    expected = model.double()(images.double())
    found = run(graph, images)[graph.output].flatten(1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_several_exits_answer_together(tmp_path: Path) -> None:
    arch = Arch.from_key(KEY)
    model = random_network(GREY, arch, exits=(1, 3, 5))
    _, graph = exported(model, tmp_path)
    images = images_for(model, 2)
    torch.testing.assert_close(
        run(graph, images)[graph.output].flatten(1), model.double()(images.double()), rtol=1e-4, atol=1e-4
    )


@given(macros(widths=(0.35, 0.5)), st.integers(0, 1000), st.sampled_from((16, 24, 33)))
@settings(max_examples=10, deadline=None)
def test_the_closed_form_is_that_of_the_file(
    tmp_path_factory: pytest.TempPathFactory, macro: Macro, seed: int, resolution: int
) -> None:
    """RAM is the activations that live at once, and the layout of the file wastes nothing; flash is its size."""
    arch = draw(macro, resolution, seed=seed)
    source, graph = exported(random_network(macro, arch, seed=seed), tmp_path_factory.mktemp("closed"))
    living = list(lifetimes(graph).values())
    assert top(living, layout(living)) <= 1.02 * most_at_once(living)
    exact, bound = most_at_once(living), device_part(macro, arch).peak
    assert exact <= bound <= (1.05 * exact if macro.parallel_blocks else exact)
    images = torch.rand(2, macro.channels, resolution, resolution)
    content = tflite(graph, "int8", activation_ranges(read_model(source), [images]))
    assert device_cost(macro, arch).flash == pytest.approx(len(content), rel=0.03)


def test_a_layout_has_no_overlap_and_beats_placing_by_size() -> None:
    """Placed by size, the one that lives long ends above the others; a network of 44 pixels has this case."""
    given_ = [
        Lifetime(5808, 0, 0), Lifetime(5808, 0, 1), Lifetime(3872, 1, 2), Lifetime(3872, 2, 5), Lifetime(3872, 3, 4),
        Lifetime(3872, 4, 5), Lifetime(3872, 5, 6), Lifetime(23232, 6, 7), Lifetime(5808, 7, 8), Lifetime(1936, 8, 17),
        Lifetime(7744, 9, 10), Lifetime(7744, 10, 11), Lifetime(1936, 11, 12), Lifetime(1936, 12, 16),
        Lifetime(11616, 13, 14), Lifetime(11616, 14, 15), Lifetime(1936, 15, 16), Lifetime(1936, 16, 17),
    ]  # fmt: skip
    offsets = layout(given_)
    assert top(given_, offsets) == most_at_once(given_) == 29040
    for n, (one, first) in enumerate(zip(given_, offsets, strict=True)):
        for other, second in list(zip(given_, offsets, strict=True))[n + 1 :]:
            apart = first + one.size <= second or second + other.size <= first
            assert apart or one.last < other.first or other.last < one.first


def test_a_scale_holds_zero_exactly_and_covers_the_range() -> None:
    for low, high in ((-1.0, 3.0), (0.5, 2.0), (-4.0, -1.0), (0.0, 0.0)):
        scale, zero = Scale.of(low, high)
        assert -128 <= zero <= 127
        assert scale * (127 - zero) >= max(high, 0) - scale
        assert scale * (-128 - zero) <= min(low, 0) + scale


def test_integers_are_not_spent_on_what_a_hard_swish_makes_zero(
    network: tuple[Deployable, Path, OperatorGraph],
) -> None:
    model, source, graph = network
    ranges = dict(activation_ranges(read_model(source), [images_for(model, 8)]))
    (name,) = {each.inputs[0] for each in graph.operators if each.output == "stem.conv.hardswish"}
    ranges[name] = (-40.0, 6.0)
    assert scales_of(graph, ranges)[name] == Scale.of(-3.0, 6.0)


def test_the_same_network_gives_the_same_file(network: tuple[Deployable, Path, OperatorGraph]) -> None:
    model, source, graph = network
    ranges = activation_ranges(read_model(source), [images_for(model, 8)])
    contents = {
        name: tflite(graph, name, ranges if name == "int8" else None) for name in ("int8", "float16", "float32")
    }
    assert all(content[4:8] == b"TFL3" for content in contents.values())
    assert contents["int8"] == tflite(read_operators(read_model(source)), "int8", ranges)
    assert len(contents["int8"]) < len(contents["float16"]) < len(contents["float32"])
    with pytest.raises(ValueError, match="ranges"):
        tflite(graph, "int8")


def test_pixels_become_bytes() -> None:
    images = np.array([0, 1 / 255, 0.5, 1], np.float32)
    assert as_bytes(images).tolist() == [-128, -127, 0, 127]


def test_a_damaged_file_is_refused(tmp_path: Path, network: tuple[Deployable, Path, OperatorGraph]) -> None:
    broken = tmp_path / "model.onnx"
    broken.write_bytes(b"no network")
    with pytest.raises(CheckpointError, match="export the network again"):
        read_model(broken)
    model = onnx.load(network[1])
    model.graph.node[0].op_type = "Div"
    onnx.save(model, broken)
    with pytest.raises(CheckpointError, match="operator Div is not one"):
        read_operators(read_model(broken))


def test_integers_cover_what_the_logits_need(network: tuple[Deployable, Path, OperatorGraph]) -> None:
    """Everything that is rounded has a range, at most as wide as the values, and biases make up for it."""
    model, source, graph = network
    images = images_for(model, 32)
    adjusted, ranges = in_integers(source, torch.split(images, 16))
    widest = activation_ranges(read_model(source), [images])
    assert ranges.keys() == widest.keys()
    assert any(ranges[name] != widest[name] for name in ranges)
    content = tflite(read_operators(adjusted), "int8", ranges)
    assert len(content) == pytest.approx(len(tflite(graph, "int8", widest)), rel=0.01)
    trained, _ = in_integers(source, [images], training=[images, images], steps=2)
    assert trained.SerializeToString() != adjusted.SerializeToString()


def test_activations_have_to_be_finite(network: tuple[Deployable, Path, OperatorGraph]) -> None:
    model, source, _ = network
    with pytest.raises(Nat2Error, match="not finite"):
        activation_ranges(read_model(source), [images_for(model, 2) * torch.inf])


def settled(macro: Macro, arch: Arch) -> Deployable:
    """A random network whose batch norms fit its activations, so that rounding is not magnified."""
    model = random_network(macro, arch, seed=3)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    with torch.no_grad():
        model.train()(images_for(model, 32))
    return model.eval()


def logits_of(model: Deployable, count: int) -> tuple[np.ndarray, np.ndarray]:
    images = (images_for(model, count) * 255).round() / 255
    return images.permute(0, 2, 3, 1).contiguous().numpy(), model(images).detach().double().numpy()


@pytest.mark.skipif(not LITERT, reason="needs the extra phone")
@pytest.mark.parametrize(
    "macro",
    [
        GREY,
        Macro(classes=5, width=0.5, stem_stride=2),
        Macro(classes=3, width=0.5, stem_stride=1, parallel_blocks=True, early_exits=False),
    ],
)
def test_litert_answers_as_torch_does(macro: Macro, tmp_path: Path) -> None:
    for resolution in (24, 33):
        model = settled(macro, draw(macro, resolution, seed=3))
        source, graph = exported(model, tmp_path / str(resolution))
        images, expected = logits_of(model, 16)
        largest = np.abs(expected).max()
        for precision, tolerance in (("float32", 1e-4), ("float16", 0.05)):
            found = run_tflite("litert", tflite(graph, precision), images).logits  # type: ignore[arg-type]
            assert np.abs(found - expected).max() <= tolerance * largest
        ranges = activation_ranges(read_model(source), [images_for(model, 16)])
        found = run_tflite("litert", tflite(graph, "int8", ranges), images).logits
        assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.85


@pytest.mark.skipif(not MICRO, reason="needs the extra microcontroller")
def test_the_interpreter_for_microcontrollers_takes_what_the_closed_form_says(
    tmp_path: Path,
) -> None:
    model = settled(GREY, Arch.from_key(KEY))
    source, graph = exported(model, tmp_path)
    images, expected = logits_of(model, 16)
    content = tflite(graph, "int8", activation_ranges(read_model(source), [images_for(model, 16)]))
    found = run_tflite("micro", content, images)
    assert np.corrcoef(found.logits.ravel(), expected.ravel())[0, 1] > 0.85
    said = device_cost(GREY, Arch.from_key(KEY))
    assert said.flash == pytest.approx(len(content), rel=0.02)
    assert said.ram == pytest.approx(found.arena, rel=0.03)


@pytest.mark.skipif(not MICRO, reason="needs the extra microcontroller")
def test_a_file_that_a_runtime_cannot_read_is_refused() -> None:
    with pytest.raises(Nat2Error, match="tflite_micro cannot run the file"):
        run_tflite("micro", b"no network", np.zeros((1, 8, 8, 1), np.float32))
