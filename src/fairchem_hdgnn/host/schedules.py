"""What follows from how far a run has come: when it is evaluated and saved, and how much its losses count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fairchem_hdgnn.host.sections import Loss
from fairchem_hdgnn.hyperparameters import key_names, validated


@dataclass(frozen=True)
class Cadence:
    """When a run is evaluated and when it writes a checkpoint.

    Attributes:
        evaluation: steps from one evaluation to the next.
        checkpoint: steps from one checkpoint to the next.
        last_step: the run's last one.
    """

    evaluation: int
    checkpoint: int
    last_step: int

    @classmethod
    def of(cls, optim: Mapping[str, Any], steps_per_epoch: int) -> Cadence:
        """Read the section ``optim``; by default a run is evaluated after each epoch, and a checkpoint written."""
        evaluation = optim.get("eval_every", steps_per_epoch)
        checkpoint = optim.get("checkpoint_every", evaluation)
        return cls(
            evaluation, steps_per_epoch if checkpoint == -1 else checkpoint, optim["max_epochs"] * steps_per_epoch
        )

    def evaluates_at(self, step: int) -> bool:
        """Whether an evaluation is due; at the end too, unlike fairchem: the last steps' training would be lost."""
        return step > 0 and (step % self.evaluation == 0 or step == self.last_step)

    def saves_at(self, step: int) -> bool:
        """Whether a checkpoint is due; before an evaluation too, for it can take long and be interrupted."""
        return step % self.checkpoint == 0 or self.evaluates_at(step)


class LossSchedule:
    """Weights of losses: ``final_coefficient`` beside fairchem's ``coefficient``.

    Coefficients go linearly from ``coefficient`` to ``final_coefficient`` from the first step to the last.

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
