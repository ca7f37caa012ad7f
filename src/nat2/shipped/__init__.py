"""Super-networks that come with nat2, by name; the model card beside each says what it was trained on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from nat2.errors import CheckpointError
from nat2.space.macro import FamilyName


@dataclass(frozen=True, kw_only=True)
class Shipped:
    """A trained super-network in the package."""

    name: str
    family: FamilyName
    width: float
    stem_stride: int
    sides: tuple[int, int]
    """Smallest and largest image side at which it serves."""
    sha256: str
    """Checksum of the file."""
    trained_on: str
    """The images, and their terms."""

    @property
    def path(self) -> Path:
        """The file of weights; half precision, safetensors."""
        return Path(__file__).parent / f"{self.name}.safetensors"

    @property
    def card(self) -> Path:
        """The model card, Markdown."""
        return self.path.with_suffix(".md")

    def verify(self) -> None:
        """Check the file.

        Raises:
            CheckpointError: it is absent, or not the one that nat2 was published with.
        """
        try:
            content = self.path.read_bytes()
        except OSError as error:
            raise CheckpointError(
                f"the weights {self.name} are missing from the package ({self.path}); install nat2 again, or begin "
                "without them: --pretrained none"
            ) from error
        if hashlib.sha256(content).hexdigest() != self.sha256:
            raise CheckpointError(
                f"{self.path} is not the file that nat2 was published with; install nat2 again, or begin without it: "
                "--pretrained none"
            )


DEFAULT = Shipped(
    name="ee_d-w0.5",
    family="EE_D",
    width=0.5,
    stem_stride=2,
    sides=(32, 128),
    sha256="20118b3551d566a15a3919b81360840803e3023061b22cb815892cb3d6424c74",
    trained_on="45,000 images of Tiny ImageNet, which derive from ImageNet: terms of research, not of commerce",
)
"""What a run begins with unless it is told otherwise."""
SHIPPED = {each.name: each for each in (DEFAULT,)}
