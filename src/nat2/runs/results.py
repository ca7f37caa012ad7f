"""The result of a returned network, the table of all results, and which network to choose for which need."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

from rich.box import SIMPLE_HEAD
from rich.table import Table

from nat2.deploy.anytime import OperatingPoint
from nat2.runs.accuracy import Accuracy, chance_of, imbalanced
from nat2.runs.confusion import Confusion
from nat2.space.arch import Arch
from nat2.wording import shown

ONNX, INT8, MICRO = "model.onnx", "model-int8.onnx", "microcontroller/model.tflite"
_SHIPPED = (ONNX, INT8, MICRO)


@dataclass(frozen=True)
class Result:
    """One network that was fine-tuned, tested and exported."""

    id: str
    """Name of its folder: the architecture's id, and ``-ee`` behind it if several exits were trained together."""
    arch: str
    """The architecture's key."""
    error: float
    """Share of misclassified validation images when the search measured it, with its last exit, before fine-tuning."""
    params: int
    macs: int
    inherited_val_accuracy: float
    """With the adapted super-network's weights and batch-norm statistics, as they are."""
    calibrated_val_accuracy: float
    """With the adapted super-network's weights and statistics calibrated for this network."""
    val_accuracy: float
    """After fine-tuning's first phase (at its best epoch if it is made twice), which saw training images only."""
    test_accuracy: float
    """Of the exported weights on the test images."""
    finetune_epochs: int
    """Epochs trained; with `restart` the best one, 0 if the inherited weights stayed the best."""
    others: dict[str, float] = field(default_factory=dict)
    """Whatever else the search measured, e.g. ``memory`` (bytes), ``latency`` (ms)."""
    exits: tuple[int, ...] = ()
    """The exits that answer together, ascending; by default the architecture's own."""
    val_images: int | None = None
    """Number of validation images; None if unknown (nat2 0.1.0 did not write it)."""
    test_images: int | None = None
    val_chance: float | None = None
    """Accuracy of always naming the largest class of the validation images."""
    test_chance: float | None = None
    anytime: tuple[OperatingPoint, ...] = ()
    """With several exits: accuracy against mean operations by threshold, cheapest first."""
    classes: int | None = None
    """Number of classes; None if unknown."""
    val_balanced_accuracy: float | None = None
    """Mean of the accuracies of the classes (`Confusion.balanced`), measured as `val_accuracy` is; this and the next
    three are None where the classes have similar numbers of images."""
    val_balanced_standard_error: float | None = None
    test_balanced_accuracy: float | None = None
    """The same, measured as `test_accuracy` is."""
    test_balanced_standard_error: float | None = None
    int8_test_accuracy: float | None = None
    """Of the quantised network on the test images, if there is one."""
    files: dict[str, int] = field(default_factory=dict)
    """Size of each exported file in bytes, by name; empty if version 0.1.0 exported it."""

    def __post_init__(self) -> None:
        """Read what JSON makes of tuples and dataclasses."""
        object.__setattr__(self, "exits", tuple(self.exits) or (Arch.from_key(self.arch).exit,))
        points = (each if isinstance(each, OperatingPoint) else OperatingPoint(**each) for each in self.anytime)
        object.__setattr__(self, "anytime", tuple(points))

    @property
    def validated(self) -> Accuracy:
        """What to choose by: the accuracy on validation images after fine-tuning."""
        return self.on_validation(self.val_accuracy)

    @property
    def tested(self) -> Accuracy:
        """What to report: the accuracy on test images."""
        return Accuracy(self.test_accuracy, self.test_images, self.test_chance)

    @property
    def val_balanced(self) -> Accuracy | None:
        """The balanced accuracy on validation images, if the classes are imbalanced."""
        return self._balanced(self.val_balanced_accuracy, self.val_balanced_standard_error, self.val_images)

    @property
    def test_balanced(self) -> Accuracy | None:
        """The balanced accuracy on test images, if the classes are imbalanced."""
        return self._balanced(self.test_balanced_accuracy, self.test_balanced_standard_error, self.test_images)

    def _balanced(self, share: float | None, error: float | None, images: int | None) -> Accuracy | None:
        chance = 1 / self.classes if self.classes else None
        return None if share is None else Accuracy(share, images, chance, error)

    @property
    def int8_tested(self) -> Accuracy | None:
        """The same for the quantised network, if there is one."""
        share = self.int8_test_accuracy
        return None if share is None else Accuracy(share, self.test_images, self.test_chance)

    def on_validation(self, share: float) -> Accuracy:
        """One of the accuracies of this network on validation images."""
        return Accuracy(share, self.val_images, self.val_chance)

    @property
    def val_beats_chance(self) -> bool:
        """Whether it beats chance on the validation images, by its accuracy or by its balanced accuracy."""
        return any(each.beats_chance for each in (self.validated, self.val_balanced) if each)

    @property
    def test_beats_chance(self) -> bool:
        """Whether it beats chance on the test images, by its accuracy or by its balanced accuracy."""
        return any(each.beats_chance for each in (self.tested, self.test_balanced) if each)

    def with_answers(self, val: Confusion, test: Confusion) -> Result:
        """A copy with the balanced accuracies, if the classes of either split are imbalanced."""
        known = replace(self, classes=len(test.counts))
        if not (imbalanced(val.images) or imbalanced(test.images)):
            return known
        return replace(
            known,
            val_balanced_accuracy=val.balanced.share,
            val_balanced_standard_error=val.balanced.standard_error,
            test_balanced_accuracy=test.balanced.share,
            test_balanced_standard_error=test.balanced.standard_error,
        )

    def measured_on(self, images: Mapping[str, Sequence[int]]) -> Result:
        """A copy with unknown facts about its images filled in from the number of images of each class, by split."""
        known = self
        val, test = images.get("val", ()), images.get("test", ())
        val_images, test_images = sum(val), sum(test)
        if self.val_images is None and val_images:
            known = replace(known, val_images=val_images, val_chance=chance_of(val))
        if self.test_images is None and test_images:
            known = replace(known, test_images=test_images, test_chance=chance_of(test))
        return known

    def row(
        self, objectives: Sequence[str], others: Iterable[str] = (), files: Iterable[str] = ()
    ) -> dict[str, object]:
        """A row of pareto.csv: id and architecture, the objectives, accuracies, then everything else.

        Args:
            objectives: What was searched.
            others: Quantities measured for any network; empty where this one was not measured.
            files: Files that any network has; their sizes are columns like ``model.onnx_bytes``, empty where this
                network does not have the file.
        """
        facts = asdict(self)
        measured = facts.pop("others")
        facts = dict.fromkeys([*objectives, *others]) | facts | measured
        del facts["anytime"], facts["files"]  # a curve does not fit into a row; it is in result.json
        facts |= {f"{name}_bytes": self.files.get(name) for name in dict.fromkeys([*files, *self.files])}
        facts["exits"] = "+".join(map(str, self.exits))
        facts["val_standard_error"] = self.validated.standard_error
        facts["test_standard_error"] = self.tested.standard_error
        first = ["id", "arch", *objectives, "params", "macs", "val_accuracy", "test_accuracy"]
        first += ["val_standard_error", "test_standard_error"]
        first += [f"{split}_balanced_{what}" for what in ("accuracy", "standard_error") for split in ("val", "test")]
        return {name: facts[name] for name in dict.fromkeys([*first, *facts])}


