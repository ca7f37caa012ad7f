"""The section of the page on what the networks get wrong: accuracies, confusion, classes, and the worst images."""

from __future__ import annotations

import html
from collections.abc import Sequence

from nat2.reports.markup import NONE, percent, rows_of, table
from nat2.runs.accuracy import Accuracy, imbalanced
from nat2.runs.confusion import Confusion
from nat2.runs.predictions import Answers, Mistake
from nat2.runs.read import RunReport
from nat2.runs.results import Result, picks
from nat2.wording import counted

_NETWORKS = 12  # that are shown at most: each brings its images
_MATRIX = 20  # classes up to which the whole confusion matrix can be read
_PAIRS = 20  # of more classes, the most frequent mistakes
_LONGEST = 24  # characters of a class name in the matrix
_TITLES = {"val": "Validation images", "test": "Test images"}


def mistakes_html(run: RunReport) -> str:
    """The section with a part for each network, of which one is shown; empty if the run kept no answers."""
    shown = [result for result in _first(run) if result.id in run.answers]
    if not shown:
        return ""
    classes = [str(name) for name in run.data["images"]["train"]]
    taken = picks(run.results)["most accurate"].id
    visible = next((result.id for result in shown if result.id == taken), shown[0].id)
    options = "".join(
        f"<option value='{html.escape(each.id)}'{' selected' * (each.id == visible)}>{html.escape(each.id)}: "
        f"{each.validated.percent}&nbsp;%, {each.params:,} parameters</option>"
        for each in shown
    )
    parts = "".join(
        f"<div class='mistakes' data-id='{html.escape(each.id)}'{' hidden' * (each.id != visible)}>"
        f"{_network(each, run.answers[each.id], classes)}</div>"
        for each in shown
    )
    return (
        "<section aria-labelledby='h-mistakes'>\n<h2 id='h-mistakes'>What the network gets wrong</h2>\n"
        "<p>The exported network answered the test images; the validation images were answered before it was "
        "trained on them too. Judge differences between classes by their standard errors.</p>\n"
        f"<div class='controls'><label>Network <select id='mistaken'>{options}</select></label></div>\n{parts}\n"
        "</section>"
    )


def _first(run: RunReport) -> Sequence[Result]:
    """The networks to show, smallest first: those to take for some need, and others while there is room."""
    order = {result.id: result for result in (*picks(run.results).values(), *run.results)} if run.results else {}
    kept = list(order)[:_NETWORKS]
    return [result for result in run.results if result.id in kept]


def _network(result: Result, answers: Answers, classes: Sequence[str]) -> str:
    val, test = (answers.predictions[split].confusion(len(classes)) for split in ("val", "test"))
    return "".join(
        (
            _summary(result.id, val, test),
            _matrix(result.id, test, classes) if len(classes) <= _MATRIX else _pairs(result.id, val, test, classes),
            _by_class(result.id, val, test, classes),
            *(_images(answers.worst[split], split, part.mistakes) for split, part in (("test", test), ("val", val))),
        )
    )


def _summary(name: str, val: Confusion, test: Confusion) -> str:
    """Accuracies, and those of guessing."""
    parts = (val, test)
    rows = [("accuracy", [percent(each.accuracy) for each in parts])]
    if any(imbalanced(each.images) for each in parts):
        rows.append(("balanced accuracy: mean of the classes' accuracies", [percent(each.balanced) for each in parts]))
    rows += [
        ("guessing a class at random", [f"{100 * (each.balanced.chance or 0):.1f}" for each in parts]),
        ("always naming the largest class", [f"{100 * (each.accuracy.chance or 0):.1f}" for each in parts]),
        ("number of images", [f"{sum(each.images):,}" for each in parts]),
        ("misclassified images", [f"{each.mistakes:,}" for each in parts]),
    ]
    head = [("images", False), ("validation", True), ("test", True)]
    cells = rows_of(head, [[title, *values] for title, values in rows], words=True)
    return table(f"Accuracy of {name} in percent, ± one standard error", head, cells)


