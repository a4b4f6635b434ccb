"""Checks of a leaderboard file; each problem is reported in one sentence."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Shaped

from fairchem_hdgnn.errors import ConfigError, suggestion
from fairchem_hdgnn.evaluation.expected import ExpectedSystems
from fairchem_hdgnn.evaluation.splits import SUFFIXES

Arrays = Mapping[str, np.ndarray]
Ids = Shaped[np.ndarray, "systems"]

FRAME = re.compile(r"(random)?\d+_\d+")
"""Id of one of OC20's frames; ids of other data may have underscores too."""

KEYS = {"is2re": ("ids", "energy"), "s2ef": ("ids", "energy", "forces", "chunk_idx")}

OFFICIAL_COUNTS = {
    "is2re": {"id": 24_948, "ood_ads": 24_930, "ood_cat": 24_965, "ood_both": 24_985},
    "s2ef": {"id": 999_736, "ood_ads": 999_859, "ood_cat": 999_826, "ood_both": 999_973},
}
"""Systems in OC20's test splits (version 2, February 2021; fairchem's docs/catalysts/datasets/oc20.md)."""

LARGEST_ENERGY = {"is2re": 20.0, "s2ef": 50.0}
"""eV. OC20 keeps relaxed adsorption energies within 10 eV; frames of a relaxation go further."""

SHOWN = 3
"""Names that a message lists, at most."""

LARGEST_FORCE = 100.0
"""eV/Å. OC20's training frames stay below 50."""


def find_problems(
    arrays: Arrays,
    task: str,
    *,
    expected: Mapping[str, ExpectedSystems] | None = None,
    official_counts: bool = True,
) -> list[str]:
    """All faults of a leaderboard file.

    Args:
        arrays: ``{split}_{key}`` for the splits ``id``, ``ood_ads``, ``ood_cat``, ``ood_both``.
        task: ``is2re`` or ``s2ef``.
        expected: the systems of the LMDBs, by split; without them, ids are only checked against one another.
        official_counts: require OC20's number of test systems.
    """
    if task not in KEYS:
        raise ConfigError(f"task '{task}' is unknown{suggestion(task, KEYS)}")
    problems = list(_wrong_keys(arrays, task))
    for suffix in SUFFIXES:
        of_split = {key: arrays[f"{suffix}_{key}"] for key in KEYS[task] if f"{suffix}_{key}" in arrays}
        found = list(_wrong_ids(suffix, of_split, task))
        if not found and "ids" in of_split:
            if expected is not None:
                found += _wrong_systems(suffix, of_split["ids"], expected)
            if official_counts:
                found += _wrong_count(suffix, len(of_split["ids"]), task)
        found += _wrong_energies(suffix, of_split, task)
        if task == "s2ef":
            found += _wrong_forces(suffix, of_split, expected)
        problems += found
    if expected is None:
        problems += _shared_ids(arrays)
    return problems


# === keys ========================================================================================


def _wrong_keys(arrays: Arrays, task: str) -> Iterator[str]:
    if task == "is2re" and any(f"{suffix}_forces" in arrays for suffix in SUFFIXES):
        yield "S2EF given as IS2RE: it has forces; use --task s2ef, or predict with an energy-only model"
        arrays = {key: values for key, values in arrays.items() if not key.endswith(("_forces", "_chunk_idx"))}
    if task == "s2ef" and not any(f"{suffix}_forces" in arrays for suffix in SUFFIXES):
        yield "IS2RE given as S2EF: it has no forces; use --task is2re"
        arrays = {
            **arrays,
            **{f"{suffix}_{key}": np.zeros(0) for suffix in SUFFIXES for key in ("forces", "chunk_idx")},
        }
    for suffix in SUFFIXES:
        missing = [f"{suffix}_{key}" for key in KEYS[task] if f"{suffix}_{key}" not in arrays]
        if len(missing) == len(KEYS[task]):
            yield f"{suffix}: the whole split is missing ({', '.join(missing)})"
        elif missing:
            yield f"{suffix}: missing {', '.join(missing)}"
    known = {f"{suffix}_{key}" for suffix in SUFFIXES for key in KEYS[task]}
    unknown = sorted(set(arrays) - known)
    if unknown:
        yield f"keys that do not belong in an {task.upper()} file: {_some(unknown)}"


# === ids =========================================================================================


def _wrong_ids(suffix: str, of_split: Arrays, task: str) -> Iterator[str]:
    ids = of_split.get("ids")
    if ids is None:
        return
    if ids.dtype.kind != "U":
        yield f"{suffix}: ids are {ids.dtype}, not text such as '1000076'"
        return
    if ids.ndim != 1:
        yield f"{suffix}: ids have shape {ids.shape}, not (systems,)"
        return
    if len(ids) == 0:
        yield f"{suffix}: no systems"
        return
    unique, counts = np.unique(ids, return_counts=True)
    if len(unique) < len(ids):
        yield f"{suffix}: {_plural(int((counts > 1).sum()), 'duplicate id')}: {_some(unique[counts > 1])}"
    frames = [each for each in ids if FRAME.fullmatch(str(each))] if task == "is2re" else []
    if frames:
        yield f"{suffix}: ids such as {frames[0]} are frames of S2EF (sid_fid), not systems of IS2RE"