def picks(results: Sequence[Result]) -> dict[str, Result]:
    """Which network to take for which need; decided on validation images, never on test images.

    ``small and good`` is the smallest within one percentage point of the most accurate, or within the standard error of
    its accuracy where that is more: a smaller difference cannot be told from luck. Networks that do not beat chance on
    the validation images are passed over, unless none does.
    """
    able = [result for result in results if result.val_beats_chance] or results
    best = max(result.val_accuracy for result in able)
    most_accurate = min((r for r in able if r.val_accuracy == best), key=lambda r: r.params)
    enough = best - max(0.01, most_accurate.validated.standard_error or 0.0)
    return {
        "most accurate": most_accurate,
        "small and good": min((r for r in able if r.val_accuracy >= enough), key=lambda r: r.params),
        "fewest parameters": min(able, key=lambda r: (r.params, r.macs, -r.val_accuracy)),
        "fewest operations": min(able, key=lambda r: (r.macs, r.params, -r.val_accuracy)),
    }


def chance_warning(results: Sequence[Result]) -> str:
    """A sentence that names the networks that do not beat chance on the test images; empty if all do."""
    below = [result for result in results if not result.test_beats_chance]
    if not below:
        return ""
    guess = guessing(below[0].tested, "test")
    if len(below) == len(results):
        who = "the network does not beat" if len(results) == 1 else f"none of the {len(results)} networks beats"
        return f"{who} chance by its standard error: {guess}"
    return f"not better than chance by the standard error ({guess}): {shown((each.id for each in below), _NAMED)}"


