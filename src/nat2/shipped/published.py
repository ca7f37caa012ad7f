"""Super-networks that others have published, by name: downloaded when they are asked for."""

from __future__ import annotations

from dataclasses import dataclass

from nat2.download import Remote

_OFA = "https://raw.githubusercontent.com/han-cai/files/master/ofa/ofa_nets/ofa_mbv3_d234_e346_k357_w"


@dataclass(frozen=True, kw_only=True)
class Published(Remote):
    """A published super-network."""

    width: float
    """Width multiplier."""
    trained_on: str
    """The images, and their terms."""


PUBLISHED = {
    f"ofa-w{width}": Published(
        name=f"ofa-w{width}",
        url=f"{_OFA}{width}",
        width=width,
        trained_on="ImageNet by the authors of Once-for-All: terms of research, not of commerce",
    )
    for width in (1.0, 1.2)
}
"""Once-for-All on MobileNetV3; the address is that of the authors' code (``ofa.model_zoo``). Checksums of these files
are not published."""
