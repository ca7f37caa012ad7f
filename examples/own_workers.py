"""An expensive function of your own, minimised in a pool of processes: the settings of a small tree ensemble.

    python examples/own_workers.py            # a minute or two
    python examples/own_workers.py --quick    # some seconds

Interrupt it and start it again: what was out for evaluation is handed out again, and nothing is evaluated twice.
"""

import argparse
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from sklearn.datasets import load_digits
from sklearn.ensemble import ExtraTreesClassifier, RandomForestClassifier
from sklearn.model_selection import train_test_split

import nat2

SPACE = nat2.NamedSpace(
    kind=nat2.categorical(["forest", "extra"]),
    trees=nat2.ordered([5, 10, 20, 40, 80]),
    depth=nat2.integer(2, 12, step=2),
    features=nat2.ordered([0.05, 0.1, 0.2, 0.4]),
    bootstrap=nat2.categorical([True, False]),
    share=nat2.ordered([0.3, 0.6, 0.9], when={"bootstrap": True}),  # without a bootstrap it means nothing
)
OBJECTIVES = [nat2.Objective(name="error", unit="share"), nat2.Objective(name="nodes")]


def evaluate(arch: nat2.NamedArch) -> dict[str, float]:
    """Error on held-out digits, and the nodes of all trees."""
    images, labels = load_digits(return_X_y=True)
    x, x_val, y, y_val = train_test_split(images, labels, test_size=0.3, random_state=0)
    make = RandomForestClassifier if arch["kind"] == "forest" else ExtraTreesClassifier
    model = make(
        n_estimators=arch["trees"],
        max_depth=arch["depth"],
        max_features=arch["features"],
        bootstrap=arch["bootstrap"],
        max_samples=arch.get("share"),
        random_state=0,
    ).fit(x, y)
    return {"error": 1 - model.score(x_val, y_val), "nodes": sum(tree.tree_.node_count for tree in model.estimators_)}


def main() -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few evaluations")
    quick = parser.parse_args().quick

    nat2.testing.check_space(SPACE)
    settings = nat2.SearchSettings(archive=8 if quick else 30, candidates=4 if quick else 8)
    limits = nat2.Limits(evaluations=14 if quick else 100, seconds=600)
    began = time.monotonic()
    with (
        nat2.Search(SPACE, OBJECTIVES, settings=settings, archive="trees.db") as search,
        ProcessPoolExecutor(2) as pool,
    ):
        found = search.run(evaluate, executor=pool, limits=limits)
        print(found)
        print(f"{search.evaluated} evaluations in {time.monotonic() - began:.0f} s: {search.stopped}")
    found.plot_front().savefig(Path("front.png"))


if __name__ == "__main__":
    main()
