"""The ONNX graph computes what the network computes, and holds nothing else."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch

import nat2
from nat2.data.settings import Augmentation
from nat2.data.transform import Pipeline
from nat2.deploy import export, load
from nat2.deploy.deployable import Deployable
from nat2.deploy.export import TOLERANCE, answer, open_session, write_onnx
from nat2.deploy.onnx_graph import ACTIVATIONS, onnx_model
from nat2.deploy.quantise import quantise
from nat2.errors import CheckpointError
from nat2.space import Arch, Macro, SearchSpace, cost
from nat2.supernet import static
from tests.deploy.networks import draw, images_for, operators, random_network, strings

FAMILIES = list(product((True, False), repeat=3))
MACRO = Macro(classes=3, width=0.25, stem_stride=1, parallel_blocks=True)
EVERYTHING = Arch.from_key("r13-w0.25-k5e4ct.k3e6t.k7e3c.k3e4ct-k7e3ct.k5e6t.c-k3e3.k5e4ct-k3e3.t")


def agrees(model: Deployable) -> float:
    """The largest difference between ONNX Runtime and torch in double precision, relative to the largest logit."""
    session = open_session(onnx_model(model).SerializeToString())
    worst = 0.0
    for count in (1, 2, 7):
        images = images_for(model, count)
        with torch.no_grad():
            expected = copy.deepcopy(model).double()(images.double())
        actual = answer(session, images)
        assert actual.shape == (count, model.network.macro.classes)
        worst = max(worst, float((actual - expected).abs().max() / expected.abs().max()))
    return worst


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("early", "dense", "parallel"), FAMILIES)
def test_every_family_answers_as_torch_does(early: bool, dense: bool, parallel: bool, seed: int) -> None:
    channels, width, stride, side = [(1, 0.25, 1, 12), (3, 0.35, 1, 15), (3, 0.3, 2, 22)][seed]
    macro = Macro(classes=2 + seed, channels=channels, width=width, early_exits=early, dense_skips=dense,
                  parallel_blocks=parallel, stem_stride=stride)  # fmt: skip
    arch = draw(macro, side, seed=seed)
    assert agrees(random_network(macro, arch, seed=seed)) < TOLERANCE
    every = tuple(number for number in macro.exits if number <= arch.exit)
    for exits in {every, every[:1] + every[-1:]}:
        assert agrees(random_network(macro, arch, exits=exits, seed=seed)) < TOLERANCE


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dense", [False, True])
def test_all_kinds_of_blocks_side_by_side(dense: bool, channels: int) -> None:
    macro = replace(MACRO, dense_skips=dense, channels=channels)
    assert agrees(random_network(macro, EVERYTHING, exits=(1, 2, 4))) < TOLERANCE


@pytest.mark.parametrize("end", ["smallest", "largest"])
@pytest.mark.parametrize("side", [8, 17])
def test_the_ends_of_a_space_answer_as_torch_does(end: str, side: int) -> None:
    macro = Macro(classes=10, width=0.3, doubled_exit_widths=True, stem_stride=1, early_exits=end == "largest")
    arch = getattr(SearchSpace.of(macro, (side,)), end)
    assert agrees(random_network(macro, arch, exits=macro.exits if macro.early_exits else None)) < TOLERANCE


def test_every_activation_of_the_torch_network_is_known() -> None:
    assert set(ACTIVATIONS) == set(static.ACTIVATIONS)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A file of each kind, of a network with all kinds of blocks and several exits."""
    folder = tmp_path_factory.mktemp("written")
    model = random_network(MACRO, EVERYTHING, exits=(2, 4))
    write_onnx(model, folder, classes=["a cat", "ünï", '"dog"'])
    quantise(folder / "model.onnx", folder / "model-int8.onnx", torch.split(images_for(model, 32), 16))
    return {"float": folder / "model.onnx", "int8": folder / "model-int8.onnx"}


@pytest.mark.parametrize(("kind", "ir_version", "opset"), [("float", 4, 9), ("int8", 7, 13)])
def test_old_runtimes_know_the_version(kind: str, ir_version: int, opset: int, written: dict[str, Path]) -> None:
    model = onnx.load(written[kind])
    onnx.checker.check_model(model, full_check=True)
    assert (model.ir_version, [(each.domain, each.version) for each in model.opset_import]) == (
        ir_version,
        [("", opset)],
    )
    for node in model.graph.node:
        assert node.domain == ""
        # Converters trip over what is not written as in the operator's own opset.
        assert onnx.defs.get_schema(node.op_type, opset).since_version <= opset


