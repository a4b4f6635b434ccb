"""Load a checkpoint for prediction, in fairchem's trainer or as an ASE calculator."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ase import Atoms
from fairchem.core.common.relaxation.ase_utils import OCPCalculator
from fairchem.core.common.utils import setup_imports
from fairchem.core.modules.exponential_moving_average import ExponentialMovingAverage
from fairchem.core.trainers import OCPTrainer

from fairchem_hdgnn.data.records import require_cell_vectors
from fairchem_hdgnn.errors import DataError
from fairchem_hdgnn.host.calculator import NetworkCalculator, require_energy
from fairchem_hdgnn.host.calculator import calculator as network_calculator
from fairchem_hdgnn.host.checkpoints import quiet_fairchem, read_checkpoint
from fairchem_hdgnn.host.fairchem1.config_forms import checkpoint_config
from fairchem_hdgnn.host.fairchem1.names import known_model, with_keys
from fairchem_hdgnn.host.inference_files import is_inference_file
from fairchem_hdgnn.host.targets import target_of_config


def inference_trainer(
    path: str | Path,
    *,
    cpu: bool = False,
    device_index: int = 0,
    seed: int = 0,
    model_overrides: Mapping[str, Any] | None = None,
    trusted: bool = False,
) -> OCPTrainer:
    """Build fairchem's trainer with a checkpoint's weights, in float32 without mixed precision and data sets.

    The averaged weights (EMA) are used if the checkpoint has them, as in fairchem's ``validate``; its inference-only
    loader would use the raw ones from ``checkpoint.pt``.

    Args:
        path: the checkpoint.
        cpu: run on the CPU even if a GPU is available.
        device_index: index of the GPU.
        seed: for other packages' models that draw random numbers in prediction; edge frames of HDGNN and eSCN follow
            ``frame_seed``. fairchem seeds Python's, numpy's and torch's generators of the process.
        model_overrides: keys of ``model:`` that override those in the checkpoint, e.g. ``{"frames": "fixed"}``.
        trusted: see ``read_checkpoint``.

    Raises:
        DataError: the checkpoint cannot be read, or its weights do not match the model.
        ConfigError: the model it names is not registered.
    """
    checkpoint = read_checkpoint(path, trusted=trusted)
    config = checkpoint_config(checkpoint)
    with quiet_fairchem():
        setup_imports()
    torch.backends.cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")
    name = known_model(config["model"].get("name"), path)
    with quiet_fairchem():
        trainer = OCPTrainer(
            task=config.get("task", {}),
            model=with_keys({**config["model"], "name": name}, model_overrides or {}),
            outputs=config["outputs"],
            dataset=[config["dataset"]],
            optimizer=config["optim"],
            loss_functions=config["loss_functions"],
            evaluation_metrics=config["evaluation_metrics"],
            identifier="",
            timestamp_id="inference",
            local_rank=device_index,
            is_debug=True,
            seed=seed,
            amp=False,
            cpu=cpu,
            inference_only=True,
        )
        load_weights(trainer, checkpoint, path)
    return trainer


def load_weights(trainer: OCPTrainer, checkpoint: Mapping[str, Any], path: str | Path) -> None:
    """Load a checkpoint's weights (averaged ones if present), normalisers and element references into ``trainer``."""
    try:
        trainer.load_checkpoint(str(path), dict(checkpoint), inference_only=True)
    except RuntimeError as error:
        raise DataError(f"{path}: its weights do not match its model: {' '.join(str(error).split())[:300]}") from error
    if checkpoint.get("ema"):
        averages = ExponentialMovingAverage(trainer.model.parameters(), decay=checkpoint["ema"]["decay"])
        averages.load_state_dict(checkpoint["ema"])
        averages.copy_to()


class _Calculator(OCPCalculator):
    """fairchem's calculator for a checkpoint that has already been read."""

    def __init__(self, checkpoint: dict[str, Any], path: Path, cpu: bool, seed: int) -> None:
        self._checkpoint = checkpoint
        config = copy.deepcopy(checkpoint_config(checkpoint))
        config["dataset"] = {"train": {"src": "", **config["dataset"]}}
        super().__init__(config_yml=config, checkpoint_path=path, cpu=cpu, seed=seed)

    def load_checkpoint(self, checkpoint_path: str | Path, checkpoint: dict[str, Any] | None = None) -> None:
        """Load the weights, averaged ones (EMA) if present; called by fairchem's constructor."""
        load_weights(self.trainer, self._checkpoint, checkpoint_path)

    def calculate(self, atoms: Atoms, properties: list[str], system_changes: list[str]) -> None:
        """Predict; called by ASE.

        Raises:
            DataError: the atoms are periodic along a cell vector that is zero.
        """
        model = self.trainer._unwrapped_model
        seen = atoms.copy()
        if not getattr(getattr(model, "backbone", model), "use_pbc", True):
            # fairchem would move the atoms into the cell, and so cut a molecule.
            seen.pbc = False
        require_cell_vectors(seen)
        super().calculate(seen, properties, system_changes)
        # ASE compares these with the next ones.
        self.atoms = atoms.copy()


def calculator(
    checkpoint: str | Path, *, cpu: bool | None = None, seed: int = 0, trusted: bool = False
) -> OCPCalculator | NetworkCalculator:
    """An ASE calculator for a checkpoint, usable in any process: ``atoms.calc = calculator("checkpoint.pt")``.

    Energies are in eV, forces in eV/Å, in float32. The graph is built from the atoms in every call, mixed precision is
    off, and the averaged weights (EMA) are used if the checkpoint has them, which fairchem's own ``OCPCalculator`` does
    not do for ``checkpoint.pt``. ``atoms.pbc`` determines along which cell vectors the structure is periodic.

    Forces are available if the checkpoint was trained on them. A separate head predicts them, they are not the energy's
    gradient. As there is no envelope at the cutoff, both can jump when a neighbour enters or leaves it.

    An IS2RE model returns the energy of the *relaxed* system for the unrelaxed atoms: use it on initial structures. A
    relaxation needs a model trained on energies and forces (S2EF).

    Args:
        checkpoint: ``checkpoint.pt`` or ``best_checkpoint.pt``, or ``inference_ckpt.pt`` of fairchem-core 2.
        cpu: run on the CPU; by default a GPU is used if there is one.
        seed: for other packages' models that draw random numbers; edge frames of HDGNN and eSCN follow ``frame_seed``.
            For a ``checkpoint.pt``, fairchem seeds Python's, numpy's and torch's generators of the process.
        trusted: unpickle any object in the file; see ``read_checkpoint``.

    Raises:
        DataError: the checkpoint is missing, unreadable, or does not match its model.
        ConfigError: it predicts no energy.
    """
    path = Path(checkpoint)
    if is_inference_file(path):
        return network_calculator(path, cpu=cpu, seed=seed, trusted=trusted)
    contents = read_checkpoint(path, trusted=trusted)
    require_energy(target_of_config(checkpoint_config(contents), {}, {}).outputs, path)
    with quiet_fairchem():
        return _Calculator(contents, path, not torch.cuda.is_available() if cpu is None else cpu, seed)
