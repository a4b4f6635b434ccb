"""One round of message passing."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor, nn

from fairchem_hdgnn.models.edges import Edges
from fairchem_hdgnn.models.escn.config import ESCNConfig
from fairchem_hdgnn.models.escn.message import MessageBlock
from fairchem_hdgnn.models.escn.update import UpdateBlock
from fairchem_hdgnn.models.ops.execution import Execution


@dataclass(frozen=True)
class Graph:
    """Data of a forward pass shared by all layers.

    Attributes:
        atomic_numbers: one per atom.
        basis: distance basis of each edge.
        edges: the edges with their rotations.
        execution: how messages are run.
    """

    atomic_numbers: Int[Tensor, "nodes"]
    basis: Float[Tensor, "edges centres"]
    edges: Edges
    execution: Execution


class Layer(nn.Module):
    """``x -> x + update(x, sum of messages)``; the first layer, whose input is scalars only, has no residual.

    Args:
        config: hyper-parameters.
        first: whether it is the first layer.
        only_scalars: whether the x that it is given has no more than l = 0.
    """

    def __init__(self, config: ESCNConfig, first: bool, only_scalars: bool) -> None:
        super().__init__()
        self.message = MessageBlock(config, only_scalars)
        self.update = UpdateBlock(config)
        self.residual = not first

    def forward(
        self, x: Float[Tensor, "nodes coefficients channels"], graph: Graph
    ) -> Float[Tensor, "nodes all_coefficients channels"]:
        """The next embedding; x has all coefficients, or l = 0 alone in the first layer."""
        message = self.message(x, graph.atomic_numbers, graph.basis, graph.edges, graph.execution)
        update = self.update(x, message, graph.execution)
        return x + update if self.residual else update
