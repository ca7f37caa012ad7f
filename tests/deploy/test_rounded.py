"""8 bits in torch: the same numbers as in the file, and each step brings them closer to floating point."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nat2.deploy import rounded as module
from nat2.deploy.export import answer, open_session
from nat2.deploy.onnx_graph import onnx_model
from nat2.deploy.quantise import quantise
from nat2.deploy.rounded import LEVELS, RoundedGraph, Span, scales_of
from nat2.space import Arch, Macro
from tests.deploy.networks import images_for, random_network
from tests.deploy.test_export import rounded_answer

MACRO = Macro(classes=3, width=0.25, stem_stride=1, parallel_blocks=True, dense_skips=True, early_exits=True)
MODEL = random_network(MACRO, Arch.from_key("r13-w0.25-k5e4ct.k3e6t.k7e3c.k3e4ct-k7e3ct.k5e6t.c"), exits=(1, 2))
IMAGES = images_for(MODEL, 48)
BATCHES = torch.split(IMAGES, 16)


@pytest.fixture(scope="module")
def fresh() -> RoundedGraph:
    return RoundedGraph(onnx_model(MODEL).graph)


@pytest.fixture
def graph(fresh: RoundedGraph) -> RoundedGraph:
    """A graph whose ranges are known; a copy."""
    calibrated = copy.deepcopy(fresh)
    calibrated.calibrate(BATCHES)
    return calibrated


def weight_of(graph: RoundedGraph, name: str) -> torch.Tensor:
    weight = graph.weight(name)
    assert weight is not None
    return weight


def off(graph: RoundedGraph) -> float:
    """Squared error of the logits in 8 bits."""
    with torch.no_grad():
        return float((graph(IMAGES) - graph.exact(IMAGES)).square().mean())


def test_without_rounding_it_answers_as_the_network(fresh: RoundedGraph) -> None:
    with torch.no_grad():
        torch.testing.assert_close(fresh.exact(IMAGES), MODEL(IMAGES), rtol=1e-3, atol=1e-4)


SHALLOW = random_network(Macro(classes=3, width=0.25, stem_stride=1), Arch.from_key("r13-w0.25-k3e3.k5e4"))
"""So few layers that a value between two steps, which may go either way, does not change everything behind it."""


@pytest.mark.parametrize("steps", [0, 2])
def test_the_file_answers_as_the_simulation(steps: int, tmp_path: Path) -> None:
    source, target = tmp_path / "model.onnx", tmp_path / "model-int8.onnx"
    onnx.save(onnx_model(SHALLOW, classes=["a", "b", "c"]), source)
    quantise(source, target, iter(BATCHES), training=iter(BATCHES), steps=steps)
    simulated = RoundedGraph(onnx_model(SHALLOW).graph)
    simulated.calibrate(BATCHES)
    simulated.refine(IMAGES)
    simulated.spare(IMAGES)
    simulated.correct_biases(IMAGES)
    simulated.tune(BATCHES, steps=steps)
    with torch.no_grad():
        expected = simulated(IMAGES)
    for actual in (rounded_answer(target, IMAGES), answer(open_session(target), IMAGES)):
        assert (actual - expected).abs().mean() < 0.015 * expected.abs().mean()


@given(low=st.floats(-100, 0, width=32, allow_subnormal=False), high=st.floats(0, 100, width=32, allow_subnormal=False))
def test_a_range_holds_zero_and_its_ends(low: float, high: float) -> None:
    span = Span(low, high)
    assert 0 <= span.zero <= LEVELS
    values = torch.tensor([0.0, low, high, low - 50, high + 50])
    rounded = span.rounded(values)
    assert rounded[0] == 0
    assert (rounded[1:3] - values[1:3]).abs().max() <= span.scale * 1.001
    assert low - 1.001 * span.scale <= rounded.min()
    assert rounded.max() <= max(high, low + 1e-8) + 1.001 * span.scale


def test_what_a_gate_cannot_tell_apart_takes_no_levels(graph: RoundedGraph) -> None:
    """Hard sigmoids are flat beyond 3, ReLUs below 0."""
    spans = {node.output[0]: span for node, span in graph.points()}
    gates = {node.input[0] for node in graph.nodes if node.op_type == "HardSigmoid"}
    relus = {node.output[0] for node in graph.nodes if node.op_type == "Relu"}
    assert len(gates) > 5
    assert len(relus) > 5
    assert {spans[name].low for name in gates} == {-3.0}
    assert {spans[name].high for name in gates} == {3.0, math.inf}  # of squeeze and excitation, and of hard swish
    assert {spans[name].low for name in relus} == {0.0}
    for name, span in graph.spans.items():
        assert name not in spans or (span.low >= spans[name].low and span.high <= spans[name].high)
    assert not {node.output[0] for node in graph.nodes if node.op_type in ("Gemm", "HardSigmoid")} & set(graph.spans)
    for node in graph.nodes:
        if node.op_type in ("MaxPool", "Flatten"):
            assert graph.spans[node.output[0]] == graph.spans[node.input[0]]


def test_an_outlier_does_not_take_the_levels_from_everything_else() -> None:
    values = torch.cat([torch.linspace(-1, 1, 1_000_000), torch.tensor([8.0, -6.0])])
    wide, fitted = module._covering(values), module._fitted(values)
    assert (wide.low, wide.high) == (-6, 8)
    assert -3 < fitted.low <= -1
    assert 1 <= fitted.high < 4
    error = {span: float((span.rounded(values) - values).square().mean()) for span in (wide, fitted)}
    assert error[fitted] < 0.5 * error[wide]
    even = module._fitted(torch.linspace(-1, 2, 1000))
    assert (even.low, even.high) == pytest.approx((-1, 2), rel=0.1)


def test_scales_make_the_largest_weight_of_each_channel_127() -> None:
    weight = torch.tensor([[1.0, -2.54], [0.0, 0.0]])
    np.testing.assert_allclose(scales_of(weight, 0), [0.02, 1e-8 / 127], rtol=1e-6)
    np.testing.assert_allclose(scales_of(weight, 1), [1 / 127, 0.02], rtol=1e-6)


def test_channels_keep_their_means(graph: RoundedGraph) -> None:
    corrected = copy.deepcopy(graph)
    corrected.correct_biases(IMAGES)
    with torch.no_grad():
        expected = graph.exact(IMAGES).mean(0)
        before, after = ((each(IMAGES).mean(0) - expected).abs().max() for each in (graph, corrected))
    assert after < 1e-3
    assert after < 0.1 * before


def test_a_loud_channel_does_not_take_the_levels_from_the_others(fresh: RoundedGraph) -> None:
    graph = copy.deepcopy(fresh)
    stem, *convolutions = (node for node in graph.nodes if node.op_type == "Conv")
    maps = {"stem.conv.hardswish", "stem.block.residual"}
    readers = [node for node in convolutions if node.input[0] in maps]
    assert {node.input[0] for node in readers} == maps
    with torch.no_grad():
        for name in stem.input[1:]:
            weight_of(graph, name)[0] *= 40
        for node in readers:  # what it says counts as much as before
            weight = weight_of(graph, node.input[1])
            (weight[0] if weight.shape[1] == 1 else weight[:, 0]).div_(40)
    graph.calibrate(BATCHES)
    before, error = dict(graph.spans), off(graph)
    graph.refine(IMAGES)
    assert off(graph) < 0.8 * error
    assert all(before[name].low <= span.low and span.high <= before[name].high for name, span in graph.spans.items())
    for node in graph.nodes:
        if node.op_type in ("MaxPool", "Flatten"):
            assert graph.spans[node.output[0]] == graph.spans[node.input[0]]


def test_refined_ranges_are_never_worse(graph: RoundedGraph) -> None:
    error = off(graph)
    graph.refine(IMAGES)
    assert off(graph) <= error


def test_a_model_takes_the_weights_as_they_are_now(graph: RoundedGraph) -> None:
    model = onnx_model(MODEL)
    graph.correct_biases(IMAGES)
    graph.store(model)
    with torch.no_grad():
        expected = graph.exact(IMAGES)
    torch.testing.assert_close(answer(open_session(model.SerializeToString()), IMAGES), expected, rtol=1e-3, atol=1e-4)
    assert (expected - MODEL(IMAGES)).abs().max() > 1e-3


def test_what_rounding_harms_most_stays_in_floating_point(graph: RoundedGraph, monkeypatch: pytest.MonkeyPatch) -> None:
    spans, shared = dict(graph.spans), ("MaxPool", "Flatten")
    with torch.no_grad():
        size = float(graph.exact(IMAGES).square().mean())
    harm = {}
    for node in graph.nodes:
        if (name := node.output[0]) in spans and node.op_type not in shared:
            graph.spans = {name: spans[name]}
            with torch.no_grad():
                values = graph._run(IMAGES, graph._rounded)
                harm[name] = float((values - graph.exact(IMAGES)).square().mean()) / size
    middle = sorted(harm.values())[len(harm) // 2] * 1.0001
    for most, kept in ((math.inf, set(harm)), (0.0, set()), (middle, {name for name in harm if harm[name] <= middle})):
        graph.spans = dict(spans)
        monkeypatch.setattr(module, "_HARM", most)
        graph.spare(IMAGES)
        assert set(graph.spans) & set(harm) == kept
        for node in graph.nodes:  # shared ranges go together
            if node.op_type in shared:
                assert (node.output[0] in graph.spans) == (node.input[0] in graph.spans)


def test_steps_bring_the_answers_closer(graph: RoundedGraph) -> None:
    teacher = copy.deepcopy(graph)

    def divergence() -> float:
        with torch.no_grad():
            expected = teacher.exact(IMAGES).log_softmax(1)
            return float((expected.exp() * (expected - graph(IMAGES).log_softmax(1))).sum(1).mean())

    before = divergence()
    graph.tune([], steps=0)
    assert divergence() == before
    graph.tune([IMAGES] * 12, steps=10, rate=3e-4)
    assert divergence() < 0.8 * before
