"""Large data sets: what a start, an epoch and the memory cost once the images are decoded, and what cannot be lost.

python benchmarks/scale.py --json scale.json

Generated JPEGs of 160 x 120 pixels in ten class folders. One process decodes them and is killed on the way; two go on
at the same time; another starts when all are decoded, and reads them; the last one has no room on its disk.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import resource
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from table import Row, parser, show

from nat2.data.dataset import open_source, read_dataset
from nat2.data.decode import read_square
from nat2.data.listing import list_folder
from nat2.data.record import ENTRY
from nat2.data.settings import Reading
from nat2.data.stream import StoredImages, StreamedPixels
from nat2.errors import RunError
from nat2.progress import FoundDone, Reporter

CLASSES, BASES, BATCH = 10, 400, 256
MIB = 2**20


class Decoded(Reporter):
    """Counts the images that are decoded."""

    def __init__(self) -> None:
        self.count = 0

    def step(self, count: int = 1, *, unit: str = "") -> None:
        self.count += 0 if isinstance(count, FoundDone) else count


def generate(root: Path, count: int) -> None:
    """Different JPEGs, made of a few by changing the table by which their coefficients are multiplied."""
    generator = np.random.default_rng(0)
    bases = []
    for _ in range(BASES):
        coarse = Image.fromarray(generator.integers(0, 256, (15, 20, 3), dtype=np.uint8)).resize((160, 120))
        noise = generator.integers(-20, 21, (120, 160, 3))
        file = io.BytesIO()
        Image.fromarray((np.asarray(coarse) + noise).clip(0, 255).astype(np.uint8)).save(file, "JPEG")
        bases.append(file.getvalue())
    place = bases[0].index(b"\xff\xdb\x00\x43\x00") + 5  # of the table for the luminance

    def write(number: int) -> None:
        content = bytearray(bases[number % BASES])
        for digit in range(4):
            content[place + digit] += number // BASES // 4**digit % 4
        (root / str(number % CLASSES) / f"{number:06}.jpg").write_bytes(content)

    for label in range(CLASSES):
        (root / str(label)).mkdir(parents=True)
    with ThreadPoolExecutor() as pool:
        list(pool.map(write, range(count)))


def memory(name: str) -> float:
    """MiB of this process: `VmRSS` now, or `VmHWM` at most so far."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) / 1024


def start(images: Path, cache: Path, side: int) -> dict[str, Any]:
    """What a process does first, and what that takes."""
    progress, before = Decoded(), memory("VmRSS")
    began, processor = time.perf_counter(), time.process_time()
    reading = Reading(cache=str(cache), memory=1e-3)
    dataset = read_dataset(str(images), side=side, source=open_source(str(images), reading), progress=progress)
    return {
        "seconds": time.perf_counter() - began,
        "processor": time.process_time() - processor,
        "decoded": progress.count,
        "fingerprint": dataset.fingerprint,
        "memory": memory("VmHWM") - before,
        "before": before,
        "dataset": dataset,
    }


def decode_all(images: Path, cache: Path, side: int, answer: Connection) -> None:
    """A process that starts, and ends when all images are decoded."""
    found = start(images, cache, side)
    del found["dataset"]
    answer.send(found)


def rate_of(pixels: StreamedPixels, order: torch.Tensor) -> float:
    """Images per second."""
    began = time.perf_counter()
    for _ in pixels.batches(order.split(BATCH)):  # type: ignore[no-untyped-call]
        pass
    return len(order) / (time.perf_counter() - began)


