"""Noisy Nodes (:mod:`fairchem_hdgnn.host.noisy_nodes`) as a transform of fairchem-core 1.10. In a config::

    dataset:
      train:
        transforms:
          noisy_nodes:
            probability: 0.5            # that a structure is moved
            standard_deviation: 0.3     # of the noise, Å

The transform, applied to each record of every split, only adds the target ``displacement``. ``fairchem_hdgnn.Trainer``
moves the structures, in training steps only, so evaluation uses unmodified structures. fairchem has no registry of
transforms: ``format: safe_lmdb`` supports this one, and the trainer adds it to data sets of other formats.
"""

from __future__ import annotations

from typing import Any

from fairchem.core.modules.transforms import DataTransforms
from torch_geometric.data import Data

from fairchem_hdgnn.host.noisy_nodes import TRANSFORM, add_displacement


class Transforms(DataTransforms):
    """fairchem's transforms of a record, followed by ``noisy_nodes``; can be pickled with its data set."""

    def __call__(self, data_object: Data) -> Data:
        """The record, transformed."""
        others = {name: settings for name, settings in (self.config or {}).items() if name != TRANSFORM}
        record = DataTransforms(others)(data_object)
        return record if len(others) == len(self.config or {}) else add_displacement(record)


def teach_transform(dataset: Any) -> None:
    """Add ``noisy_nodes`` to the transforms of a data set of any of fairchem's formats."""
    whole = getattr(dataset, "dataset", dataset)
    if type(getattr(whole, "transforms", None)) is DataTransforms:
        whole.transforms = Transforms(whole.transforms.config)
