"""Tables, picks and pictures."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from nat2.nas.archive import Evaluation
from nat2.nas.budget import parse_budget
from nat2.reports.plots import plot_pareto
from nat2.reports.return_values import Results
from nat2.runs.confusion import Confusion
from nat2.runs.results import Result, chance_warning, picks, precision_warning, short_count, table
from nat2.space import Arch

ARCHS = [Arch.from_key(f"r{r}-w0.5-k3e3.k5e4-k7e6.k3e3") for r in (16, 18, 20, 24)]


def result(number: int, params: int, val: float, test: float) -> Result:
    arch = ARCHS[number]
    return Result(arch.id, arch.key, 0.1, params, 100_000_000 * (4 - number), val - 0.2, val - 0.1, val, test, 5)


RESULTS = [
    result(0, 3_000_000, 0.99, 0.9),
    result(1, 20, 0.985, 0.95),
    result(2, 10, 0.9, 0.97),
    result(3, 200, 0.99, 0.91),
]
ARCHIVE = [Evaluation(arch, {"error": 0.1 * n, "params": 10 + n, "macs": 100 + n}) for n, arch in enumerate(ARCHS)]


def test_picks_are_made_on_validation_images() -> None:
    chosen = picks(RESULTS)
    assert chosen["most accurate"] == RESULTS[3]  # of two equals the smaller, whatever the test says
    assert chosen["small and good"] == RESULTS[1]
    assert chosen["fewest parameters"] == RESULTS[2]
    assert chosen["fewest operations"] == RESULTS[3]


def test_within_the_standard_error_the_smaller_network_is_good() -> None:
    images = {"val": [20, 20]}  # at 90 %, one standard error is 4.7 points
    few = [result(0, 100, 0.9, 0.9), result(1, 50, 0.86, 0.9), result(2, 10, 0.84, 0.9)]
    assert picks(few)["small and good"].params == 100
    assert picks([each.measured_on(images) for each in few])["small and good"].params == 50


def test_networks_at_chance_on_validation_images_are_passed_over_unless_all_are() -> None:
    images = {"val": [30, 70], "test": [50, 50]}
    some = [each.measured_on(images) for each in (result(0, 100, 0.9, 0.5), result(1, 10, 0.72, 0.9))]
    assert {each.params for each in picks(some).values()} == {100}  # what the test says has no part in it
    assert {each.params for each in picks(some[1:]).values()} == {10}


def test_what_is_known_of_the_images_is_kept() -> None:
    old = result(0, 100, 0.9, 0.5)
    assert (old.tested.percent, old.tested.beats_chance, old.row(["error"])["test_standard_error"]) == (
        "50.0",
        True,
        None,
    )
    known = old.measured_on({"val": [30, 70], "test": [50, 50]})
    assert (known.val_images, known.val_chance, known.test_images, known.test_chance) == (100, 0.7, 100, 0.5)
    assert known.measured_on({"val": [1], "test": [1]}) == known
    assert old.measured_on({}) == old
    assert known.row(["error"])["val_standard_error"] == pytest.approx(0.03)
    assert known.row(["error"])["test_standard_error"] == pytest.approx(0.05)


def test_the_warning_names_what_does_not_beat_chance_on_test_images() -> None:
    images = {"val": [50, 50], "test": [60, 40]}
    bad, worse, good = (
        each.measured_on(images)
        for each in (result(0, 100, 0.9, 0.64), result(1, 10, 0.9, 0.3), result(2, 10, 0.5, 0.7))
    )
    guess = "always naming the largest class is right on 60.0 % of the 100 test images"
    assert chance_warning([good]) == ""
    assert chance_warning([bad]) == f"the network does not beat chance by its standard error: {guess}"
    assert chance_warning([bad, worse]) == f"none of the 2 networks beats chance by its standard error: {guess}"
    told = chance_warning([bad, good, worse])
    assert told == f"not better than chance by the standard error ({guess}): {bad.id}, {worse.id}"
    assert chance_warning([bad] * 9 + [good]).endswith(f"{bad.id} and 3 more")


@pytest.mark.parametrize(("images", "points"), [(20, 11), (60, 6), (160, 0), (1000, 0)])
def test_few_test_images_are_warned_of(images: int, points: int) -> None:
    half = images // 2
    told = precision_warning([result(0, 100, 0.9, 0.5).measured_on({"val": [5, 5], "test": [half, half]})])
    expected = f"{images} test images measure an accuracy to ± {points} points (one standard error)"
    assert told.startswith(expected) if points else told == ""
    assert precision_warning([]) == precision_warning([result(0, 100, 0.9, 0.5)]) == ""


@pytest.mark.parametrize(
    ("count", "told"),
    [(999, "999"), (1000, "1.00k"), (150_320, "150k"), (1_092_256, "1.09M"), (999_600, "1.00M"), (12.3e9, "12.3G")],
)
def test_counts_are_told_as_budgets_take_them(count: float, told: str) -> None:
    assert short_count(count) == told
    (bound,) = parse_budget(f"macs<={told}")
    assert bound.high == pytest.approx(count, rel=5e-3)


def test_rows_begin_with_what_was_searched() -> None:
    row = RESULTS[0].row(["error", "macs"])
    assert list(row)[:7] == ["id", "arch", "error", "macs", "params", "val_accuracy", "test_accuracy"]
    assert row["test_accuracy"] == 0.9


def test_rows_have_the_size_of_every_file() -> None:
    sized = replace(RESULTS[0], files={"model.onnx": 1200})
    row = sized.row(["error"], files=["model.onnx", "model.pt2"])
    assert (row["model.onnx_bytes"], row["model.pt2_bytes"]) == (1200, None)
    assert RESULTS[0].row(["error"], files=["model.onnx"])["model.onnx_bytes"] is None
    assert not any("files" in name for name in row)


def test_sizes_are_in_the_table_if_they_are_known() -> None:
    text = shown(RESULTS)
    assert "kB" not in text
    sized = [replace(RESULTS[0], files={"model.onnx": 103_511, "model.pt2": 352_193}), RESULTS[1]]
    text = shown(sized)
    assert " 104 " in text
    assert "kB: size of model.onnx" in " ".join(text.split())
    quantised = [replace(RESULTS[0], files={"model.onnx": 103_511, "model-int8.onnx": 46_075})]
    assert "104/46" in shown(quantised)
    assert "kB: size of model.onnx/model-int8.onnx" in " ".join(shown(quantised).split())


def shown(results: list[Result], milliseconds: dict[str, str] | None = None) -> str:
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(table(results, milliseconds))
    return console.export_text()


@pytest.mark.parametrize("known", [False, True])
def test_the_table_fits_a_terminal(known: bool) -> None:
    images = {"val": [18, 18], "test": [18, 18]}
    results, milliseconds = [each.measured_on(images) for each in RESULTS], None
    if known:
        results = [replace(each, files={"model.onnx": 5 * each.params + 30_000}) for each in results]
        results[0] = replace(results[0], id=f"{results[0].id}-ee", exits=(1, 2))
        milliseconds = {each.id: "12.3" for each in results}
    lines = shown(results, milliseconds).splitlines()
    ids = {each.id for each in results}
    assert "…" not in "".join(lines)
    assert max(map(len, lines)) <= 80
    assert {"90.0±5.0", "97.0±2.8"} <= set(" ".join(lines).split())
    assert [line.split()[0] for line in lines if line.split()[:1] and line.split()[0] in ids] == [
        results[i].id for i in (2, 1, 3, 0)
    ]


@pytest.mark.parametrize("cost", ["params", "macs"])
def test_the_plot_is_a_picture(tmp_path: Path, cost: str) -> None:
    plot_pareto(tmp_path / "pareto.png", ARCHIVE, RESULTS, cost=cost)
    with Image.open(tmp_path / "pareto.png") as image:
        assert min(image.size) > 500
        assert len(image.convert("RGB").getcolors(2**24) or ()) > 50


def balanced(each: Result, val: float, test: float) -> Result:
    """The same, measured on imbalanced classes: of 100 images 90 of one and 10 of another."""
    images = {"val": [90, 10], "test": [90, 10]}
    return replace(
        each.measured_on(images),
        classes=2,
        val_balanced_accuracy=val,
        val_balanced_standard_error=0.05,
        test_balanced_accuracy=test,
        test_balanced_standard_error=0.06,
    )


def test_imbalanced_classes_have_balanced_accuracies_in_result_row_and_table() -> None:
    even, uneven = Confusion(np.array([[40, 10], [5, 45]])), Confusion(np.array([[85, 5], [4, 6]]))
    plain = RESULTS[0].with_answers(even, even)
    assert (plain.classes, plain.val_balanced, plain.test_balanced) == (2, None, None)
    known = RESULTS[0].with_answers(even, uneven)  # one of the splits is enough
    assert known.test_balanced_accuracy == pytest.approx((85 / 90 + 0.6) / 2)
    assert known.val_balanced_accuracy == pytest.approx(0.85)
    row = known.row(["error"])
    assert row["test_balanced_accuracy"] == known.test_balanced_accuracy
    assert row["test_balanced_standard_error"] == pytest.approx(uneven.balanced.standard_error)
    assert RESULTS[0].row(["error"])["test_balanced_accuracy"] is None
    assert "balanced" not in shown(RESULTS)
    text = shown([balanced(RESULTS[0], 0.71, 0.72), RESULTS[1]])
    assert {"71.0±5.0", "72.0±6.0"} <= set(text.split())
    assert "mean of the accuracies of the classes" in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 80


def test_results_in_python_show_balanced_accuracies_where_there_are_any() -> None:
    assert "balanced" not in repr(Results(RESULTS))
    head, first, second, *_ = repr(Results([balanced(RESULTS[0], 0.71, 0.72), RESULTS[1]])).splitlines()
    assert head.endswith("balanced validation %  balanced test %")
    assert first.split()[-2:] == ["71.0", "72.0"]
    assert second.split()[-1] == "95.0"


def test_a_network_that_tells_rare_classes_apart_does_not_guess() -> None:
    """Its accuracy is below that of always naming the largest class, as it may be if training draws classes evenly."""
    guessing, able = balanced(result(0, 100, 0.9, 0.9), 0.5, 0.5), balanced(result(1, 10, 0.85, 0.85), 0.8, 0.8)
    assert (guessing.test_beats_chance, able.test_beats_chance) == (False, True)
    assert (guessing.val_beats_chance, able.val_beats_chance) == (False, True)
    assert {each.params for each in picks([guessing, able]).values()} == {10}
    assert chance_warning([able]) == ""
    assert chance_warning([guessing, able]).endswith(f": {guessing.id}")
