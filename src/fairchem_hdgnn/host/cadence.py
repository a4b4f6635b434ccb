"""Steps after which a run is evaluated and its state written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


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
