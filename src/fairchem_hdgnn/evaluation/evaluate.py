"""From checkpoints to the table of OC20's papers."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Subset
from tqdm import tqdm

from fairchem_hdgnn.data.splits import has_split, split_source
from fairchem_hdgnn.errors import ConfigError, DataError
from fairchem_hdgnn.evaluation.calibration import Calibration, calibrate
from fairchem_hdgnn.evaluation.calibration_report import calibration_json
from fairchem_hdgnn.evaluation.ensemble import ENSEMBLE, EnsemblePredictions, combine, predict_members
from fairchem_hdgnn.evaluation.inference import InferenceOptions, evenly_spaced, predict_splits
from fairchem_hdgnn.evaluation.metrics import Comparison, compare, constant_baseline, force_errors, has_forces
from fairchem_hdgnn.evaluation.predictions import Predictions, write_predictions
from fairchem_hdgnn.files import complete_or_absent, sha256
from fairchem_hdgnn.host.network_inference import LABELS
from fairchem_hdgnn.host.opening import describe_checkpoint, open_split
from fairchem_hdgnn.host.which import versions

BASELINE = "median baseline"
MAX_BASELINE_LABELS = 20_000
SYSTEM_COLUMNS = ("model", "split", "id", "adsorbate", "elements", "natoms", "energy_eV", "label_eV", "error_eV")
FORCE_COLUMN = "force_mae_eV_per_A"
STD_COLUMNS = ("energy_std_eV", "scaled_energy_std_eV")


@dataclass(frozen=True)
class Evaluation:
    """Predictions of several checkpoints on labelled splits, and their scores.

    Attributes:
        predictions: ``predictions[name][split]``.
        comparison: scores of the checkpoints and of the median baseline.
        notes: sentences printed with the numbers.
        facts: checkpoints, seeds and versions, for the JSON.
        sources: split -> LMDB file or folder.
        dataset_config: settings of the first checkpoint's training set, used to read the LMDBs.
        calibration: of the ensemble, whose predictions are in ``predictions``; ``None`` without one.
    """

    predictions: Mapping[str, Mapping[str, Predictions]]
    comparison: Comparison
    notes: list[str]
    facts: Mapping[str, Any]
    sources: Mapping[str, Path]
    dataset_config: Mapping[str, Any]
    calibration: Calibration | None = None


def evaluate(
    checkpoints: Mapping[str, Path],
    root: Path,
    splits: Sequence[str],
    options: InferenceOptions | None = None,
    *,
    num_resamples: int = 1000,
    frame_draws: int | None = None,
) -> Evaluation:
    """Score checkpoints on the splits under ``root``, next to the median baseline and, if requested, their ensemble.

    Args:
        checkpoints: name -> file.
        root: folder with ``SPLIT/data.lmdb`` or ``SPLIT.lmdb``.
        splits: labelled splits, e.g. ``VALIDATION_SPLITS``.
        options: how predictions are made.
        num_resamples: of the bootstrap behind the 95 % intervals.
        frame_draws: predictions of each member of an ensemble of the checkpoints, each with different random edge
            frames; ``None``: no ensemble.

    Raises:
        DataError: a file is missing, unreadable or has no labels.
        ConfigError: the checkpoints cannot form an ensemble.
    """
    options = options or InferenceOptions()
    sources = {split: split_source(root, split) for split in splits}
    ensemble: dict[str, EnsemblePredictions] = {}
    if frame_draws is None:
        predictions = {name: predict_splits(path, sources, options) for name, path in checkpoints.items()}
    else:
        members = predict_members(list(checkpoints.values()), sources, options, frame_draws)
        predictions = {name: dict(draws[0]) for name, draws in zip(checkpoints, members)}
        ensemble = combine(members)
    first_name, first_path = next(iter(checkpoints.items()))
    for split, of_split in predictions[first_name].items():
        if of_split.target is None:
            raise DataError(
                f"{sources[split]}: not all records have labels to score against; use 'fairchem-hdgnn predict' for "
                "test splits"
            )
    if ensemble:
        predictions[ENSEMBLE] = {split: each.mean for split, each in ensemble.items()}
    described = describe_checkpoint(first_path, trusted=options.trusted)
    dataset_config, target = described.dataset, described.target
    median, note = training_median(root, dataset_config, options)
    with_forces = (each for each in predictions.values() if all(map(has_forces, each.values())))
    baseline = constant_baseline(next(with_forces, predictions[first_name]), median)
    comparison = compare({**predictions, BASELINE: baseline}, num_resamples=num_resamples, seed=options.seed)
    calibration = calibrate(ensemble) if ensemble else None
    notes = [
        f"Intervals: bootstrap over systems, {num_resamples} resamples, 95 %; differences are paired. "
        "They do not cover the spread between training runs.",
        note,
    ]
    if "force_mae" in comparison.scores:
        notes.append(
            "Forces: of free atoms. MAE: mean over atoms and components; cosine: mean over atoms. "
            "The baseline's forces are zero."
        )
    if target.label is None:
        notes.append(
            f"Label: the first of {', '.join(LABELS['energy'])} in the records; the checkpoint does not name it."
        )
    if target.unit != "eV":
        notes.append(f"Label: '{target.label}'. The numbers are in eV, meV and % only if this label is in eV.")
    facts: dict[str, Any] = {
        "checkpoints": {name: str(path) for name, path in checkpoints.items()},
        "sha256": {name: sha256(path) for name, path in checkpoints.items()},
        "data": str(root),
        "options": {**asdict(options), "dtype": "float32", "num_resamples": num_resamples},
        "versions": versions(),
    }
    if calibration:
        draws = f", {frame_draws} draws of edge frames each" if frame_draws != 1 else ""
        notes.append(f"Ensemble: mean of {len(checkpoints)} checkpoint{'s' if len(checkpoints) > 1 else ''}{draws}.")
        facts.update(frame_draws=frame_draws, calibration=calibration_json(calibration))
    return Evaluation(predictions, comparison, notes, facts, sources, dataset_config, calibration)


def training_median(
    root: Path, dataset_config: Mapping[str, Any], options: InferenceOptions
) -> tuple[float | None, str]:
    """Median label of the training set in eV, and a sentence on where it comes from.

    The training set is ``ROOT/train``, else the one named in the checkpoint; of large ones, evenly spaced systems
    are read. Without either, the result is ``None``.
    """
    source = split_source(root, "train") if has_split(root, "train") else dataset_config.get("src")
    if not isinstance(source, (str, Path)) or not source or not Path(source).exists():
        return None, "Median baseline: the median label of each split itself, as no training set was found."
    dataset = open_split(dataset_config, Path(source), options.data_format)
    labels = _labels(dataset, progress=options.progress)
    median = float(np.median(labels))
    of = "" if len(labels) == len(dataset) else f", {len(labels)} of them sampled evenly"
    note = f"Median baseline: always {median:.3f} eV, the median label of {source} ({len(dataset)} systems{of})."
    return median, note


def _labels(dataset: Subset, *, progress: bool) -> list[float]:
    indices = evenly_spaced(len(dataset), MAX_BASELINE_LABELS)
    labels = []
    for index in tqdm(indices, desc="training labels", unit="system", disable=not progress, leave=False):
        record = dataset[index]
        if "energy" not in record:
            raise DataError(f"training set, system {index}: no label, so no median baseline")
        labels.append(float(record.energy))
    return labels


def checkpoint_names(paths: Sequence[Path], names: Sequence[str] | None, *, trusted: bool = False) -> dict[str, Path]:
    """A distinct name for every checkpoint: the given ones, else model and run, e.g. ``HDGNN (2024-...-baseline)``.

    Raises:
        ConfigError: as many names as checkpoints are needed, all different.
    """
    if names:
        if len(names) != len(paths) or len(set(names)) != len(names):
            raise ConfigError(f"--names takes {len(paths)} different names, one for each checkpoint; got {list(names)}")
        folders = [_file_name(name) for name in names]
        for reserved in (BASELINE, ENSEMBLE):
            if _file_name(reserved) in folders:
                raise ConfigError(f"--names: '{reserved}' is reserved for a row of the tables; choose another name")
        if "" in folders or len(set(folders)) < len(folders):
            raise ConfigError(f"--names: {list(names)} must differ in letters and digits: they are folder names")
        return dict(zip(names, paths))
    resolved = [path.resolve() for path in paths]
    twice = [path for position, path in enumerate(paths) if resolved[position] in resolved[:position]]
    if twice:
        raise ConfigError(f"{twice[0]} is given twice")
    models = [describe_checkpoint(path, trusted=trusted).model.rpartition(".")[2] for path in paths]
    found = [_possible_names(model, path) for model, path in zip(models, resolved)]
    chosen = [_shortest_of_its_own(own, [other for other in found if other is not own]) for own in found]
    if len({_file_name(name) for name in chosen}) < len(chosen):
        raise ConfigError(f"{', '.join(chosen)}: too much alike for names of folders; give names with --names")
    return dict(zip(chosen, paths))


def _possible_names(model: str, path: Path) -> list[str]:
    """From short to long: with the run, with run and file, with the folder of the run as well, and so on."""
    longer = ("/".join((*path.parts[-count:-1], path.stem)) for count in range(2, len(path.parts)))
    return [f"{model} ({text})" for text in (path.parent.name, *longer)]


def _shortest_of_its_own(own: Sequence[str], others: Sequence[Sequence[str]]) -> str:
    """The first name whose folder is not that of another checkpoint's name of the same kind."""
    for position, name in enumerate(own):
        if _file_name(name) not in {_file_name(other[min(position, len(other) - 1)]) for other in others}:
            return name
    return own[-1]


