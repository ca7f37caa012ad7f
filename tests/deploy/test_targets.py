"""Targets of an export: what is refused, and the repository for Triton."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from nat2.data.transform import Pipeline
from nat2.deploy.device_export import DEVICES
from nat2.deploy.export import export
from nat2.deploy.targets import TARGETS, TargetOptions, target_named
from nat2.errors import ConfigError
from nat2.space import Arch, Macro
from nat2.space.boards import ANYWHERE, TargetName
from tests.deploy.networks import random_network


def test_an_unknown_target_is_refused_with_those_there_are() -> None:
    with pytest.raises(
        ConfigError,
        match="--for must be one of microcontroller, phone, executorch, coreml, browser, server, gpu; got 'fr",
    ):
        target_named("fridge")
    for name in TARGETS:
        assert target_named(name).name == name
    assert get_args(TargetName) == (ANYWHERE, *DEVICES, *TARGETS)


@pytest.mark.parametrize(("target", "kind"), [("server", "KIND_CPU"), ("gpu", "KIND_GPU")])
def test_a_repository_for_triton_has_the_network_its_shapes_and_its_labels(
    target: str, kind: str, tmp_path: Path
) -> None:
    folder = tmp_path / "1a2b.3c"
    model = random_network(Macro(classes=3, width=0.25, stem_stride=1), Arch.from_key("r12-w0.25-k3e3.k3e3"))
    export(model.network, Pipeline((0.4,) * 3, (0.2,) * 3), ["a cat", "b\nc", "ü"], folder, side=16, facts={})
    config = target_named(target).write(folder, {}, TargetOptions())
    assert config == folder / target / "1a2b_3c" / "config.pbtxt"
    text = config.read_text()
    for expected in (
        'name: "1a2b_3c"',
        'input [ { name: "images" data_type: TYPE_FP32 dims: [ 3, 12, 12 ] } ]',
        'output [ { name: "logits" data_type: TYPE_FP32 dims: [ 3 ] label_filename: "labels.txt" } ]',
        kind,
    ):
        assert expected in text
    assert ("tensorrt" in text) is (target == "gpu")
    assert text.count("{") == text.count("}")
    assert (config.parent / "labels.txt").read_text() == "a cat\nb c\nü\n"
    assert (config.parent / "1" / "model.onnx").read_bytes() == (folder / "model.onnx").read_bytes()
