"""Files of weights: find and read the tensors in a file. Nothing here unpickles code."""

from __future__ import annotations

import contextlib
import dataclasses
import pickle
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

import safetensors
import torch
from torch import Tensor

from nat2.download import fetch
from nat2.errors import CheckpointError, ConfigError, DownloadError
from nat2.files import load_tensors
from nat2.progress import SILENT, Reporter
from nat2.shipped import SHIPPED
from nat2.shipped.published import PUBLISHED, Published
from nat2.space.macro import Macro
from nat2.validation import user_path

_BY_WIDTH = re.compile(r"model_w([0-9.]+)_state_dict")
_ENTRIES = (
    "state_dict_ema", "model_ema_state_dict", "ema_state_dict", "model_ema", "ema", "state_dict", "model_state_dict",
    "model", "net", "network", "supernet", "weights", "params", "module",
)  # fmt: skip
"""Where training scripts store the weights; averaged weights first, as in timm, because they are better."""
_STEM = re.compile(r"((?:.*?\.)??)(?:(?:head_stage\.)?first_conv|stem)\.conv\.weight")
_NOT_WEIGHTS = {b"<": "a web page", b"version https://git-lfs": "a Git LFS pointer", b"\x1f\x8b": "a gzip archive"}


class _Ignored:
    """Placeholder for values that training scripts store with the weights, which are neither needed nor constructed."""

    def __init__(self, *arguments: object) -> None:
        """Accept any arguments."""

    def __setstate__(self, state: object) -> None:
        """Accept any state."""


_HARMLESS = (
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    "numpy.dtype",
    "numpy.ndarray",
    "argparse.Namespace",
    "pathlib.PosixPath",
    "pathlib._local.PosixPath",
)


@dataclass(frozen=True)
class Checkpoint:
    """The weights in a file."""

    path: Path
    sets: Mapping[float | None, dict[str, Tensor]]
    """By width as the file names it; under None if it holds one set."""
    entry: str = ""
    """The entry of the file that holds the one set; empty if the file is the set."""
    macro: Macro | None = None
    """The macro-architecture, where nat2 wrote it into the file."""

    @property
    def widths(self) -> tuple[float, ...]:
        """The widths that the file names, ascending."""
        return tuple(sorted(width for width in self.sets if width is not None))

    def of(self, width: float | None) -> dict[str, Tensor]:
        """The weights of a width.

        Raises:
            CheckpointError: the file holds several sets and none of this width.
        """
        if None in self.sets:
            return self.sets[None]
        if width not in self.sets:
            raise CheckpointError(
                f"{self.path} holds weights of width {', '.join(map(str, self.widths))}; choose with --width; got "
                f"{width or 'none'}"
            )
        return self.sets[width]


def read_checkpoint(path: Path | str, *, width: float | None = None) -> dict[str, Tensor]:
    """Read the tensors of a ``.safetensors`` file or of a file that torch wrote (``.pth``), whose code never runs.

    Args:
        path: See `open_checkpoint`.
        width: Which set to read if there are several.

    Raises:
        CheckpointError: the file is absent or damaged, holds more than tensors and plain data, or no weights.
    """
    return open_checkpoint(path).of(width)


def open_checkpoint(path: Path | str) -> Checkpoint:
    """Read a ``.safetensors`` file or a file that torch wrote (``.pth``), whose code never runs.

    Args:
        path: The file, or the name of shipped or published weights. The weights may be at the top level, under
            ``state_dict`` or another usual entry, or as NAT2's authors store them, one set per width under
            ``model_w1.0_state_dict``. Prefixes that wrappers add to all names (``module.``, ``model.``) are removed.

    Raises:
        CheckpointError: the file is absent or damaged, holds more than tensors and plain data, or no weights.
        DownloadError: published weights cannot be downloaded.
    """
    if str(path) in PUBLISHED:
        return dataclasses.replace(open_checkpoint(fetch_published(str(path))), path=Path(path))
    if str(path) in SHIPPED:
        shipped = SHIPPED[str(path)]
        shipped.verify()
        return dataclasses.replace(_open_safetensors(shipped.path), path=Path(shipped.name))
    try:
        path = user_path(path, "--pretrained")
    except ConfigError as error:
        raise CheckpointError(str(error)) from error
    head = _head(path)
    if head[8:9] == b"{" or path.suffix == ".safetensors":
        return _open_safetensors(path)
    content = _unpickled(path, head)
    if _is_weights(content):
        return Checkpoint(path, {None: _unwrapped(content)})
    if isinstance(content, Mapping):
        by_width: dict[float | None, dict[str, Tensor]] = {
            float(match[1]): _unwrapped(weights)
            for key, weights in content.items()
            if _is_weights(weights) and (match := _BY_WIDTH.fullmatch(str(key)))
        }
        if by_width:
            return Checkpoint(path, by_width)
        entry, weights = _found(content)
        if weights:
            return Checkpoint(path, {None: _unwrapped(weights)}, entry)
    raise CheckpointError(f"{path} holds no weights: a dictionary of tensors, or one under `state_dict`, is needed")


