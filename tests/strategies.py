"""Hypothesis strategies: macro-architectures, search spaces and architectures."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from nat2.space import Arch, Macro, SearchSpace


def macros(*, widths: tuple[float, ...] = (0.35, 0.5, 1.0, 1.2)) -> st.SearchStrategy[Macro]:
    return st.builds(
        Macro,
        classes=st.integers(2, 40),
        channels=st.sampled_from((1, 3, 5)),
        width=st.sampled_from(widths),
        early_exits=st.booleans(),
        dense_skips=st.booleans(),
        parallel_blocks=st.booleans(),
        stem_stride=st.sampled_from((1, 2)),
        doubled_exit_widths=st.booleans(),
    )


@st.composite
def spaces(draw: st.DrawFn) -> SearchSpace:
    early_exits = draw(st.booleans())
    low, high = sorted(draw(st.tuples(st.integers(1, 4), st.integers(1, 4))))
    first, last = sorted(draw(st.tuples(st.integers(1, 5), st.integers(1, 5))))
    parallel = draw(st.booleans())
    return SearchSpace(
        resolutions=draw(st.sampled_from(((32,), (16, 20, 24), (48, 56, 64)))),
        widths=draw(st.sampled_from(((1.0,), (1.0, 1.2)))),
        early_exits=early_exits,
        kernels=draw(st.sampled_from(((3,), (3, 5), (3, 5, 7)))),
        expands=draw(st.sampled_from(((6,), (3, 6), (3, 4, 6)))),
        depths=tuple(range(low, high + 1)),
        exits=tuple(range(first, last + 1)) if early_exits else (),
        parallel_blocks=parallel,
        levels=draw(st.sampled_from(((1, 2, 3), (2, 3), (3,), (1,)))) if parallel else (),
    )


@st.composite
def archs_in(draw: st.DrawFn, space: SearchSpace) -> Arch:
    seed = draw(st.integers(0, 2**32 - 1))
    return space.decode(space.sample(1, np.random.default_rng(seed))[0])
