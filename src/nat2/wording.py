"""How messages write counts, lists and what is too long."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

_LONGEST = 1000  # characters of a line of an error message


def counted(count: int, noun: str) -> str:
    """A count with its noun, in the plural unless it is one: ``1 image``, ``1,797 images``, ``2 classes``."""
    return f"{count:,} {noun if count == 1 else plural(noun)}"


def plural(noun: str) -> str:
    """The plural of a regular noun."""
    return noun + ("es" if noun.endswith(("s", "x", "ch", "sh")) else "s")


def shown(names: Iterable[str], most: int = 5) -> str:
    """The first few of some names, and how many more there are: ``a, b and 3 more``."""
    listed = list(names)
    return ", ".join(listed[:most]) + f" and {len(listed) - most} more" * (len(listed) > most)


def first_few(parts: Sequence[str], most: int, *, separator: str = ", ") -> str:
    """The first few parts of a list that goes on: ``a, b, ...``."""
    return separator.join([*parts[:most], *(["..."] if len(parts) > most else [])])


def shortened(message: str) -> str:
    """A message whose lines are of readable length: what was given may be of any."""
    half = _LONGEST // 2  # the beginning of a line says what is wrong, its end what to do
    return "\n".join(
        line if len(line) <= _LONGEST else f"{line[:half]} ... {line[-half:]}" for line in message.splitlines()
    )


def one_line(error: Exception, most: int | None = None) -> str:
    """What an error says, in a line of at most `most` characters; its kind if it says nothing."""
    return " ".join(str(error).split())[:most] or type(error).__name__
