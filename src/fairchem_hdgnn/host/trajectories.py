"""fairchem's LBFGS for batches, whose trajectories also hold where each relaxation ended."""

from __future__ import annotations

from typing import Any

import torch
from ase.io import Trajectory
from fairchem.core.common.relaxation.optimizers.lbfgs_torch import LBFGS


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
            for atoms, name in zip(self.optimizable.get_atoms_list(), self.traj_names):
                with Trajectory(self.traj_dir / f"{name}.traj", "w") as trajectory:
                    trajectory.write(atoms)
        return relaxed

    def write(self) -> None:
        """Add a frame to the trajectory of each structure that has moved since its last one."""
        trajectories: Any = self.trajectories
        for atoms, trajectory, moved in zip(self.optimizable.get_atoms_list(), trajectories, self._moved.tolist()):
            if moved:
                trajectory.write(atoms)
        self._moved = self.optimizable.update_mask.cpu().clone()
        self._begun = True
