"""Pack the super-network of a run in half precision, as those that come with nat2, and measure the table of its card.

    nat2 train --config recipes/pretrain.yaml --out runs/pretrain
    nat2 train --config recipes/pretrain-more.yaml --pretrained runs/pretrain/supernet-w0.5.safetensors --out runs/more
    python benchmarks/ship.py runs/more --to src/nat2/shipped/ee_d-w0.5.safetensors
    python benchmarks/networks.py runs/more      once the new checksum is in src/nat2/shipped/__init__.py

Prints the checksum, and accuracies on the run's test images, which nothing has seen, as rows for the card.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from table import Row, parser, show

from nat2.allocator import keep_freed_memory
from nat2.data.transform import Pipeline, ResizedImages
from nat2.files import load_tensors, save_tensors
from nat2.pipeline.prepare import prepare
from nat2.runs.config import read_config
from nat2.seeds import numpy_generator
from nat2.space import SearchSpace, cost
from nat2.supernet import SuperNetwork, calibrate, normalize_by
from nat2.supernet.checkpoint import load_weights
from nat2.supernet.static import channels_last

CALIBRATION = 1000  # images for batch-norm statistics
PARAMS = (800_000, 300_000, 120_000, 50_000)  # of the networks between the largest and the smallest


def main() -> None:
    """Pack, measure, print."""
    options = parser(str(__doc__).partition("\n")[0])
    options.add_argument("run", type=Path, help="folder of `nat2 train`")
    options.add_argument("--to", type=Path, required=True, help="file to write")
    given = options.parse_args()
    keep_freed_memory()
    plan, dataset = prepare(read_config(given.run / "config.yaml"))
    (macro,) = plan.macros
    tensors, metadata = load_tensors(given.run / f"supernet-w{macro.width}.safetensors")
    halved = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    save_tensors(given.to, halved, metadata)
    print(f"sha256 {hashlib.sha256(given.to.read_bytes()).hexdigest()}, {given.to.stat().st_size:,} bytes")

    network = channels_last(SuperNetwork(macro))
    load_weights(network, {name: tensor.to(tensors[name]) for name, tensor in halved.items()})
    network.eval()
    pipeline = Pipeline(dataset.mean, dataset.std)
    some = dataset.train.part(torch.linspace(0, len(dataset.train) - 1, CALIBRATION).long())
    calibration, test = ResizedImages(some, pipeline), ResizedImages(dataset.test, pipeline)
    drawn = plan.space.sample(2000, numpy_generator(0, "card"))
    top = [plan.space.decode(genome) for genome in drawn if genome[0] == len(plan.space.resolutions) - 1]
    sizes = np.array([cost(macro, arch).params for arch in top])
    largest = [SearchSpace.of(macro, (side,)).largest for side in reversed(plan.space.resolutions)]
    between = [top[int(np.abs(np.log(sizes / params)).argmin())] for params in PARAMS]
    rows = []
    for arch in (*largest, *between, plan.space.smallest):
        normalize = normalize_by(calibrate(network, arch, calibration.batches(arch.resolution)))
        with torch.no_grad():
            logits = torch.cat([network(batch, arch, normalize=normalize) for batch in test.batches(arch.resolution)])
        likeliest = logits.topk(5).indices == test.labels[:, None]
        first, five = float(likeliest[:, 0].float().mean()), float(likeliest.any(1).float().mean())
        spent = cost(macro, arch)
        name = f"{arch.resolution} pixels, {spent.params:,} parameters, {spent.macs / 1e6:.1f} M operations"
        rows.append(Row(name, 100 * first, unit="%", detail=f"{100 * five:.1f} % among the five likeliest"))
    show(f"Sub-networks on {len(test.labels):,} images", rows, given.json)


if __name__ == "__main__":
    main()