def _wrong_systems(suffix: str, ids: Ids, expected: Mapping[str, ExpectedSystems]) -> Iterator[str]:
    wanted = expected[suffix].ids
    missing, unknown = np.setdiff1d(wanted, ids), np.setdiff1d(ids, wanted)
    if len(missing) == 0 and len(unknown) == 0:
        return
    for other, systems in expected.items():
        if other != suffix and np.isin(ids, systems.ids).mean() > 0.5 > np.isin(ids, wanted).mean():
            yield f"{suffix}: swapped splits: these ids are those of {other} ({systems.source})"
            return
    if len(missing):
        yield f"{suffix}: {_plural(len(missing), 'missing id')} of {expected[suffix].source}: {_some(missing)}"
    if len(unknown):
        yield f"{suffix}: {_plural(len(unknown), 'id')} not in {expected[suffix].source}: {_some(unknown)}"


def _wrong_count(suffix: str, count: int, task: str) -> Iterator[str]:
    official = OFFICIAL_COUNTS[task]
    if count == official[suffix]:
        return
    other = next((split for split, number in official.items() if number == count), None)
    guess = f", which is the count of {other}: swapped splits?" if other else " (other data: --counts any)"
    yield f"{suffix}: {count:,} systems; OC20's {task.upper()} test set has {official[suffix]:,}{guess}"


def _shared_ids(arrays: Arrays) -> Iterator[str]:
    ids = {suffix: arrays[f"{suffix}_ids"] for suffix in SUFFIXES if f"{suffix}_ids" in arrays}
    for first, second in itertools.combinations([suffix for suffix in ids if ids[suffix].dtype.kind == "U"], 2):
        shared = np.intersect1d(ids[first], ids[second])
        if len(shared):
            yield f"{first} and {second} share {_plural(len(shared), 'id')}: {_some(shared)}"


# === numbers =====================================================================================


def _wrong_energies(suffix: str, of_split: Arrays, task: str) -> Iterator[str]:
    energy = of_split.get("energy")
    if energy is None:
        return
    systems = np.size(of_split.get("ids", energy))
    if energy.shape != (systems,):
        yield f"{suffix}: energy has shape {energy.shape}, not ({systems},)"
        return
    faults = list(_wrong_floats(f"{suffix}: energy", energy, of_split.get("ids")))
    yield from faults
    if faults or systems == 0:
        return
    limit = LARGEST_ENERGY[task]
    beyond = np.abs(energy) > limit
    if beyond.any():
        yield (
            f"{suffix}: {_plural(int(beyond.sum()), 'energy', 'energies')} outside ±{limit:g} eV, up to "
            f"{energy[np.abs(energy).argmax()]:.4g} eV: expected adsorption energies in eV, not total DFT energies"
        )
    if systems > 1 and np.ptp(energy) == 0:
        yield f"{suffix}: all {systems} energies are the same, {energy[0]:.6g} eV"


def _wrong_forces(suffix: str, of_split: Arrays, expected: Mapping[str, ExpectedSystems] | None) -> Iterator[str]:
    forces, ends, ids = (of_split.get(key) for key in ("forces", "chunk_idx", "ids"))
    if forces is None or ends is None or ids is None or ids.ndim != 1 or len(ids) == 0:
        return
    if forces.ndim != 2 or forces.shape[1] != 3:
        yield f"{suffix}: forces have shape {forces.shape}, not (free atoms, 3)"
        return
    faults = list(_wrong_floats(f"{suffix}: forces", forces, None))
    yield from faults
    if not faults and forces.size and np.abs(forces).max() > LARGEST_FORCE:
        yield f"{suffix}: forces up to {np.abs(forces).max():.4g} eV/Å, above {LARGEST_FORCE:g} eV/Å"
    if ends.dtype.kind not in "iu" or ends.shape != (len(ids) - 1,):
        yield f"{suffix}: chunk_idx is {ends.dtype} of shape {ends.shape}, not integers of shape ({len(ids) - 1},)"
        return
    blocks = np.diff(np.concatenate([[0], ends, [len(forces)]]))
    if (blocks < 0).any():
        yield f"{suffix}: chunk_idx does not split {len(forces)} rows into blocks; first at {ids[blocks < 0][0]}"
    elif expected is not None:
        wanted = dict(zip(expected[suffix].ids.tolist(), expected[suffix].free_atoms.tolist()))
        wrong = [name for name, block in zip(ids.tolist(), blocks.tolist()) if wanted.get(name, block) != block]
        if wrong:
            count = _plural(len(wrong), "system")
            yield f"{suffix}: {count} whose forces are not those of the free atoms: {_some(wrong)}"


def _wrong_floats(what: str, values: np.ndarray, ids: Ids | None) -> Iterator[str]:
    if values.dtype == np.float16:
        yield f"{what}: float16 (steps of 2 to 8 meV); predict again with prediction_dtype: float32"
        return
    if values.dtype.kind != "f":
        yield f"{what}: {values.dtype}, not float32"
        return
    bad = ~np.isfinite(values)
    if bad.any():
        where = f" (first: {ids[bad][0]})" if ids is not None and ids.shape == bad.shape else ""
        yield f"{what}: {_plural(int(bad.sum()), 'value')} NaN or infinite{where}"
        return
    with np.errstate(over="ignore"):
        rounded = values.astype(np.float16).astype(values.dtype)
    if values.size > 20 and np.array_equal(values, rounded) and len(np.unique(values)) > 1:
        yield f"{what}: float16 numbers stored as {values.dtype}; predict again with prediction_dtype: float32"


# === wording =====================================================================================


def _plural(count: int, noun: str, plural: str | None = None) -> str:
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def _some(names: Sequence[str] | Shaped[np.ndarray, "names"]) -> str:
    shown = ", ".join(str(name) for name in names[:SHOWN])
    return shown if len(names) <= SHOWN else f"{shown}, ..."
