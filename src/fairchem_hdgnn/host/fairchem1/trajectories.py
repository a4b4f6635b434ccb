"""fairchem's LBFGS for batches, with trajectories that include the final structure and the correct ``pbc``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from ase import Atoms
from ase.io import Trajectory
from fairchem.core.common.relaxation.ase_utils import batch_to_atoms
from fairchem.core.common.relaxation.optimizers.lbfgs_torch import LBFGS

from fairchem_hdgnn.data.periodicity import periodic_directions
from fairchem_hdgnn.host.fairchem1.relaxed import MODEL, STEP, End


class WholeTrajectories(LBFGS):
    """fairchem's optimiser with complete trajectories: its own lack the structure that the last step relaxed.

    Args:
        ends: receives how each relaxation ended, by ``sid``.
        model: digest of the model.
        folder: of the trajectories; none are written without it.
        settings: fairchem's.
    """

    def __init__(self, *, ends: dict[str, End], model: str, folder: Path | None, **settings: Any) -> None:
        super().__init__(**{**settings, "traj_dir": folder})
        self.ends, self.model = ends, model

    def run(self, fmax: float, steps: int) -> bool:
        """As fairchem; structures that need no step get a trajectory with one frame.

        Args:
            fmax: eV/Å; a structure is relaxed when no force on a free atom is larger.
            steps: maximum number of steps.
        """
        self._moved = torch.ones(len(self.optimizable.batch), dtype=torch.bool)
        self._steps = torch.zeros(len(self.optimizable.batch), dtype=torch.int64)
        self._begun = False
        relaxed = super().run(fmax, steps)
        if self.traj_dir and not self._begun:
            for atoms, name in zip(self._frames(), self.traj_names):
                with Trajectory(self.traj_dir / f"{name}.traj", "w") as trajectory:
                    trajectory.write(atoms)
        self._keep_ends()
        return relaxed

    def step(self, iteration: int) -> None:
        """As fairchem."""
        super().step(iteration)
        self._steps[self.optimizable.update_mask.cpu()] = iteration + 1

    def write(self) -> None:
        """Add a frame to the trajectory of each structure that has moved since its last one."""
        trajectories: Any = self.trajectories
        for atoms, trajectory, moved in zip(self._frames(), trajectories, self._moved.tolist()):
            if moved:
                trajectory.write(atoms)
        self._moved = self.optimizable.update_mask.cpu().clone()
        self._begun = True

    def _frames(self) -> Iterator[Atoms]:
        """The structures as they are; fairchem takes all as fully periodic, and wraps them into their cells."""
        batch = self.optimizable.batch
        directions = (periodic_directions(batch) & (batch.cell != 0).any(dim=-1)).cpu().numpy()
        self.optimizable.get_potential_energies()  # computes them, if that has not been done
        found = batch_to_atoms(batch, results=self.optimizable.torch_results, wrap_pos=False)
        for atoms, pbc, steps in zip(found, directions, self._steps.tolist()):
            atoms.pbc = pbc
            atoms.info.update({STEP: steps, MODEL: self.model})
            # Otherwise ASE discards the results as those of other atoms.
            atoms.calc.atoms = atoms.copy()
            yield atoms

    def _keep_ends(self) -> None:
        batch = self.optimizable.batch
        largest = self.optimizable.get_max_forces(apply_constraint=True)
        energies = self.optimizable.get_potential_energies()
        positions = torch.split(batch.pos.double().cpu(), batch.natoms.tolist())
        of_each = zip(self.traj_names, positions, energies.flatten().tolist(), largest.tolist(), self._steps.tolist())
        for name, pos, energy, force, steps in of_each:
            self.ends[f"{name}"] = End(pos.numpy(), energy, force, steps, self.model)
