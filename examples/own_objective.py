"""An objective of your own: energy, in a model where reading from memory costs more than computing.

    python examples/own_objective.py            # some minutes
    python examples/own_objective.py --quick    # less than a minute

The same on the command line: `nat2 search --width 0.25 --objectives error,examples/own_objective.py:microjoules`.
"""

import argparse
from pathlib import Path

import nat2
from nat2.space import Macro, cost
from nat2.training.settings import Phase

CACHE = 32 * 1024  # bytes of on-chip memory
PER_MAC, PER_BYTE_NEAR, PER_BYTE_FAR = 1e-6, 2e-6, 60e-6  # microjoules; replace by your machine's
MACRO = Macro(classes=10, channels=1, width=0.25, stem_stride=1)
ALL_AT_ONCE = Phase(
    name="all", epochs=2, lr=0.05, kernels=(3, 5, 7), expands=(3, 4, 6), depths=(2, 3, 4), exits=(1, 2, 3, 4, 5)
)


@nat2.objective(cost="exact")
def microjoules(arch: nat2.Arch) -> float:
    """Energy for one image: every weight is read once, and activations from far memory if they exceed the cache."""
    spent = cost(MACRO, arch)
    activations = 4 * spent.memory
    per_byte = PER_BYTE_NEAR if activations <= CACHE else PER_BYTE_FAR
    return spent.macs * PER_MAC + 4 * spent.params * PER_BYTE_FAR + activations * per_byte


def main() -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a short training and a small search")
    quick = parser.parse_args().quick

    small = {"archive": 8, "generations": 1, "candidates": 3, "top": 4, "predictor": "ridge"}
    changes = {"phases": (ALL_AT_ONCE,), "search": small, "adapt": {"epochs": 0}} if quick else {}
    config = nat2.RunConfig.of(
        "quick",
        data="digits",
        width=MACRO.width,
        resolutions="12,16",
        objectives=f"error,{Path(__file__).resolve()}:microjoules",
        **changes,
    )
    front = nat2.search(config, out=Path("runs/energy"))
    print(f"{'network':>8}  {'parameters':>10}  {'microjoules':>11}  {'found %':>7}")
    for each in front:
        print(f"{each.arch.id}  {each['params']:10,.0f}  {each['microjoules']:11.2f}  {100 * (1 - each['error']):7.1f}")


if __name__ == "__main__":
    main()
