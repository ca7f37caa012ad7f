"""Settings that no run can have: in files, as flags, and from Python."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator
from pathlib import Path
from types import NoneType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest
import yaml

from nat2.data.settings import Augmentation
from nat2.errors import ConfigError
from nat2.nas.settings import SearchSettings
from nat2.runs.config import RunConfig, flat
from nat2.runs.yaml_config import read_document
from nat2.training.settings import AdaptSettings, FinetuneSettings, Phase, ShrinkSettings
from tests.withstand.attack import RecordProperty, nothing_begins, refused

GROUPS = {
    "": RunConfig, "augmentation.": Augmentation, "shrink.": ShrinkSettings, "search.": SearchSettings,
    "adapt.": AdaptSettings, "finetune.": FinetuneSettings,
}  # fmt: skip
NOTHING_ELSE = {"data": "digits", "objectives": "error,params", "resolutions": "12,16", "width": "0.25"}


def accepts(kind: Any) -> set[type]:
    """The plain types that a setting takes."""
    if get_origin(kind) is Literal:
        return {str}
    if get_origin(kind) is not None and get_origin(kind) is not tuple and NoneType in get_args(kind):
        return {NoneType}.union(*(accepts(part) for part in get_args(kind) if part is not NoneType))
    if get_origin(kind) in (Union, type(int | str)):
        return set().union(*(accepts(part) for part in get_args(kind)))
    if get_origin(kind) is tuple:
        return {list}
    return {int, float} if kind is float else {dict} if dataclasses.is_dataclass(kind) else {kind}


SYNONYMS = {"phases": ("phase", *get_type_hints(Phase)), "pretrained": ("pretrained", "checkpoint"), "data": ("",)}
WRONG: dict[type, tuple[object, ...]] = {
    int: (3, -17),
    float: (0.5, float("nan"), float("-inf")),
    str: ("rubbish", "☃ 雪", "'", "1e", "0x"),
    bool: (True, False),
    list: ([], [1, [2, [3]]], [None]),
    dict: ({"a": {"b": {"c": None}}}, {"a b": 1}),
}


def of_wrong_types() -> Iterator[tuple[str, str]]:
    """Every setting with values of types that it does not take, drawn by lot."""
    lot = random.Random(0)
    for prefix, group in GROUPS.items():
        for name, kind in get_type_hints(group).items():
            taken = accepts(kind)
            others = [kind for kind in WRONG if kind not in taken]
            for other in lot.sample(others, 1):
                value = lot.choice(WRONG[other])
                yield name, settings(prefix + name, value)


def settings(key: str, value: object) -> str:
    """A file with one setting, by its dotted key, and others that are right."""
    nested: object = value
    for part in reversed(key.split(".")):
        nested = {part: nested}
    assert isinstance(nested, dict)
    return yaml.safe_dump(NOTHING_ELSE | nested, allow_unicode=True)


OUT_OF_RANGE: dict[str, tuple[object, ...]] = {
    "networks": (0, -1, 10**10, 10**400),
    "seed": (2**63, -(2**63), 10**400),
    "dropout": (-0.1, 1.0, float("nan"), float("inf")),
    "val_fraction": (0.0, 1.0, -1e-9, float("nan"), float("inf")),
    "test_fraction": (0.0, 1.0, 1e300, float("nan")),
    "stem_stride": (-1, 3, 10**12),
    "center": (0.0, 1.1, float("nan"), float("-inf")),
    "memory": (0.0, -1.0, float("nan")),
    "devices": (0, -5, 10**6),
    "processes_per_gpu": (0, -1, 2, 10**6),
    "process_timeout": (0.0, -1.0, float("nan"), float("inf")),
    "checkpoint_seconds": (-1.0, float("nan"), float("inf")),
    "latency_batch": (0, 10**9, -(10**30)),
    "latency_threads": (0, 10**9),
    "augmentation.crop_scale": (0.0, 2.0, float("nan")),
    "augmentation.magnitude": (-1.0, 31.0, float("nan")),
    "augmentation.cutout": (-0.1, 1.0, float("nan")),
    "augmentation.mixup": (-1.0, float("inf"), float("nan")),
    "shrink.batch_size": (1, 0, -1, 10**20),
    "shrink.weight_decay": (-1e-9, float("inf"), float("nan")),
    "shrink.label_smoothing": (-0.1, 1.0, float("nan")),
    "shrink.kd_ratio": (-1.0, float("nan")),
    "shrink.corners": (-1, 10**10),
    "shrink.clip": (-1.0, float("nan"), float("inf")),
    "shrink.calibration_images": (1, -1),
    "search.archive": (7, 0, -1, 10**9),
    "search.oversample": (0, 10**8),
    "search.candidates": (0, 10**8),
    "search.generations": (-1, 10**8),
    "search.top": (0, 10**8),
    "search.population": (3, 10**8),
    "search.inner_generations": (0, 10**8),
    "search.learn_from": (-1, 10**10),
    "search.optimism": (-0.1, float("nan"), float("inf")),
    "adapt.epochs": (-1, 10**10),
    "adapt.steps": (-1, 10**10),
    "adapt.lr": (0.0, -1.0, float("nan"), float("inf")),
    "adapt.subnets": (0, 10**10),
    "adapt.clip": (0.0, float("nan")),
    "adapt.smoothing": (0.0, float("inf")),
    "adapt.warmup_epochs": (-1.0, float("nan")),
    "finetune.epochs": (-1, 10**10),
    "finetune.steps": (-1, 10**10),
    "finetune.measured_at": (0.0, 1.1, float("nan")),
    "finetune.patience": (0, -3),
    "finetune.lr": (0.0, float("nan"), float("inf")),
    "finetune.batch_size": (1, 10**10),
    "finetune.label_smoothing": (1.0, float("nan")),
    "width": ("0", "9", "-1", "nan", "inf", "1.2,1.0", "1.0,1.0", "1,", "wide", "1;2", "1.0," * 5000, "0x1"),
    "resolutions": ("7", "16,12", "16,16", "12,", "12.5", "-16", "1e3", "99999999", "nan", "16 x 16", "9" * 5000),
    "budget": (
        "params", "params=3", "params<=", "params<=nan", "params<=1e999", "params<=3ms", "params==3", "<=3",
        "speed<=3", "params<=1,000", "params>=20k,params<=10k", "params<=\N{ARABIC-INDIC DIGIT ONE}", "params<=0x10",
        "params <= 200k latency <= 3",
        "params<=" + "9" * 5000, "params<=200k;macs<=1", "error<=5kB", "params<=1k", "'params<=3'", "latency<=3 parsec",
    ),
    "objectives": (
        "params", "error,error", "error,speed", "error,params,params", "error,nowhere.py:f", "error,:", "error,a:b:c",
        "error,os.path:nothing", "error;params", "error,no_such_module:f", "error,math:pi", "ERROR",
        "error," + "x" * 9000,
    ),
    "device": ("nano", "ARDUINO-NANO-33-BLE", "esp32,stm32h7", "a\0b", "x" * 9000),
    "data": ("", "/no/such/folder", "/dev/null", "/proc/self/mem", "x" * 5000, "a\0b", "hub:", "\ud800"),
    "out": ("/proc/nowhere", "/dev/null/run", "a\0b", "y" * 300),
    "pretrained": ("absent.pth", "/dev/null", ",", "a.pth,b.pth", "a\0b", "/"),
    "phases": (
        [{}], [{"name": "x"}], [[]], ["full"], [{"name": "x", "epochs": 0, "lr": 1}],
        [{"name": "x", "epochs": 1, "lr": float("nan")}], [{"name": "x", "epochs": 1.5, "lr": 1}],
        [{"name": "x", "epochs": 1, "lr": 1, "kernels": []}], [{"name": "x", "epochs": 1, "lr": 1, "kernels": [4]}],
        [{"name": "x", "epochs": 1, "lr": 1, "kernels": "all"}], [{"name": "x", "epochs": 1, "lr": 1, "depths": [9]}],
        [{"name": "x", "epochs": 1, "lr": 1, "exits": [0]}], [{"name": "x", "epochs": 1, "lr": 1, "levels": [4]}],
        [{"name": "x", "epochs": 1, "lr": 1, "bogus": 1}], [{"name": 3, "epochs": 1, "lr": 1}],
        [{"name": "x", "epochs": 1, "lr": 1}],  # opens nothing that the search may choose
    ),
    "schedule": ("transfer", "short-transfer", "long"),
    "family": ("EE", "ee_d", ""),
    "preset": ("huge", "", "NAT2"),
}  # fmt: skip

CONTRADICTORY = (
    "val_fraction: 0.5\ntest_fraction: 0.5\n",
    "val_fraction: 0.9999\ntest_fraction: 0.9999\n",
    "resolutions: '8,9'\nstem_stride: 2\n",
    "width: '0.2,0.3'\npretrained: a.pth\n",
    "schedule: transfer\n",
    "family: SE_B\nphases: [{name: x, epochs: 1, lr: 1}]\n",
    "budget: 'params<=10'\n",
    "budget: 'params>=1G'\n",
    "search: {preprocess: halving, oversample: 1000}\n",
    "memory: 0.000001\nresolutions: '64'\n",
)

RUBBISH: dict[str, bytes] = {
    "empty": b"",
    "blank": b" \n\n",
    "comment": b"# nothing\n",
    "null": b"null\n",
    "number": b"3\n",
    "text": b"seed:1\n",
    "list": b"- seed\n",
    "not closed": b"seed: [\n",
    "tab": b"\tseed: 1\n",
    "two documents": b"seed: 1\n---\nseed: 2\n",
    "nul": b"seed: 1\0\n",
    "nul escaped": b'data: "a\\0b"\n',
    "not utf-8": b"data: \xff\xfe\x80\n",
    "utf-16": "seed: 1\n".encode("utf-16"),
    "surrogate": b"data: \xed\xa0\x80\n",
    "png": b"\x89PNG\r\n\x1a\n" + bytes(range(256)),
    "elf": b"\x7fELF" + bytes(5000),
    "pickle": b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94.",
    "twice": b"seed: 1\nseed: 2\n",
    "twice within": b"search:\n  archive: 9\n  archive: 12\n",
    "twice in a phase": b"phases: [{name: x, epochs: 1, lr: 1, lr: 2}]\n",
    "unknown": b"sead: 3\n",
    "unknown within": b"search: {archives: 9}\n",
    "unknown of another script": "\N{CYRILLIC SMALL LETTER DZE}eed: 3\n".encode(),
    "number as key": b"1: 2\n",
    "list as key": b"? [a, b]\n: 3\n",
    "group as number": b"search: 5\n",
    "group as nothing": b"search: null\n",
    "nothing": b"seed: null\n",
    "nothing within": b"adapt: {clip: null}\n",
    "alias of itself": b"seed: &s [*s]\n",
    "alias of itself within": b"search: &s {archive: *s}\n",
    "no such alias": b"seed: *nobody\n",
    "aliases": b"".join(
        b"%c: &%c [%s]\n" % (name, name, b",".join([b"*%c" % (name - 1) if name > 97 else b"x"] * 9))
        for name in range(97, 107)
    ),
    "deep lists": b"[" * 50_000,
    "deep mappings": b"{" * 50_000,
    "deep items": b"- " * 5000,
    "long": b"a" * 900_000,
    "too long": b"#" * 2_000_000,
    "long number": b"seed: 1" + b"0" * 5000,
    "object": b"seed: !!python/object/apply:os.system ['touch exploded']\n",
    "new object": b"seed: !!python/object/new:os.system ['touch exploded']\n",
    "name": b"seed: !!python/name:os.system\n",
    "module": b"data: !!python/module:os\n",
    "tuple": b"phases: !!python/tuple []\n",
    "tag": b"seed: !mine 3\n",
    "no integer": b"seed: !!int many\n",
    "no time": b"seed: !!timestamp never\n",
    "bytes": b"data: !!binary aGVsbG8=\n",
    "set": b"data: !!set {digits}\n",
    "date": b"data: 2020-01-01\n",
    "version": b"%YAML 9.9\n---\nseed: 1\n",
    "config in config": b"config: s.yaml\n",
    "option as text": b"fresh: 'no'\n",
    "option as number": b"quiet: 3\n",
}  # fmt: skip

FLAGS: tuple[tuple[str, ...], ...] = (
    ("--seed",), ("--seed", ""), ("--seed", "1", "2"), ("--seed=\N{SNOWMAN}",), ("--sed", "1"), ("-x",), ("digits",),
    ("--search", "[]"), ("--search", "{"), ("--search.archive",), ("--search.archive.more", "3"), ("--search.", "3"),
    ("--search={archive: many}",), ("--phases", "[[["), ("--phases", "!!python/name:os.system"), ("--phases", "x.yaml"),
    ("--phases+", "{}"), ("--config",), ("--config", "."), ("--config", "/dev/null"), ("--config", "/no/such.yaml"),
    ("--config", "/dev/zero"), ("--config", "{"), ("--preset", "quick", "--preset"), ("--skip-bad-images", "7"),
    ("--fresh=maybe",), ("--out",), ("--data",), ("--adapt.lr", "1e"), ("--adapt.lr", "-"), ("--adapt.lr", "0,1"),
    ("--finetune.optimizer", "adam"), ("--devices", "1.5"), ("--accelerator", "tpu"), ("--precision", "8"),
    ("--sync_batch_norm", "true"),
    ("--search.predictor", "oracle"), ("--search.start", "end"), ("--ramp", "UP"), ("--seed", "9" * 5000),
    ("--phases", "[" * 3000), ("--" + "x" * 10_000,), ("--data", "a" * 10_000), ("--budget", "=" * 10_000),
    ("--tensorboard", "perhaps"), ("--seed", "\udcff"), ("--\udcff", "1"),
    ("--networks", "\N{ARABIC-INDIC DIGIT ONE}x"),
)  # fmt: skip

FILES = [
    *((f"type-{number}-{name}", name, text.encode()) for number, (name, text) in enumerate(of_wrong_types())),
    *(
        (f"range-{key}-{number}", key.rpartition(".")[2], settings(key, value).encode())
        for key, values in OUT_OF_RANGE.items()
        for number, value in enumerate(values)
    ),
    *((f"contradiction-{number}", "", text.encode()) for number, text in enumerate(CONTRADICTORY)),
    *((f"rubbish-{name.replace(' ', '-')}", "", content) for name, content in RUBBISH.items()),
]


@pytest.fixture
def empty_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    nothing_begins(monkeypatch)
    return tmp_path


PARAMETERS = [
    pytest.param(named, content, id=name, marks=pytest.mark.slow if number % 2 else ())
    for number, (name, named, content) in enumerate(FILES)
    if not name.startswith("rubbish")
] + [pytest.param(named, content, id=name) for name, named, content in FILES if name.startswith("rubbish")]


def test_there_are_more_than_two_hundred() -> None:
    assert len(FLAGS) + sum(not parameter.marks for parameter in PARAMETERS) > 200


@pytest.mark.parametrize(("named", "content"), PARAMETERS)
def test_a_malformed_file_is_refused(
    named: str, content: bytes, empty_place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (empty_place / "s.yaml").write_bytes(content)
    message = refused(capsys, "run", "--config", "s.yaml")
    assert any(name in message for name in SYNONYMS.get(named, (named,))), message
    assert [path.name for path in empty_place.iterdir()] == ["s.yaml"]


@pytest.mark.parametrize("flags", FLAGS, ids=range(len(FLAGS)))
def test_malformed_flags_are_refused(
    flags: tuple[str, ...], empty_place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(capsys, "run", *flags)
    assert not any(empty_place.iterdir())


@pytest.mark.parametrize("verb", ["", "rnu", "--run", "\udcff", "run\n", "run profile"])
def test_there_is_no_other_verb(verb: str, empty_place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused(capsys, verb)


def understood(name: str, value: object) -> bool:
    """Whether a value of another type says what is meant: a number for a text, one for several, off for none."""
    texts = ("data", "budget", "pretrained", "time", "cache", "device")
    several = ("kernels", "expands", "depths", "exits", "levels")
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return (
        (name in texts and (number or value == []))
        or (name in several and value == 3)
        or (name, value) == ("policy", False)
    )


def test_python_is_refused_the_same(record_property: RecordProperty) -> None:
    """Values of every wrong type in every setting of every group, and none raises anything but ConfigError."""
    cases = 0
    for group in (*GROUPS.values(), Phase):
        for name, kind in get_type_hints(group).items():
            taken = accepts(kind)
            for other, values in WRONG.items():
                for value in values:
                    if other in taken or (dict in taken and isinstance(value, dict)) or understood(name, value):
                        continue
                    given = {"name": "x", "epochs": 1, "lr": 1.0} if group is Phase else {}
                    with pytest.raises(ConfigError, match=name):
                        group(**given | {name: value})
                    cases += 1
    record_property("cases", cases)
    assert cases > 500


def test_what_is_right_passes(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(RunConfig.of("nat2").to_dict()))
    assert dict(flat(read_document(tmp_path / "s.yaml"))) == dict(flat(RunConfig.of("nat2").to_dict()))
    text = "base: &b {name: x, epochs: 1}\nphases:\n- <<: *b\n  lr: 1\n- <<: *b\n  lr: 2\n"
    (tmp_path / "s.yaml").write_text(text)
    assert [phase["lr"] for phase in read_document(tmp_path / "s.yaml")["phases"]] == [1, 2]
