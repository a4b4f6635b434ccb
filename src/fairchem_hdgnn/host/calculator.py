"""A checkpoint as an ASE calculator."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from fairchem.core.common.relaxation.ase_utils import OCPCalculator

from fairchem_hdgnn.host.checkpoints import checkpoint_config, load_weights, quiet_fairchem, read_checkpoint


class _Calculator(OCPCalculator):
    """fairchem's calculator, fed with a checkpoint that has been read already."""

    def __init__(self, checkpoint: dict[str, Any], path: Path, cpu: bool, seed: int) -> None:
        self._checkpoint = checkpoint
        config = copy.deepcopy(checkpoint_config(checkpoint))
        config["dataset"] = {"train": {"src": "", **config["dataset"]}}
        super().__init__(config_yml=config, checkpoint_path=path, cpu=cpu, seed=seed)

    def load_checkpoint(self, checkpoint_path: str | Path, checkpoint: dict[str, Any] | None = None) -> None:
        """Load the weights, averaged ones (EMA) first; called by fairchem's constructor."""
        load_weights(self.trainer, self._checkpoint, checkpoint_path)


def calculator(
    checkpoint: str | Path, *, cpu: bool | None = None, seed: int = 0, trusted: bool = False
) -> OCPCalculator:
    """An ASE calculator for a checkpoint, ready in any process: ``atoms.calc = calculator("checkpoint.pt")``.

    Energies are in eV, forces in eV/Å, in float32. The graph is built from the atoms at every call, mixed precision
    is off, and the averaged weights (EMA) are used where the checkpoint has them, which fairchem's
    own ``OCPCalculator`` does not do for ``checkpoint.pt``. ``atoms.pbc`` decides, for each cell vector, whether the
    structure repeats along it.

    Forces are there if the checkpoint was trained on them. They are a head of their own, not the energy's gradient, and
    as there is no envelope at the cutoff, both can jump where a neighbour comes or goes.

    A model of IS2RE answers with the energy of the *relaxed* system for the unrelaxed atoms it is given: use
    it on initial structures; a relaxation needs a model trained on energies and forces (S2EF).

    Args:
        checkpoint: ``checkpoint.pt`` or ``best_checkpoint.pt`` of fairchem.
        cpu: run on the CPU; by default a GPU is used if there is one.
        seed: of every random number drawn in prediction.
        trusted: unpickle whatever the file holds; see ``read_checkpoint``.

    Raises:
        DataError: the checkpoint is missing, unreadable, or does not fit its model.
    """
    path = Path(checkpoint)
    contents = read_checkpoint(path, trusted=trusted)
    with quiet_fairchem():
        return _Calculator(contents, path, not torch.cuda.is_available() if cpu is None else cpu, seed)
