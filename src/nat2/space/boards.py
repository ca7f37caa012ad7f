"""Where networks run; of microcontroller boards what they hold, and how fast networks run on boards of their kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from nat2.errors import ConfigError

ANYWHERE = "any"
TargetName = Literal["any", "microcontroller", "phone", "executorch", "coreml", "browser", "server", "gpu"]
"""Where a network runs; ``any`` is wherever ONNX Runtime or torch does."""
_KIB, _MIB = 2**10, 2**20
SHARE = 0.5
"""Of a board's flash and RAM that a network may take; the rest is for the runtime, the program and its images."""

SMALL = {"flash": 128 * _KIB, "ram": 64 * _KIB}
"""Bytes that a network may take where no board is named: that share of a small Cortex-M4 with 256 KiB of flash and
128 KiB of RAM."""


@dataclass(frozen=True, kw_only=True)
class Board:
    """A microcontroller board."""

    name: str
    """As ``--device`` takes it."""
    chip: str
    flash: int
    """Bytes for programs and constants."""
    ram: int
    """Bytes."""
    mhz: int
    """Clock."""
    macs_per_second: float | None = None
    """Multiply-accumulates of 8-bit networks, from a published measurement; None if there is none to rely on."""
    source: str = ""
    """Where the throughput comes from."""

    def milliseconds(self, macs: float) -> float | None:
        """Estimated time for an image; None without a throughput."""
        return None if self.macs_per_second is None else 1e3 * macs / self.macs_per_second

    @property
    def summary(self) -> str:
        """Its sizes and clock, in words."""
        return f"{self.chip}, {_size(self.flash)} flash, {_size(self.ram)} RAM, {self.mhz} MHz"


_M4 = 7.5e6 / 0.603 / 120e6  # multiply-accumulates in a cycle
_M4_SOURCE = (
    "MLPerf Tiny (Banbury et al., 2021): MobileNet of 7.5 million MACs in 603 ms on a Cortex-M4 of 120 MHz, "
    "scaled by the clock"
)
_M7 = 12.3e6 / 0.0991 / 216e6
_M7_SOURCE = (
    "CMSIS-NN (Lai et al., 2018): convolutional network of 12.3 million MACs in 99 ms on a Cortex-M7 of 216 MHz, "
    "scaled by the clock; depthwise convolutions are slower"
)
_ESP_SOURCE = "esp-tflite-micro: person detection, MobileNet of 7 million MACs, in {} ms with ESP-NN"
BOARDS = {
    each.name: each
    for each in (
        Board(
            name="arduino-nano-33-ble",
            chip="nRF52840, Cortex-M4F",
            flash=_MIB,
            ram=256 * _KIB,
            mhz=64,
            macs_per_second=_M4 * 64e6,
            source=_M4_SOURCE,
        ),
        Board(
            name="esp32",
            chip="ESP32, Xtensa LX6",
            flash=4 * _MIB,
            ram=520 * _KIB,
            mhz=240,
            macs_per_second=7e6 / 0.380,
            source=_ESP_SOURCE.format(380),
        ),
        Board(
            name="esp32-s3",
            chip="ESP32-S3, Xtensa LX7",
            flash=8 * _MIB,
            ram=512 * _KIB,
            mhz=240,
            macs_per_second=7e6 / 0.054,
            source=_ESP_SOURCE.format(54),
        ),
        Board(name="rp2040", chip="RP2040, Cortex-M0+", flash=2 * _MIB, ram=264 * _KIB, mhz=133),
        Board(name="rp2350", chip="RP2350, Cortex-M33", flash=4 * _MIB, ram=520 * _KIB, mhz=150),
        Board(
            name="stm32f4",
            chip="STM32F446RE, Cortex-M4F",
            flash=512 * _KIB,
            ram=128 * _KIB,
            mhz=180,
            macs_per_second=_M4 * 180e6,
            source=_M4_SOURCE,
        ),
        Board(
            name="stm32h7",
            chip="STM32H743ZI, Cortex-M7",
            flash=2 * _MIB,
            ram=512 * _KIB,  # the largest part that is contiguous, of 1 MiB
            mhz=480,
            macs_per_second=_M7 * 480e6,
            source=_M7_SOURCE,
        ),
        Board(
            name="stm32l4",
            chip="STM32L4R5ZI, Cortex-M4F",
            flash=2 * _MIB,
            ram=640 * _KIB,
            mhz=120,
            macs_per_second=_M4 * 120e6,
            source=_M4_SOURCE,
        ),
    )
}
"""Sizes and clocks are those of the chips' data sheets; flash beside the chip is that of the usual board."""


def board_named(name: str) -> Board:
    """A board.

    Raises:
        ConfigError: there is none of this name.
    """
    if name not in BOARDS:
        raise ConfigError(
            f"--device must be one of {', '.join(BOARDS)}; got {name!r}. For another board give its sizes: "
            '--budget "flash<=256KiB,ram<=64KiB"'
        )
    return BOARDS[name]


def _size(count: int) -> str:
    return f"{count // _MIB} MiB" if count % _MIB == 0 else f"{count // _KIB} KiB"
