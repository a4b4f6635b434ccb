"""Backbone with output heads on plain tensors: shared by HDGNN and eSCN."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn

from fairchem_hdgnn.models.so3.frame_source import mean_over_draws, warn_of_gradient


class Network(nn.Module):
    """A whole model.

    Args:
        backbone: ``backbone(atomic_numbers, edge_index, edge_vec, edge_frames) -> (x, ...)``, features of each atom, x
            the coefficients; with its source of ``frames``.
        energy_head: ``energy_head(x, ..., batch, num_systems) -> [num_systems]``.
        force_head: ``force_head(x) -> [nodes, 3]``, if forces are predicted.
    """

    def __init__(self, backbone: nn.Module, energy_head: nn.Module, force_head: nn.Module | None) -> None:
        super().__init__()
        self.backbone, self.energy_head, self.force_head = backbone, energy_head, force_head

    def forward(
        self,
        atomic_numbers: Int[Tensor, "nodes"],
        edge_index: Int[Tensor, "2 edges"],
        edge_vec: Float[Tensor, "edges 3"],
        batch: Int[Tensor, "nodes"],
        num_systems: int,
        edge_frames: Float[Tensor, "edges 3 3"] | None = None,
    ) -> dict[str, Tensor]:
        """Predict.

        Args:
            atomic_numbers: below ``max_num_elements``.
            edge_index: row 0 the source j, row 1 the target i of each edge, in any order.
            edge_vec: r_j - r_i with its periodic offset, Å, none of length 0.
            batch: system of each atom.
            num_systems: number of systems.
            edge_frames: rotation matrices R with R r/|r| = (0, 1, 0); drawn as configured if absent.

        Returns:
            ``energy`` [num_systems], eV or the trainer's normalised unit; ``forces`` [nodes, 3], eV/Å, if configured.

        Warns:
            UserWarning: ``edge_vec`` requires a gradient, which would lack the contribution of the frames.
        """
        if edge_frames is not None:
            warn_of_gradient(edge_vec)
            draws = [edge_frames]
        else:
            draw_frames: Any = self.backbone.frames
            draws = draw_frames(edge_vec, atomic_numbers[edge_index.T], self.training)

        def predict(frames: Tensor) -> dict[str, Tensor]:
            features = self.backbone(atomic_numbers, edge_index, edge_vec, frames)
            output = {"energy": self.energy_head(*features, batch, num_systems)}
            if self.force_head is not None:
                output["forces"] = self.force_head(features[0])
            return output

        return mean_over_draws(predict, draws)
