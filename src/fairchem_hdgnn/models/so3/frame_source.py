"""Reproducible edge frames as configured for a model, and means over several draws."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fairchem_hdgnn.models.seeds import step_seed
from fairchem_hdgnn.models.so3.frames import FrameMode, edge_frames, random_roll, seeded_roll

Draw = TypeVar("Draw")


def warn_of_gradient(edge_vec: Float[Tensor, "edges 3"]) -> None:
    """Warn if edge vectors require a gradient, which would lack the contribution of the frames."""
    if edge_vec.requires_grad and torch.is_grad_enabled():
        warnings.warn(
            "edge_vec requires a gradient, but none flows through edge frames: autograd's result is not a force",
            stacklevel=4,
        )


class FrameSource(nn.Module):
    """Edge frames for a forward pass.

    In training, ``random`` rolls are a function of (seed, rank, :attr:`step`). In evaluation ``random`` falls back
    to ``seeded``: the same structure always gives the same prediction.

    Args:
        mode: source of the roll.
        seed: seed of random and seeded rolls.
        average: number of draws that evaluation averages; 1 draw in training and with fixed frames.

    Attributes:
        step: training step; each forward pass in training adds 1. Not in the state dict: to resume a training, set it
            with :func:`set_step`, as ``fairchem_hdgnn.Trainer`` does before each batch.
        draw: index of the disjoint set of seeded draws that evaluation uses (:func:`set_draw`); 0 is that of usual
            predictions.
    """

    def __init__(self, mode: FrameMode, seed: int, average: int) -> None:
        super().__init__()
        self.mode, self.seed, self.average = mode, seed, average
        self.step = 0
        self.draw = 0
        self._last: tuple[int, Tensor] | None = None

    def forward(
        self, edge_vec: Float[Tensor, "edges 3"], species: Int[Tensor, "edges 2"], training: bool
    ) -> list[Float[Tensor, "edges 3 3"]]:
        """One set of frames per draw.

        Warns:
            UserWarning: ``edge_vec`` requires a gradient, which would lack the contribution of the frames.

        Raises:
            RuntimeError: torch.utils.checkpoint repeats a training forward pass that is not the last one.
        """
        warn_of_gradient(edge_vec)
        if self.mode is FrameMode.FIXED:
            return [edge_frames(edge_vec)]
        if self.mode is FrameMode.RANDOM and training:
            seed = step_seed("frames", self.seed, self._step_of(edge_vec.detach()))
            return [edge_frames(edge_vec, random_roll(edge_vec.shape[0], seed, edge_vec))]
        first = 0 if training else self.draw * self.average
        count = 1 if training else self.average
        seeds = range(self.seed + first, self.seed + first + count)
        return [edge_frames(edge_vec, seeded_roll(edge_vec, species, seed)) for seed in seeds]

    def _step_of(self, edge_vec: Float[Tensor, "edges 3"]) -> int:
        """The step of this forward pass: a new one, or in torch.utils.checkpoint's backward pass that of the last."""
        # As torch.utils.checkpoint itself tells them apart; there is no public name for it.
        in_backward_pass = torch._C._current_graph_task_id() != -1
        if not in_backward_pass:
            step = self.step
            self._last, self.step = (step, edge_vec), step + 1
            return step
        if self._last is None or not torch.equal(self._last[1], edge_vec):
            raise RuntimeError(
                "torch.utils.checkpoint repeats a forward pass other than the last, whose random frames are not known: "
                "do each backward pass before the next forward pass, or use activations: recompute instead"
            )
        return self._last[0]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # Old checkpoints have the number of draws.
        state_dict.pop(f"{prefix}draws", None)
        super()._load_from_state_dict(state_dict, prefix, *args)


def set_step(model: nn.Module, step: int) -> None:
    """Use the random frames of ``step`` in the next training forward pass."""
    for module in model.modules():
        if isinstance(module, FrameSource):
            module.step = step


def set_draw(model: nn.Module, draw: int) -> None:
    """Use the ``draw``-th set of seeded frames in evaluation; no two sets share a seed."""
    for module in model.modules():
        if isinstance(module, FrameSource):
            module.draw = draw


def mean_over_draws(predict: Callable[[Draw], dict[str, Tensor]], draws: Iterable[Draw]) -> dict[str, Tensor]:
    """The mean of each output of ``predict`` over draws of frames."""
    outputs = [predict(draw) for draw in draws]
    return {name: torch.stack([output[name] for output in outputs]).mean(0) for name in outputs[0]}
