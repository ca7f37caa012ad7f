"""The whole configuration, typed; the sentence under a field is its help text on the command line."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import yaml
from jsonargparse import ArgumentError, ArgumentParser

from nat2.data.settings import DEFAULT_CACHE, NO_CACHE, Augmentation, Reading
from nat2.environment import Accelerator, Precision
from nat2.errors import ConfigError
from nat2.nas.budget import board_bounds, parse_budget
from nat2.nas.objectives import parse_objectives
from nat2.nas.settings import SEARCH_PRESETS, SearchSettings
from nat2.processes import LOST_AFTER
from nat2.runs.yaml_config import in_words, plainly
from nat2.shipped import SHIPPED
from nat2.shipped.published import PUBLISHED
from nat2.space.boards import TargetName
from nat2.space.macro import FamilyName
from nat2.training.settings import AdaptSettings, FinetuneSettings, Phase, ScheduleName, ShrinkSettings, SyncBatchNorm
from nat2.validation import as_text, check_types, parts_of, user_path

Family = Literal["auto", FamilyName]
Preset = Literal["quick", "nat2", "nat"]
DEFAULT_FAMILY: FamilyName = "EE_D"
ANY_WEIGHTS, NO_WEIGHTS = "auto", "none"
WEIGHTS_BY_NAME = (ANY_WEIGHTS, NO_WEIGHTS, *SHIPPED, *PUBLISHED)
"""Values of `pretrained` besides files."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """From labelled images to networks ready to ship."""

    data: str = "digits"
    """Folder of class folders (optionally under train/, val/, test/), .npz file (images and labels, or x_train,
    y_train, ...), CIFAR-10, CIFAR-100 or Tiny ImageNet as downloaded, `hub:NAME` for one of the Hugging Face hub, or
    `digits`: scikit-learn's 1,797 images."""
    objectives: str = "auto"
    """What to minimise, separated by commas; `auto` is error,flash for `--target microcontroller`, else error,params:
    error, int8_error (in 8-bit integers), params, macs, memory (peak of the
    activations), flash and ram (on a microcontroller), latency (on this machine), and functions of your own like
    `energy.py:joules`."""
    budget: str = ""
    """Bounds that the search keeps to, separated by commas: `params<=200k,latency<=3ms`."""
    target: TargetName = "any"
    """Where the networks will run: their files for it are written and measured at the end, as by `nat2 export --for`.
    `microcontroller` also searches for what fits: it minimises flash, unless `objectives` are given, and bounds flash
    by 128 KiB and ram by 64 KiB, or as `device` and `budget` say."""
    device: str = ""
    """Microcontroller board to search for, e.g. `arduino-nano-33-ble` or `esp32-s3`: bounds flash and ram by half of
    the board's, unless `budget` bounds them."""
    networks: int = 5
    """How many networks to fine-tune and export, at most (see `finetune.choice`)."""
    time: str = ""
    """How long the run may take, like `15m`, `2h` or `90s`: the speed of this machine is measured and every length that
    is not given is chosen by it, once, and written into config.yaml; without it, lengths by the number of images."""
    seed: int = 0
    """Decides every random choice; the same seed gives the same result on the same machine."""
    preset: Preset = "quick"
    """Default settings: `quick` for small data and machines, `nat2` and `nat` for published sizes."""
    family: Family = "auto"
    """Super-network: EE has an exit after each stage, SE one; D has dense skips, P parallel blocks, B neither. `auto`
    is that of `pretrained`, or EE_D."""
    width: str | float = "auto"
    """Width multiplier of the super-network, or several separated by commas, side by side in one search (1.0,1.2 are
    the published ones); `auto` is that of `pretrained`, or 0.35 for tiny images, else 0.5."""
    resolutions: str = "auto"
    """Image sides to search, ascending, separated by commas; `auto` chooses three by the size of the images."""
    stem_stride: int = 0
    """Stride of the first convolution, 1 or 2; 0 chooses that of `pretrained`, or 1 for images below 48 pixels."""
    dropout: float = 0.1
    """Dropout in front of the classifiers while the super-network is trained, from 0 to below 1."""
    val_fraction: float | None = None
    """Share of the images (of those under train/, if it exists) kept for validation, unless there is val/; by default
    what was published for the data set, or 0.2."""
    test_fraction: float = 0.2
    """Share of the images (of those under train/, if it exists) kept for the test, unless there is test/."""
    skip_bad_images: bool = False
    """Leave unreadable images out instead of refusing the folder."""
    memory: float | None = None
    """GiB that the images may take, by default half of what is available; image files that do not fit are kept in the
    cache."""
    cache: str = DEFAULT_CACHE
    """Folder for the decoded images of large data sets; `auto` is the environment's NAT2_CACHE, or nat2 in the user's
    cache folder; `none` keeps nothing and decodes image files that do not fit into memory whenever they are needed."""
    center: float | None = None
    """Share of the side of an image that evaluation looks at, in its middle, above 0 and at most 1; by default what was
    published for the data set, or 1."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    """Random changes of training images."""
    balance: bool = False
    """Draw the images of every class equally often in training, however many there are: for classes of very different
    size."""
    pretrained: str = "auto"
    """Initial weights: `auto` takes the super-network that comes with nat2 (`ee_d-w0.5`) where it fits images and
    settings, `none` random weights; `ofa-w1.0` and `ofa-w1.2` download those of Once-for-All; or files, one per width,
    separated by commas: a super-network of an earlier run, or a checkpoint in the OFA or OFAv2 layout. Other classes
    and channels are adapted. Family, width and stem stride are taken from the files unless they are given."""
    schedule: ScheduleName | Literal["auto"] = "auto"
    """Training of the super-network: sub-networks of all sizes from the start (`uniform`), progressive shrinking in a
    short form or as published for OFA or OFAv2, or, to go on from trained weights, NAT's warm-up or a short form of
    it; `auto` is `short-transfer` with `pretrained` weights, else `uniform`."""
    phases: tuple[Phase, ...] = ()
    """Custom phases instead, in order (see config.yaml of a run)."""
    shrink: ShrinkSettings = field(default_factory=ShrinkSettings)
    """What the phases have in common."""
    search: SearchSettings = field(default_factory=SearchSettings)
    """Policies of the search."""
    adapt: AdaptSettings = field(default_factory=AdaptSettings)
    """Adaptation of the super-network between generations."""
    finetune: FinetuneSettings = field(default_factory=FinetuneSettings)
    """Post-processing of the returned networks."""
    int8: bool = False
    """Export every network in 8-bit integers too, calibrated on training images."""
    pt2: bool = False
    """Export every network as a program of torch.export too (model.pt2), which takes seconds each; `nat2 export` always
    does."""
    devices: int = 1
    """Processes on this machine, each with a GPU, or with its share of the CPU's cores; batches and evaluations are
    divided among them. Several machines: see `torchrun`."""
    processes_per_gpu: int = 1
    """Processes that share each GPU: all of them evaluate and fine-tune networks, which keep a GPU busy for a part of
    the time only; one of them trains the super-network."""
    sync_batch_norm: SyncBatchNorm = "auto"
    """Statistics of batch norms when several processes divide a batch: of the whole batch (`joint`), which costs two
    exchanges for each batch norm, or of each process's images (`per-process`); `auto` is `per-process` if each has at
    least 32."""
    process_timeout: float = LOST_AFTER
    """Seconds within which a process that no longer answers is noticed, and the run ends or starts again."""
    accelerator: Accelerator = "auto"
    """`cuda`, `cpu`, or a GPU if there is one."""
    precision: Precision = "auto"
    """Of the super-network's training: bfloat16 where a GPU can (`bf16-mixed`), else float32 (`32-true`)."""
    cuda_graphs: bool = False
    """Run the teacher of a training as a CUDA graph, one launch instead of hundreds. Never run on a GPU so far."""
    latency_batch: int = 1
    """Images at once when the latency is measured."""
    latency_threads: int = 1
    """Threads when the latency is measured."""
    tensorboard: bool = False
    """Write the search as curves for TensorBoard too; needs the extra `tensorboard`."""
    checkpoint_seconds: float = 5.0
    """Seconds of training between two checkpoints, which are written at the end of an epoch; 0 for every epoch."""

    def __post_init__(self) -> None:
        """Check what can be checked without the images.

        Raises:
            ConfigError: a value is outside its range.
        """
        if isinstance(self.phases, list):
            object.__setattr__(self, "phases", tuple(self.phases))
        for name in _TEXTS:
            object.__setattr__(self, name, as_text(getattr(self, name)))
        check_types(self)
        if self.objectives == "auto":
            small = "flash" if self.target == "microcontroller" else "params"
            object.__setattr__(self, "objectives", f"error,{small}")
        self._check_sources()
        for name, value in with_paths(self, user_path).items():
            object.__setattr__(self, name, value)
        self._check_texts()
        self._check_ranges()
        self._check_combinations()

    def _check_sources(self) -> None:
        """Images and weights are named."""
        if not self.data:
            raise ConfigError(f"--data must name a folder, a file, or digits; got {self.data!r}")
        weights = parts_of(self.pretrained)
        if (self.pretrained and not weights) or (len(weights) > 1 and {ANY_WEIGHTS, NO_WEIGHTS} & set(weights)):
            raise ConfigError(
                f"--pretrained must be {ANY_WEIGHTS}, {NO_WEIGHTS}, or files or names separated by commas; got "
                f"{self.pretrained!r}"
            )

    def _check_texts(self) -> None:
        """Texts that stand for something can be read."""
        if self.time:
            parse_time(self.time)
        parse_budget(self.budget, parse_objectives(self.objectives))
        board_bounds(self.device)
        if self.resolutions != "auto":
            parse_resolutions(self.resolutions)
        if self.width != "auto":
            parse_widths(self.width)

    def _check_ranges(self) -> None:
        """Numbers are within their ranges."""
        if not (1 <= self.latency_batch <= 4096 and 1 <= self.latency_threads <= 1024):
            raise ConfigError(
                "--latency_batch must be at least 1 and at most 4096, --latency_threads at least 1 and at most 1024; "
                f"got {self.latency_batch} and {self.latency_threads}"
            )
        for name in ("networks", "devices", "processes_per_gpu"):
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name} must be at least 1; got {getattr(self, name)}")
        if self.stem_stride not in (0, 1, 2):
            raise ConfigError(f"--stem_stride must be 1 or 2, or 0 to choose; got {self.stem_stride}")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"--dropout must be at least 0 and below 1; got {self.dropout}")
        for name in ("val_fraction", "test_fraction"):
            if getattr(self, name) is not None and not 0 < getattr(self, name) < 1:
                raise ConfigError(f"--{name} must be above 0 and below 1; got {getattr(self, name)}")
        if self.memory is not None and not self.memory > 0:
            raise ConfigError(f"--memory must be above 0 (GiB); got {self.memory}")
        if self.center is not None and not 0 < self.center <= 1:
            raise ConfigError(f"--center must be above 0 and at most 1; got {self.center}")
        if not 1 <= self.process_timeout <= _LONGEST:
            raise ConfigError(
                f"--process_timeout must be at least 1 and at most {_LONGEST} (seconds); got {self.process_timeout}"
            )
        if not 0 <= self.checkpoint_seconds < math.inf:
            raise ConfigError(f"--checkpoint_seconds must be 0 or more; got {self.checkpoint_seconds}")

    def _check_combinations(self) -> None:
        """Settings go together."""
        if self.schedule.endswith("transfer") and self.pretrained in ("", NO_WEIGHTS) and not self.phases:
            raise ConfigError(
                f"--schedule {self.schedule} goes on from trained weights; name them with --pretrained, or choose "
                "uniform, short, ofa or ofav2"
            )
        if self.finetune.variant == "ensemble" and self.family.startswith("SE"):
            raise ConfigError(
                f"--finetune.variant ensemble needs early exits, which --family {self.family} has not; choose single, "
                "or a family that begins with EE"
            )
        if (self.val_fraction or 0.0) + self.test_fraction >= 1:
            raise ConfigError(
                "--val_fraction and --test_fraction must leave images for training; "
                f"got {self.val_fraction} and {self.test_fraction}"
            )

    @staticmethod
    def of(preset: Preset, **changes: Any) -> RunConfig:
        """The configuration of a preset with changes, e.g. ``RunConfig.of("nat2", search={"generations": 10})``.

        Groups of settings are given as dictionaries of what differs from the preset.

        Raises:
            ConfigError: there is no such preset, or a value is outside its range.
        """
        if preset not in PRESETS:
            raise ConfigError(f"the preset must be one of {', '.join(PRESETS)}; got {preset!r}")
        base = RunConfig()
        values: dict[str, Any] = {"preset": preset}
        for chosen in (PRESETS[preset], changes):
            for name, value in chosen.items():
                group: Any = values.get(name, getattr(base, name, None))
                values[name] = replace(group, **value) if isinstance(value, dict) else value
        return RunConfig(**values)

    @property
    def seconds(self) -> float:
        """What `time` says; 0 without it."""
        return parse_time(self.time) if self.time else 0.0

    @property
    def reading(self) -> Reading:
        """How image files are read."""
        return Reading(skip_bad_images=self.skip_bad_images, memory=self.memory, cache=self.cache)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, with lists for tuples."""
        plain: dict[str, Any] = _plain(asdict(self))
        return plain


_TEXTS = ("data", "objectives", "budget", "width", "resolutions", "pretrained", "time", "cache")
"""Settings that are kept as text; lists and numbers are taken too, as YAML and Python write them."""


def with_paths(config: RunConfig, place: Callable[[str, str], Path]) -> dict[str, Any]:
    """The settings that hold paths, each path changed.

    Args:
        config: The configuration.
        place: Takes a path and the flag that holds it; returns the replacement.
    """
    data = config.data
    if data != "digits" and not data.startswith("hub:"):
        data = str(place(data, "--data"))
    files = [
        part if part in WEIGHTS_BY_NAME else str(place(part, "--pretrained")) for part in parts_of(config.pretrained)
    ]
    objectives = []
    for part in parts_of(config.objectives):
        file, colon, function = part.rpartition(":")
        if file.endswith(".py"):
            file = str(place(file, "--objectives"))
        objectives.append(file + colon + function)
    cache = config.cache if config.cache in (DEFAULT_CACHE, NO_CACHE) else str(place(config.cache, "--cache"))
    return {"data": data, "cache": cache, "pretrained": ",".join(files), "objectives": ",".join(objectives)}


def absolute(config: RunConfig) -> RunConfig:
    """The same with absolute paths, so that it means the same in any folder."""
    return replace(config, **with_paths(config, lambda path, flag: user_path(path, flag).resolve()))


def same(key: str, one: Any, other: Any) -> bool:
    """Whether two values of a setting mean the same: relative and absolute paths may, and an objective's file moves."""
    if key == "pretrained" and isinstance(one, str) and isinstance(other, str):
        first, second = ([Path(part).resolve() for part in parts_of(each)] for each in (one, other))
        return first == second
    if key == "objectives" and isinstance(one, str) and isinstance(other, str):
        names, others = ([part.rpartition("/")[2] for part in parts_of(each)] for each in (one, other))
        return names == others
    equal: bool = one == other
    return equal


