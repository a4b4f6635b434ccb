"""The Wigner-D matrices of a set of edges, built once per forward and shared by all layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fairchem_hdgnn.so3.layout import coefficient_index, degree_index, degrees_and_orders, num_coefficients
from fairchem_hdgnn.so3.wigner import wigner_d


class EdgeRotation:
    """D(R) of each edge, rows ``|m| <= mmax`` up to degree ``lmax``, with cached selections of rows.

    Args:
        frames: rotation matrices that take each edge to the y axis.
        lmax: largest degree.
        mmax: largest order of the rows kept.
    """

    def __init__(self, frames: Float[Tensor, "edges 3 3"], lmax: int, mmax: int) -> None:
        self.lmax, self.mmax = lmax, min(lmax, mmax)
        self._selections = {(self.lmax, self.mmax): wigner_d(frames, self.lmax, self.mmax)}

    def rows(self, lmax: int, mmax: int) -> Float[Tensor, "edges rows coefficients"]:
        """Rows ``|m| <= mmax`` of degrees up to ``lmax``; columns are the full layout up to ``lmax``."""
        mmax = min(lmax, mmax)
        if (lmax, mmax) not in self._selections:
            self._selections[lmax, mmax] = self.selected(lmax, degrees_and_orders(lmax, mmax))
        return self._selections[lmax, mmax]

    def selected(self, lmax: int, rows: Sequence[tuple[int, int]]) -> Float[Tensor, "edges rows coefficients"]:
        """The rows with these (l, m), in this order; columns are the full layout up to ``lmax``."""
        full = self._selections[self.lmax, self.mmax]
        stored = {pair: index for index, pair in enumerate(degrees_and_orders(self.lmax, self.mmax))}
        kept = torch.tensor([stored[pair] for pair in rows], device=full.device)
        return full[..., : num_coefficients(lmax)].index_select(1, kept)

    def subset(self, edges: Int[Tensor, "subset"]) -> EdgeRotation:
        """The same for some of the edges."""
        chosen = object.__new__(EdgeRotation)
        chosen.lmax, chosen.mmax = self.lmax, self.mmax
        chosen._selections = {key: matrix[edges] for key, matrix in self._selections.items()}
        return chosen

    def harmonics(self, lmax: int) -> Float[Tensor, "edges coefficients"]:
        """``S(r)``, the edge's spherical harmonics, 'component' normalised: ``D^T Y(e_y)``."""
        axis_rows = self.rows(lmax, 0)
        scale = (2 * degree_index(lmax, 0) + 1).to(axis_rows) ** 0.5
        spread = torch.zeros(len(scale), num_coefficients(lmax), device=axis_rows.device, dtype=axis_rows.dtype)
        spread[degree_index(lmax), torch.arange(num_coefficients(lmax))] = scale[degree_index(lmax)]
        return torch.einsum("erc,rc->ec", axis_rows, spread)


def kept_rows(lmax: int, mmax: int, device: torch.device) -> Int[Tensor, "rows"]:
    """Positions of the coefficients with ``|m| <= mmax`` in the full layout, on ``device``."""
    return coefficient_index(lmax, mmax).to(device)