def test_weights_have_a_scale_for_each_channel_and_activations_are_unsigned(written: dict[str, Path]) -> None:
    """What processors compute fastest, and what one scale for all channels would cost in accuracy."""
    graph = onnx.load(written["int8"]).graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    weights = [
        (stored[node.input[0]], stored[node.input[1]])
        for node in graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in stored
    ]
    kernels = [(weight, scale) for weight, scale in weights if len(weight.dims) == 4]
    assert len(kernels) > 20
    for weight, scale in kernels:
        assert weight.data_type == onnx.TensorProto.INT8
        assert list(scale.dims) == [weight.dims[0]]
    activations = [stored[node.input[2]] for node in graph.node if node.op_type == "QuantizeLinear"]
    assert len(activations) > 20
    assert {zero.data_type for zero in activations} == {onnx.TensorProto.UINT8}


@pytest.mark.parametrize("kind", ["float", "int8"])
def test_the_file_holds_nothing_of_the_machine_that_made_it(kind: str, written: dict[str, Path]) -> None:
    model = onnx.load(written[kind])
    assert (model.producer_name, model.producer_version, model.doc_string) == ("nat2", nat2.__version__, "")
    assert [each.key for each in model.metadata_props] == ["classes"]
    found = list(strings(model))
    assert len(found) > 100
    for text in found:
        assert not text.startswith("/"), text
        assert not any(word in text for word in ("torch", "stack", "onnxruntime", os.getcwd())), text
    assert len(model.graph.value_info) == len(model.functions) == 0
    assert sum(len(node.metadata_props) + len(node.doc_string) for node in model.graph.node) == 0


@pytest.mark.parametrize("kind", ["float", "int8"])
def test_a_program_that_only_has_the_file_knows_what_goes_in_and_out(kind: str, written: dict[str, Path]) -> None:
    session = onnxruntime.InferenceSession(written[kind], providers=["CPUExecutionProvider"])
    (images,), (logits,) = session.get_inputs(), session.get_outputs()
    assert (images.name, images.shape, images.type) == ("images", ["batch", 3, 13, 13], "tensor(float)")
    assert (logits.name, logits.shape) == ("logits", ["batch", 3])
    assert json.loads(session.get_modelmeta().custom_metadata_map["classes"]) == ["a cat", "ünï", '"dog"']


def test_the_same_network_gives_the_same_file(tmp_path: Path) -> None:
    pipeline = Pipeline((0.4, 0.5, 0.6), (0.2, 0.3, 0.25), Augmentation())
    for name, seed in (("first", 0), ("second", 0), ("other", 1)):
        model = random_network(MACRO, EVERYTHING, seed=seed)
        export(model.network, pipeline, ["a", "b", "c"], tmp_path / name, side=16, facts={})
    # Read again, its weights lie in memory in another order.
    write_onnx(load(tmp_path / "first"), tmp_path / "again", classes=["a", "b", "c"])
    names = ("first", "second", "again", "other")
    first, *same, other = ((tmp_path / name / "model.onnx").read_bytes() for name in names)
    assert same == [first, first]
    assert other != first
    for name in ("first", "second"):
        folder = tmp_path / name
        quantise(folder / "model.onnx", folder / "model-int8.onnx", torch.split(images_for(model, 8), 4))
    assert len({(tmp_path / name / "model-int8.onnx").read_bytes() for name in ("first", "second")}) == 1


def test_most_of_a_file_are_its_weights(tmp_path: Path) -> None:
    macro = Macro(classes=10, width=0.35, stem_stride=1, channels=1)
    arch = Arch.from_key("r16-w0.35-k3e3.k3e3.k3e4-k3e6.k3e4.k3e4")
    model = random_network(macro, arch)
    params = cost(macro, arch).params
    write_onnx(model, tmp_path)
    quantise(tmp_path / "model.onnx", tmp_path / "model-int8.onnx", torch.split(images_for(model, 32), 16))
    whole, small = ((tmp_path / name).stat().st_size for name in ("model.onnx", "model-int8.onnx"))
    assert 15_000 < params < 30_000
    assert whole < 4 * params + 12_000
    assert small < params + 30_000 < 0.6 * whole
    assert operators(onnx.load(tmp_path / "model-int8.onnx")) >= {"QuantizeLinear", "DequantizeLinear"}


def _foreign_opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 20


def _foreign_operator(model: onnx.ModelProto) -> None:
    model.graph.node[0].op_type = "Nothing"


@pytest.mark.parametrize("change", [_foreign_opset, _foreign_operator])
def test_files_of_others_are_not_quantised(
    change: Callable[[onnx.ModelProto], None], written: dict[str, Path], tmp_path: Path
) -> None:
    model = onnx.load(written["float"])
    change(model)
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(CheckpointError, match="export the network again"):
        quantise(tmp_path / "model.onnx", tmp_path / "model-int8.onnx", [])
    assert not (tmp_path / "model-int8.onnx").exists()
