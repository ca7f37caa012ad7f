"""Super-network weights in and out: our own files (safetensors) and the published OFA and OFAv2 layouts.

Nothing here unpickles code.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from nat2.errors import CheckpointError
from nat2.space.macro import MAX_DEPTH
from nat2.supernet.network import SuperNetwork

_COUNTER = "num_batches_tracked"  # torch counts a norm's batches; nothing here depends on it
_PLACES = (
    (r"(?:head_stage\.)?first_conv\.", "stem."),
    (r"head_stage\.first_layer\.", "stem.block."),
    (r"blocks\.(?P<block>\d+)\.", "{block}"),
    (r"body_stages\.(?P<stage>\d+)\.layers\.(?P<layer>\d+)\.", "stages.{stage}.{layer}."),
    (r"exit_stages\.(?P<exit>\d+)\.", "exits.{exit}."),
    (r"exit_stage\.", "exits.5."),
    (r"(?=final_expand_layer|feature_mix_layer|classifier)", "exits.5."),
)
_PARTS = (
    (r"(?:conv|mobile_inverted_conv)\.inverted_bottleneck\.", "expand"),
    (r"(?:conv|mobile_inverted_conv)\.depth_conv\.se\.fc\.", "se."),
    (r"(?:conv|mobile_inverted_conv)\.depth_conv\.", "depthwise"),
    (r"(?:conv|mobile_inverted_conv)\.point_linear\.", "project"),
    (r"final_expand_layer\.", "expand"),
    (r"feature_mix_layer\.", "mix"),
    (r"classifier\.(?:linear\.)?", "classifier."),
)


def from_published(name: str) -> str | None:
    """Our name of a tensor in an OFA or OFAv2 checkpoint; None for counters that carry nothing.

    Raises:
        CheckpointError: the name belongs to neither layout.
    """
    if name.endswith(_COUNTER):
        return None
    for pattern, place in _PLACES:
        match = re.match(pattern, name)
        if match is None:
            continue
        groups = {key: int(value) for key, value in match.groupdict().items()}
        if "block" in groups:
            stage, layer = divmod(groups["block"] - 1, MAX_DEPTH)
            place = "stem.block." if groups["block"] == 0 else f"stages.{stage}.{layer}."
        if "exit" in groups:
            groups["exit"] += 1
        return place.format(**groups) + _published_part(name, name[match.end() :])
    raise CheckpointError(f"a tensor of an OFA or OFAv2 checkpoint is expected; got the name {name!r}")


def _published_part(name: str, rest: str) -> str:
    """Our name of a tensor inside its block, given what follows the block's own name."""
    part = ""
    for pattern, ours in _PARTS:
        match = re.match(pattern, rest)
        if match is not None:
            part, rest = ours, rest[match.end() :]
            break
    matrix = re.fullmatch(r"conv\.(7to5|5to3)_matrix", rest)
    if matrix is not None:
        return f"{part}.matrix_{matrix[1]}"
    if part.endswith("."):
        return part + rest
    match = re.fullmatch(r"(conv|bn)(?:\.\1)?\.(\w+)", rest)
    if match is None:
        raise CheckpointError(f"a tensor of an OFA or OFAv2 checkpoint is expected; got the name {name!r}")
    if not part:
        return f"{match[1]}.{match[2]}"  # the stem's own convolution and norm
    return f"{part}.{match[2]}" if match[1] == "conv" else f"{part}_bn.{match[2]}"


def load_published(network: SuperNetwork, state: Mapping[str, Tensor]) -> None:
    """Read weights in the OFA or OFAv2 layout into a super-network of the same family, width and classes.

    Raises:
        CheckpointError: a tensor is missing, unknown, or of another shape; all of them are named.
    """
    ours = {ours: tensor for name, tensor in state.items() if (ours := from_published(name)) is not None}
    load_weights(network, ours)


def load_weights(network: torch.nn.Module, state: Mapping[str, Tensor]) -> None:
    """Read weights under our own names; a 1x1 kernel fits the linear layer of its size.

    Raises:
        CheckpointError: a tensor is missing, unknown, or of another shape; all of them are named.
    """
    expected = network.state_dict()
    given = {name: tensor for name, tensor in state.items() if name in expected or not name.endswith(_COUNTER)}
    problems = [f"missing {name}" for name in expected.keys() - given.keys() if not name.endswith(_COUNTER)]
    problems += [f"unknown {name}" for name in given.keys() - expected.keys()]
    for name in expected.keys() & given.keys():
        if expected[name].numel() != given[name].numel() or expected[name].shape[:2] != given[name].shape[:2]:
            problems.append(
                f"{name} has shape {tuple(given[name].shape)}, the network's is {tuple(expected[name].shape)}"
            )
    if problems:
        shown = "; ".join(sorted(problems)[:10]) + ("; ..." if len(problems) > 10 else "")
        raise CheckpointError(f"the weights do not fit the network in {len(problems)} tensors: {shown}")
    with torch.no_grad():
        for name, tensor in given.items():
            expected[name].copy_(tensor.reshape(expected[name].shape))