def read_config(path: Path) -> RunConfig:
    """A configuration from a YAML file, as `--config` reads it; what it leaves out is taken from its preset.

    Raises:
        ConfigError: the file cannot be read, or does not hold settings.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        preset = content.get("preset", "quick")
        parser = ArgumentParser(exit_on_error=False)
        parser.add_class_arguments(RunConfig)
        parser.set_defaults(dict(flat(PRESETS[preset])))
        return RunConfig(**vars(parser.instantiate(parser.parse_object(plainly(content)))))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError, ArgumentError) as error:
        raise ConfigError(f"{path} does not hold settings ({in_words(str(error))})") from error


def flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested settings as pairs of dotted key and value."""
    if isinstance(value, dict):
        for key, each in value.items():
            yield from flat(each, f"{prefix}{key}.")
    else:
        yield prefix.rstrip("."), value


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value


def parse_resolutions(text: str) -> tuple[int, ...]:
    """Read a list of image sides, e.g. ``48,56,64``.

    Raises:
        ConfigError: they are not ascending whole numbers from 8 to 4096.
    """
    try:
        sides = tuple(int(part) for part in text.split(","))
    except ValueError:
        sides = ()
    if not sides or list(sides) != sorted(set(sides)) or not 8 <= sides[0] <= sides[-1] <= 4096:
        raise ConfigError(
            f"--resolutions must be ascending whole numbers from 8 to 4096, like 48,56,64, or auto; got {text!r:.200}"
        )
    return sides


