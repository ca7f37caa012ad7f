"""Weights to begin with: what their files are, what they settle of the configuration, and what does not fit them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import yaml

from nat2.data.dataset import Dataset
from nat2.errors import CheckpointError, ConfigError, Nat2Error
from nat2.progress import Reporter
from nat2.runs.config import DEFAULT_FAMILY, WEIGHTS_BY_NAME, RunConfig
from nat2.runs.plan import Choices, RunPlan
from nat2.shipped import SHIPPED
from nat2.shipped.published import PUBLISHED
from nat2.space.macro import STAGES, FamilyName, Macro
from nat2.supernet import SuperNetwork
from nat2.supernet.checkpoint import load_pretrained
from nat2.supernet.identify import Identity, identify
from nat2.supernet.weights import Checkpoint, fetch_published, open_checkpoint
from nat2.validation import parts_of, user_path

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CLOSE = 0.02  # of a mean or standard deviation in 0..1: less is no other normalisation
_FOREIGN = {
    "input_stem.": "OFA's ResNet",
    "first_conv.": "another network of OFA's, such as ProxylessNAS",
    "conv_stem.": "a network of timm",
    "features.": "a network of torchvision",
}


def settle(choices: Choices, sides: Sequence[int]) -> Choices:
    """Take from the files of `pretrained` what is left open: family, widths and stem stride.

    Args:
        choices: What the configuration says; without `pretrained` only the family is settled.
        sides: The image sides to search, ascending.

    Returns:
        The same with family and widths, a file for each width, and the stem stride of the files if it suits `sides`.

    Raises:
        ConfigError: the numbers of files and of widths differ.
        CheckpointError: a file cannot be read, or is no super-network.
    """
    paths, family, widths, stride = choices.pretrained, choices.family, choices.widths, choices.stem_stride
    if not paths:
        return dataclasses.replace(choices, family=family or DEFAULT_FAMILY)
    if _is_settled(choices):
        return choices
    if widths is not None and len(paths) not in (1, len(widths)):
        raise ConfigError(_needed_files(len(paths), len(widths)))
    checkpoints = [open_checkpoint(path) for path in paths]
    if len(paths) == 1:  # which may hold several widths
        checkpoints *= len(widths or checkpoints[0].widths or (None,))
    if widths is None:
        checkpoints, widths = _by_width(checkpoints)
    if len(checkpoints) != len(widths):
        raise ConfigError(_needed_files(len(checkpoints), len(widths)))
    found = [_known(checkpoint, width) for checkpoint, width in zip(checkpoints, widths, strict=True)]
    if stride is None:
        (known, *others) = {identity.stem_stride for identity in found}
        macro = Macro(classes=2, stem_stride=known or 2)
        stride = known if not others and macro.feature_sizes(sides[0])[STAGES - 2] > 1 else None
    return dataclasses.replace(
        choices,
        family=family or _common_family(checkpoints, found),
        widths=widths,
        stem_stride=stride,
        pretrained=tuple(str(checkpoint.path) for checkpoint in checkpoints),
    )


def _is_settled(choices: Choices) -> bool:
    """Whether nothing is left to be taken from the files."""
    widths = choices.widths
    return bool(widths and len(widths) == len(choices.pretrained) and choices.family and choices.stem_stride)


def download(choices: Choices, progress: Reporter) -> None:
    """Download published weights that `settle` will read.

    Raises:
        DownloadError: they cannot be downloaded.
    """
    for name in choices.pretrained:
        if name in PUBLISHED and not _is_settled(choices):
            fetch_published(name, progress=progress)


def _needed_files(files: int, widths: int) -> str:
    return f"--pretrained needs one file per width; got {files} for {widths} widths"


def recalled(config: RunConfig, stored: Path) -> RunConfig:
    """The configuration of a run that has begun, with what it took from files of weights that are gone since.

    Args:
        config: As given.
        stored: The run's own configuration, a YAML file.
    """
    given = parts_of(config.pretrained)
    paths = [user_path(path, "--pretrained").resolve() for path in given if path not in WEIGHTS_BY_NAME]
    published = [PUBLISHED[name] for name in given if name in PUBLISHED]
    if all(path.exists() for path in (*paths, *(each.path for each in published))):
        return config
    try:
        held = yaml.safe_load(stored.read_text())
        begun = RunConfig(**{name: held[name] for name in ("family", "width", "stem_stride", "pretrained")})
    except (OSError, yaml.YAMLError, Nat2Error, KeyError, TypeError):  # reported when the folder is claimed
        return config
    if {*paths, *(Path(each.name) for each in published)} != {Path(path) for path in parts_of(begun.pretrained)}:
        return config
    return dataclasses.replace(
        config,
        family=begun.family if config.family == "auto" else config.family,
        width=begun.width if config.width == "auto" else config.width,
        stem_stride=config.stem_stride or begun.stem_stride,
        pretrained=begun.pretrained,
    )


def _by_width(checkpoints: Sequence[Checkpoint]) -> tuple[list[Checkpoint], tuple[float, ...]]:
    """The widths of the files, ascending, and the files in their order."""
    first = checkpoints[0]
    if first.widths and all(each is first for each in checkpoints):
        return list(checkpoints), first.widths
    widths: dict[float, Checkpoint] = {}
    for checkpoint in checkpoints:
        width = _known(checkpoint, None).width
        if width is None:
            raise CheckpointError(
                f"{checkpoint.path} holds a super-network whose channels are those of no width multiplier"
            )
        if width in widths:
            raise ConfigError(
                f"--pretrained needs one file per width; {widths[width].path} and {checkpoint.path} are both of "
                f"width {width}"
            )
        widths[width] = checkpoint
    return [widths[width] for width in sorted(widths)], tuple(sorted(widths))


def _known(checkpoint: Checkpoint, width: float | None) -> Identity:
    """What a file holds of a width.

    Raises:
        CheckpointError: no super-network.
    """
    state = checkpoint.of(width)
    identity = identify(state, checkpoint.macro)
    if identity is None:
        kind = next((kind for start, kind in _FOREIGN.items() if any(name.startswith(start) for name in state)), "")
        raise CheckpointError(
            f"{checkpoint.path} holds {kind or 'weights'} ({len(state)} tensors, such as {next(iter(state))!r}); "
            "--pretrained begins with super-networks of nat2, or of OFA and OFAv2 on MobileNetV3"
        )
    if not identity.complete:
        raise CheckpointError(
            f"{checkpoint.path} holds {identity}; --pretrained begins with super-networks, or with the largest network "
            "of one"
        )
    return identity


def _common_family(checkpoints: Sequence[Checkpoint], found: Sequence[Identity]) -> FamilyName:
    others = [identity.families for identity in found]
    common = [family for family in others[0] if all(family in each for each in others)]
    if not common:
        descriptions = "; ".join(
            f"{each.path} holds {identity}" for each, identity in zip(checkpoints, found, strict=True)
        )
        raise CheckpointError(f"--pretrained needs files of one family; {descriptions}")
    return cast("FamilyName", common[0])


def begin_with(network: SuperNetwork, path: str) -> list[str]:
    """Read the weights of a file into a super-network.

    Returns:
        What did not come from the file as it is, a line each.

    Raises:
        CheckpointError: the file cannot be read, or holds another super-network; the flags that it needs are named.
    """
    checkpoint = open_checkpoint(path)
    _fitting(checkpoint, network.macro)
    notes = [f"the averaged weights under `{checkpoint.entry}` are used"] if "ema" in checkpoint.entry else []
    return [*notes, *load_pretrained(network, checkpoint.of(network.macro.width))]


def _fitting(checkpoint: Checkpoint, macro: Macro) -> Identity:
    identity = _known(checkpoint, macro.width)
    flags = identity.flags(macro)
    if flags:
        raise CheckpointError(f"{checkpoint.path} holds {identity}; it needs {' and '.join(flags)}")
    return identity


def remarks(given: RunConfig, plan: RunPlan, dataset: Dataset) -> list[str]:
    """What a user should know of the files before hours of work: what they are, and what they were not trained with.

    Args:
        given: The configuration as the user gave it.
        plan: The same with nothing left open.
        dataset: The images.

    Raises:
        CheckpointError: a file cannot be read, or holds another super-network; the flags that it needs are named.
    """
    checkpoints = [open_checkpoint(path) for path in plan.pretrained]
    found = [_fitting(checkpoint, macro) for checkpoint, macro in zip(checkpoints, plan.macros, strict=True)]
    stride = plan.stem_stride
    taken = [f"family {plan.family}"] if given.family == "auto" else []
    taken += [f"width {' and '.join(map(str, plan.widths))}"] if given.width == "auto" else []
    taken += [f"stem stride {stride}"] if not given.stem_stride and found[0].stem_stride == stride else []
    lines = [_described(each, identity) for each, identity in zip(checkpoints, found, strict=True)]
    lines += [f"taken from that: {', '.join(taken)}"] if taken else []
    if given.family == "auto" and plan.macros[0].dense_skips and len(found[0].families) > 1:
        lines.append(
            f"dense skips have no weights of their own: if it was trained without them, add --family "
            f"{dataclasses.replace(plan.macros[0], dense_skips=False).family}"
        )
    for checkpoint, identity in zip(checkpoints, found, strict=True):
        if identity.stem_stride not in (None, stride):
            lines.append(
                f"warning: {checkpoint.path} was trained with a stem of stride {identity.stem_stride}, here it is "
                f"{stride}, at which its features are of another scale; --stem_stride {identity.stem_stride} with "
                "larger --resolutions fits it"
            )
        if identity.imagenet and not _is_imagenets(dataset.mean, dataset.std):
            mean, deviation = (", ".join(map(str, values)) for values in (_IMAGENET_MEAN, _IMAGENET_STD))
            lines.append(
                f"warning: {checkpoint.path} was trained on images normalised with ImageNet's mean ({mean}) and "
                f"standard deviation ({deviation}); here they are normalised with those of the training images, to "
                "which training has to adapt it"
            )
    return list(dict.fromkeys(lines))


def _described(checkpoint: Checkpoint, identity: Identity) -> str:
    shipped = SHIPPED.get(str(checkpoint.path))
    published = PUBLISHED.get(str(checkpoint.path))
    if published is not None:
        return f"{checkpoint.path} ({published.url}) holds {identity}, trained on {published.trained_on}"
    if shipped is None:
        return f"{checkpoint.path} holds {identity}"
    return (
        f"{shipped.name}, which comes with nat2: {shipped.family} of width {shipped.width}, trained on "
        f"{shipped.trained_on}; --pretrained none begins with random ones"
    )


def _is_imagenets(mean: Sequence[float], std: Sequence[float]) -> bool:
    if len(mean) != len(_IMAGENET_MEAN):
        return False
    pairs = zip((*mean, *std), (*_IMAGENET_MEAN, *_IMAGENET_STD), strict=True)
    return all(abs(one - other) < _CLOSE for one, other in pairs)
