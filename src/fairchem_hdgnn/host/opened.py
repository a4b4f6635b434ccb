"""What evaluation needs of a checkpoint that has been opened, whichever fairchem it is of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch_geometric.data import Batch, Data


class OpenedModel(ABC):
    """A model with the data that it is for.

    Attributes:
        model: in float32; outputs in the unit that it is trained in.
        energy_unit: eV per unit of the model's energy.
        dataset: how records are read; for ``open_split``.
        batch_size: systems in a batch of evaluation.
    """

    model: nn.Module
    energy_unit: float
    dataset: Mapping[str, Any]
    batch_size: int

    @abstractmethod
    def collate(self, records: list[Data]) -> Batch:
        """Records as a batch on the CPU."""


class OpenedCheckpoint(OpenedModel):
    """A model ready to predict.

    Attributes:
        outputs: names of what it predicts, such as ``energy`` and ``forces``.
    """

    outputs: Sequence[str]

    @abstractmethod
    def seed(self, seed: int) -> None:
        """Seed every generator of random numbers."""

    @abstractmethod
    def predict(self, batch: Batch) -> Mapping[str, Tensor]:
        """``energy`` [systems], eV, and ``forces`` [atoms, 3], eV/Å, where they are among the outputs."""
