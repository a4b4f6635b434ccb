"""Strictly equivariant products with an edge's spherical harmonics, evaluated in the edge's frame.

The product ``u (x) S(r)`` over natural-parity paths is diagonal in the order m once u is rotated into the edge
frame (:mod:`fairchem_hdgnn.models.so3.clebsch_gordan`), so it is one small matrix per |m|, or one for all, and no
Clebsch-Gordan sum is ever formed per edge. The result equals e3nn's ``FullyConnectedTensorProduct`` with
``path_normalization='none'``.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from fairchem_hdgnn.models.arithmetic.products import product as exact_product
from fairchem_hdgnn.models.hdgnn.gate import normalised_sigmoid, normalised_silu
from fairchem_hdgnn.models.so3.clebsch_gordan import natural_parity_paths, polar_coupling
from fairchem_hdgnn.models.so3.constants import ConstantsModule
from fairchem_hdgnn.models.so3.layout import degrees_and_orders, num_coefficients


class EdgeProduct(ConstantsModule):
    """``(u (x) S(r))^{l3}_{m, d} = sum_{l1, l2, c} w^{l1 l2 l3}_{c d} CG(u^{l1}_c, S^{l2})`` for l3 <= lmax_out.

    Eq. 7 of the paper with ``channels_in = 1`` (METP, u the mean over channels); its fully connected form (Fully-TP)
    with all channels.

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
            couplings = torch.zeros(l3 + 1, lmax_in + 1, len(paths), dtype=torch.float64)
            for index, path in enumerate(paths):
                for order in range(min(l3, path.l1) + 1):
                    couplings[order, path.l1, index] = polar_coupling(path)[order]
            of_orders = [couplings[order, order:] for order in range(l3 + 1)]
            self.register_constant(f"coupling_{l3}", torch.cat(of_orders))
        rows = degrees_and_orders(lmax_in, lmax_out)
        for order in range(-lmax_out, lmax_out + 1):
            of_order = torch.tensor([index for index, (_, m) in enumerate(rows) if m == order])
            self.register_buffer(f"rows_{order}", of_order, persistent=False)
        grouped = [(l, m) for m in range(-lmax_out, lmax_out + 1) for l in range(max(abs(m), 1), lmax_out + 1)]
        layout = [grouped.index(pair) for pair in degrees_and_orders(lmax_out) if pair[0] > 0]
        self.layout: Tensor
        self.register_buffer("layout", torch.tensor(layout, dtype=torch.long), persistent=False)
        self.joint_positions: Tensor
        self.register_buffer("joint_positions", self._joint_positions(), persistent=False)

    def _joint_positions(self) -> Int64[Tensor, "entries"]:
        """Positions of the entries of the orders' matrices in the flat :meth:`joint_matrix`; empty if there is none."""
        if not self.is_joint:
            return torch.zeros(0, dtype=torch.long)
        columns_of = {
            pair: self.num_scalars + index * self.channels_out + torch.arange(self.channels_out)
            for index, pair in enumerate(pair for pair in degrees_and_orders(self.lmax_out) if pair[0] > 0)
        }
        width = self.num_scalars + len(columns_of) * self.channels_out
        positions = []
        for order in range(-self.lmax_out, self.lmax_out + 1):
            parts = [columns_of[l, order] for l in range(max(abs(order), 1), self.lmax_out + 1)]
            columns = torch.cat([torch.arange(self.num_scalars if order == 0 else 0), *parts])
            positions.append((self._rows(order).unsqueeze(1) * width + columns).flatten())
        return torch.cat(positions)

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
        matrices = self.order_matrices()
        entries = torch.cat([matrices[abs(order)].flatten() for order in range(-self.lmax_out, self.lmax_out + 1)])
        inputs = len(degrees_and_orders(self.lmax_in, self.lmax_out))
        width = self.num_scalars + (num_coefficients(self.lmax_out) - 1) * self.channels_out
        return entries.new_zeros(inputs * width).index_copy(0, self.joint_positions, entries).view(inputs, width)

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
        gate_of_row = [l - 1 for l, _ in degrees_and_orders(lmax_out) if l > 0]
        self.gate_of_row: Tensor
        self.register_buffer("gate_of_row", torch.tensor(gate_of_row, dtype=torch.long), persistent=False)
        self.num_rows = num_coefficients(lmax_out)

    def forward(
        self, rotated: Float[Tensor, "edges rows channels_in"], matrices: list[Tensor] | None = None
    ) -> Float[Tensor, "edges rows_out channels"]:
        """The gated product in the edge frame, full layout up to ``lmax_out``."""
        scalars, higher = self.product(rotated, matrices)
        first, gates = self._gated(scalars)
        return torch.cat([first, higher * gates.index_select(1, self.gate_of_row)], dim=1)

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
        first, gates = self._gated(scalars)
        return torch.cat([first, higher.unflatten(-1, (-1, self.channels)) * gates], dim=1)

    def _gated(
        self, scalars: Float[Tensor, "edges num_scalars"]
    ) -> tuple[Float[Tensor, "edges 1 channels"], Float[Tensor, "edges lmax_out channels"]]:
        """Degree 0 of the result, and the gates of the others."""
        first, gates = (scalars + self.bias).tensor_split([self.channels], dim=-1)
        return normalised_silu(first).unsqueeze(1), normalised_sigmoid(gates).unflatten(-1, (-1, self.channels))
