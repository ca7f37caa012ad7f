"""How messages write counts, lists and what is too long."""

from __future__ import annotations

_LONGEST = 1000  # characters of a line that tells what is wrong


def counted(count: int, noun: str) -> str:
    """A count with its noun, in the plural unless it is one: ``1 image``, ``1,797 images``, ``2 classes``."""
    return f"{count:,} {noun if count == 1 else plural(noun)}"


def plural(noun: str) -> str:
    """The plural of a regular noun."""
    return noun + ("es" if noun.endswith(("s", "x", "ch", "sh")) else "s")


def shortened(message: str) -> str:
    """A message whose lines are of readable length: what was given may be of any."""
    half = _LONGEST // 2  # what is wrong stands at the beginning of a line, and what to do at its end
    return "\n".join(
        line if len(line) <= _LONGEST else f"{line[:half]} ... {line[-half:]}" for line in message.splitlines()
    )


def one_line(error: Exception, most: int | None = None) -> str:
    """What an error says, in a line of at most `most` characters; its kind if it says nothing."""
    return " ".join(str(error).split())[:most] or type(error).__name__
