"""The messages that Table 3 compares with eq. 11: linear, one tensor product, and a network without frames."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fairchem_hdgnn.models.arithmetic.precision import Compute
from fairchem_hdgnn.models.edges import rows_up_to
from fairchem_hdgnn.models.hdgnn.config import NUM_TERMS, HDGNNConfig
from fairchem_hdgnn.models.hdgnn.degree_linear import DegreeLinear
from fairchem_hdgnn.models.hdgnn.message import Attention, BlockSize, InvariantFeatures, Nodes, all_of, named
from fairchem_hdgnn.models.hdgnn.options import TensorProduct
from fairchem_hdgnn.models.hdgnn.tensor_product import EquivariantTerm
from fairchem_hdgnn.models.ops.edge_ops import Atom, EdgeOps
from fairchem_hdgnn.models.ops.gated_network import GatedMlp
from fairchem_hdgnn.models.so3.layout import add_low_degrees, num_coefficients


class LinearMessage(nn.Module):
    """Eq. 11 with equivariant linear layers for the networks (Table 3, 'Linear'): strictly equivariant.

    ``D^-1 (Lin(x'') + Lin(x)) = Lin(x)``, so each term is ``V^l (c * U^l x^l)`` with the invariant features c_ij.
    """

    num_terms = NUM_TERMS

    def __init__(self, config: HDGNNConfig, size: BlockSize) -> None:
        super().__init__()
        self.size, self.mmax = size, size.lmax_metp
        channels = config.sphere_channels
        self.width = num_coefficients(size.lmax) * channels
        self.first: Sequence[DegreeLinear] = nn.ModuleList(
            [DegreeLinear(size.lmax, channels, channels) for _ in range(2)]
        )  # type: ignore[assignment]
        self.second = nn.ModuleList([DegreeLinear(size.lmax, channels, channels) for _ in range(2)])
        self.features = nn.ModuleList([InvariantFeatures(config.edge_channels, channels) for _ in range(2)])
        self.equivariant = EquivariantTerm(size.lmax, size.lmax_metp, channels, config.tensor_product)
        self.rows = rows_up_to(size.lmax_metp, size.lmax_metp)

    def node_tensors(self, x_source: Nodes, x_target: Nodes, compute: Compute) -> dict[str, Tensor]:
        """``U x`` of sources, targets and their sum, and the equivariant term's factors u and matrices."""
        first, of_pair = self.first
        tensors = {"U_source": first(x_source), "U_target": first(x_target)}
        # A bias belongs to the sum of both atoms once.
        tensors |= {"U_pair_source": of_pair(x_source), "U_pair_target": of_pair.without_bias(x_target)}
        tensors |= {"u_source": self.equivariant.factor(x_source), "u_target": self.equivariant.factor(x_target)}
        return tensors | named("matrix", self.equivariant.matrices())

    def forward(
        self,
        ops: EdgeOps,
        features: Float[Tensor, "edges edge_channels"],
        attention: Attention,
        nodes: dict[str, Tensor],
    ) -> Float[Tensor, "block_nodes coefficients channels"]:
        """Sums into the block's atoms."""
        a = attention(ops, features).unsqueeze(2)
        hidden = (
            ops.gather(nodes["U_source"], Atom.SOURCE),
            ops.gather(nodes["U_target"], Atom.TARGET),
            ops.gather_pair(nodes["U_pair_source"], nodes["U_pair_target"]),
        )
        messages = torch.zeros_like(hidden[0])
        for term, values in enumerate(hidden):
            c = self.features[term // 2](features).unsqueeze(1)
            messages = messages + a[:, term] * self.second[term // 2](values * c)
        rotated = self.equivariant.rotated(ops, nodes["u_source"], nodes["u_target"])
        low = self.equivariant(ops, rotated, all_of("matrix", nodes), a[:, 3, 0])
        return add_low_degrees(ops.scatter(messages), ops.rotate_scatter(low, self.size.lmax_metp, self.rows))


class FullyConnectedMessage(nn.Module):
    """``a (x_i + x_j) (x) S(r)`` with all channels and degrees (Table 3, 'Fully-TP'): strictly equivariant."""

    num_terms = 1

    def __init__(self, config: HDGNNConfig, size: BlockSize) -> None:
        super().__init__()
        self.mmax, self.lmax = size.lmax, size.lmax
        channels = config.sphere_channels
        self.width = num_coefficients(size.lmax) * channels
        self.features = InvariantFeatures(config.edge_channels, channels)
        self.equivariant = EquivariantTerm(size.lmax, size.lmax, channels, TensorProduct.FULLY_CONNECTED)
        # With one channel a single matrix serves all orders.
        self.only_scalars = size.only_scalars and not self.equivariant.product.product.is_joint
        self.rows = rows_up_to(size.lmax, 0 if self.only_scalars else size.lmax)

    def node_tensors(self, x_source: Nodes, x_target: Nodes, compute: Compute) -> dict[str, Tensor]:
        """x and the product's matrices."""
        if self.only_scalars:
            x_source, x_target = x_source[:, 0], x_target[:, 0]
        return {"x_source": x_source, "x_target": x_target, **named("matrix", self.equivariant.matrices())}

    def forward(
        self,
        ops: EdgeOps,
        features: Float[Tensor, "edges edge_channels"],
        attention: Attention,
        nodes: dict[str, Tensor],
    ) -> Float[Tensor, "block_nodes coefficients channels"]:
        """Sums into the block's atoms."""
        c, matrices = self.features(features), all_of("matrix", nodes)
        if self.only_scalars:
            # A scalar needs no rotation.
            pair = ops.gather_pair(nodes["x_source"], nodes["x_target"])
            in_frame = self.equivariant.product.of_scalars(pair * c, matrices)
        else:
            rotated = self.equivariant.rotated(ops, nodes["x_source"], nodes["x_target"])
            in_frame = self.equivariant(ops, rotated * c.unsqueeze(1), matrices)
        return ops.rotate_scatter(in_frame * attention(ops, features), self.lmax, self.rows)


class UnrestrictedMessage(nn.Module):
    """``a NN([x_i; x_j; S(r)])`` without any frame (Table 3, 'Unrestricted')."""

    num_terms = 1

    def __init__(self, config: HDGNNConfig, size: BlockSize) -> None:
        super().__init__()
        self.mmax, self.lmax = 0, size.lmax
        coefficients = num_coefficients(size.lmax)
        self.width = coefficients * config.sphere_channels
        inputs = 2 * self.width + coefficients
        self.network = GatedMlp(inputs, size.hidden_channels, self.width, config.output_activation)
        self.features = InvariantFeatures(config.edge_channels, size.hidden_channels)

    def node_tensors(self, x_source: Nodes, x_target: Nodes, compute: Compute) -> dict[str, Tensor]:
        """x."""
        return {"x_source": x_source, "x_target": x_target}

    def forward(
        self,
        ops: EdgeOps,
        features: Float[Tensor, "edges edge_channels"],
        attention: Attention,
        nodes: dict[str, Tensor],
    ) -> Float[Tensor, "block_nodes coefficients channels"]:
        """Sums into the block's atoms."""
        x_target = ops.gather(nodes["x_target"], Atom.TARGET)
        x_source = ops.gather(nodes["x_source"], Atom.SOURCE)
        inputs = torch.cat([x_target.flatten(1), x_source.flatten(1), ops.block.harmonics(self.lmax)], dim=-1)
        messages = self.network(inputs, self.features(features)).view_as(x_source)
        return ops.scatter(messages * attention(ops, features))
