"""Weights of losses that change during training: ``final_coefficient`` beside fairchem's ``coefficient``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fairchem_hdgnn.host.sections import Loss
from fairchem_hdgnn.hyperparameters import key_names, validated


class LossSchedule:
    """Coefficients that go linearly from ``coefficient`` to ``final_coefficient`` from the first step to the last.

    Args:
        settings: ``loss_functions`` of a configuration, e.g.
            ``[{displacement: {fn: l2mae, coefficient: 15, final_coefficient: 1}}]``.

    Raises:
        ConfigError: a coefficient is no number, or negative.
    """

    def __init__(self, settings: Sequence[Mapping[str, Mapping[str, Any]]]) -> None:
        self._ends: list[tuple[float, float]] = []
        for entry in settings:
            for target, loss in entry.items():
                keys = {name: value for name, value in loss.items() if name in key_names(Loss)}
                weights = validated(Loss, keys, f"loss_functions.{target}")
                final = weights.final_coefficient
                self._ends.append((weights.coefficient, weights.coefficient if final is None else final))

    def apply(self, loss_functions: Sequence[tuple[str, dict[str, Any]]], progress: float) -> None:
        """Set the coefficients in fairchem's list of losses.

        Args:
            loss_functions: in the order of the settings.
            progress: share of the training that is over, in [0, 1].
        """
        for (_, loss), (first, last) in zip(loss_functions, self._ends):
            loss["coefficient"] = first + min(max(progress, 0.0), 1.0) * (last - first)
