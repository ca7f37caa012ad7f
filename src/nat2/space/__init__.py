"""Architectures as data: what a sub-network is, which exist, and what each costs. Needs no torch."""

from nat2.space.arch import Arch, Layer
from nat2.space.cost import Cost, CostTable, cost
from nat2.space.macro import Macro
from nat2.space.searchable import IntegerSpace, Searchable
from nat2.space.space import Genomes, SearchSpace

__all__ = [
    "Arch",
    "Cost",
    "CostTable",
    "Genomes",
    "IntegerSpace",
    "Layer",
    "Macro",
    "SearchSpace",
    "Searchable",
    "cost",
]
