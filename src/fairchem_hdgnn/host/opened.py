"""Interface of an opened checkpoint for evaluation, whichever fairchem wrote it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch_geometric.data import Batch, Data

RANDOM_HEADS = {"readout_init": "random"}
"""Key of a model with random weights whose outputs are compared: by default its heads start at 0."""


class OpenedModel(ABC):
    """A model and the settings of its data.

    Attributes:
        model: the model in float32; its outputs are in the unit used in training.
        scale: ``unit`` per unit of the model's output for a whole structure.
        unit: of that output, as in :attr:`fairchem_hdgnn.host.targets.Target.unit`.
        dataset: how records are read; for ``open_split``.
        batch_size: systems per batch in evaluation.
    """

    model: nn.Module
    scale: float
    unit: str
    dataset: Mapping[str, Any]
    batch_size: int

    @abstractmethod
    def collate(self, records: list[Data]) -> Batch:
        """Collate records into a batch on the CPU."""


class OpenedCheckpoint(OpenedModel):
    """A model ready to predict.

    Attributes:
        outputs: names of its outputs, such as ``energy`` and ``forces``.
    """

    outputs: Sequence[str]

    @abstractmethod
    def seed(self, seed: int) -> None:
        """Seed every random number generator."""

    @abstractmethod
    def predict(self, batch: Batch) -> Mapping[str, Tensor]:
        """Predict ``energy`` [systems], eV, and ``forces`` [atoms, 3], eV/Å, if they are among the outputs."""
