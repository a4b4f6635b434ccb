"""Score predictions on QM9 in the units of the literature, next to a mean predictor and published results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fairchem_hdgnn.data.npz import read_npz
from fairchem_hdgnn.data.qm9 import MOLECULES_FILE
from fairchem_hdgnn.data.qm9_molecules import Molecules
from fairchem_hdgnn.data.qm9_records import SPLIT_SIZES
from fairchem_hdgnn.data.qm9_targets import PUBLISHED_MAE, TARGETS, Target
from fairchem_hdgnn.errors import DataError


@dataclass(frozen=True)
class Score:
    """Errors of one target on molecules of one split, in ``target.published_unit``.

    Attributes:
        target: Which property.
        split: Which split the molecules belong to.
        num_molecules: How many.
        mae: Mean absolute error.
        standard_error: Of ``mae``, over molecules.
        mean_predictor_mae: Error of the training set's mean on the same molecules.
    """

    target: Target
    split: str
    num_molecules: int
    mae: float
    standard_error: float
    mean_predictor_mae: float


def score(predictions: Path, data: Path) -> list[Score]:
    """Score a prediction file of fairchem (``*_predictions.npz``: ``ids`` and one array a target).

    Args:
        predictions: The file.
        data: Folder that ``prepare-qm9`` wrote.

    Raises:
        DataError: a file cannot be read, an id is unknown or occurs twice, or the molecules are not all of one split.
    """
    arrays = _load(predictions)
    path = data / MOLECULES_FILE
    if not path.is_file():
        raise DataError(f"{path}: no such file; run fairchem-hdgnn prepare-qm9 {data}, or give the folder with --data")
    stored = read_npz(path)
    molecules, splits = Molecules.of(stored), {name: stored[name] for name in SPLIT_SIZES}
    rows = _rows(predictions, arrays["ids"], molecules)
    split = next((name for name, members in splits.items() if np.isin(rows, members).all()), None)
    if split is None:
        raise DataError(f"{predictions}: its molecules do not all belong to one split of {data}")
    targets = molecules.targets()
    scores = []
    for column, target in enumerate(TARGETS.values()):
        if target.name not in arrays:
            continue
        truth = targets[rows, column]
        predicted = arrays[target.name].reshape(-1).astype(np.float64)
        if len(predicted) != len(rows) or not np.isfinite(predicted).all():
            raise DataError(
                f"{predictions}: '{target.name}' is not one finite number for each of {len(rows)} ids; predict again"
            )
        errors = target.published_factor * np.abs(predicted - truth)
        baseline = target.published_factor * np.abs(targets[splits["train"], column].mean() - truth)
        standard_error = errors.std() / np.sqrt(len(errors))
        scores.append(
            Score(target, split, len(rows), float(errors.mean()), float(standard_error), float(baseline.mean()))
        )
    if not scores:
        raise DataError(f"{predictions}: contains none of the targets {', '.join(TARGETS)}")
    return scores


def _load(predictions: Path) -> dict[str, np.ndarray]:
    arrays = read_npz(predictions)
    if "ids" not in arrays:
        raise DataError(f"{predictions}: has no 'ids'; give the *_predictions.npz in the run's results folder")
    if any(values.dtype == np.float16 for values in arrays.values()):
        raise DataError(
            f"{predictions}: float16 rounds predictions by more than the errors; set prediction_dtype: float32"
        )
    return arrays


def _rows(predictions: Path, ids: np.ndarray, molecules: Molecules) -> np.ndarray:
    # NumPy, like Python, would read "1_0", a frame of OC20, as 10.
    strange = ids[~np.char.isdigit(ids.astype(str))]
    if len(strange):
        raise DataError(
            f"{predictions}: id {strange[0]} is not the number of a molecule; give the predictions of a QM9 run"
        )
    if len(ids) == 0:
        raise DataError(f"{predictions}: has no molecules")
    numbers = np.char.lstrip(ids.astype(str), "0")
    _, first, counts = np.unique(numbers, return_index=True, return_counts=True)
    if len(first) < len(ids):
        twice = ids[first[counts > 1][0]]
        raise DataError(f"{predictions}: molecule {twice} occurs {counts[counts > 1][0]} times; predict again")
    # More digits than the largest index has would not fit into an int64.
    wanted = np.array([int(each) if len(each) < 18 else -1 for each in ids.astype(str)])
    rows = np.searchsorted(molecules.index, wanted).clip(max=len(molecules) - 1)
    unknown = ids[molecules.index[rows] != wanted]
    if len(unknown):
        raise DataError(f"{predictions}: molecule {unknown[0]} is not in the prepared data set")
    return rows


def table(scores: Sequence[Score]) -> str:
    """A Markdown table with one row per target."""
    lines = [
        f"| target | unit | molecules | MAE | mean predictor | {' | '.join(PUBLISHED_MAE)} |",
        "| --- " * (5 + len(PUBLISHED_MAE)) + "|",
    ]
    for entry in scores:
        published = " | ".join(f"{row[entry.target.name]:g}" for row in PUBLISHED_MAE.values())
        lines.append(
            f"| {entry.target.symbol} | {entry.target.published_unit} | {entry.num_molecules:,} {entry.split} | "
            f"{entry.mae:.4g} ± {entry.standard_error:.2g} | {entry.mean_predictor_mae:.4g} | {published} |"
        )
    return "\n".join(lines)
