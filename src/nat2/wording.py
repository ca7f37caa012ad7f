"""Numbers in messages."""

from __future__ import annotations


def counted(count: int, noun: str) -> str:
    """A count with its noun, in the plural unless it is one: ``1 image``, ``1,797 images``, ``2 classes``."""
    return f"{count:,} {noun if count == 1 else plural(noun)}"


def plural(noun: str) -> str:
    """The plural of a regular noun."""
    return noun + ("es" if noun.endswith(("s", "x", "ch", "sh")) else "s")
