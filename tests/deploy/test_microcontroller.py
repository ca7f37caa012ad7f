"""Source files for a microcontroller: the C array, the header, the program, the page of numbers."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from nat2.deploy import device_export, tflite_export, tflite_runtime
from nat2.deploy.device_export import check_device, write_for_device
from nat2.deploy.export import write_onnx
from nat2.deploy.microcontroller import DeviceNumbers, c_array, c_header, c_string, main_program, numbers_page
from nat2.deploy.operators import Map, Operator, OperatorGraph
from nat2.deploy.samples import Samples, TestImages
from nat2.deploy.tflite_runtime import Answers
from nat2.errors import ConfigError, Nat2Error
from nat2.space import Arch, Macro
from tests.deploy.networks import images_for, random_network

NUMBERS = DeviceNumbers(
    network="1a2b3c4d",
    flash=40,
    arena=12_345,
    macs=6_789,
    float_accuracy=0.98,
    accuracy=0.975,
    agreement=0.99,
    images=200,
)
CLASSES = ("cat", 'a "dog"?', "süd\\west", "??=", "日本")
GRAPH = OperatorGraph(
    operators=[Operator("conv", ("images",), "scores"), Operator("reshape", ("scores",), "logits")],
    maps={"images": Map(12, 3), "scores": Map(1, 5), "logits": Map(1, 5)},
    classes=CLASSES,
)
STUBS = {
    "tensorflow/lite/schema/schema_generated.h": """
namespace tflite { struct Model; inline const Model* GetModel(const void*) { return nullptr; } }
""",
    "tensorflow/lite/micro/micro_mutable_op_resolver.h": """
namespace tflite { template <unsigned N> struct MicroMutableOpResolver { int AddConv2D(); int AddReshape(); }; }
""",
    "tensorflow/lite/micro/micro_interpreter.h": """
