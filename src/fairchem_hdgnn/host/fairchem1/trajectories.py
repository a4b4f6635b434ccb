"""fairchem's LBFGS for batches, with trajectories that include the final structure and the correct ``pbc``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from ase import Atoms
from ase.io import Trajectory
from fairchem.core.common.relaxation.optimizers.lbfgs_torch import LBFGS

from fairchem_hdgnn.data.periodicity import periodic_directions


class WholeTrajectories(LBFGS):
    """fairchem's optimiser with complete trajectories: its own lack the structure that the last step relaxed."""

    def run(self, fmax: float, steps: int) -> bool:
        """As fairchem; structures that need no step get a trajectory with one frame.

        Args:
            fmax: eV/Å; a structure is relaxed when no force on a free atom is larger.
            steps: maximum number of steps.
        """
        self._moved = torch.ones(len(self.optimizable.batch), dtype=torch.bool)
        self._begun = False
        relaxed = super().run(fmax, steps)
        if self.traj_dir and not self._begun:
            for atoms, name in zip(self._frames(), self.traj_names):
                with Trajectory(self.traj_dir / f"{name}.traj", "w") as trajectory:
                    trajectory.write(atoms)
        return relaxed

    def write(self) -> None:
        """Add a frame to the trajectory of each structure that has moved since its last one."""
        trajectories: Any = self.trajectories
        for atoms, trajectory, moved in zip(self._frames(), trajectories, self._moved.tolist()):
            if moved:
                trajectory.write(atoms)
        self._moved = self.optimizable.update_mask.cpu().clone()
        self._begun = True

    def _frames(self) -> Iterator[Atoms]:
        """The structures with their own ``pbc``; fairchem treats all as fully periodic, and wraps them accordingly."""
        batch = self.optimizable.batch
        directions = (periodic_directions(batch) & (batch.cell != 0).any(dim=-1)).cpu().numpy()
        positions = torch.split(batch.pos, batch.natoms.tolist())
        for atoms, pbc, pos in zip(self.optimizable.get_atoms_list(), directions, positions):
            if not pbc.all():
                atoms.set_positions(pos.cpu().numpy(), apply_constraint=False)
                atoms.pbc = pbc
                # Otherwise ASE discards the results as those of other atoms.
                atoms.calc.atoms = atoms.copy()
            yield atoms
