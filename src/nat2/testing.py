"""Checks for search spaces of your own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, get_args

import numpy as np

from nat2.errors import SpaceError
from nat2.seeds import numpy_generator
from nat2.space.searchable import Searchable
from nat2.space.space import FeatureKind, Genomes, Sampling
from nat2.wording import counted


def check_space(space: Searchable[Any], *, samples: int = 200, seed: int = 0) -> None:
    """Check that a search space keeps the laws that a search relies on, on random genomes.

    Args:
        space: The space.
        samples: Number of random genomes.
        seed: Decides which.

    Raises:
        SpaceError: naming each law that is broken, with an example.
    """
    broken = []
    for law in (_bounds, _canonical, _samples, _architectures, _keys, _features):
        try:
            broken += list(law(space, samples, seed))
        except Exception as error:  # a method that fails breaks the law that needs it
            broken.append(f"{law.__name__.strip('_')}: {type(error).__name__}: {error}")
        if broken and law is _bounds:
            break  # nothing else can be tried
    if broken:
        name, laws = type(space).__name__, counted(len(broken), "law")
        raise SpaceError("\n- ".join([f"{name} breaks {laws} of a search space:", *broken]))


def _drawn(space: Searchable[Any], samples: int, seed: int) -> Genomes:
    """Random genomes within the bounds, most of them not canonical, and both ends."""
    generator = numpy_generator(seed, "check space")
    drawn = generator.integers(space.lower, space.upper + 1, size=(samples, len(space.lower)))
    return np.concatenate([drawn, [space.lower], [space.upper]])


def _bounds(space: Searchable[Any], samples: int, seed: int) -> Iterator[str]:
    lower, upper = np.asarray(space.lower), np.asarray(space.upper)
    if lower.ndim != 1 or lower.shape != upper.shape or not lower.size:
        yield f"`lower` and `upper` have the same shape (genes,); got {lower.shape} and {upper.shape}"
    elif not (np.issubdtype(lower.dtype, np.integer) and np.issubdtype(upper.dtype, np.integer)):
        yield f"`lower` and `upper` are integers; got {lower.dtype} and {upper.dtype}"
    elif (lower > upper).any():
        gene = int(np.argmax(lower > upper))
        yield f"`lower` is nowhere above `upper`; gene {gene} has {lower[gene]} and {upper[gene]}"


def _canonical(space: Searchable[Any], samples: int, seed: int) -> Iterator[str]:
    drawn = _drawn(space, samples, seed)
    before = drawn.copy()
    once = np.asarray(space.canonical(drawn))
    if not (drawn == before).all():
        yield "`canonical` does not change its argument"
    if once.shape != before.shape or not np.issubdtype(once.dtype, np.integer):
        yield f"`canonical` keeps the shape and gives integers; got {once.shape} {once.dtype} from {before.shape}"
        return
    outside = ((once < space.lower) | (once > space.upper)).any(axis=1)
    yield from _example(outside, "`canonical` stays within `lower` and `upper`", before, once)
    twice = np.asarray(space.canonical(once.copy()))
    yield from _example((twice != once).any(axis=1), "`canonical` changes nothing the second time", once, twice)
    alone = np.concatenate([np.asarray(space.canonical(row[None].copy())) for row in before])
    yield from _example((alone != once).any(axis=1), "`canonical` treats each genome by itself", before, once)


def _samples(space: Searchable[Any], samples: int, seed: int) -> Iterator[str]:
    for sampling in get_args(Sampling):
        drawn, again = (
            np.asarray(space.sample(samples, numpy_generator(seed, "sample"), sampling=sampling)) for _ in range(2)
        )
        if drawn.shape != (samples, len(space.lower)):
            yield f"`sample({samples})` gives shape ({samples}, {len(space.lower)}); got {drawn.shape}"
            return
        if not (drawn == again).all():
            yield f"`sample` draws from its generator alone; {sampling} sampling gave two results for the same one"
        changed = np.asarray(space.canonical(drawn.copy()))
        yield from _example((changed != drawn).any(axis=1), "`sample` draws canonical genomes", drawn, changed)


def _architectures(space: Searchable[Any], samples: int, seed: int) -> Iterator[str]:
    drawn = _drawn(space, samples, seed)
    canonical = np.asarray(space.canonical(drawn.copy()))
    archs = [space.decode(genome) for genome in drawn]
    encoded = np.stack([np.asarray(space.encode(arch)) for arch in archs])
    yield from _example((encoded != canonical).any(axis=1), "`encode` of `decode` is `canonical`", drawn, encoded)
    same = [space.decode(genome) for genome in canonical]
    unequal = np.array([one != other or hash(one) != hash(other) for one, other in zip(archs, same, strict=True)])
    yield from _example(unequal, "genomes with the same canonical form decode to equal objects", drawn, canonical)
    yield from _distinct("different canonical genomes decode to different architectures", canonical, lambda n: archs[n])


def _keys(space: Searchable[Any], samples: int, seed: int) -> Iterator[str]:
    canonical = np.unique(np.asarray(space.canonical(_drawn(space, samples, seed))), axis=0)
    archs = [space.decode(genome) for genome in canonical]
    keys = [space.key(arch) for arch in archs]
    if wrong := [key for key in keys if not isinstance(key, str)]:
        yield f"`key` gives a string; got {wrong[0]!r}"
        return
    yield from _distinct("different architectures have different keys", canonical, lambda n: keys[n])
    for arch, key in zip(archs, keys, strict=True):
        if (parsed := space.parse(key)) != arch:
            yield f"`parse` of `key` is the architecture; {arch!r} has the key {key!r}, which is parsed as {parsed!r}"
            return


def _features(space: Searchable[Any], samples: int, seed: int) -> Iterator[str]:
    canonical = np.asarray(space.canonical(_drawn(space, samples, seed)))
    for kind in get_args(FeatureKind):
        seen = np.asarray(space.features(canonical, kind))
        if seen.ndim != 2 or len(seen) != len(canonical):
            yield f"`features` gives shape (n, features); got {seen.shape} for {len(canonical)} genomes ({kind})"
            continue
        if not np.isfinite(seen).all():
            yield f"`features` gives finite numbers; {kind} features are not"
        few = np.asarray(space.features(canonical[:2], kind))
        if few.shape != (2, seen.shape[1]) or not np.allclose(few, seen[:2], equal_nan=True):
            yield f"`features` of a genome do not depend on the others; {kind} features do"


def _example(wrong: Any, law: str, given: Genomes, got: Genomes) -> Iterator[str]:
    """The law with the first row that breaks it."""
    if np.any(wrong):
        row = int(np.argmax(wrong))
        yield f"{law}; {given[row].tolist()} gives {got[row].tolist()}"


def _distinct(law: str, canonical: Genomes, name: Callable[[int], Any]) -> Iterator[str]:
    """The law with the first two genomes that break it."""
    first: dict[Any, list[int]] = {}
    for number, genome in enumerate(canonical.tolist()):
        before = first.setdefault(name(number), genome)
        if before != genome:
            yield f"{law}; {before} and {genome} both give {name(number)!r}"
            return
