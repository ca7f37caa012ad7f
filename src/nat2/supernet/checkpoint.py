"""Weights in and out: under our own names, and in the layouts in which OFA and OFAv2 publish theirs.

Nothing here unpickles code. The published layouts hold the same tensors under other names, of which several spellings
are in circulation; `published_names` gives the current one, and all of them can be read:

- ``ofa``: ``first_conv``, ``blocks.N``, ``final_expand_layer``, ``feature_mix_layer``, ``classifier``;
- ``ofav2``: ``head_stage``, ``body_stages.S.layers.L`` (``layers_blocks.L.B`` with parallel blocks), ``exit_stage`` or
  ``exit_stages.I``.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from nat2.errors import CheckpointError
from nat2.files import write_atomic
from nat2.space.macro import MAX_DEPTH, STAGES
from nat2.supernet.network import SuperNetwork
from nat2.supernet.static import StaticNetwork
from nat2.supernet.weights import read_checkpoint as read_checkpoint
from nat2.wording import first_few

Layout = Literal["ofa", "ofav2"]

_COUNTER = "num_batches_tracked"  # torch's counter of batches in a batch norm, which nothing here uses
_MBCONV = {
    "expand": "conv.inverted_bottleneck.conv",
    "expand_bn": "conv.inverted_bottleneck.bn",
    "depthwise": "conv.depth_conv.conv",
    "depthwise_bn": "conv.depth_conv.bn",
    "se": "conv.depth_conv.se.fc",
    "project": "conv.point_linear.conv",
    "project_bn": "conv.point_linear.bn",
}
_BESIDE = {
    "conv": "1.conv",
    "conv_bn": "1.bn",
    "transform": "2.conv1x1",
    "transform_bn": "2.transformation.0",
}
_EXIT = {
    "expand": "final_expand_layer.conv",
    "expand_bn": "final_expand_layer.bn",
    "mix": "feature_mix_layer.conv",
    "classifier": "classifier.linear",
}


def write_published(path: Path | str, network: SuperNetwork | StaticNetwork, *, layout: Layout | None = None) -> None:
    """Write a file that the OFA or OFAv2 tools read: ``{"state_dict": published_state(network)}``.

    Raises:
        CheckpointError: the layout cannot hold the family.
    """
    content = {"state_dict": published_state(network, layout=layout)}
    write_atomic(Path(path), lambda temporary: torch.save(content, temporary))


def published_state(network: SuperNetwork | StaticNetwork, *, layout: Layout | None = None) -> dict[str, Tensor]:
    """The weights under their published names and shapes, in the OFA layout if the network is one of OFA's.

    Raises:
        CheckpointError: the layout cannot hold the family.
    """
    weights, published = network.state_dict(), {}
    default: Layout = "ofa" if _is_ofa(network) else "ofav2"
    for ours, name in published_names(network, layout=layout or default).items():
        tensor = weights[ours].detach().contiguous()
        published[name] = tensor[:, :, None, None] if ".mix." in ours else tensor
        if name.endswith("running_var"):
            published[name.removesuffix("running_var") + _COUNTER] = torch.zeros((), dtype=torch.int64)
    return published


def load_published(network: SuperNetwork | StaticNetwork, state: Mapping[str, Tensor]) -> list[str]:
    """Read weights in a published layout, any of its spellings, into a network of the same family and width.

    Another number of input channels is adapted (the first convolution's weights are averaged over the channels, and
    scaled to the same sum), another number of classes leaves the classifiers as they are, and the weights of the
    largest static network make a super-network whose kernel transforms are the identity. A super-network with early
    exits takes body and last exit from one with a single exit; its other exits keep their initial weights.

    Returns:
        What was adapted or is not from `state`, one line each.

    Raises:
        CheckpointError: a tensor is missing, unknown, or of another shape; all of them are named, nothing is read.
    """
    plain = {one_spelling(name) for name in state}
    single = _single_exit(network) or not any(name.startswith("exit_stages.") for name in plain)
    layouts: tuple[Layout, ...] = ("ofav2",)
    if single and not network.macro.parallel_blocks:  # dense skips have no weights
        layouts = ("ofav2", "ofa")
    names = max(
        (dict(_names(network, layout, single=single)) for layout in layouts),
        key=lambda each: sum(one_spelling(name) in plain for name in each.values()),
    )
    ours_of = {one_spelling(name): ours for ours, name in names.items()}
    given: dict[str, Tensor] = {}
    problems = []
    for name, tensor in state.items():
        ours = ours_of.get(one_spelling(name))
        if ours in given:
            problems.append(f"{name} under two spellings")
        elif ours is not None:
            given[ours] = tensor
        elif not name.endswith(_COUNTER):
            problems.append(f"unknown {name}")
    notes = _fit(network, given)
    load_weights(network, given, names=names, problems=problems)
    return notes


def load_pretrained(network: SuperNetwork, state: Mapping[str, Tensor]) -> list[str]:
    """Read weights under our own names or published ones; see `load_published` for what may differ.

    Returns:
        What was adapted or is not from `state`, one line each.

    Raises:
        CheckpointError: a tensor is missing, unknown, or of another shape; all of them are named, nothing is read.
    """
    if "stem.conv.weight" not in state:
        return load_published(network, state)
    given = dict(state)
    notes = _fit(network, given)
    load_weights(network, given)
    return notes


def _fit(network: SuperNetwork | StaticNetwork, given: dict[str, Tensor]) -> list[str]:
    """Adapt what is allowed to differ in `given`, in place, and list what was adapted."""
    own, notes = network.state_dict(), []
    given_exits = {name.split(".")[1] for name in given if name.startswith("exits.")}
    if isinstance(network, SuperNetwork) and given_exits == {str(STAGES)} and (new := [*network.exits][:-1]):
        given |= {name: own[name] for number in new for name in own if name.startswith(f"exits.{number}.")}
        notes.append(f"exits {', '.join(new)}: absent (a network with a single exit); left as initialised")
    matrices = [name for name in own if ".matrix_" in name]
    if matrices and not any(name in given for name in matrices):
        given |= {name: torch.eye(len(own[name])) for name in matrices}
        notes.append("kernel transforms: absent (a static network), set to the identity")
    stem = given.get("stem.conv.weight")
    channels = network.macro.channels
    if stem is not None and stem.dim() == 4 and stem.shape[1] not in (0, channels):
        scale = stem.shape[1] / channels
        given["stem.conv.weight"] = stem.float().mean(1, keepdim=True).expand(-1, channels, -1, -1) * scale
        notes.append(f"first convolution: adapted from {stem.shape[1]} to {channels} input channels")
    classes = network.macro.classes
    replaced: dict[int, list[str]] = {}
    doubled = dataclasses.replace(network.macro, doubled_exit_widths=True)
    for number in network.exits:
        expand = given.get(f"exits.{number}.expand.weight")
        channels = doubled.exit_shape(int(number)).expand_channels
        if expand is not None and len(expand) == channels != network.macro.exit_shape(int(number)).expand_channels:
            given |= {name: tensor for name, tensor in own.items() if name.startswith(f"exits.{number}.")}
            notes.append(f"exit {number}: its channels are multiplied by the width twice; left as initialised")
            continue
        pair = [f"exits.{number}.classifier.{field}" for field in ("weight", "bias")]
        rows = {given[name].shape[:1] for name in pair if name in given}
        if len(rows) == 1 and rows != {(classes,)} and all(name in given for name in pair):
            given |= {name: own[name] for name in pair}
            replaced.setdefault(rows.pop()[0], []).append(number)
    for other, exits in replaced.items():
        of = f"classifier of exit {exits[0]}" if len(exits) == 1 else f"classifiers of exits {', '.join(exits)}"
        notes.append(f"{of}: {other} classes, not {classes}; left as initialised")
    return notes


def load_weights(
    network: torch.nn.Module,
    state: Mapping[str, Tensor],
    *,
    names: Mapping[str, str] | None = None,
    problems: Iterable[str] = (),
) -> None:
    """Read weights under our own names; a 1x1 kernel fits the linear layer of its size.

    Args:
        network: Changed in place.
        state: A tensor for each of the network's.
        names: Names of our tensors in error messages, if not their own.
        problems: Further problems, reported with the rest.

    Raises:
        CheckpointError: a tensor is missing, unknown, of another shape, or not of finite numbers; all of them are
            named, nothing is read.
    """
    names = names or {}
    expected = network.state_dict()
    given = {name: tensor for name, tensor in state.items() if name in expected or not name.endswith(_COUNTER)}
    missing = [name for name in expected.keys() - given.keys() if not name.endswith(_COUNTER)]
    problems = [*problems, *(f"missing {names.get(name, name)}" for name in missing)]
    problems += [f"unknown {name}" for name in given.keys() - expected.keys()]
    for name in expected.keys() & given.keys():
        shape, wanted = tuple(given[name].shape), tuple(expected[name].shape)
        if shape != wanted and shape != (*wanted, 1, 1) and wanted != (*shape, 1, 1):
            problems.append(f"{names.get(name, name)} has shape {shape}, the network's is {wanted}")
        elif expected[name].is_floating_point() and not (
            given[name].is_floating_point() and bool(torch.isfinite(given[name]).all())
        ):
            problems.append(f"{names.get(name, name)} is not of finite numbers")
    if problems:
        shown = first_few(sorted(problems), 10, separator="; ")
        raise CheckpointError(f"the weights do not fit the network in {len(problems)} tensors: {shown}")
    with torch.no_grad():
        for name, tensor in given.items():
            expected[name].copy_(tensor.reshape(expected[name].shape))


def published_names(network: SuperNetwork | StaticNetwork, *, layout: Layout) -> dict[str, str]:
    """The published name of each tensor of a network, by our own.

    Raises:
        CheckpointError: the layout cannot hold the family.
    """
    if layout == "ofa" and not _is_ofa(network):
        raise CheckpointError(f"the layout `ofa` cannot hold the family {network.macro.family}; use `ofav2`")
    return dict(_names(network, layout))


def _is_ofa(network: SuperNetwork | StaticNetwork) -> bool:
    """Whether OFA's tools can build the same network: only the last exit, no dense skips, no parallel blocks."""
    macro = network.macro
    return list(network.exits) == [str(STAGES)] and not macro.dense_skips and not macro.parallel_blocks


