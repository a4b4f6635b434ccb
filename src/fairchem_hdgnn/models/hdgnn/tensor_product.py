"""The strictly equivariant terms of the message: Clebsch-Gordan products with spherical harmonics (eq. 7)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from fairchem_hdgnn.models.edges import rows_up_to
from fairchem_hdgnn.models.hdgnn.edge_product import GatedEdgeProduct
from fairchem_hdgnn.models.hdgnn.options import TensorProduct
from fairchem_hdgnn.models.ops.edge_ops import Atom, EdgeOps


class EquivariantTerm(nn.Module):
    """The strictly equivariant term of eq. 11, ``(x_i + x_j) (x) S(r)`` with a gate, in the edge frame.

    With METP (eq. 7) the factor u is the mean of x over channels; with the fully connected product it is x itself.

    Args:
        lmax: largest degree of x.
        lmax_out: largest degree L' of the result.
        channels: channels of x and of the result.
        kind: which product.
    """

    def __init__(self, lmax: int, lmax_out: int, channels: int, kind: TensorProduct) -> None:
        super().__init__()
        self.lmax, self.lmax_out, self.kind = lmax, lmax_out, kind
        self.rows = rows_up_to(lmax, lmax_out)
        channels_in = 1 if kind is TensorProduct.METP else channels
        self.product = GatedEdgeProduct(lmax, lmax_out, channels_in, channels)

    def factor(
        self, x: Float[Tensor, "nodes coefficients channels"]
    ) -> Float[Tensor, "nodes coefficients channels_in"]:
        """u of an atom."""
        return x.mean(dim=-1, keepdim=True) if self.kind is TensorProduct.METP else x

    def matrices(self) -> list[Tensor]:
        """Matrices shared by all edges."""
        return self.product.product.matrices()

    def rotated(self, ops: EdgeOps, u_source: Tensor, u_target: Tensor) -> Float[Tensor, "edges rows channels_in"]:
        """``D (u_i + u_j)`` from u of the batch's atoms."""
        if self.kind is TensorProduct.METP:
            pair = ops.gather_pair(u_source, u_target).squeeze(-1)
            return ops.rotate_channel(pair, self.rows).unsqueeze(-1)
        source = ops.gather_rotate(u_source, Atom.SOURCE, self.lmax, self.rows)
        return source + ops.gather_rotate(u_target, Atom.TARGET, self.lmax, self.rows)

    def forward(
        self,
        ops: EdgeOps,
        rotated: Float[Tensor, "edges rows channels_in"],
        matrices: list[Tensor],
        a: Float[Tensor, "edges _channels"] | None = None,
    ) -> Float[Tensor, "edges rows_out channels"]:
        """The term, full layout up to ``lmax_out``, times a if given."""
        return self.product.weighed(ops, rotated, matrices, a)


class FullDegreeTerm(nn.Module):
    """The authors' fifth term: one channel of ``mean_C(x_i + x_j) (x) S(r)`` at every degree, gated."""

    def __init__(self, lmax: int) -> None:
        super().__init__()
        self.lmax, self.rows = lmax, rows_up_to(lmax, lmax)
        self.product = GatedEdgeProduct(lmax, lmax, 1, 1)

    def matrices(self) -> list[Tensor]:
        """Matrices shared by all edges."""
        return self.product.product.matrices()

    def rotated(self, ops: EdgeOps, u_source: Tensor, u_target: Tensor) -> Float[Tensor, "edges coefficients one"]:
        """``D (u_i + u_j)`` from the channel means u of the batch's atoms."""
        pair = ops.gather_pair(u_source, u_target).squeeze(-1)
        return ops.rotate_channel(pair, self.rows).unsqueeze(-1)

    def forward(
        self, ops: EdgeOps, rotated: Float[Tensor, "edges coefficients one"], matrices: list[Tensor]
    ) -> Float[Tensor, "edges coefficients"]:
        """The term in the global frame."""
        term = self.product.weighed(ops, rotated, matrices, None).squeeze(-1)
        return ops.rotate_channel_back(term, self.lmax, self.rows)