def _matrix(name: str, test: Confusion, classes: Sequence[str]) -> str:
    """Every class against every class, each row tinted by its shares."""
    names = [html.escape(_shortened(each)) for each in classes]
    head = "".join(f"<th scope='col' class='n'><span>{each}</span></th>" for each in names)
    rows = []
    for label, counts in enumerate(test.counts.tolist()):
        total = max(1, sum(counts))
        cells = "".join(
            f"<td class='n{' right' * (other == label)}{' zero' * (not count)}' style='--share:{count / total:.3f}'>"
            f"{count:,}</td>"
            for other, count in enumerate(counts)
        )
        rows.append(f"<tr><th scope='row'>{names[label]}</th>{cells}</tr>")
    caption = f"Confusion matrix of {name}: test images by their class (rows) and the class that was named (columns)"
    return (
        f"<div class='scroll fitted' role='region' aria-label='{html.escape(caption, quote=True)}' tabindex='0'>"
        f"<table class='matrix'><caption><span>{html.escape(caption)}</span></caption>"
        f"<thead><tr><th scope='col'>class</th>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _pairs(name: str, val: Confusion, test: Confusion, classes: Sequence[str]) -> str:
    """Of many classes, which are taken for which most often."""
    rows = [
        [
            html.escape(classes[true]),
            html.escape(classes[other]),
            f"{count:,} of {test.images[true]:,}",
            percent(Accuracy(count / test.images[true], test.images[true])),
            f"{val.counts[true, other]:,} of {val.images[true]:,}",
        ]
        for true, other, count in test.pairs(_PAIRS)
    ]
    if not rows:
        return "<p>No test image is misclassified.</p>"
    head = [("class", False), ("taken for", False), ("test images", True), ("in percent", True)]
    head += [("validation images", True)]
    return table(f"The most frequent mistakes of {name}", head, rows_of(head, rows, words=True), frame="scroll long")


def _by_class(name: str, val: Confusion, test: Confusion, classes: Sequence[str]) -> str:
    """Each class, the least accurate on test images first."""
    recalls = [test.recall(label) for label in range(len(classes))]
    order = sorted(range(len(classes)), key=lambda label: each.share if (each := recalls[label]) else 2.0)

    def row(label: int) -> list[str]:
        taken = test.most_taken_for(label)
        return [
            html.escape(classes[label]),
            f"{test.images[label]:,}",
            *(percent(each) for each in (recalls[label], test.precision(label), val.recall(label))),
            NONE if taken is None else f"{html.escape(classes[taken[0]])} ({taken[1]:,})",
        ]

    head = [("class", False), ("test images", True), ("test", True), ("right when named", True), ("validation", True)]
    head += [("most often taken for", False)]
    caption = f"Accuracy of {name} by class in percent, ± one standard error; the lowest first"
    shown = table(caption, head, rows_of(head, map(row, order), words=True), frame="scroll long")
    return f"<details{' open' * (len(classes) <= _MATRIX)}><summary>Accuracy by class</summary>{shown}</details>"


def _images(worst: Sequence[Mistake], split: str, mistakes: int) -> str:
    title = _TITLES[split]
    if not worst:
        return f"<h3>{title}</h3><p>None is misclassified.</p>"
    number = f"{len(worst)} of " * (len(worst) < mistakes) + counted(mistakes, "misclassified image")
    return (
        f"<h3>{title}: {number}{', the most confident mistakes first' * (mistakes > 1)}</h3>"
        f"<ul class='worst'>{''.join(map(_figure, worst))}</ul>"
    )


def _figure(mistake: Mistake) -> str:
    true, predicted, image = (
        html.escape(each, quote=True) for each in (mistake.true, mistake.predicted, _file_name(mistake.image))
    )
    sure = f"{100 * mistake.confidence:.0f}&nbsp;%"
    return (
        f"<li><img src='data:image/jpeg;base64,{html.escape(mistake.jpeg, quote=True)}' alt='{true}, image {image}' "
        f"width='96' height='96'><span class='true'>{true}</span>"
        f"<span class='named'>named {predicted}, {sure}</span><span class='file'>{image}</span></li>"
    )


def _file_name(image: str) -> str:
    return image.rpartition("/")[2]


def _shortened(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"
