"""The systems with the largest errors in an evaluation, and their structures from the LMDBs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Int64
from tqdm import tqdm

from fairchem_hdgnn.data.records import record_id
from fairchem_hdgnn.errors import DataError
from fairchem_hdgnn.evaluation.evaluate import Evaluation
from fairchem_hdgnn.evaluation.groups import Models
from fairchem_hdgnn.evaluation.inference import InferenceOptions
from fairchem_hdgnn.evaluation.page.drawings import Drawing, drawing
from fairchem_hdgnn.host.opening import open_split

Drawings = Mapping[str, Mapping[int, Drawing]]
"""``drawings[split][position]``: of the system at that position of the split's predictions."""


def worst_systems(models: Models, most: int) -> dict[str, Int64[np.ndarray, "systems"]]:
    """Positions in each split of the ``most`` systems with the largest errors of each model, ascending."""
    found = {}
    for split in next(iter(models.values())):
        largest = [np.argsort(-np.abs(of_model[split].errors), kind="stable")[:most] for of_model in models.values()]
        found[split] = np.unique(np.concatenate(largest))
    return found


def read_worst(evaluation: Evaluation, options: InferenceOptions, most: int) -> Drawings:
    """The structures of those systems, from the files that the predictions were made from.

    Args:
        evaluation: of checkpoints on LMDBs.
        options: as for the predictions.
        most: systems of each split and model.

    Raises:
        DataError: an LMDB has changed since.
    """
    models = evaluation.predictions
    chosen = worst_systems(models, most)
    found: dict[str, dict[int, Drawing]] = {split: {} for split in chosen}
    total = sum(map(len, chosen.values()))
    with tqdm(total=total, desc="structures", unit="system", disable=not options.progress, leave=False) as progress:
        for split, positions in chosen.items():
            source = evaluation.sources[split]
            dataset = open_split(evaluation.dataset_config, source, options.data_format)
            predictions = next(iter(models.values()))[split]
            for position in positions.tolist():
                record = dataset[int(predictions.records[position])]
                if record_id(record) != str(predictions.ids[position]):
                    raise DataError(f"{source}: has changed since the predictions were made; evaluate again")
                found[split][position] = drawing(record)
                progress.update()
    return found