def read_again(images: Path, cache: Path, side: int, answer: Connection) -> None:
    """A process that starts when all images are decoded, reads an epoch, and decodes some images for comparison."""
    found = start(images, cache, side)
    pixels = found.pop("dataset").train.pixels
    assert isinstance(pixels, StreamedPixels)
    order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(0))
    rates = [rate_of(pixels, order) for _ in range(2)]
    found["memory"] = memory("VmHWM") - found["before"]
    found["rate"] = max(rates)
    items = [item for item, _ in list_folder(images).items["all"]][:: max(1, len(order) // 2000)]

    def decode(number: int) -> np.ndarray:
        item = items[number]
        assert isinstance(item, Path)
        decoded = read_square(item, side)
        assert isinstance(decoded, np.ndarray)
        return decoded

    files = StreamedPixels(StoredImages(decode), np.arange(len(items)), side, 3)
    found["on the fly"] = max(rate_of(files, torch.arange(len(items))) for _ in range(2))
    found |= full_disk(images, cache.with_name("full"), side)
    answer.send(found)


def full_disk(images: Path, cache: Path, side: int) -> dict[str, Any]:
    """What is said, and what is left, where no file may become larger than a megabyte."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    try:
        start(images, cache, side)
    except RunError as error:
        left = sum(path.stat().st_size for path in cache.glob("*/*.bin"))
        return {"reported": "the disk is full" in str(error) and "--cache" in str(error), "left": left}
    return {"reported": False, "left": 0}


def begin(work: Callable[..., None], *arguments: object) -> tuple[Any, Connection]:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(*arguments, there))
    process.start()
    there.close()
    return process, here


def finished(process: Any, answer: Connection) -> dict[str, Any]:
    found: dict[str, Any] = answer.recv()
    process.join()
    return found


def entries_in(cache: Path) -> int:
    return sum(path.stat().st_size for path in cache.glob("*/index.bin")) // ENTRY.itemsize


def killed(images: Path, cache: Path, side: int, share: float, count: int) -> int:
    """Kill a process that has decoded a share of the images; returns how many are in the cache."""
    process, _ = begin(decode_all, images, cache, side)
    while entries_in(cache) < share * count and process.is_alive():
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    return entries_in(cache)


def measured(images: Path, cache: Path, side: int, count: int) -> Iterator[Row]:
    """The rows of the table."""
    kept = killed(images, cache, side, 0.3, count)
    both = [begin(decode_all, images, cache, side) for _ in range(2)]
    first, second = (finished(*each) for each in both)
    later = finished(*begin(read_again, images, cache, side))
    decoded = first["decoded"] + second["decoded"]
    detail = f"{later['processor']:.1f} s of processor time"
    yield Row("second start", later["seconds"], 5.0, unit="s", detail=detail)
    yield Row("memory of a process besides torch: second start and two epochs", later["memory"], 1024, unit="MiB")
    yield Row("memory of a process besides torch: while it decodes", first["memory"], 1024, unit="MiB")
    ratio = later["rate"] / later["on the fly"]
    yield Row("images per second, over decoding on the fly", ratio, 5.0, "higher")
    yield Row("images per second from the cache", later["rate"])
    yield Row("images per second on the fly", later["on the fly"])
    yield Row("two processes at once: images decoded by both, over the missing ones", decoded / (count - kept), 1.0)
    same = len({each["fingerprint"] for each in (first, second, later)}) == 1
    yield Row("processes with different images", 0.0 if same else 1.0, 0.0)
    detail = f"{kept:,} of {count:,} images were in the cache"
    yield Row(
        "after a kill: images in the cache that were decoded again", float(kept + decoded - count), 0.0, detail=detail
    )
    yield Row("a full disk that was not reported", 0.0 if later["reported"] else 1.0, 0.0)
    yield Row("bytes left on a full disk", float(later["left"]), 0.0)
    busy = max(first["seconds"], second["seconds"])
    yield Row("images decoded per second while the cache is made", decoded / busy)


def main() -> None:
    options = parser(str(__doc__).partition("\n")[0])
    options.add_argument("--images", type=int, default=100_000, help="how many are generated")
    options.add_argument("--side", type=int, default=64, help="of the stored images")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        images, cache = Path(scratch) / "images", Path(scratch) / "cache"
        generate(images, given.images)
        rows = list(measured(images, cache, given.side, given.images))
        shutil.rmtree(images)
    show(f"{given.images:,} JPEGs of 160 x 120 pixels, stored at {given.side} pixels", rows, given.json)


if __name__ == "__main__":
    main()