def fetch_published(name: str, *, progress: Reporter = SILENT) -> Path:
    """The file of published weights in the cache, downloaded if need be.

    Raises:
        DownloadError: it cannot be downloaded, or is not what the name says.
    """
    published = PUBLISHED[name]
    return fetch(published, lambda path: _check_published(published, path), progress=progress)


def _check_published(published: Published, path: Path) -> None:
    try:
        stem = open_checkpoint(path).of(None).get("first_conv.conv.weight")
    except CheckpointError as error:
        raise DownloadError(f"{published.url} is not the checkpoint {published.name}: {error}") from error
    channels = Macro(classes=2, width=published.width).stem_channels
    if stem is None or len(stem) != channels:
        raise DownloadError(
            f"{published.url} is not the checkpoint {published.name}: it holds no super-network of Once-for-All of "
            f"width {published.width}"
        )


def _head(path: Path) -> bytes:
    """The first bytes.

    Raises:
        CheckpointError: it is not a file, or what a failed download leaves instead.
    """
    if path.is_dir():
        files = sorted(path.glob("supernet-w*.safetensors"))
        remedy = f"name a file, e.g. {files[0]}" if files else "name a file"
        raise CheckpointError(f"the checkpoint {path} is a folder; {remedy}")
    if path.exists() and not path.is_file():  # reading a pipe would block
        raise CheckpointError(f"{path} is not a readable checkpoint, but a device")
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except FileNotFoundError as error:
        raise CheckpointError(f"the checkpoint {path} does not exist") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({getattr(error, 'strerror', None) or error})") from error
    for start, what in _NOT_WEIGHTS.items():
        if head.lstrip().startswith(start):
            raise CheckpointError(f"{path} holds {what} instead of weights; download the file itself")
    return head


def _open_safetensors(path: Path) -> Checkpoint:
    try:
        tensors, metadata = load_tensors(path)
    except CheckpointError as error:
        raise CheckpointError(
            f"{path} is damaged, cut short or not a safetensors file; download or copy it again"
        ) from error
    except (safetensors.SafetensorError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path} holds tensors that torch cannot read ({error})") from error
    if not tensors:
        raise CheckpointError(f"{path} holds no weights")
    macro = None
    # A file that is not ours has no metadata; its tensors identify it.
    with contextlib.suppress(KeyError, TypeError, ValueError, ConfigError):
        macro = Macro(**metadata["macro"])
    return Checkpoint(path, {None: _unwrapped(tensors)}, macro=macro)


def _unpickled(path: Path, head: bytes) -> object:
    inert: list[Callable[..., object] | tuple[Callable[..., object], str]] = [
        _Ignored,
        *((_Ignored, name) for name in _HARMLESS),
    ]
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(inert):
            warnings.simplefilter("ignore")  # torch warns about files that it then refuses
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        code = re.search(r"GLOBAL (\S+)", str(error))
        if code or head.startswith((b"PK", b"\x80")):
            named = f", {code[1]}" if code else ""
            raise CheckpointError(
                f"{path} is damaged, or holds more than tensors and plain data{named}: reading it would run its code. "
                "If you trust the file, save its state_dict alone, or as safetensors"
            ) from error
        raise CheckpointError(f"{path} is not a readable checkpoint; {_REMEDY}") from error
    except Exception as error:  # torch raises almost anything on damaged files
        raise CheckpointError(f"{path} is not a readable checkpoint; {_REMEDY}") from error


_REMEDY = "it is damaged, cut short or of another format; .safetensors files and those of torch.save are read"


def _found(content: Mapping[object, object], depth: int = 0) -> tuple[str, Mapping[str, Tensor]]:
    """The weights in what a training script stored, and under which entry; empty if there are none."""
    for entry in _ENTRIES:
        inner = content.get(entry)
        if _is_weights(inner):
            return entry, inner
        if isinstance(inner, Mapping) and depth < 2:
            below, weights = _found(inner, depth + 1)
            if weights:
                return f"{entry}.{below}".rstrip("."), weights
    # A state_dict with other values among its tensors.
    tensors = {key: value for key, value in content.items() if isinstance(value, Tensor)}
    return "", tensors if _is_weights(tensors) and _prefix(tensors) is not None else {}


def _is_weights(content: object) -> TypeGuard[Mapping[str, Tensor]]:
    return (
        isinstance(content, Mapping)
        and len(content) > 0
        and all(isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items())
    )


def _prefix(state: Mapping[str, Tensor]) -> str | None:
    """The common prefix of a super-network's names; None if there is no super-network, or more than one."""
    found = {match[1] for name in state if (match := _STEM.fullmatch(name))}
    return found.pop() if len(found) == 1 else None


def _unwrapped(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names without the prefix of a wrapper (``module.``, ``model.``, ``_orig_mod.``) around the network."""
    prefix = _prefix(state)
    if not prefix:
        return dict(state)
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name != "n_averaged"}
