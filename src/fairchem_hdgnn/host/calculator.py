"""An ASE calculator for a checkpoint of either fairchem-core; needs no fairchem."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes

from fairchem_hdgnn.data.records import atoms_to_record, inside_cell, require_cell_vectors
from fairchem_hdgnn.errors import ConfigError
from fairchem_hdgnn.host.generations import read_trained
from fairchem_hdgnn.host.network_inference import NetworkCheckpoint


class NetworkCalculator(Calculator):
    """Energies in eV and, if the network predicts them, forces in eV/Å, in float32.

    Args:
        opened: the network.
    """

    def __init__(self, opened: NetworkCheckpoint) -> None:
        super().__init__()
        self.opened = opened
        self.implemented_properties = list(opened.outputs)

    def calculate(
        self, atoms: Atoms | None = None, properties: list[str] | None = None, system_changes: list[str] = all_changes
    ) -> None:
        """Predict; called by ASE."""
        super().calculate(atoms, properties, system_changes)
        inside = self.atoms.copy()
        if self.opened.model.use_pbc:
            require_cell_vectors(inside)
            inside.positions = inside_cell(inside)
        record = atoms_to_record(inside, 0)
        record.pbc = torch.tensor(np.asarray(inside.pbc))[None]
        outputs: dict[str, Any] = {
            name: values.detach().cpu().numpy()
            for name, values in self.opened.predict(self.opened.collate([record])).items()
        }
        self.results = {**outputs, "energy": float(outputs["energy"][0])}


def calculator(
    checkpoint: str | Path, *, cpu: bool | None = None, seed: int = 0, trusted: bool = False
) -> NetworkCalculator:
    """An ASE calculator for a checkpoint of either fairchem-core: ``atoms.calc = calculator("inference_ckpt.pt")``.

    The averaged weights (EMA) are used if the checkpoint has them. ``atoms.pbc`` determines along which cell vectors
    the structure is periodic. An IS2RE model returns the energy of the *relaxed* system.

    Args:
        checkpoint: ``inference_ckpt.pt`` of fairchem-core 2, or ``checkpoint.pt`` of 1.10.
        cpu: run on the CPU; by default a GPU is used if there is one.
        seed: without effect, as under fairchem-core 1.10 on a model of this package, whose edge frames follow
            ``frame_seed``.
        trusted: unpickle any object in the file.

    Raises:
        DataError: the checkpoint is missing, unreadable, or does not fit its model.
        ConfigError: its model is not one of this package, or it predicts no energy.
    """
    on_cpu = not torch.cuda.is_available() if cpu is None else cpu
    trained = read_trained(checkpoint, trusted=trusted)
    require_energy((trained.target,), checkpoint)
    return NetworkCalculator(NetworkCheckpoint(trained, {}, torch.device("cpu" if on_cpu else "cuda"), seed))


def require_energy(outputs: Sequence[str], checkpoint: str | Path) -> None:
    """Raise :class:`ConfigError` if an energy is not among the outputs of a checkpoint."""
    if "energy" not in outputs:
        raise ConfigError(
            f"{checkpoint}: predicts {', '.join(outputs)}, but ASE's calculators give energies in eV; use train --mode "
            "predict"
        )
