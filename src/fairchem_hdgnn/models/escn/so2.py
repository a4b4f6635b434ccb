"""eSCN's SO(2) convolution in the frame of an edge (Passaro & Zitnick, ICML 2023).

Linear maps that commute with turns about the edge multiply ``z = x_m + i x_-m`` by complex weights, which may mix
degrees and channels but not orders. Every Clebsch-Gordan product with the edge's spherical harmonics is of this form.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fairchem_hdgnn.models.ops.edge_ops import Atom, EdgeOps
from fairchem_hdgnn.models.ops.so2 import InnerWeights, num_terms, order_of_term, terms_of_order

ATOMS = (Atom.SOURCE, Atom.TARGET)


class SO2Convolution(nn.Module):
    """A convolution whose weights depend on the edge, in factorised form.

    For each order m, with ``z = x_m + i x_-m`` of each atom and real matrices V, W:
    ``y_m + i y_-m = sum_atoms W_r (s_r * V_r z) + W_i (s_i * V_i i z)``, s = SiLU(linear(edge features)); for m = 0
    only the real term. The complex weights of the whole map are ``W_r diag(s_r) V_r + i W_i diag(s_i) V_i``.

    Args:
        lmax: largest degree.
        mmax: largest order.
        channels: C of inputs and output.
        hidden_channels: H, the rank of each term.
        edge_channels: width of the edge features.
    """

    def __init__(self, lmax: int, mmax: int, channels: int, hidden_channels: int, edge_channels: int) -> None:
        super().__init__()
        self.lmax, self.mmax, self.channels, self.hidden_channels = lmax, mmax, channels, hidden_channels
        self.scale = nn.Linear(edge_channels, num_terms(mmax) * len(ATOMS) * hidden_channels)
        """s for each (term, atom, hidden channel)."""
        self.inner = nn.ParameterList()
        """V for each degree l: [atom, C, (term, H)] of the terms with order <= l."""
        for degree in range(lmax + 1):
            width = num_terms(min(degree, mmax)) * hidden_channels
            self.inner.append(nn.Parameter(torch.empty(len(ATOMS), channels, width)))
        self.outer = nn.ParameterList()
        """W for each order m: [(term of m, atom, H), (degree, C)]."""
        for order in range(mmax + 1):
            shape = (len(terms_of_order(order)) * len(ATOMS) * hidden_channels, (lmax + 1 - order) * channels)
            weight = torch.empty(shape).uniform_(-(hidden_channels**-0.5), hidden_channels**-0.5)
            self.outer.append(nn.Parameter(weight))
        self._initialise_inner()

    @torch.no_grad()
    def _initialise_inner(self) -> None:
        for term in range(num_terms(self.mmax)):
            order = order_of_term(term)
            bound = ((self.lmax + 1 - order) * self.channels) ** -0.5
            columns = slice(term * self.hidden_channels, (term + 1) * self.hidden_channels)
            for degree in range(order, self.lmax + 1):
                self.inner[degree][..., columns].uniform_(-bound, bound)

    def node_tensors(self, degree: int) -> dict[str, Tensor]:
        """The weights that act on x with degrees up to ``degree``."""
        width = num_terms(min(degree, self.mmax)) * len(ATOMS) * self.hidden_channels
        tensors = {"scale": self.scale.weight[:width], "scale_bias": self.scale.bias[:width]}
        for l in range(degree + 1):
            tensors |= {f"inner_{atom.value}_{l}": self.inner[l][index] for index, atom in enumerate(ATOMS)}
        return tensors

    def mixed(
        self, ops: EdgeOps, nodes: Mapping[str, Tensor], atom: Atom, degree: int
    ) -> tuple[Float[Tensor, "edges _signs _term_hidden"], ...]:
        """``V z`` of an atom for each order."""
        of_degrees = tuple(nodes[f"inner_{atom.value}_{l}"] for l in range(degree + 1))
        return ops.gather_mix_rotate(
            nodes["x"], atom, InnerWeights(of_degrees, self.hidden_channels, min(degree, self.mmax))
        )

    def forward(
        self,
        ops: EdgeOps,
        edge_features: Float[Tensor, "edges edge_channels"],
        nodes: Mapping[str, Tensor],
        of_source: tuple[Float[Tensor, "edges _signs _term_hidden"], ...],
        of_target: tuple[Float[Tensor, "edges _signs _term_hidden"], ...],
    ) -> Float[Tensor, "edges rows channels"]:
        """y, rows order by order (:func:`~fairchem_hdgnn.models.ops.so2.rows_by_order`), from ``V z``."""
        gated = ops.gate_orders(of_source, of_target, edge_features, nodes["scale"], nodes["scale_bias"])
        weights = [self.outer[order] for order in range(len(of_source))]
        return ops.join_orders(gated, weights, self.channels, edge_features.dtype)
