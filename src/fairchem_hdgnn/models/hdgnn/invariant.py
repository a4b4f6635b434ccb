"""The invariant branch f and the attention that it drives (section 3.2, appendix B.1)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import silu

from fairchem_hdgnn.models.arithmetic.products import linear
from fairchem_hdgnn.models.arithmetic.sums import sum_by_group
from fairchem_hdgnn.models.edges import Edges
from fairchem_hdgnn.models.hdgnn.config import NUM_TERMS, FixedAttention, HDGNNConfig
from fairchem_hdgnn.models.hdgnn.options import Attention, GateInputs
from fairchem_hdgnn.models.ops.edge_ops import EdgeOps
from fairchem_hdgnn.models.so3.constants import ConstantsModule


class InvariantUpdate(nn.Module):
    """``f_i <- SiLU(scale * W sum_j e_ij + f_i)``, e_ij the features of the (near) edges into i."""

    def __init__(self, edge_channels: int, invariant_channels: int, scale: float) -> None:
        super().__init__()
        self.linear = nn.Linear(edge_channels, invariant_channels)
        self.scale = scale

    def forward(
        self,
        f: Float[Tensor, "nodes invariant"],
        edge_features: Float[Tensor, "edges channels"],
        edges: Edges,
    ) -> Float[Tensor, "nodes invariant"]:
        """The next f."""
        summed = sum_by_group(edge_features, edges.target, edges.num_nodes, edges.blocks(None)[0].target_offsets)
        return silu(self.scale * self.linear(summed) + f)


class EdgeAttention(nn.Module):
    """Coefficients a_ij of eq. 11, one per edge, term and channel, from invariants through a two-layer network.

    ``W_2 ReLU(W_e e_ij + W_j f_j + W_i f_i + b_1) + b_2``, of which W_j f_j and W_i f_i are formed once for each atom.

    Args:
        config: chooses inputs and output activation.
        num_terms: terms of the message.
    """

    def __init__(self, config: HDGNNConfig, num_terms: int) -> None:
        super().__init__()
        self.num_terms, self.activation = num_terms, config.attention
        self.sees_branch = config.invariant_branch
        self.sees_edge = config.gate_inputs is GateInputs.BRANCH_AND_EDGE or not config.invariant_branch
        self.widths = [config.edge_channels * self.sees_edge, *[config.invariant_channels * self.sees_branch] * 2]
        inputs = sum(self.widths)
        hidden = max(1, inputs // 4)
        self.first = nn.Linear(inputs, hidden)
        self.second = nn.Linear(hidden, num_terms * config.sphere_channels)

    def node_tensors(self, f: Float[Tensor, "nodes invariant"]) -> dict[str, Tensor]:
        """``W_j f`` and ``W_i f`` of each atom, if the network sees f."""
        if not self.sees_branch:
            return {}
        _, of_source, of_target = self.first.weight.split(self.widths, dim=1)
        return {"attention_source": linear(f, of_source), "attention_target": linear(f, of_target)}

    def forward(
        self, ops: EdgeOps, edge_features: Float[Tensor, "edges edge_channels"], nodes: dict[str, Tensor]
    ) -> Float[Tensor, "edges terms channels"]:
        """The coefficients; sigmoid in (0, 1) or softmax over the terms."""
        hidden = self.first.bias.expand(len(edge_features), -1)
        if self.sees_edge:
            hidden = linear(edge_features, self.first.weight[:, : self.widths[0]], self.first.bias)
        if self.sees_branch:
            hidden = hidden + ops.gather_pair(nodes["attention_source"], nodes["attention_target"])
        logits = self.second(torch.relu(hidden)).unflatten(-1, (self.num_terms, -1))
        return logits.softmax(dim=1) if self.activation is Attention.SOFTMAX else logits.sigmoid()


class FixedEdgeAttention(ConstantsModule):
    """The same constant for every edge and channel, one per term (Table 4); further terms get 1."""

    coefficients: Tensor

    def __init__(self, coefficients: FixedAttention, num_terms: int) -> None:
        super().__init__()
        values = torch.tensor([*coefficients, *[1.0] * (num_terms - NUM_TERMS)], dtype=torch.float64)
        self.register_constant("coefficients", values[:num_terms])

    def node_tensors(self, f: Float[Tensor, "nodes invariant"]) -> dict[str, Tensor]:
        """No tensors."""
        return {}

    def forward(
        self, ops: EdgeOps, edge_features: Float[Tensor, "edges edge_channels"], nodes: dict[str, Tensor]
    ) -> Float[Tensor, "edges terms one"]:
        """The constants, broadcast over edges."""
        values = self.coefficients.to(edge_features.dtype)
        return values.view(1, -1, 1).expand(edge_features.shape[0], -1, 1)
