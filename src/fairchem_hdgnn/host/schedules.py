"""Schedules over a training run: evaluations, checkpoints and weights of losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fairchem_hdgnn.host.sections import Loss
from fairchem_hdgnn.hyperparameters import key_names, validated


def rising_fraction(pct_start: float, total_steps: int) -> float:
    """The fraction of a one-cycle schedule in which the rate rises, for torch's ``OneCycleLR``.

    Where it is exactly one step, torch divides by zero; a little more gives the lowest rate at that step, and then the
    highest.
    """
    return pct_start * (1 + 1e-9) if pct_start * total_steps == 1 else pct_start


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
        """Read the section ``optim``; the default is an evaluation and a checkpoint after each epoch."""
        evaluation = optim.get("eval_every", steps_per_epoch)
        checkpoint = optim.get("checkpoint_every", evaluation)
        return cls(
            evaluation, steps_per_epoch if checkpoint == -1 else checkpoint, optim["max_epochs"] * steps_per_epoch
        )

    def evaluates_at(self, step: int) -> bool:
        """Whether an evaluation is due; also at the end, unlike fairchem, so that the last steps count."""
        return step > 0 and (step % self.evaluation == 0 or step == self.last_step)

    def saves_at(self, step: int) -> bool:
        """Whether a checkpoint is due; also before an evaluation, which can take long and be interrupted."""
        return step % self.checkpoint == 0 or self.evaluates_at(step)


class LossSchedule:
    """Weights of losses: ``final_coefficient`` in addition to fairchem's ``coefficient``.

    Coefficients change linearly from ``coefficient`` at the first step to ``final_coefficient`` at the last.

    Args:
        settings: ``loss_functions`` of a config, e.g.
            ``[{displacement: {fn: l2mae, coefficient: 15, final_coefficient: 1}}]``.

    Raises:
        ConfigError: a coefficient is not a number, or negative.
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
            progress: fraction of the training that is done, in [0, 1].
        """
        for (_, loss), (first, last) in zip(loss_functions, self._ends):
            loss["coefficient"] = first + min(max(progress, 0.0), 1.0) * (last - first)
