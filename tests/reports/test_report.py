"""The pages: what they hold, and where they may be written."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nat2.errors import CheckpointError, ConfigError, RunError
from nat2.nas.objectives import Objective
from nat2.nas.select import hypervolume
from nat2.reports.genes import histograms
from nat2.reports.page import write_page
from nat2.reports.payload import limits, page_data, quoted_folder, script_json
from nat2.reports.references import read_references
from nat2.reports.report import report
from nat2.runs.read import RunReport, read_run
from nat2.space import Arch
from tests.reports.runs import write_mistakes, write_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunReport:
    folder = tmp_path_factory.mktemp("runs") / "one run"
    write_run(folder)
    return read_run(folder)


def data_of(page: Path) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.DOTALL)
    assert found is not None
    return dict(json.loads(found[1]))


def without_scripts(page: Path) -> str:
    return re.sub(r"<script.*?</script>", "", page.read_text(), flags=re.DOTALL)


def test_the_page_stands_alone(run: RunReport, tmp_path: Path) -> None:
    write_page(tmp_path / "report.html", [run])
    text = without_scripts(tmp_path / "report.html")
    assert not re.search(r"(src|href)\s*=\s*[\"']?(?!data:)\w", text)
    assert not re.search(r"@import|url\(", text)
    assert "<!--" not in text
    for result in run.results:
        assert f"data-id='{result.id}'" in text
    for table in re.findall(r"<table.*?</table>", text, re.DOTALL):
        assert "<caption>" in table
        assert "scope=" in table


def test_the_page_holds_every_evaluation(run: RunReport, tmp_path: Path) -> None:
    write_page(tmp_path / "report.html", [run])
    (drawn,) = data_of(tmp_path / "report.html")["runs"]
    columns = drawn["evaluations"]
    assert len(columns["arch"]) == len(columns["params"]) == len(run.evaluations) == 30
    keys = [drawn["archs"][columns["arch"][number]][1] for number in drawn["members"]]
    assert keys == [member.arch.key for member in run.members()]
    assert {each["id"] for each in drawn["results"]} == {each.id for each in run.results}
    assert [generation["tau"] for generation in drawn["generations"]] == [None, 0.7, 0.7]


def test_names_cannot_break_the_page(run: RunReport, tmp_path: Path) -> None:
    bad = replace(run, data={**run.data, "name": "</script><script>alert(1)", "notes": ["12 <b>"]})
    write_page(tmp_path / "report.html", [bad])
    text = (tmp_path / "report.html").read_text()
    assert "alert(1)" in text
    assert "<script>alert(1)" not in text
    assert "12 &lt;b&gt;" in text
    assert script_json({"a": ["</script>", float("nan"), float("inf")]}) == '{"a":["\\u003c/script>",null,null]}'


def test_the_exported_network_s_latency_is_told_apart_from_the_search_s(run: RunReport) -> None:
    data = page_data([run], ())
    names = {each["key"]: each["title"] for each in data["axes"]}
    assert names["deployed_latency"] == "latency of the exported network (ONNX Runtime, batch 1, 2 threads, cpu)"
    medians = sorted(each["values"]["deployed_latency"] for each in data["runs"][0]["results"])
    assert medians == pytest.approx([0.2, 0.3, 0.4, 0.5, 0.6])
    assert "deployed_latency" not in {each["key"] for each in page_data([replace(run, timings=())], ())["axes"]}


def test_sliders_stop_at_every_returned_network(run: RunReport) -> None:
    sliders = {each["key"]: each for each in limits(run)}
    assert list(sliders) == ["params", "macs", "memory", "deployed_latency"]
    for name in ("params", "macs"):
        steps = sliders[name]["steps"]
        assert steps == sorted(set(steps))
        assert {getattr(result, name) for result in run.results} <= set(steps)
        occurring = {getattr(result, name) for result in run.results} | {member[name] for member in run.members()}
        assert set(steps) <= occurring
        assert {min(occurring), max(occurring)} <= set(steps)


def test_of_what_is_maximised_the_least_is_the_loosest(run: RunReport) -> None:
    calm = replace(run, recorded=(*run.recorded[:1], Objective(name="memory", direction="max", cost="exact")))
    steps = {each["key"]: each for each in limits(calm)}["memory"]["steps"]
    assert steps == sorted(steps, reverse=True)


def test_commands_quote_the_folder(run: RunReport) -> None:
    assert quoted_folder(replace(run, folder=Path("runs/a b's"))) == "'runs/a b'\"'\"'s'"
    assert quoted_folder(replace(run, folder=Path("-run"))) == "./-run"


def test_histograms_count_layers_of_the_stages_that_are_executed() -> None:
    archs = [Arch.from_key(key) for key in ("r12-w0.25-k3e3.k5e4", "r16-w0.25-k3e3.k3e3.k3e6-k7e6.k7e6")]
    groups = {(name, each.title): each for name, group in histograms(archs, archs).items() for each in group}
    assert groups["network", "pixels"].shares == (0.5, 0.5)
    assert dict(zip(*(groups["layers", "stage 1"].values, groups["layers", "stage 1"].counts), strict=True)) == {
        "2": 1,
        "3": 1,
    }
    assert groups["kernel", "stage 1"].counts == (4, 1, 0)
    assert groups["expand ratio", "stage 2"].counts == (0, 0, 2)
    assert groups["expand ratio", "stage 2"].shares == (0, 0, 1)


def test_histograms_of_parallel_blocks_name_them() -> None:
    archs = [Arch.from_key("r12-w0.25-k3e3ct.c")]
    (blocks,) = histograms(archs, archs)["parallel blocks"]
    assert dict(zip(blocks.values, blocks.counts, strict=True)) == {"1x1": 1, "bottleneck + 1x1 + transformation": 1}


def reference_file(folder: Path, text: str) -> Path:
    path = folder / "references.csv"
    path.write_text(text)
    return path


def test_references_are_read_in_shares_or_percent(tmp_path: Path) -> None:
    first, second = read_references(
        reference_file(tmp_path, "name,accuracy,params,latency\nA <b>,91.5,5.4e6,\nB,88,,3\n")
    )
    assert (first.name, first.accuracy, first.costs) == ("A <b>", 0.915, {"params": 5.4e6})
    assert (second.accuracy, second.costs) == (0.88, {"latency": 3.0})
    (only,) = read_references(reference_file(tmp_path, "name, accuracy, macs\nC, 0.5, 10\n"))
    assert (only.accuracy, only.costs) == (0.5, {"macs": 10.0})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no rows"),
        ("name,params\na,3\n", "name, accuracy, and any of"),
        ("name,accuracy,flops\na,0.5,3\n", "flops"),
        ("name,accuracy\na,0.5\nb,90\n", "all shares .0..1. or all percentages"),
        ("name,accuracy\na,101\n", "from 0 to 100; got '101' in line 2"),
        ("name,accuracy\na,\n", "accuracy must be"),
        ("name,accuracy,params\na,0.5,5.4M\n", "a number of at least 0, like 5.4e6; got '5.4M'"),
        ("name,accuracy,params\na,0.5,-1\n", "at least 0"),
        ("name,accuracy\na,0.5,7\n", "an unnamed column"),
    ],
)
def test_references_of_another_form_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_references(reference_file(tmp_path, text))


def test_references_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_references(tmp_path / "absent.csv")


def test_one_run_s_page_lies_in_its_folder(tmp_path: Path) -> None:
    write_run(tmp_path / "run")
    (tmp_path / "run" / "report.html").write_text("of an earlier release")
    references = reference_file(tmp_path, "name,accuracy,latency\nA,91.5,0.3\n")
    path = report(str(tmp_path / "run"), references=references)
    assert path == tmp_path / "run" / "report.html"
    assert data_of(path)["references"] == [{"name": "A", "accuracy": 91.5, "deployed_latency": 0.3}]
    assert report(tmp_path / "run", out=tmp_path / "elsewhere.html") == tmp_path / "elsewhere.html"


def test_an_unfinished_run_has_a_page_that_says_so(tmp_path: Path) -> None:
    write_run(tmp_path / "run", state="searching")
    text = without_scripts(report(tmp_path / "run"))
    assert "This run is not finished" in text
    assert "No network is fine-tuned yet" in text


def test_several_runs_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, name in enumerate(("a", "b", "c")):
        write_run(tmp_path / name, seed=number, fingerprint="aa" if number < 2 else "bb")
    monkeypatch.chdir(tmp_path)
    path = report("a", "b")
    assert path == Path("comparison.html")
    assert "different images" not in without_scripts(path)
    path = report("a", "b", "c")  # a report may be replaced
    assert "<b>These runs saw different images.</b>" in without_scripts(path)
    assert "a, b; c" in without_scripts(path)
    assert [each["label"] for each in data_of(path)["runs"]] == ["a", "b", "c"]


def test_runs_in_folders_of_the_same_name_are_told_apart(tmp_path: Path) -> None:
    for place in ("x", "y"):
        write_run(tmp_path / place / "run")
    runs = [read_run(tmp_path / place / "run") for place in ("x", "y")]
    assert [each["label"] for each in page_data(runs, ())["runs"]] == [str(each.folder) for each in runs]


def test_hypervolumes_of_a_comparison_share_a_box(tmp_path: Path) -> None:
    for number, name in enumerate(("a", "b")):
        write_run(tmp_path / name, seed=number)
    runs = [read_run(tmp_path / name) for name in ("a", "b")]
    common = page_data(runs, ())["common"]
    assert common is not None
    assert common["objectives"] == ["error", "params"]
    values = [[np.array([[e["error"], e["params"]] for e in run.members(place)]) for place in range(3)] for run in runs]
    box = 1.01 * np.concatenate([each for cloud in values for each in cloud]).max(0)
    for cloud, curve in zip(values, common["curves"], strict=True):
        assert [point["hypervolume"] for point in curve] == [pytest.approx(hypervolume(each, box)) for each in cloud]
        assert [point["evaluations"] for point in curve] == [8, 10, 12]


def test_runs_with_other_objectives_are_compared_in_error_and_parameters(run: RunReport) -> None:
    other = replace(run, objectives=(run.objectives[0], run.recorded[0]), recorded=(run.objectives[1], run.recorded[1]))
    common = page_data([other, run], ())["common"]
    assert common is not None
    assert common["objectives"] == ["error", "params"]


def test_what_is_not_a_report_is_left_alone(tmp_path: Path) -> None:
    write_run(tmp_path / "run")
    precious = tmp_path / "precious.html"
    precious.write_text("mine")
    with pytest.raises(RunError, match="is not a report and would be replaced"):
        report(tmp_path / "run", out=precious)
    assert precious.read_text() == "mine"
    with pytest.raises(RunError, match="is a folder"):
        report(tmp_path / "run", out=tmp_path)


def test_mistakes_are_told_before_anything_is_written(tmp_path: Path) -> None:
    write_run(tmp_path / "run")
    with pytest.raises(ConfigError, match="at least one run folder"):
        report()
    with pytest.raises(ConfigError, match="named once"):
        report(tmp_path / "run", tmp_path / "." / "run")
    with pytest.raises(ConfigError, match="cannot be read"):
        report(tmp_path / "run", references=tmp_path / "absent.csv")
    (tmp_path / "run" / "data.json").write_text("{")
    with pytest.raises(CheckpointError):
        report(tmp_path / "run")
    assert not (tmp_path / "run" / "report.html").exists()


def luminance(colour: str) -> float:
    full = colour if len(colour) == 7 else "#" + "".join(2 * digit for digit in colour[1:])
    shares = [int(full[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_colours_can_be_read_in_both_schemes(run: RunReport, tmp_path: Path) -> None:
    """WCAG AA: 4.5 for text, 3 for what bounds controls."""
    write_page(tmp_path / "report.html", [run])
    schemes = re.findall(r":root \{(.*?)\}", (tmp_path / "report.html").read_text(), re.DOTALL)
    assert len(schemes) == 2
    for scheme in schemes:
        colours = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]+)", scheme))
        for text, ground in product(("ink", "soft", "accent", "warm"), ("paper", "card")):
            assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
        assert contrast(colours["ink"], colours["wash"]) >= 4.5
        assert contrast(colours["accent"], colours["wash"]) >= 4.5
        assert contrast(colours["accent-ink"], colours["accent"]) >= 4.5
        assert contrast(colours["edge"], colours["paper"]) >= 3


def test_one_network_is_told_as_one(run: RunReport, tmp_path: Path) -> None:
    write_page(tmp_path / "one.html", [replace(run, results=run.results[:1])])
    assert "This search returned one network. It classifies" in without_scripts(tmp_path / "one.html")
    begun = replace(run, finished=False, results=run.results[:1])
    assert "1 network is fine-tuned so far" in begun.state
    assert "its first networks" in replace(begun, generations=()).state


def test_sizes_of_files_are_shown_where_they_are_known(run: RunReport, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    write_page(page, [run])
    assert "Files and their sizes" not in without_scripts(page)
    first, *others = run.results
    sized = replace(run, results=(replace(first, files={"model.onnx": 21_234, "model.pt2": 99_999}), *others))
    write_page(page, [sized])
    text = without_scripts(page)
    assert "Files and their sizes" in text
    assert "21.2 kB" in text
    assert "21,234" in text
    assert "99,999" in text
    sizes = [each["values"].get("file_size") for each in data_of(page)["runs"][0]["results"]]
    assert sizes == [21_234, *[None] * len(others)]


def section(page: Path) -> str:
    """The section on mistakes; empty if the page has none."""
    found = re.search(r"<section aria-labelledby='h-mistakes'>.*?</section>", page.read_text(), re.DOTALL)
    return found[0] if found else ""


def test_the_page_says_what_each_network_gets_wrong(run: RunReport, tmp_path: Path) -> None:
    write_page(tmp_path / "report.html", [run])
    text = section(tmp_path / "report.html")
    visible = re.findall(r"<div class='mistakes' data-id='([^']+)'>", text)
    assert visible == [max(run.results, key=lambda each: (each.val_accuracy, -each.params)).id]
    hidden = re.findall(r"<div class='mistakes' data-id='([^']+)' hidden>", text)
    assert {*visible, *hidden} == {each.id for each in run.results}
    (part,) = re.findall(
        rf"<div class='mistakes' data-id='{visible[0]}'>(.*?)(?=<div class='mistakes'|</section>)", text
    )
    test = run.answers[visible[0]].predictions["test"].confusion(4)
    assert f"{test.accuracy.percent}</td>" in part
    matrix = re.findall(r"--share:[^>]*>(\d+)</td>", part)
    assert [int(each) for each in matrix] == test.counts.flatten().tolist()
    for label in range(4):
        recall = test.recall(label)
        assert recall is not None
        assert f"<td class='n'>{recall.percent}</td>" in part
    assert part.count("<img ") == sum(map(len, run.answers[visible[0]].worst.values())) > 0
    assert part.count("alt='") == part.count("<img ")
    assert "balanced accuracy" not in part  # the classes have eight images each


def test_the_lowest_class_comes_first(run: RunReport, tmp_path: Path) -> None:
    write_page(tmp_path / "report.html", [replace(run, results=run.results[:1])])
    by_class = section(tmp_path / "report.html").partition("Accuracy by class")[2]
    names = re.findall(r"<th scope='row' class='words'>&lt;class (\d)&gt;</th>", by_class)
    test = run.answers[run.results[0].id].predictions["test"].confusion(4)
    shares = [accuracy.share for name in names if (accuracy := test.recall(int(name)))]
    assert shares == sorted(shares)
    assert len(shares) == 4


def many_classes(run: RunReport, folder: Path, count: int) -> RunReport:
    """The same with as many classes, in a copy of its folder."""
    classes = [f"class {number:03d}" for number in range(count)]
    for result in run.results:
        write_mistakes(folder / "networks" / result.id, classes, each=3)
    images = {split: dict.fromkeys(classes, 3) for split in ("train", "val", "test")}
    return replace(run, folder=folder, data={**run.data, "images": images})


@pytest.mark.parametrize(("count", "matrix"), [(2, True), (20, True), (21, False), (200, False)])
def test_of_many_classes_the_most_frequent_mistakes_are_listed(
    run: RunReport, tmp_path: Path, count: int, matrix: bool
) -> None:
    (tmp_path / "config.yaml").touch()
    many = many_classes(run, tmp_path, count)
    write_page(tmp_path / "report.html", [replace(many, results=many.results[:1])])
    text = section(tmp_path / "report.html")
    assert ("<table class='matrix'>" in text) == matrix
    if not matrix:
        listed = re.findall(
            r"<tr><th scope='row' class='words'>(class \d+)</th><td>(class \d+)</td><td class='n'>(\d+) of 3</td>", text
        )
        confusion = many.answers[run.results[0].id].predictions["test"].confusion(count)
        assert len(listed) == 20
        assert [int(number) for *_, number in listed] == [number for *_, number in confusion.pairs(20)]
    assert len(text) < 200_000


def test_imbalanced_classes_have_balanced_accuracies(run: RunReport, tmp_path: Path) -> None:
    write_page(tmp_path / "report.html", [run])
    assert "balanced test" not in without_scripts(tmp_path / "report.html")
    known: dict[str, Any] = {"test_balanced_accuracy": 0.61, "test_balanced_standard_error": 0.05, "classes": 4}
    uneven = [
        replace(each, **known, val_balanced_accuracy=0.7, val_balanced_standard_error=0.04) for each in run.results
    ]
    write_page(tmp_path / "report.html", [replace(run, results=tuple(uneven))])
    text = without_scripts(tmp_path / "report.html")
    assert "balanced test" in text
    assert text.count("<td class='n'>61.0 ± 5.0</td>") == len(run.results)
    assert text.count("<td class='n'>70.0 ± 4.0</td>") == len(run.results)


def test_runs_of_earlier_releases_have_a_page_without_the_section(tmp_path: Path) -> None:
    write_run(tmp_path / "run", answers=False)
    assert read_run(tmp_path / "run").answers == {}
    assert section(report(tmp_path / "run")) == ""
    assert "h-networks" in without_scripts(tmp_path / "run" / "report.html")


def test_a_network_that_was_made_later_has_its_part(run: RunReport, tmp_path: Path) -> None:
    """Of a run of an earlier release to which a network was added."""
    results = write_run(tmp_path / "run", answers=False)
    write_mistakes(tmp_path / "run" / "networks" / results[1].id, [f"<class {n}>" for n in range(4)])
    assert re.findall(r"<div class='mistakes' data-id='([^']+)'>", section(report(tmp_path / "run"))) == [results[1].id]


def test_damaged_predictions_are_named_with_what_to_do(tmp_path: Path) -> None:
    results = write_run(tmp_path / "run")
    (tmp_path / "run" / "networks" / results[0].id / "predictions.csv").write_text("split;image\n")
    with pytest.raises(CheckpointError, match=rf"{results[0].id} holds damaged predictions .* delete them"):
        report(tmp_path / "run")
    assert not (tmp_path / "run" / "report.html").exists()
