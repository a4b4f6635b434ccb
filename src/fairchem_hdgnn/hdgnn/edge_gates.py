"""Everything in eq. 11 but the networks: attention, invariant features, and the strictly equivariant terms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from fairchem_hdgnn.so3.layout import degrees_and_orders

if TYPE_CHECKING:
    from fairchem_hdgnn.hdgnn.layer import EdgeSet, MessageBlock


class NeuralGates(NamedTuple):
    """What the networks need of some edges.

    Attributes:
        attention: a_1..a_3 of the learned terms.
        c_single: invariant features of NN_1.
        c_pair: invariant features of NN_2.
    """

    attention: Float[Tensor, "edges three channels"]
    c_single: Float[Tensor, "edges hidden"]
    c_pair: Float[Tensor, "edges hidden"]

    def constants(self, start: int, end: int) -> NeuralGates:
        """Those of the edges ``start:end``, counted from the first one here, without gradients."""
        return NeuralGates(*(t.detach()[start:end] for t in self))


class FullDegreeGate(NamedTuple):
    """The authors' fifth term: in the global frame before its coefficient, and a_5."""

    term: Float[Tensor, "edges coefficients one"]
    attention: Float[Tensor, "edges channels"]


class Gates(NamedTuple):
    """What :class:`EdgeGates` gives for some edges.

    Attributes:
        neural: what the networks need.
        low: a_4 times the equivariant term, edge frame, degrees up to L'.
        full: the fifth term, where there is one.
    """

    neural: NeuralGates
    low: Float[Tensor, "edges low_rows channels"]
    full: FullDegreeGate | None = None

    def tensors(self) -> list[Tensor]:
        """All of them, in order."""
        return [*self.neural, self.low, *(self.full or ())]


class EdgeGates:
    """Computes :class:`Gates` for ranges of a message block's edges.

    Args:
        block: the message block; its message is a ``HybridMessage``.
        edges: edges sorted by target.
    """

    def __init__(self, block: MessageBlock, edges: EdgeSet) -> None:
        message: Any = block.message
        self.attention, self.message, self.edges = block.attention, message, edges
        size, full = message.size, message.full_degree is not None
        mmax = size.lmax if full else size.lmax_metp
        self.rows = edges.rotation.rows(size.lmax, mmax)
        stored, low = degrees_and_orders(size.lmax, mmax), degrees_and_orders(size.lmax, size.lmax_metp)
        self.low_rows = torch.tensor([stored.index(row) for row in low], device=edges.source.device)

    def matrices(self) -> list[Tensor]:
        """Matrices of the equivariant products, which all edges share."""
        return [matrix for product in self._products() for matrix in product.product.matrices()]

    def parameters(self) -> list[Tensor]:
        """Parameters that enter besides :meth:`matrices`."""
        modules = [self.attention, self.message.single_features, self.message.pair_features]
        parameters = [p for module in modules for p in module.parameters()]
        return [*parameters, *(product.bias for product in self._products())]

    def __call__(
        self,
        u_source: Float[Tensor, "nodes coefficients channels_in"],
        u_target: Float[Tensor, "nodes coefficients channels_in"],
        f: Float[Tensor, "nodes invariant"],
        features: Float[Tensor, "edges edge_channels"],
        matrices: list[Tensor],
        start: int,
    ) -> Gates:
        """The gates of the edges from ``start`` on that ``features`` belong to; u is the products' factor."""
        message, edges = self.message, slice(start, start + features.shape[0])
        source, target = self.edges.source[edges], self.edges.target[edges]
        attention = self.attention(f, features, source, target).expand(-1, -1, message.channels)
        neural = NeuralGates(attention[:, :3], message.single_features(features), message.pair_features(features))
        rows = self.rows[edges]
        rotated = _batched_product(rows, u_source.index_select(0, source) + u_target.index_select(0, target))
        if message.full_degree is None:
            low = message.equivariant.product(rotated, matrices)
            return Gates(neural, low * attention[:, 3:4])
        low = message.equivariant.product(rotated.index_select(1, self.low_rows), matrices[:-1])
        product = message.full_degree.product(rotated.mean(dim=-1, keepdim=True), matrices[-1:])
        full = FullDegreeGate(_batched_product(rows.mT, product), attention[:, 4].contiguous())
        return Gates(neural, low * attention[:, 3:4], full)

    def _products(self) -> list[Any]:
        terms = [self.message.equivariant, self.message.full_degree]
        return [term.product for term in terms if term is not None]


def _batched_product(
    matrices: Float[Tensor, "edges rows columns"], u: Float[Tensor, "edges columns c"]
) -> Float[Tensor, "edges rows c"]:
    """``matrices @ u``; torch is several times as fast at vector times matrix as at matrix times vector."""
    return torch.bmm(u.mT, matrices.mT).mT if u.shape[2] == 1 else torch.bmm(matrices, u)
