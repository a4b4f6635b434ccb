"""fairchem's LBFGS for batches, with trajectories that hold where each relaxation ended and show what is periodic."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from ase import Atoms
from ase.io import Trajectory
from fairchem.core.common.relaxation.optimizers.lbfgs_torch import LBFGS

from fairchem_hdgnn.data.periodicity import periodic_directions


class WholeTrajectories(LBFGS):
    """fairchem's optimiser, which writes a structure after a step only if the step has not relaxed it."""

    def run(self, fmax: float, steps: int) -> bool:
        """As fairchem; structures that need no step leave a trajectory of one frame.

        Args:
            fmax: eV/Å; a structure is relaxed when no free atom's force is larger.
            steps: most steps.
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
        """The structures as they are; fairchem takes all for periodic in all directions, and wraps them so."""
        batch = self.optimizable.batch
        directions = (periodic_directions(batch) & (batch.cell != 0).any(dim=-1)).cpu().numpy()
        positions = torch.split(batch.pos, batch.natoms.tolist())
        for atoms, pbc, pos in zip(self.optimizable.get_atoms_list(), directions, positions):
            if not pbc.all():
                atoms.set_positions(pos.cpu().numpy(), apply_constraint=False)
                atoms.pbc = pbc
                # Otherwise ASE takes the results for those of other atoms.
                atoms.calc.atoms = atoms.copy()
            yield atoms
