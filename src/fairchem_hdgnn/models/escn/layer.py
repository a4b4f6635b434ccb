"""One round of message passing."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from fairchem_hdgnn.models.escn.config import ESCNConfig
from fairchem_hdgnn.models.escn.graph import Graph
from fairchem_hdgnn.models.escn.message import MessageBlock
from fairchem_hdgnn.models.escn.update import UpdateBlock


class Layer(nn.Module):
    """``x -> x + update(x, sum of messages)``; the first layer, which sees scalars only, has no residual.

    Args:
        config: hyper-parameters.
    """

    def __init__(self, config: ESCNConfig) -> None:
        super().__init__()
        self.message = MessageBlock(config)
        self.update = UpdateBlock(config)

    def forward(
        self, x: Float[Tensor, "nodes coefficients channels"], graph: Graph
    ) -> Float[Tensor, "nodes all_coefficients channels"]:
        """The next embedding; x has all coefficients, or l = 0 alone in the first layer."""
        # Under autocast the products are rounded, the embedding that layers add to is not.
        update = self.update(x, self.message(x, graph)).to(x.dtype)
        return x + update if x.shape[1] == update.shape[1] else update