def write_systems(evaluation: Evaluation, folder: Path) -> list[Path]:
    """Write every prediction: ``systems.csv`` (one row a system) and fairchem's ``.npz`` per model and split.

    ``systems.csv`` also has the MAE of each system's forces, if there are any, and with an ensemble its standard
    deviations, unscaled and scaled.
    """
    forces = "force_mae" in evaluation.comparison.scores
    scale = evaluation.calibration.scale if evaluation.calibration else None
    written = [folder / "systems.csv"]
    with complete_or_absent(written[0]) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow([*SYSTEM_COLUMNS, *([FORCE_COLUMN] if forces else []), *(STD_COLUMNS if scale else ())])
        for model, of_model in evaluation.predictions.items():
            for split, each in of_model.items():
                facts = [each.ids, each.adsorbate, each.elements, each.natoms, each.energy, each.labels, each.errors]
                if forces:
                    facts.append(force_errors(each) if has_forces(each) else np.full(len(each), ""))
                if scale:
                    std = each.energy_std
                    facts += [np.full(len(each), "")] * 2 if std is None else [std, scale * std]
                writer.writerows([model, split, *row] for row in zip(*facts))
    for model, of_model in evaluation.predictions.items():
        for split, each in of_model.items():
            written.append(folder / "predictions" / _file_name(model) / f"{split}.npz")
            write_predictions(written[-1], each)
    return written


def _file_name(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in name).strip("_")
