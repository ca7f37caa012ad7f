"""Weight sharing: one network that holds the weights of every sub-network of a search space."""

from nat2.supernet.calibrate import calibrate, store_statistics
from nat2.supernet.extract import extract
from nat2.supernet.layers import Normalize, Statistics, normalize_by, normalize_by_batch, normalize_by_stored
from nat2.supernet.network import SuperNetwork, SuperNetworks
from nat2.supernet.static import StaticNetwork

__all__ = [
    "Normalize",
    "StaticNetwork",
    "Statistics",
    "SuperNetwork",
    "SuperNetworks",
    "calibrate",
    "extract",
    "normalize_by",
    "normalize_by_batch",
    "normalize_by_stored",
    "store_statistics",
]
