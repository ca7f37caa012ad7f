"""An exported network as files for a device, measured by the runtime that will run them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nat2.deploy.coreml import check_coreml, write_coreml
from nat2.deploy.executorch import check_executorch, write_executorch
from nat2.deploy.microcontroller import copy_preprocessing
from nat2.deploy.samples import Samples
from nat2.deploy.tflite_export import write_microcontroller, write_phone
from nat2.deploy.tflite_runtime import check_runtime

DeviceName = Literal["microcontroller", "phone", "executorch", "coreml"]


@dataclass(frozen=True)
class Device:
    """A kind of device, or a runtime on it."""

    check: Callable[[], None]
    """Raises if its files could not be measured here."""
    write: Callable[[Path, Path, Samples], list[str]]
    """Writes files of a network, given its folder, into another; returns what was measured."""
    integers: bool = True
    """Whether some of its files compute in 8-bit integers alone, for which weights may be trained."""


DEVICES: dict[DeviceName, Device] = {
    "microcontroller": Device(lambda: check_runtime("micro"), write_microcontroller),
    "phone": Device(lambda: check_runtime("litert"), write_phone),
    "executorch": Device(check_executorch, write_executorch),
    "coreml": Device(check_coreml, write_coreml, integers=False),
}


def check_device(name: DeviceName) -> None:
    """Raise if files for a device could not be measured here.

    Raises:
        ConfigError: naming the extra to install.
    """
    DEVICES[name].check()


def write_for_device(name: DeviceName, network: Path, samples: Samples) -> list[str]:
    """Write files for a device into a folder of its name inside that of an exported network.

    Args:
        name: The kind of device.
        network: Folder of the exported network.
        samples: Images, by which the files are calibrated and measured.

    Returns:
        What was measured, a sentence for each file.

    Raises:
        ConfigError: the extra is not installed.
        CheckpointError: ``model.onnx`` is damaged.
        Nat2Error: a file does not compute what the network does.
    """
    folder = network / name
    sentences = DEVICES[name].write(network, folder, samples)
    copy_preprocessing(network, folder)
    return sentences
