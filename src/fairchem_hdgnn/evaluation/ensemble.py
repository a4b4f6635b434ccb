"""Ensembles: the mean of several checkpoints, and of several draws of edge frames, with their standard deviation.

Of M checkpoints with N draws each, all M N predictions have equal weight (Lakshminarayanan, Pritzel & Blundell, NeurIPS
2017, without their variance of a single network). The law of total variance splits their variance:

    var(E) = var_m(mean_n E_mn)  [between checkpoints]  +  mean_m(var_n E_mn)  [within, of the frames]

Variances are divided by n, not n - 1, so the two parts add up.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Float64

from fairchem_hdgnn.errors import ConfigError, DataError
from fairchem_hdgnn.evaluation.inference import InferenceOptions, predict_splits
from fairchem_hdgnn.evaluation.predictions import Predictions
from fairchem_hdgnn.host.opening import describe_checkpoint

ENSEMBLE = "ensemble"
"""Name of the ensemble's row in tables and of its folder."""

ROUNDING = 1e-5
"""Relative to the spread of a split's energies, or to 1 eV: smaller differences are rounding in the network."""

Draws = Sequence[Mapping[str, Predictions]]
"""``draws[number][split]`` of one checkpoint."""


@dataclass(frozen=True)
class EnsemblePredictions:
    """An ensemble's predictions for one split.

    Attributes:
        mean: mean predictions, with ``energy_std`` and, if the members predict forces, ``forces_std``.
        between: standard deviation of the checkpoints' means over their draws, eV; ``None`` for one checkpoint.
        within: square root of the mean over checkpoints of the variance over draws, eV; ``None`` for one draw.
    """

    mean: Predictions
    between: Float64[np.ndarray, "systems"] | None
    within: Float64[np.ndarray, "systems"] | None

    @property
    def energy_std(self) -> Float64[np.ndarray, "systems"]:
        """Standard deviation over all predictions, eV."""
        parts = [part for part in (self.between, self.within) if part is not None]
        return np.sqrt(np.sum(np.square(parts), axis=0))


def predict_members(
    checkpoints: Sequence[Path], sources: Mapping[str, Path], options: InferenceOptions, num_draws: int
) -> list[Draws]:
    """Predictions of all members: ``result[checkpoint][draw][split]``; draw 0 is the checkpoint's usual prediction.

    Args:
        checkpoints: files.
        sources: name of each split -> LMDB file or folder.
        options: how predictions are made.
        num_draws: predictions per checkpoint, each with different random edge frames.

    Raises:
        ConfigError: there is only one member, a checkpoint is given twice, two have different targets, or all
            draws of one are identical.
        DataError: a prediction is not finite, two checkpoints are identical, or as ``predict_splits``.
    """
    _require_members(checkpoints, num_draws, trusted=options.trusted)
    members: list[Draws] = []
    for path in checkpoints:
        draws: list[Mapping[str, Predictions]] = []
        for draw in range(num_draws):
            draws.append(predict_splits(path, sources, options, draw=draw))
            _require_finite(path, draws[-1])
            if draw == 1 and _same(draws[0], draws[1]):
                raise ConfigError(
                    f"{path}: its predictions do not depend on random frames, so --frame-draws {num_draws} has no "
                    "effect; omit it (draws differ only with frames: random or seeded and a message that is not "
                    "strictly equivariant)"
                )
        for other, of_other in zip(checkpoints, members):
            if _same(of_other[0], draws[0]):
                raise DataError(f"{other} and {path} give the same energies; omit one of them")
        members.append(draws)
    return members


def combine(members: Sequence[Draws]) -> dict[str, EnsemblePredictions]:
    """Mean and spread of the predictions for each split.

    Args:
        members: ``members[checkpoint][draw][split]``, the same number of draws for each checkpoint.

    Raises:
        DataError: their systems differ.
    """
    return {split: _combined([[draw[split] for draw in draws] for draws in members]) for split in members[0][0]}


def _require_members(checkpoints: Sequence[Path], num_draws: int, *, trusted: bool) -> None:
    if len(checkpoints) * num_draws < 2:
        raise ConfigError(
            "--ensemble needs several members: name two or more checkpoints, or give --frame-draws 2 or more"
        )
    pairs = list(itertools.combinations(checkpoints, 2))
    for first, second in pairs:
        if first.resolve() == second.resolve():
            raise ConfigError(f"{second} is given twice; name each member of an ensemble once")
    targets = {path: describe_checkpoint(path, trusted=trusted).target for path in checkpoints}
    for first, second in pairs:
        difference = targets[first].difference(targets[second])
        if difference:
            raise ConfigError(
                f"an ensemble of different targets: {first} {difference[0]}, {second} {difference[1]}; "
                "use checkpoints with the same target"
            )


def _combined(members: Sequence[Sequence[Predictions]]) -> EnsemblePredictions:
    """Mean and spread of one split's predictions, ``members[checkpoint][draw]``."""
    first = members[0][0]
    predictions = [each for draws in members for each in draws]
    if any(not np.array_equal(each.ids, first.ids) for each in predictions):
        raise DataError("the members of the ensemble were run on different systems")
    energy = np.array([[each.energy for each in draws] for draws in members], dtype=np.float64)
    between = energy.mean(1).std(0) if energy.shape[0] > 1 else None
    within = np.sqrt(energy.var(1).mean(0)) if energy.shape[1] > 1 else None
    spread = EnsemblePredictions(first, between, within)
    mean = replace(
        first,
        energy=energy.mean((0, 1)).astype(np.float32),
        energy_std=spread.energy_std.astype(np.float32),
    )
    return replace(spread, mean=_with_forces(mean, predictions))


def _with_forces(mean: Predictions, members: Sequence[Predictions]) -> Predictions:
    """``mean`` with mean and spread of the forces, if all members have forces."""
    forces = [each.forces for each in members if each.forces is not None]
    if len(forces) < len(members):
        return replace(mean, forces=None, target_forces=None, free_atoms=None)
    stacked = np.array(forces, dtype=np.float64)
    spread = np.sqrt(stacked.var(0).sum(-1))
    return replace(mean, forces=stacked.mean(0).astype(np.float32), forces_std=spread.astype(np.float32))


def _require_finite(path: Path, predictions: Mapping[str, Predictions]) -> None:
    for split, each in predictions.items():
        wrong = ~np.isfinite(each.energy)
        if wrong.any():
            raise DataError(
                f"{path}: predicts NaN or infinity, first for system {each.ids[wrong][0]} of {split}; remove it from "
                "the ensemble"
            )


def _same(first: Mapping[str, Predictions], second: Mapping[str, Predictions]) -> bool:
    """Whether two predictions of all splits differ only by rounding, in the network or of total energies to float32."""
    pairs = [(first[split].energy, second[split].energy) for split in first]
    return all(a.shape == b.shape and np.abs(a - b).max() <= _rounding(a) for a, b in pairs)


def _rounding(energy: Float32[np.ndarray, "systems"]) -> float:
    return ROUNDING * max(1.0, float(np.ptp(energy))) + 2 * float(np.spacing(np.abs(energy).max()))
