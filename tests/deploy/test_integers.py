"""What is simulated in 8 bits is what the interpreter of a device would answer."""

from __future__ import annotations

import torch

from nat2.deploy.integers import error_in_integers
from nat2.space import Arch, Macro
from tests.deploy.networks import images_for, random_network

MACRO = Macro(classes=3, width=0.25, stem_stride=1)
MODEL = random_network(MACRO, Arch.from_key("r13-w0.25-k3e3.k5e4"))


def test_the_error_is_the_share_of_answers_that_rounding_changes() -> None:
    images = MODEL.normalize(images_for(MODEL, 64))
    with torch.no_grad():
        exact = MODEL.network(images).argmax(1)
    error = error_in_integers(MODEL.network, images[:32], torch.split(images, 20), exact)
    assert error < 0.2
    assert error_in_integers(MODEL.network, images[:32], torch.split(images, 20), (exact + 1) % 3) >= 1 - error


def test_the_network_stays_as_it_is() -> None:
    images = MODEL.normalize(images_for(MODEL, 32))
    before = {name: values.clone() for name, values in MODEL.network.state_dict().items()}
    error_in_integers(MODEL.network, images, [images], torch.zeros(32, dtype=torch.int64))
    assert all(torch.equal(values, before[name]) for name, values in MODEL.network.state_dict().items())