def precision_warning(results: Sequence[Result]) -> str:
    """A sentence if there are too few test images for accuracies to say much; empty otherwise."""
    tested = max((result.tested for result in results), key=lambda accuracy: accuracy.share, default=None)
    error = tested.standard_error if tested else None
    if tested is None or error is None or error <= _COARSE:
        return ""
    return (
        f"{tested.images:,} test images measure an accuracy to ± {100 * error:.0f} points (one standard error), so "
        "smaller differences mean nothing; add images, or keep more of them for the test (--test_fraction)"
    )


_COARSE = 0.04  # a standard error above which an accuracy is a guess


def guessing(accuracy: Accuracy, split: str) -> str:
    """The chance level on the images of an accuracy, in words."""
    return (
        f"always naming the largest class is right on {100 * (accuracy.chance or 0.0):.1f} % of the "
        f"{accuracy.images or 0:,} {split} images"
    )


_NAMED = 6  # networks in a sentence


def table(results: Sequence[Result], milliseconds: Mapping[str, str] | None = None) -> Table:
    """The networks by size, for the terminal; with their latencies, as text, if given."""
    sized = any(result.files for result in results)
    formats = [name for name in _SHIPPED if any(name in result.files for result in results)]
    balanced = any(result.test_balanced for result in results)
    shown = Table(
        "network",
        "px",
        "exits",
        "params",
        "MACs",
        *(["kB"] if sized else []),
        *(["ms"] if milliseconds else []),
        *(f"{split} %" + "\nbalanced" * balanced for split in ("val", "test")),
        box=SIMPLE_HEAD,
        collapse_padding=True,
        pad_edge=False,
    )
    for column in shown.columns:
        column.no_wrap = True
        column.justify = "left" if column.header == "network" else "right"
    for result in sorted(results, key=lambda r: (r.params, r.macs)):
        arch = Arch.from_key(result.arch)
        shown.add_row(
            result.id,
            str(arch.resolution),
            "+".join(map(str, result.exits)),
            f"{result.params:,}",
            short_count(result.macs),
            *([_kilobytes(result)] if sized else []),
            *([milliseconds.get(result.id, "")] if milliseconds else []),
            _cell(result.validated, result.val_balanced),
            _cell(result.tested, result.test_balanced),
        )
    shown.caption = (
        "val: accuracy on validation images, by which to choose; test: on images used for nothing else; "
        "±: standard error"
        + ("; balanced: mean of the accuracies of the classes" if balanced else "")
        + (f"; kB: size of {'/'.join(formats)}" if sized else "")
    )
    return shown


def _cell(accuracy: Accuracy, balanced: Accuracy | None) -> str:
    """An accuracy, and below it the balanced one."""
    return "\n".join(each.percent.replace(" ", "") for each in (accuracy, balanced) if each)


def short_count(count: float) -> str:
    """A count in three digits, with the suffixes that budgets accept: ``150k``, ``1.03M``."""
    for unit, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= 0.9995 * unit:
            return f"{count / unit:#.3g}".rstrip(".") + suffix
    return f"{count:.0f}"


def _kilobytes(result: Result) -> str:
    return "/".join(f"{result.files[name] / 1000:,.0f}" for name in _SHIPPED if name in result.files)