def parse_widths(value: str | float) -> tuple[float, ...]:
    """Read a width multiplier or a list of them, e.g. ``1.0,1.2``.

    Raises:
        ConfigError: they are not ascending numbers from 0.1 to 8, at most eight.
    """
    try:
        widths = tuple(float(part) for part in str(value).split(","))
    except ValueError:
        widths = ()
    if not widths or list(widths) != sorted(set(widths)) or not 0.1 <= widths[0] <= widths[-1] <= 8 or len(widths) > 8:
        raise ConfigError(
            f"--width must be a number from 0.1 to 8, or at most 8 ascending ones, or auto; got {value!r:.200}"
        )
    return widths


_TIME = re.compile(r"(?:([\d.]+)h)?(?:([\d.]+)m)?(?:([\d.]+)s)?")
_SHORTEST, _LONGEST = 10, 30 * 86400  # seconds of a run


def parse_time(text: str) -> float:
    """Read a time, e.g. ``90s``, ``15m`` or ``1h30m``; in seconds.

    Raises:
        ConfigError: it is none, or out of reach.
    """
    found = _TIME.fullmatch(text.replace(" ", "").lower())
    try:
        seconds = (
            sum(float(part or 0) * unit for part, unit in zip(found.groups(), (3600, 60, 1), strict=True))
            if found
            else 0
        )
    except ValueError:
        seconds = 0
    if not _SHORTEST <= seconds <= _LONGEST:
        raise ConfigError(
            f"--time must be hours, minutes or seconds like 2h, 15m or 90s, at least 10s; got {text!r:.200}"
        )
    return seconds


_PUBLISHED: dict[str, Any] = {
    "schedule": "ofav2",
    "pretrained": NO_WEIGHTS,
    "shrink": {"batch_size": 64, "corners": 32, "calibration_images": 1000, "ramp": "ASC"},
    "width": "1.0",
    "networks": 4,
    # 2.5e-3 for its batches of 256
    "adapt": {"epochs": 5, "lr": 2.5e-3 / 4, "warmup_epochs": 5.0, "subnets": 4, "batch_size": 256},
    "finetune": {
        "epochs": 150,
        "batch_size": 64,
        "lr": 1e-4,
        "label_smoothing": 0.0,
        "anneal": False,
        "restart": True,
        "choice": "trade-off",
    },
}
PRESETS: dict[Preset, dict[str, Any]] = {
    "quick": {},
    "nat2": _PUBLISHED
    | {"search": SEARCH_PRESETS["nat2"]},
    "nat": _PUBLISHED
    | {
        "family": "SE_B",
        "schedule": "ofa",
        "search": SEARCH_PRESETS["nat"],
        "finetune": _PUBLISHED["finetune"] | {"optimizer": "sgd"},
    },
}  # fmt: skip
"""What each preset changes; flags and files change it further."""