def _single_exit(network: SuperNetwork | StaticNetwork) -> bool:
    return len(network.exits) == 1


def _names(
    network: SuperNetwork | StaticNetwork, layout: Layout, *, single: bool | None = None
) -> Iterable[tuple[str, str]]:
    """Our names and the published ones; with `single`, those of a network that has the last exit alone."""
    single = _single_exit(network) if single is None else single
    elastic = isinstance(network, SuperNetwork)
    depths = [MAX_DEPTH] * STAGES if isinstance(network, SuperNetwork) else network.arch.depths
    for name in network.state_dict():
        if name.endswith(_COUNTER):
            continue
        room, *place, part, field = name.split(".")
        if "se" in place:
            place.remove("se")
            part, field = "se", f"{part}.{field}"
        if room == "stem" and place:
            published = ("head_stage.first_layer." if layout == "ofav2" else "blocks.0.") + _MBCONV[part]
        elif room == "stem":
            published = ("head_stage." if layout == "ofav2" else "") + f"first_conv.{part}"
        elif room == "exits":
            if single and place[0] != [*network.exits][-1]:
                continue
            number = "exit_stage." if single else f"exit_stages.{int(place[0]) - 1}."
            published = (number if layout == "ofav2" else "") + _EXIT[part]
        else:
            stage, layer = int(place[0]), int(place[1])
            if layout == "ofa":
                published = f"blocks.{1 + sum(depths[:stage]) + layer}."
            else:
                published = f"body_stages.{stage}.layers{'_blocks' * network.macro.parallel_blocks}.{layer}."
            if part in _BESIDE:
                published += _BESIDE[part]
            else:
                published += "0." * network.macro.parallel_blocks + _MBCONV[part]
                if field.startswith("matrix_"):
                    field = f"{field.removeprefix('matrix_')}_matrix"
                elif elastic and part != "se":
                    published += published[published.rindex(".") :]  # OFA wraps elastic modules once more
        yield name, f"{published}.{field}"


def one_spelling(name: str) -> str:
    """A published name in the normalised spelling; our own names are unchanged."""
    name = name.removeprefix("module.").replace("mobile_inverted_conv.", "conv.")
    name = re.sub(r"classifier\.(linear\.)+", "classifier.", name)
    return re.sub(r"(?<=\.)(conv|bn)\.\1\.", r"\1.", name)
