"""Strictly equivariant products with an edge's spherical harmonics, evaluated in the edge's frame.

The product ``u (x) S(r)`` over natural-parity paths is diagonal in the order m once u is rotated into the edge
frame (:mod:`fairchem_hdgnn.models.so3.clebsch_gordan`), so it is one small matrix per |m|, or one for all, and no
Clebsch-Gordan sum is ever formed per edge. The result equals e3nn's ``FullyConnectedTensorProduct`` with
``path_normalization='none'``.
"""

from __future__ import annotations

import itertools

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from fairchem_hdgnn.models.arithmetic.products import product as exact_product
from fairchem_hdgnn.models.ops.edge_ops import EdgeOps
from fairchem_hdgnn.models.ops.gate import gated, gated_scalars
from fairchem_hdgnn.models.so3.clebsch_gordan import natural_parity_paths, polar_coupling
from fairchem_hdgnn.models.so3.constants import ConstantsModule, cached_constants
from fairchem_hdgnn.models.so3.layout import degrees_and_orders, num_coefficients


class EdgeProduct(ConstantsModule):
    """``(u (x) S(r))^{l3}_{m, d} = sum_{l1, l2, c} w^{l1 l2 l3}_{c d} CG(u^{l1}_c, S^{l2})`` for l3 <= lmax_out.

    Eq. 6 of the paper with all channels (Fully-TP), eq. 7 with ``channels_in = 1`` (METP, u the mean over channels);
    both in the edge's frame, eq. 8.

    Args:
        lmax_in: largest degree of u and of the harmonics S.
        lmax_out: largest degree of the result, at most ``lmax_in``.
        channels_in: channels of u.
        channels_out: channels of each degree l3 > 0.
        num_scalars: channels of degree 0.
    """

    def __init__(self, lmax_in: int, lmax_out: int, channels_in: int, channels_out: int, num_scalars: int) -> None:
        super().__init__()
        self.lmax_in, self.lmax_out = lmax_in, lmax_out
        self.channels_in, self.channels_out, self.num_scalars = channels_in, channels_out, num_scalars
        self.weight = nn.ParameterList()
        for l3 in range(lmax_out + 1):
            paths = natural_parity_paths(lmax_in, lmax_in, l3)
            width = num_scalars if l3 == 0 else channels_out
            scale = (len(paths) * channels_in) ** -0.5
            self.weight.append(nn.Parameter(scale * torch.randn(len(paths), channels_in, width)))
        if self.is_joint:
            return
        for l3 in range(lmax_out + 1):
            self.register_constant(f"coupling_{l3}", _order_couplings(lmax_in, l3))
        rows = degrees_and_orders(lmax_in, lmax_out)
        for order in range(-lmax_out, lmax_out + 1):
            of_order = torch.tensor([index for index, (_, m) in enumerate(rows) if m == order])
            self.register_buffer(f"rows_{order}", of_order, persistent=False)
        grouped = [(l, m) for m in range(-lmax_out, lmax_out + 1) for l in range(max(abs(m), 1), lmax_out + 1)]
        layout = [grouped.index(pair) for pair in degrees_and_orders(lmax_out) if pair[0] > 0]
        self.layout: Tensor
        self.register_buffer("layout", torch.tensor(layout, dtype=torch.long), persistent=False)

    def _rows(self, order: int) -> Int64[Tensor, "rows"]:
        """Rows of that order among those of the factor."""
        return getattr(self, f"rows_{order}")

    @property
    def is_joint(self) -> bool:
        """Whether u has so few numbers that one product for all orders, mostly with zeros, beats one for each."""
        return self.channels_in == 1

    def matrices(self) -> list[Tensor]:
        """The matrices for :meth:`forward`: :meth:`joint_matrix` alone, or :meth:`order_matrices`."""
        return [self.joint_matrix()] if self.is_joint else self.order_matrices()

    def order_matrices(self) -> list[Float[Tensor, "inputs outputs"]]:
        """For each order m = 0..lmax_out: the matrix from u's (l1, channel) to the result's (l3, channel)."""
        blocks: list[list[Tensor]] = [[] for _ in range(self.lmax_out + 1)]
        for l3, weight in enumerate(self.weight):
            coupling = getattr(self, f"coupling_{l3}")
            of_degree = exact_product(coupling.to(weight.dtype), weight.flatten(1))
            sizes = [self.lmax_in + 1 - order for order in range(l3 + 1)]
            for order, block in enumerate(of_degree.split(sizes)):
                blocks[order].append(block.reshape(-1, weight.shape[-1]))
        return [torch.cat(of_order, dim=-1) for of_order in blocks]

    def joint_matrix(self) -> Float[Tensor, "inputs outputs"]:
        """All orders in one matrix: from u's rows to the scalars and the result's (row, channel)."""
        first, *others = (weight.flatten(1) for weight in self.weight)
        to_scalars, to_rows = _joint_couplings(self.lmax_in, self.lmax_out, first.dtype, first.device)
        scalars = exact_product(to_scalars, first)
        if not others:
            return scalars
        return torch.cat([scalars, exact_product(to_rows, torch.cat(others)).view(len(scalars), -1)], dim=1)

    def forward(
        self, rotated: Float[Tensor, "edges rows channels_in"], matrices: list[Tensor] | None = None
    ) -> tuple[Float[Tensor, "edges num_scalars"], Float[Tensor, "edges rows_out channels_out"]]:
        """The product in the edge frame.

        Args:
            rotated: D(R) u, rows with ``|m| <= lmax_out`` of degrees up to ``lmax_in``.
            matrices: :meth:`matrices`, if already computed.

        Returns:
            Degree 0, and degrees 1..lmax_out in the full layout (``(lmax_out + 1)**2 - 1`` rows).
        """
        edges = rotated.shape[0]
        matrices = self.matrices() if matrices is None else matrices
        if self.is_joint:
            joint = exact_product(rotated.flatten(1), matrices[0])
            return joint[:, : self.num_scalars], joint[:, self.num_scalars :].unflatten(1, (-1, self.channels_out))
        scalars = rotated.new_zeros(0)
        blocks = []
        for order in range(-self.lmax_out, self.lmax_out + 1):
            of_order = rotated.index_select(1, self._rows(order)).flatten(1)
            product = exact_product(of_order, matrices[abs(order)])
            if order == 0:
                scalars, product = product[:, : self.num_scalars], product[:, self.num_scalars :]
            blocks.append(product.view(edges, product.shape[-1] // self.channels_out, self.channels_out))
        return scalars, torch.cat(blocks, dim=1).index_select(1, self.layout)


def _order_couplings(lmax_in: int, l3: int) -> Float[Tensor, "orders_degrees paths"]:
    """Couplings of order m = 0, 1, ... of the input, degrees l1 from m on, with that of degree l3; float64."""
    paths = natural_parity_paths(lmax_in, lmax_in, l3)
    couplings = torch.zeros(l3 + 1, lmax_in + 1, len(paths), dtype=torch.float64)
    for index, path in enumerate(paths):
        for order in range(min(l3, path.l1) + 1):
            couplings[order, path.l1, index] = polar_coupling(path)[order]
    return torch.cat([couplings[order, order:] for order in range(l3 + 1)])


@cached_constants
def _joint_couplings(
    lmax_in: int, lmax_out: int, dtype: torch.dtype, device: torch.device
) -> tuple[Float[Tensor, "inputs scalar_paths"], Float[Tensor, "inputs_rows_out paths"]]:
    """From the paths' weights to the entries of the joint matrix: those of degree 0, and those of rows (l3, m)."""
    rows = degrees_and_orders(lmax_in, lmax_out)
    paths = [natural_parity_paths(lmax_in, lmax_in, l3) for l3 in range(lmax_out + 1)]
    first_path = list(itertools.accumulate((len(of_degree) for of_degree in paths[1:]), initial=0))
    scalars = torch.zeros(len(rows), len(paths[0]), dtype=torch.float64)
    higher = torch.zeros(len(rows), num_coefficients(lmax_out) - 1, first_path[-1], dtype=torch.float64)
    for l3, of_degree in enumerate(paths):
        for index, path in enumerate(of_degree):
            for order, value in enumerate(polar_coupling(path)):
                for m in {order, -order}:
                    at = rows.index((path.l1, m))
                    if l3 == 0:
                        scalars[at, index] = value
                    else:
                        higher[at, l3 * l3 + l3 + m - 1, first_path[l3 - 1] + index] = value
    return scalars.to(device, dtype), higher.flatten(0, 1).to(device, dtype)


class GatedEdgeProduct(nn.Module):
    """An :class:`EdgeProduct` with bias and gate: SiLU on scalars, each higher degree scaled by a sigmoid.

    Args:
        lmax_in: largest degree of the input.
        lmax_out: largest degree of the result.
        channels_in: channels of the input.
        channels: channels of the result.
    """

    def __init__(self, lmax_in: int, lmax_out: int, channels_in: int, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.product = EdgeProduct(lmax_in, lmax_out, channels_in, channels, (lmax_out + 1) * channels)
        self.bias = nn.Parameter(torch.zeros((lmax_out + 1) * channels))
        self.num_rows = num_coefficients(lmax_out)

    def forward(
        self, rotated: Float[Tensor, "edges rows channels_in"], matrices: list[Tensor] | None = None
    ) -> Float[Tensor, "edges rows_out channels"]:
        """The gated product in the edge frame, full layout up to ``lmax_out``."""
        scalars, higher = self.product(rotated, matrices)
        return gated(scalars, higher, self.bias)

    def weighed(
        self,
        ops: EdgeOps,
        rotated: Float[Tensor, "edges rows channels_in"],
        matrices: list[Tensor],
        a: Float[Tensor, "edges _channels"] | None,
    ) -> Float[Tensor, "edges rows_out channels"]:
        """The same, times attention coefficients of each edge if there are any."""
        if self.product.is_joint:
            return ops.gated_product(rotated.flatten(1), matrices[0], self.bias, self.channels, a)
        low = self(rotated, matrices)
        return low if a is None else low * a.unsqueeze(1)

    def of_scalars(
        self, u: Float[Tensor, "edges channels_in"], matrices: list[Tensor]
    ) -> Float[Tensor, "edges degrees channels"]:
        """The same where the input has only l = 0: then the result has only m = 0, a row for each degree.

        Args:
            u: the input, of several channels.
            matrices: one for each order.
        """
        product = exact_product(u, matrices[0][: u.shape[1]])
        scalars, higher = product.tensor_split([self.product.num_scalars], dim=-1)
        first, gates = gated_scalars(scalars, self.bias, self.channels)
        return torch.cat([first, higher.unflatten(-1, (-1, self.channels)) * gates], dim=1)
