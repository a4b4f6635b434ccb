"""Ranges of atoms with about the same number of edges."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from fairchem_hdgnn.so3.segments import Segments


@given(counts=st.lists(st.integers(0, 9), max_size=20), size=st.integers(1, 30))
def test_chunks_hold_every_atom_once_and_are_even(counts: list[int], size: int) -> None:
    target = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts, dtype=torch.long))
    segments = Segments(target, len(counts))
    chunks = segments.chunks(size)
    assert [node for first, end in chunks for node in range(first, end)] == list(range(len(counts)))
    edges = [end - start for start, end in map(segments.edge_range, chunks)]
    assert sum(edges) == len(target)
    assert max(edges, default=0) <= size + max(counts, default=0)
