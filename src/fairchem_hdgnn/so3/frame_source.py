"""Draws edge frames as a model is configured to, reproducibly."""

from __future__ import annotations

import warnings

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fairchem_hdgnn.so3.frames import FrameMode, edge_frames, random_roll, seeded_roll


class FrameSource(nn.Module):
    """Edge frames for a forward pass.

    In training, ``random`` draws each roll from a generator seeded by (seed, rank, number of draws so far). The
    number is part of the state dict, so a resumed run continues the sequence. In evaluation ``random`` falls back
    to ``seeded``: the same structure always gives the same prediction.

    Args:
        mode: where the roll comes from.
        seed: seed of random and seeded rolls.
        average: number of draws that evaluation averages; 1 draw in training and with fixed frames.
    """

    draws: Tensor

    def __init__(self, mode: FrameMode, seed: int, average: int) -> None:
        super().__init__()
        self.mode, self.seed, self.average = mode, seed, average
        self.register_buffer("draws", torch.zeros((), dtype=torch.long))

    def forward(
        self, edge_vec: Float[Tensor, "edges 3"], species: Int[Tensor, "edges 2"], training: bool
    ) -> list[Float[Tensor, "edges 3 3"]]:
        """One set of frames per draw.

        Warns:
            UserWarning: ``edge_vec`` requires a gradient, which would lack the part that goes through the frames.
        """
        if edge_vec.requires_grad and torch.is_grad_enabled():
            warnings.warn(
                "edge_vec requires a gradient, but none flows through edge frames: what autograd gives is no force",
                stacklevel=3,
            )
        if self.mode is FrameMode.FIXED:
            return [edge_frames(edge_vec)]
        if self.mode is FrameMode.RANDOM and training:
            generator = torch.Generator().manual_seed(self._draw_seed())
            self.draws += 1
            return [edge_frames(edge_vec, random_roll(edge_vec.shape[0], generator, edge_vec))]
        count = 1 if training else self.average
        return [edge_frames(edge_vec, seeded_roll(edge_vec, species, self.seed + draw)) for draw in range(count)]

    def _draw_seed(self) -> int:
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        rank = torch.distributed.get_rank() if distributed else 0
        # Distinct for every rank and draw below 2**20 ranks; torch's generator scrambles the bits itself.
        return (((self.seed << 20) + rank) * 0x9E3779B1 + int(self.draws)) % (1 << 63)
