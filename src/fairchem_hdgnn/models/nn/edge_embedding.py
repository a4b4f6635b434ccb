"""Invariant features of an edge: its two elements and its length."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import silu


class EdgeEmbedding(nn.Module):
    """``SiLU(W SiLU(E_source[z_j] + E_target[z_i] + W_d g(d)))`` (SCN; Zitnick et al., 2022).

    Args:
        num_centres: size of the distance basis g.
        channels: width of the output.
        num_elements: rows of the element embeddings; atomic numbers are below it.
    """

    def __init__(self, num_centres: int, channels: int, num_elements: int) -> None:
        super().__init__()
        self.distance = nn.Linear(num_centres, channels)
        self.source = nn.Embedding(num_elements, channels)
        self.target = nn.Embedding(num_elements, channels)
        self.output = nn.Linear(channels, channels)
        nn.init.uniform_(self.source.weight, -1e-3, 1e-3)
        nn.init.uniform_(self.target.weight, -1e-3, 1e-3)

    def forward(
        self,
        basis: Float[Tensor, "edges centres"],
        source_number: Int[Tensor, "edges"],
        target_number: Int[Tensor, "edges"],
    ) -> Float[Tensor, "edges channels"]:
        """Edge features from the distance basis and the two atomic numbers."""
        hidden = self.distance(basis) + self.source(source_number) + self.target(target_number)
        return silu(self.output(silu(hidden)))