#include <cstddef>
#include <cstdint>
enum TfLiteStatus { kTfLiteOk };
struct TfLiteTensor { union { int8_t* int8; } data; struct { float scale; int32_t zero_point; } params; };
namespace tflite {
struct Model;
struct MicroInterpreter {
  template <class Resolver> MicroInterpreter(const Model*, const Resolver&, uint8_t*, size_t);
  TfLiteStatus AllocateTensors();
  TfLiteTensor* input(size_t);
  TfLiteTensor* output(size_t);
  TfLiteStatus Invoke();
};
}
""",
}
"""What the program uses of TensorFlow Lite Micro."""


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_the_array_is_the_file_and_the_names_are_the_classes(tmp_path: Path) -> None:
    content = np.random.default_rng(0).integers(0, 256, 1003, dtype=np.uint8).tobytes()
    (tmp_path / "model.h").write_text(c_header(len(content), GRAPH, NUMBERS))
    (tmp_path / "model.c").write_text(c_array(content, CLASSES))
    (tmp_path / "print.c").write_text(
        '#include <stdio.h>\n#include "model.h"\n'
        "int main(void) {\n"
        "  if ((unsigned long)model_data % 16) return 1;\n"
        "  for (int i = 0; i < MODEL_CLASSES; ++i) { fputs(model_classes[i], stdout); putchar(0); }\n"
        '  printf("%d %d %d", MODEL_SIDE, MODEL_CHANNELS, MODEL_ARENA); putchar(0);\n'
        "  fwrite(model_data, 1, sizeof(model_data), stdout);\n  return 0;\n}\n"
    )
    flags = ["-Wall", "-Wextra", "-Werror", "-pedantic", "-std=c99"]
    subprocess.run(["cc", *flags, "model.c", "print.c", "-o", "print"], cwd=tmp_path, check=True)
    printed = subprocess.run([tmp_path / "print"], capture_output=True, check=True).stdout
    *names, numbers, rest = printed.split(b"\0", len(CLASSES) + 1)
    assert tuple(name.decode() for name in names) == CLASSES
    assert numbers == b"12 3 12345"
    assert rest == content


@pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler")
def test_the_program_compiles_and_registers_what_the_network_uses(tmp_path: Path) -> None:
    for name, text in STUBS.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"#pragma once\n{text}")
    program = main_program(GRAPH)
    (tmp_path / "main.cc").write_text(program)
    (tmp_path / "model.h").write_text(c_header(100, GRAPH, NUMBERS))
    command = ["c++", "-std=c++17", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "-I.", "main.cc"]
    subprocess.run(command, cwd=tmp_path, check=True)
    assert "MicroMutableOpResolver<2>" in program
    assert "AddConv2D" in program
    assert "AddMean" not in program
    assert len(program.splitlines()) <= 50


def test_names_of_classes_become_c_strings() -> None:
    assert c_string("cat") == '"cat"'
    assert c_string('a"b\\c?') == '"a\\"b\\\\c\\?"'
    assert c_string("é1") == '"\\303\\2511"'
    assert c_string("a\nb") == '"a\\012b"'


def test_the_page_says_what_was_measured_and_by_what() -> None:
    page = numbers_page(GRAPH, NUMBERS)
    for expected in (
        "40 bytes",
        "12,345 bytes",
        "6,789",
        "97.50 %",
        "98.00 %",
        "99.00 %",
        "200 test images",
        "12 x 12",
    ):
        assert expected in page
    assert "TensorFlow Lite Micro" in page


@pytest.mark.parametrize(
    ("device", "module"),
    [
        ("microcontroller", "tflite_micro"),
        ("phone", "ai_edge_litert"),
        ("executorch", "executorch"),
        ("coreml", "coremltools"),
    ],
)
def test_a_missing_extra_is_named(
    device: device_export.DeviceName, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=rf"with {module}, which is not installed; .*pip install 'nat2\[{device}\]'"):
        check_device(device)


class Fake:
    """A runtime that answers as ONNX Runtime did, but for some images."""

    def __init__(self, logits: np.ndarray, wrong: int = 0) -> None:
        self.logits = logits.copy()
        self.logits[:wrong] = -self.logits[:wrong]

    def __call__(self, runtime: str, model: bytes, images: np.ndarray) -> Answers:
        return Answers(self.logits, 4096 if runtime == "micro" else 0)


@pytest.fixture
def network(tmp_path: Path) -> tuple[Path, TestImages, torch.Tensor]:
    arch = Arch.from_key("r16-w0.25-k3e3.k3e3-k3e3.k3e3")
    model = random_network(Macro(classes=5, channels=3, width=0.25, stem_stride=1), arch)
    folder = tmp_path / "1a2b3c4d"
    folder.mkdir()
    write_onnx(model, folder, classes=CLASSES)
    (folder / "preprocessing.json").write_text("{}")
    images = images_for(model, 10)
    return folder, TestImages.of(folder / "model.onnx", [images], model(images).argmax(1)), images


def test_files_for_a_microcontroller_are_written(
    network: tuple[Path, TestImages, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, test, images = network
    monkeypatch.setattr(tflite_export, "run_tflite", Fake(test.logits, wrong=2))
    (told,) = write_for_device("microcontroller", folder, Samples([images], test))
    written = folder / "microcontroller"
    size = (written / "model.tflite").stat().st_size
    assert told.startswith(f"model.tflite: {size:,} bytes, 4,096 bytes of RAM, 80.00 % of 10 test images (100.00 % in")
    assert {path.name for path in written.iterdir()} == {
        "model.tflite", "model.c", "model.h", "main.cc", "README.md", "numbers.json", "preprocessing.json"
    }  # fmt: skip
    kept = json.loads((written / "numbers.json").read_text())
    assert (kept["flash"], kept["arena"], kept["agreement"], kept["classes"]) == (size, 4096, 0.8, [*CLASSES])


def test_files_for_a_phone_are_written_if_they_answer_alike(
    network: tuple[Path, TestImages, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, test, images = network
    monkeypatch.setattr(tflite_export, "run_tflite", Fake(test.logits))
    told = write_for_device("phone", folder, Samples([images], test))
    assert [each.partition(":")[0] for each in told] == ["model-int8.tflite", "model-float16.tflite"]
    sizes = [(folder / "phone" / name).stat().st_size for name in ("model-int8.tflite", "model-float16.tflite")]
    assert sizes[0] < sizes[1]
    monkeypatch.setattr(tflite_export, "run_tflite", Fake(test.logits, wrong=1))
    with pytest.raises(Nat2Error, match="in 16-bit floating point the logits differ by"):
        write_for_device("phone", folder, Samples([images], test))


def test_a_runtime_that_cannot_run_the_file_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tflite_runtime, "check_runtime", lambda runtime: None)
    monkeypatch.setattr(tflite_runtime, "_run", lambda *given: None)
    with pytest.raises(Nat2Error, match="ai_edge_litert cannot run the file"):
        tflite_runtime.run_tflite("litert", b"", np.zeros((1, 8, 8, 1), np.float32))


def test_the_smallest_arena_may_be_more_than_what_running_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tflite_runtime, "_run", lambda place, runtime, inputs, arena: {} if arena >= 5000 else None)
    assert 5000 <= tflite_runtime._smallest_arena(Path(), 4096) <= 5000 + 80
    monkeypatch.setattr(tflite_runtime, "_run", lambda place, runtime, inputs, arena: {})
    assert tflite_runtime._smallest_arena(Path(), 4090) == 4112
