"""How relaxations ended: in the last frames of their trajectories, and in ``relaxed_positions.npz``."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from ase.io import Trajectory
from jaxtyping import Float64
from torch import nn

from fairchem_hdgnn.data.npz import write_npz
from fairchem_hdgnn.errors import DataError
from fairchem_hdgnn.host.sections import Task

RESULTS = "relaxed_positions.npz"
"""fairchem's name."""

STEP, MODEL = "relaxation_step", "relaxation_model"
"""Keys of a frame's ``info``: the number of steps before it, and :func:`digest` of the model."""

SHOWN = 5
"""Structures that a message lists, at most."""


class End(NamedTuple):
    """A structure at the end of its relaxation.

    Attributes:
        pos: Å.
        energy: eV.
        largest_force: on a free atom, eV/Å.
        steps: that the relaxation took.
        model: its :func:`digest`; empty if unknown.
    """

    pos: Float64[np.ndarray, "atoms 3"]
    energy: float
    largest_force: float
    steps: int
    model: str

    def is_converged(self, task: Task) -> bool:
        """Whether all forces are below the limit, as fairchem's LBFGS decides it."""
        return self.largest_force < task.relaxation_fmax

    def is_final(self, task: Task) -> bool:
        """Whether a relaxation of so many steps ends here."""
        return self.is_converged(task) or self.steps >= task.relaxation_steps


def end_of(path: Path) -> End:
    """From a trajectory.

    Raises:
        DataError: it is damaged.
    """
    try:
        with Trajectory(path) as frames:
            last, steps = frames[-1], len(frames) - 1
        forces, info = np.linalg.norm(last.get_forces(), axis=1), last.info
        found = (last.get_potential_energy(), float(forces.max()), info.get(STEP, steps), info.get(MODEL, ""))
        return End(last.get_positions(), *found)
    except Exception as error:
        raise DataError(
            f"{path}: not a readable trajectory ({type(error).__name__}: {error}); delete it, and its structure is "
            "relaxed again"
        ) from error


def digest(model: nn.Module, ema: Any) -> str:
    """Of all weights and averages of weights: trajectories of other models are told by it."""
    found = hashlib.sha256()
    for tensor in (*model.state_dict().values(), *(ema.shadow_params if ema else ())):
        if torch.is_tensor(tensor):
            found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:12]


def write_ends(path: Path, ends: Mapping[str, End], task: Task) -> None:
    """Write fairchem's arrays ``ids``, ``pos`` and ``chunk_idx``, and ``energy``, ``fmax`` and ``converged``.

    ``chunk_idx`` is where ``pos`` is to be split.

    Raises:
        DataError: the file cannot be written; an earlier one is unchanged.
    """
    ids = sorted(ends)
    found = [ends[sid] for sid in ids]
    arrays = {
        "ids": np.array(ids),
        "pos": np.concatenate([end.pos for end in found]),
        "chunk_idx": np.cumsum([len(end.pos) for end in found])[:-1],
        "energy": np.array([end.energy for end in found]),
        "fmax": np.array([end.largest_force for end in found]),
        "converged": np.array([end.is_converged(task) for end in found]),
    }
    write_npz(path, arrays)


def summary(ends: Mapping[str, End], task: Task) -> str:
    """How many relaxations converged, and the names of others with their largest forces."""
    left = sorted(((end.largest_force, sid) for sid, end in ends.items() if not end.is_converged(task)), reverse=True)
    text = (
        f"{len(ends) - len(left):,} of {len(ends):,} structures are relaxed: no force on a free atom of "
        f"{task.relaxation_fmax:g} eV/Å or more after at most {task.relaxation_steps} steps"
    )
    if left:
        shown = ", ".join(f"{sid} ({force:.3g} eV/Å)" for force, sid in left[:SHOWN])
        text += f"; not relaxed: {shown}" + (f" and {len(left) - SHOWN:,} more" if len(left) > SHOWN else "")
        text += "; run it again with more task.relaxation_steps"
    return text
