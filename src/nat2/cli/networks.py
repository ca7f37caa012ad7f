"""The verbs for trained networks without a search."""

from __future__ import annotations

import dataclasses

from jsonargparse import ArgumentParser, Namespace


def list_arguments(parser: ArgumentParser) -> None:
    """What `nat2 networks` takes."""
    parser.add_argument("--classes", type=int, default=10, help="number of classes for which costs are counted")
    parser.add_argument("--csv", type=str, default="", help="write the table to this file too")


def create_arguments(parser: ArgumentParser) -> None:
    """What `nat2 create` takes."""
    parser.add_argument("name", type=str, nargs="?", default="", help="a network of the list, instead of a budget")
    parser.add_argument("--classes", type=int, required=True, help="number of classes")
    parser.add_argument("--out", type=str, required=True, help="new folder to write to")
    parser.add_argument("--params", type=str, default="", help="most parameters: 50000 or 50k")
    parser.add_argument("--macs", type=str, default="", help="most multiply-accumulates for one image: 2000000 or 2M")
    parser.add_argument("--resolution", type=int, default=None, help="side of the input in pixels, 32 to 128")
    parser.add_argument("--channels", type=int, default=3, help="channels of the images: 3 for colour, 1 for grey")
    parser.add_argument("--random", action="store_true", help="random weights instead of trained ones")
    parser.add_argument("--seed", type=int, default=0, help="decides the random weights")


def show_networks(given: Namespace) -> None:
    """List the trained networks."""
    from nat2.deploy.answers import check_target, written_to
    from nat2.files import write_csv
    from nat2.shipped import DEFAULT
    from nat2.shipped.networks import described, list_networks, read_table

    check_target(given.csv, ".csv")
    found = list_networks(given.classes)
    print(found)
    print(f"\nsub-networks of {DEFAULT.name}; {described(read_table())}; costs with {given.classes} classes")
    if given.csv:
        with written_to(given.csv, "--csv") as path:
            write_csv(path, [dataclasses.asdict(each) for each in found])
        print(f"{'written':>18}: {given.csv}")
    print(f"{'next':>18}: nat2 create {found[0].name} --classes {given.classes} --out DIR")


def write_network(given: Namespace) -> None:
    """Write a trained network for the user's classes."""
    from nat2.pipeline import create as pipeline
    from nat2.shipped import DEFAULT

    network = pipeline.create(
        given.name,
        classes=given.classes,
        params=given.params or None,
        macs=given.macs or None,
        resolution=given.resolution,
        channels=given.channels,
        pretrained=not given.random,
        seed=given.seed,
    )
    folder, found, expected = pipeline.write_network(network, given.out), network.listed, network.preprocessing
    weights = "random" if given.random else f"trained on {DEFAULT.trained_on}"
    mean, std = (", ".join(f"{value:.3f}" for value in each) for each in (expected.mean, expected.std))
    print(f"{'network':>18}: {found.name}, {found.params:,} parameters, {found.macs:,} multiply-accumulates")
    print(f"{'weights':>18}: {weights}; the classifier for {given.classes} classes is new")
    side = found.resolution
    print(f"{'input':>18}: {side} x {side} pixels, values 0 to 1; normalisation is built in (mean {mean}; std {std})")
    print(f"{'written':>18}: {folder}")
    print(f"{'next':>18}: in Python, network = nat2.load({str(folder)!r}).train(), and your training loop")
