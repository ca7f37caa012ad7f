"""The sub-networks of a shipped super-network that are worth taking: their measurements and batch-norm statistics.

The table is stored next to the weights and carries their checksum; ``benchmarks/networks.py`` makes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path

from torch import Tensor

from nat2.errors import CheckpointError, ConfigError
from nat2.files import load_tensors, save_tensors
from nat2.shipped import DEFAULT, Shipped
from nat2.space import Arch, Macro, cost
from nat2.tables import Row, TableList
from nat2.wording import counted, first_few

NAMED_FOR = 10
"""Classes with which the parameters in a network's name are counted."""


@dataclass(frozen=True, kw_only=True)
class ListedNetwork:
    """A trained sub-network that `nat2.create` can return."""

    name: str
    """E.g. ``51k-48px``: parameters with 10 classes, and the resolution at which it was measured."""
    resolution: int
    """Side of the square input image in pixels."""
    params: int
    """Trainable parameters, with the classifier for the requested number of classes."""
    macs: int
    """Multiply-accumulates for one image."""
    accuracy: float
    """Top-1 accuracy on held-out images of Tiny ImageNet (200 classes), 0 to 1."""
    key: str
    """The architecture; `nat2.Arch.from_key` reads it."""


class ListedNetworks(TableList[ListedNetwork]):
    """The listed networks, those with the fewest parameters first."""

    def rows(self) -> list[Row]:
        """What each costs, and how accurate it is on Tiny ImageNet."""
        return [
            {
                "network": each.name,
                "pixels": str(each.resolution),
                "params": f"{each.params:,}",
                "MACs": f"{each.macs:,}",
                "Tiny ImageNet %": f"{100 * each.accuracy:.1f}",
            }
            for each in self
        ]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One network as the table stores it."""

    name: str
    key: str
    accuracy: float

    @property
    def arch(self) -> Arch:
        """The architecture."""
        return Arch.from_key(self.key)


@dataclass(frozen=True, kw_only=True)
class NetworkTable:
    """The measured sub-networks of a super-network."""

    weights: str
    """SHA-256 of the weights that were measured."""
    mean: tuple[float, ...]
    """Mean of the training images by channel, in 0..1; inputs are normalised with it."""
    std: tuple[float, ...]
    """Their standard deviation."""
    images: int
    """How many held-out images the accuracies are from."""
    networks: tuple[Measured, ...]
    statistics: Mapping[str, Tensor]
    """By network name: mean and standard deviation of each batch norm, in the order of its modules, one vector."""

    def write(self, path: Path) -> None:
        """Write the table; statistics in half precision."""
        facts = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "statistics"}
        facts["networks"] = [vars(each) for each in self.networks]
        save_tensors(path, {name: tensor.half() for name, tensor in self.statistics.items()}, facts)


def table_of(shipped: Shipped) -> Path:
    """The file of the table."""
    return shipped.path.with_suffix(".networks.safetensors")


@cache
def read_table(shipped: Shipped = DEFAULT) -> NetworkTable:
    """Read the table of a shipped super-network.

    Raises:
        CheckpointError: it is missing or damaged, or belongs to other weights.
    """
    path, again = table_of(shipped), "install nat2 again, or make the table again with benchmarks/networks.py"
    if not path.is_file():
        raise CheckpointError(f"the table of networks {path} is missing; {again}")
    try:
        tensors, facts = load_tensors(path)
        table = NetworkTable(
            weights=str(facts["weights"]),
            mean=tuple(map(float, facts["mean"])),
            std=tuple(map(float, facts["std"])),
            images=int(facts["images"]),
            networks=tuple(Measured(**each) for each in facts["networks"]),
            statistics=tensors,
        )
        if {each.name for each in table.networks} != set(tensors):
            raise ValueError("networks and statistics differ")
    except (CheckpointError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"the table of networks {path} is damaged ({error}); {again}") from error
    if table.weights != shipped.sha256:
        raise CheckpointError(
            f"the table of networks {path} was measured with other weights (SHA-256 {table.weights[:12]}...) than "
            f"those of {shipped.name} ({shipped.sha256[:12]}...), so its statistics do not fit; {again}"
        )
    return table


def listed(classes: int, *, channels: int = 3, resolution: int | None = None) -> ListedNetworks:
    """The networks of the table, with their costs for a number of classes.

    Args:
        classes: Number of classes, at least 2.
        channels: Channels of the images.
        resolution: Side of the images, if not the one at which each network was measured. Then only those that were
            measured at the nearest side are listed.
    """
    macro, table = macro_of(DEFAULT, classes=classes, channels=channels), read_table()
    sides = {each.arch.resolution for each in table.networks}
    if resolution is not None:
        sides = {min(sides, key=lambda side: abs(side - resolution))}
    found = [_listed(each, macro, resolution) for each in table.networks if each.arch.resolution in sides]
    return ListedNetworks(sorted(found, key=lambda each: (each.params, each.macs)))


def _listed(measured: Measured, macro: Macro, resolution: int | None) -> ListedNetwork:
    arch = measured.arch
    arch = Arch(resolution=resolution or arch.resolution, width=arch.width, stages=arch.stages)
    params, macs, _ = cost(macro, arch)
    return ListedNetwork(
        name=measured.name,
        resolution=arch.resolution,
        params=params,
        macs=macs,
        accuracy=measured.accuracy,
        key=arch.key,
    )


def of_name(name: str, classes: int, *, channels: int = 3, resolution: int | None = None) -> ListedNetwork:
    """The network with a name of the table, or with the id or key of an architecture in it; see `listed`.

    Raises:
        ConfigError: there is none.
    """
    macro = macro_of(DEFAULT, classes=classes, channels=channels)
    for each in read_table().networks:
        if name in (each.name, each.key, each.arch.id):
            return _listed(each, macro, resolution)
    names = first_few([each.name for each in listed(classes)], 8)
    raise ConfigError(f"there is no network {name!r}; nat2.list_networks() and `nat2 networks` list them: {names}")


def macro_of(shipped: Shipped, *, classes: int, channels: int = 3) -> Macro:
    """The macro-architecture of a shipped super-network, for images and classes of your own."""
    return Macro.of_family(
        shipped.family, classes=classes, channels=channels, width=shipped.width, stem_stride=shipped.stem_stride
    )


def list_networks(classes: int = NAMED_FOR) -> ListedNetworks:
    """The trained networks that `nat2.create` can return.

    They are the sub-networks of the shipped super-network with the best accuracy for their parameters or for their
    multiply-accumulates at 32, 48 and 64 pixels. The list shows itself as a table;
    ``pandas.DataFrame(nat2.list_networks())`` works too.

    Args:
        classes: Number of classes for which parameters and multiply-accumulates are counted, at least 2.

    Raises:
        ConfigError: fewer than 2 classes.
        CheckpointError: the table is missing, damaged, or belongs to other weights.
    """
    return listed(classes)


def names_of(networks: Sequence[Arch], macro: Macro) -> list[str]:
    """A name for each architecture, no two the same; see `ListedNetwork.name`."""
    names: list[str] = []
    for arch in networks:
        params = cost(macro, arch).params
        size = f"{params / 1e6:.2f}M" if params >= 999_500 else f"{params / 1e3:.0f}k"
        name, number = f"{size}-{arch.resolution}px", 2
        while name in names:
            name, number = f"{size}-{arch.resolution}px-{number}", number + 1
        names.append(name)
    return names


def described(table: NetworkTable) -> str:
    """How the accuracies were measured."""
    return f"accuracy on {counted(table.images, 'held-out image')} of Tiny ImageNet, 200 classes"
