"""How relaxations ended: in the last frames of their trajectories, and in ``relaxed_positions.npz``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ase.io import Trajectory
from jaxtyping import Float64

from fairchem_hdgnn.data.npz import write_npz
from fairchem_hdgnn.errors import DataError
from fairchem_hdgnn.host.sections import Task

RESULTS = "relaxed_positions.npz"
"""fairchem's name."""

STEP = "relaxation_step"
"""Key of a frame's ``info``: the number of steps before it."""

SHOWN = 5
"""Structures that a message lists, at most."""


class End(NamedTuple):
    """A structure at the end of its relaxation.

    Attributes:
        pos: Å.
        energy: eV.
        largest_force: on a free atom, eV/Å.
        steps: that the relaxation took.
    """

    pos: Float64[np.ndarray, "atoms 3"]
    energy: float
    largest_force: float
    steps: int

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
        forces = np.linalg.norm(last.get_forces(), axis=1)
        return End(last.get_positions(), last.get_potential_energy(), float(forces.max()), last.info.get(STEP, steps))
    except Exception as error:
        raise DataError(
            f"{path}: not a readable trajectory ({type(error).__name__}: {error}); delete it, and its structure is "
            "relaxed again"
        ) from error


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
