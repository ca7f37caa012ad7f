"""The pages in a browser: they work from a file, without a network, by keyboard."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nat2.reports.page import write_page
from nat2.reports.payload import limits, values_of
from nat2.reports.references import Reference
from nat2.runs.accuracy import Accuracy, standard_error
from nat2.runs.read import RunReport, read_run
from nat2.runs.results import picks
from tests.reports.browser import CHROMIUM, Browser
from tests.reports.runs import write_run

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs the program chromium (Debian: apt install chromium)")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("chromium")) as started:
        yield started


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, RunReport]]:
    """Pages of a finished run, of one under way, and of all together."""
    root = tmp_path_factory.mktemp("pages")
    write_run(root / "it's a run")
    write_run(root / "other", seed=1, latency=False, fingerprint="bb")
    write_run(root / "open", state="searching")
    runs = {name: read_run(root / name) for name in ("it's a run", "other", "open")}
    references = [Reference("of <others>", 0.9, {"params": 30_000.0, "latency": 0.4})]
    write_page(root / "page.html", [runs["it's a run"]], references=references)
    write_page(root / "open.html", [runs["open"]])
    write_page(root / "comparison.html", list(runs.values()), references=references)
    return root, runs


@pytest.fixture
def run(pages: tuple[Path, dict[str, RunReport]], browser: Browser) -> RunReport:
    """The run whose page is open."""
    browser.open(pages[0] / "page.html")
    return pages[1]["it's a run"]


def text(browser: Browser, selector: str) -> str:
    return str(browser.run(f"document.querySelector({json.dumps(selector)}).textContent"))


def move(browser: Browser, name: str, keys: list[str]) -> None:
    """Press keys on the slider of a cost."""
    browser.run(f"document.getElementById('limit-{name}').focus()")
    browser.press(keys)


def right_one(run: RunReport, bounds: dict[str, float]) -> str | None:
    """The most accurate on validation images within the bounds; of equals the one of fewer parameters, then MACs."""
    kept = [each for each in run.results if all(values_of(run, each)[name] <= most for name, most in bounds.items())]
    kept.sort(key=lambda each: (-each.val_accuracy, each.params, each.macs))
    return kept[0].id if kept else None


def taken(browser: Browser) -> str:
    return str(browser.run("document.getElementById('taken').dataset.id"))


@pytest.mark.parametrize("name", ["page.html", "open.html", "comparison.html"])
@pytest.mark.parametrize("phone", [False, True])
def test_pages_load_from_a_file_without_a_network_or_an_error(
    browser: Browser, pages: tuple[Path, dict[str, RunReport]], name: str, phone: bool
) -> None:
    browser.requests.clear()
    browser.open(pages[0] / name, size=(390, 844) if phone else (1200, 900), dark=phone, phone=phone)
    assert browser.complaints == []
    assert browser.requests
    assert all(request.startswith(("file:", "data:")) for request in browser.requests)
    assert browser.run("document.documentElement.scrollWidth") == (390 if phone else 1200)


@pytest.mark.parametrize("name", ["params", "macs", "memory", "deployed_latency"])
def test_every_step_of_a_slider_names_the_right_network(browser: Browser, run: RunReport, name: str) -> None:
    steps = next(each["steps"] for each in limits(run) if each["key"] == name)
    assert taken(browser) == right_one(run, {})
    seen = set()
    for step in reversed(steps[:-1]):
        move(browser, name, ["ArrowLeft"])
        expected = right_one(run, {name: step})
        if expected is not None:
            assert taken(browser) == expected
            assert text(browser, "#command") == shlex.join(
                ["nat2", "export", str(run.folder), expected, "--to", "deploy"]
            )
            assert browser.run("document.querySelector('tr.is-taken').dataset.id") == expected
            ring = "document.getElementById('pareto').data.find(each => each.name === 'to take').customdata"
            assert browser.run(ring) == [expected]
            seen.add(expected)
    assert len(seen) > (name != "memory")


def test_limits_hold_together(browser: Browser, run: RunReport) -> None:
    sliders = {each["key"]: each["steps"] for each in limits(run)}
    for left in range(1, len(sliders["macs"])):
        move(browser, "macs", ["ArrowLeft"])
        move(browser, "deployed_latency", ["End", "ArrowLeft"])
        bounds = {"macs": sliders["macs"][-1 - left], "deployed_latency": sliders["deployed_latency"][-2]}
        if right_one(run, bounds) is not None:
            assert taken(browser) == right_one(run, bounds)


def test_a_network_of_the_archive_is_offered_where_no_returned_one_fits(browser: Browser, run: RunReport) -> None:
    fewest = min(result.params for result in run.results)
    steps = next(each["steps"] for each in limits(run) if each["key"] == "params")
    place = steps.index(fewest) - 1
    move(browser, "params", ["Home", *["ArrowRight"] * place])
    kept = [member for member in run.members() if member["params"] <= steps[place]]
    best = min(kept, key=lambda member: (member["error"], member["params"], member["macs"]))
    assert taken(browser) == best.arch.id
    assert text(browser, "#command") == shlex.join(["nat2", "finetune", str(run.folder), best.arch.id])


def test_where_nothing_fits_the_nearest_is_named(browser: Browser, run: RunReport) -> None:
    for name in ("params", "deployed_latency"):  # the fastest is not the smallest of all, whose latency nobody knows
        move(browser, name, ["Home"])
    assert taken(browser) == ""
    assert "No network meets all of these limits" in text(browser, "#taken")
    bounds = {each["key"]: each["steps"][0] for each in limits(run) if each["key"] in ("params", "deployed_latency")}

    def over(values: dict[str, float]) -> float:
        return float(sum(max(0.0, values[name] - most) / most for name, most in bounds.items()))

    nearest = min(run.results, key=lambda each: (over(values_of(run, each)), -each.val_accuracy))
    assert nearest.id in text(browser, "#taken")
    assert not browser.run("!!document.getElementById('command')")


def test_common_choices_set_the_sliders(browser: Browser, run: RunReport) -> None:
    for need, result in picks(run.results).items():
        browser.run(
            f"[...document.querySelectorAll('#picks button')].find(each => each.textContent === '{need}').click()"
        )
        assert taken(browser) == result.id
        pressed = "[...document.querySelectorAll('#picks [aria-pressed=true]')].map(each => each.textContent)"
        assert need in browser.run(pressed)


def select(browser: Browser, name: str, value: str) -> None:
    script = (
        "const it = document.getElementById(%s); it.value = %s; it.dispatchEvent(new Event('change', {bubbles: true}))"
    )
    browser.run("{ " + script % (json.dumps(name), json.dumps(value)) + " }")


def drawn(browser: Browser, name: str) -> dict[str, Any]:
    script = "document.getElementById('pareto').data.find(each => each.name?.startsWith(%s))"
    return dict(browser.run(f"(({{x, y, customdata}}) => ({{x, y, id: customdata}}))({script % json.dumps(name)})"))


def test_both_axes_can_be_exchanged(browser: Browser, run: RunReport) -> None:
    single = [result for result in run.results if len(result.exits) == 1]
    for x, y in (("macs", "val_accuracy"), ("val_accuracy", "memory"), ("deployed_latency", "found_accuracy")):
        select(browser, "x-axis", x)
        select(browser, "y-axis", y)
        points = drawn(browser, "returned")
        assert points["id"] == [result.id for result in single]
        assert points["x"] == pytest.approx([values_of(run, result)[x] for result in single])
        assert points["y"] == pytest.approx([values_of(run, result)[y] for result in single])
    assert drawn(browser, "references")["x"] == [0.4]
    titles = browser.run("['xaxis', 'yaxis'].map(each => document.getElementById('pareto').layout[each].title.text)")
    assert titles[0].startswith("latency of the exported network")
    assert titles[1].startswith("accuracy found by the search")
    select(browser, "x-axis", "params")
    assert drawn(browser, "archive")["x"] == [member["params"] for member in run.members()]


def test_the_page_invites_to_choose_by_validation_images(browser: Browser, run: RunReport) -> None:
    assert browser.run("document.getElementById('y-axis').value") == "val_accuracy"
    single = [result for result in run.results if len(result.exits) == 1]
    assert drawn(browser, "returned")["y"] == pytest.approx([100 * result.val_accuracy for result in single])
    assert drawn(browser, "the same on test images")["y"] == pytest.approx(
        [100 * result.test_accuracy for result in run.results]
    )
    bars = "document.getElementById('pareto').data.find(each => each.name === 'returned').error_y.array"
    assert browser.run(bars) == pytest.approx([100 * (result.validated.standard_error or 0) for result in single])
    front = "document.getElementById('pareto').data.filter(each => each.mode === 'lines' && each.x.length).length"
    assert (len(drawn(browser, "archive")["x"]) > 0, browser.run(front)) == (True, 1)
    select(browser, "y-axis", "test_accuracy")  # nothing that the search measured has one, and none is the front
    assert (drawn(browser, "archive")["x"], browser.run(front)) == ([], 0)
    assert "not to choose by" in browser.run("document.getElementById('pareto').layout.yaxis.title.text")


@pytest.mark.parametrize(("percent", "images"), [(0.0, 8), (100.0, 359), (50.0, 8), (99.99, 8), (97.5, 1_000_000)])
def test_the_page_and_python_agree_on_standard_errors(
    browser: Browser, run: RunReport, percent: float, images: int
) -> None:
    expected = 100 * standard_error(percent / 100, images)
    assert browser.run(f"standardError({percent}, {images})") == pytest.approx(expected)
    told = browser.run(f"toldAccuracy({{images: {{val: {images}}}}}, {percent}, 'val')")
    assert told == f"{Accuracy(percent / 100, images).percent} %"


def test_the_card_tells_a_network_at_chance(browser: Browser, pages: tuple[Path, dict[str, RunReport]]) -> None:
    run = pages[1]["it's a run"]
    guessing = [replace(result, test_accuracy=0.25) for result in run.results]
    write_page(pages[0] / "chance.html", [replace(run, results=tuple(guessing))])
    browser.open(pages[0] / "chance.html")
    assert "No better than chance: always naming the largest class is right on 25.0 %" in text(browser, "#taken")
    assert "None of the 5 networks beats chance" in text(browser, ".notice")
    browser.open(pages[0] / "page.html")
    assert "chance" not in text(browser, "#taken")


def test_no_column_of_the_table_is_clipped(browser: Browser, run: RunReport) -> None:
    frames = "[...document.querySelectorAll('.scroll')].filter(each => each.offsetParent)"
    browser.run("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert browser.run(f"{frames}.length") > 3
    assert browser.run(f"{frames}.filter(each => each.scrollWidth > each.clientWidth).length") == 0


def test_every_evaluation_is_an_option(browser: Browser, run: RunReport) -> None:
    assert drawn(browser, "every evaluation")["x"] == []
    browser.run("document.getElementById('every').click()")
    assert drawn(browser, "every evaluation")["x"] == [evaluation["params"] for evaluation, _ in run.evaluations]


def test_the_picture_is_of_the_network_that_is_chosen(browser: Browser, run: RunReport) -> None:
    blocks: Callable[[], int] = lambda: browser.run("document.querySelectorAll('#picture rect').length")  # noqa: E731
    key = "document.querySelector('#picture svg').dataset.key"
    first, last = run.results[0], next(result for result in run.results if len(result.exits) > 1)
    browser.run(f"document.querySelector('button.choose[data-id=\"{last.id}\"]').click()")
    assert browser.run(key) == last.arch
    assert "answers at exit 1 and 2" in browser.run("document.querySelector('#picture svg').getAttribute('aria-label')")
    exits = 2
    assert blocks() == 2 + 4 * 2 + exits  # image and stem, four places a stage
    select(browser, "network", first.id)
    assert browser.run(key) == first.arch
    member = run.members()[0].arch
    point = json.dumps({"points": [{"customdata": member.id}]})
    browser.run(f"void document.getElementById('pareto').emit('plotly_click', {point})")
    assert browser.run(key) == member.key
    assert blocks() == 2 + 4 * member.exit + 1
    move(browser, "params", ["ArrowLeft"])
    assert browser.run("document.getElementById('network').value") == taken(browser)


def test_the_mistakes_are_of_the_network_that_is_looked_at(browser: Browser, run: RunReport) -> None:
    visible = (
        "[...document.querySelectorAll('.mistakes')].filter(each => each.offsetParent).map(each => each.dataset.id)"
    )
    assert browser.run(visible) == [taken(browser)]
    assert browser.run("[...document.querySelectorAll('.mistakes img')].every(each => each.naturalWidth > 0)")
    first, second = run.results[0].id, run.results[1].id
    browser.run(f"document.querySelector('button.choose[data-id=\"{first}\"]').click()")
    assert (browser.run(visible), browser.run("document.getElementById('mistaken').value")) == ([first], first)
    select(browser, "mistaken", second)
    assert (browser.run(visible), browser.run("document.getElementById('network').value")) == ([second], second)
    returned = {each.arch for each in run.results}
    other = next(member.arch.id for member in run.members() if member.arch.key not in returned)
    point = json.dumps({"points": [{"customdata": other}]})
    browser.run(f"void document.getElementById('pareto').emit('plotly_click', {point})")  # nothing is known of it
    assert browser.run(visible) == [second]


def test_the_points_of_early_answers_tell_their_threshold(browser: Browser, run: RunReport) -> None:
    (several,) = [result for result in run.results if result.anytime]
    curve, tested = browser.run("document.getElementById('anytime').data.map(({x, y, text}) => ({x, y, text}))")
    assert curve["x"] == pytest.approx([point.val_macs for point in several.anytime])
    assert curve["y"] == pytest.approx([100 * point.val_accuracy for point in several.anytime])
    assert tested["x"] == pytest.approx([point.macs for point in several.anytime])
    assert tested["y"] == pytest.approx([100 * point.test_accuracy for point in several.anytime])
    assert "validation" in browser.run("document.getElementById('anytime').layout.yaxis.title.text")
    assert ["threshold 0.5" in curve["text"][0], "always the last exit" in curve["text"][2]] == [True, True]


def test_a_run_under_way_offers_the_best_so_far(browser: Browser, pages: tuple[Path, dict[str, RunReport]]) -> None:
    browser.open(pages[0] / "open.html")
    best = min(pages[1]["open"].members(), key=lambda member: member["error"])
    assert taken(browser) == best.arch.id
    assert "not finished" in text(browser, "#taken")


def test_a_comparison_draws_all_runs(browser: Browser, pages: tuple[Path, dict[str, RunReport]]) -> None:
    browser.open(pages[0] / "comparison.html")
    runs = pages[1]
    points = drawn(browser, "other")
    assert points["x"] == [result.params for result in runs["other"].results]
    named = "document.getElementById('pareto').data.filter(each => each.showlegend)"
    looks = browser.run(f"{named}.map(each => [each.marker.color, each.marker.symbol])")
    assert len({colour for colour, _ in looks}) == len({symbol for _, symbol in looks}) == 3
    curves = browser.run("document.getElementById('hypervolume').data.map(each => each.y.length)")
    assert curves == [3, 3, 2]
    select(browser, "y-axis", "val_accuracy")
    assert drawn(browser, "other")["y"] == pytest.approx(
        [100 * result.val_accuracy for result in runs["other"].results]
    )
