"""Run fairchem's relaxations with any ASE and on any number of ranks, without side effects on a training."""

from __future__ import annotations

import contextlib
import inspect
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from fairchem.core.common import distutils
from fairchem.core.common.relaxation import OptimizableBatch, OptimizableUnitCellBatch, ml_relaxation
from fairchem.core.trainers import OCPTrainer
from torch_geometric.data import Batch

from fairchem_hdgnn.errors import ConfigError, DataError
from fairchem_hdgnn.host.fairchem1.ranks import on_first_rank
from fairchem_hdgnn.host.fairchem1.trajectories import WholeTrajectories
from fairchem_hdgnn.host.results import written_whole
from fairchem_hdgnn.host.sections import RelaxOpt, Task
from fairchem_hdgnn.hyperparameters import from_keys, key_names

logger = logging.getLogger(__name__)

RESULTS = "relaxed_positions.npz"
"""fairchem's name of the file with ``ids``, ``pos`` (Å) and ``chunk_idx``, where ``pos`` is to be split."""


def require_relaxable(task: Mapping[str, Any], outputs: Mapping[str, Any], *, has_data: bool) -> None:
    """Check that a config has what relaxations need.

    Args:
        task: its section ``task``.
        outputs: its section ``outputs``.
        has_data: whether it has structures to relax.

    Raises:
        ConfigError: no structures, a model without forces (or stress, for a cell), or a key with an invalid value.
    """
    if not has_data:
        stale = "; fairchem 1.10 ignores task.relax_dataset" if "relax_dataset" in task else ""
        raise ConfigError(f"dataset.relax.src: missing; set it to the LMDB with the structures to relax{stale}")
    if "forces" not in outputs:
        raise ConfigError(
            "outputs.forces: missing; a relaxation needs forces, so use a model that was trained on them "
            "(model.regress_forces: true)"
        )
    settings = from_keys(Task, {key: value for key, value in task.items() if key in key_names(Task)}, "task")
    from_keys(RelaxOpt, settings.relax_opt or {}, "task.relax_opt")
    if "stress" not in outputs and (task.get("relax_cell") or task.get("relax_volume")):
        raise ConfigError(
            "outputs.stress: missing; task.relax_cell and task.relax_volume need a model that predicts the stress"
        )


def run_relaxations(trainer: OCPTrainer, relax: Callable[[], None], part: str = "") -> None:
    """Call fairchem's ``run_relaxations`` so that each structure is relaxed once. Collective.

    Unmodified, fairchem pads the ranks' shares, so that two ranks relax one structure and overwrite its trajectory;
    makes ranks wait for each other in forward passes, although their numbers differ; leaves the averaged weights (EMA)
    in the model; and subtracts each energy of a batch from each reference.

    Args:
        trainer: the trainer, with the structures in ``relax_dataset``.
        relax: ``OCPTrainer.run_relaxations`` of ``trainer``.
        part: subfolder of ``task.relax_opt.traj_dir``.

    Raises:
        ConfigError: see :func:`require_relaxable`; or there are fewer structures than ranks.
        DataError: structures share a ``sid``, or the results cannot be written.
    """
    task, outputs = trainer.config["task"], trainer.config["outputs"]
    require_relaxable(task, outputs, has_data=trainer.relax_dataset is not None)
    # A copy: fairchem stores a Path in it, which would otherwise end up in checkpoints.
    settings = dict(task.get("relax_opt") or {})
    if settings.get("traj_dir"):
        settings["traj_dir"] = Path(settings["traj_dir"]) / part
    indices = _share(trainer.relax_dataset, settings.get("traj_dir"), trainer.device)
    if not indices:
        return
    optim = trainer.config["optim"]
    size = optim.get("eval_batch_size") or optim.get("batch_size", 1)
    results = Path(trainer.config["cmd"]["results_dir"])
    writes = distutils.is_master() and not trainer.is_debug
    with written_whole(results, here=writes) as folder, _averages(trainer.ema), _replaced(trainer, ema=None) as replace:
        command = {**trainer.config["cmd"], "results_dir": str(folder)}
        replace(
            config={**trainer.config, "task": {**task, "relax_opt": settings}, "cmd": command},
            model=trainer._unwrapped_model,
            collater=partial(_with_columns, trainer.collater),
        )
        batches = [indices[start : start + size] for start in range(0, len(indices), size)]
        replace(relax_loader=trainer.get_dataloader(trainer.relax_dataset, batches))
        with _instantiable(), _replaced(ml_relaxation, LBFGS=WholeTrajectories):
            relax()
    if writes and (results / RESULTS).is_file():
        logger.info("Relaxed positions: %s", results / RESULTS)


def _share(dataset: Any, folder: Path | None, device: torch.device) -> list[int]:
    """This rank's share of the records without a trajectory in ``folder``; all ranks get some, or none does."""
    found: list[list[int]] = [[]]
    on_first_rank(lambda: found.__setitem__(0, _unfinished(dataset, folder)), device)
    distutils.broadcast_object_list(found, src=0, device=device)
    (unfinished,), num_ranks = found, distutils.get_world_size()
    if 0 < len(unfinished) < num_ranks:
        raise ConfigError(
            f"dataset.relax: {len(unfinished)} structures to relax on {num_ranks} ranks; start no more ranks than that"
        )
    return unfinished[distutils.get_rank() :: num_ranks]


def _unfinished(dataset: Any, folder: Path | None) -> list[int]:
    ids = [_sid(dataset[index]) for index in range(len(dataset))]
    for sid, count in Counter(ids).most_common(1):
        if count > 1:
            raise DataError(
                f"dataset.relax: {count} structures have sid {sid}, which identifies the results; renumber them"
            )
    if folder is None:
        return list(range(len(ids)))
    unfinished = [index for index, sid in enumerate(ids) if not (folder / f"{sid}.traj").is_file()]
    if len(unfinished) < len(ids):
        logger.warning(
            "%d of %d structures already have a trajectory in %s: they are skipped, and are missing in %s",
            len(ids) - len(unfinished), len(ids), folder, RESULTS,
        )  # fmt: skip
    return unfinished


def _sid(record: Any) -> str:
    return str(record.sid.item() if torch.is_tensor(record.sid) else record.sid)


def _with_columns(collate: Callable[[list[Any]], Batch], records: list[Any]) -> Batch:
    """A batch whose relaxed energies are a column, [systems, 1], like predictions."""
    batch = collate(records)
    if "energy_relaxed" in batch:
        batch.energy_relaxed = torch.as_tensor(batch.energy_relaxed).view(-1, 1)
    return batch


@contextlib.contextmanager
def _instantiable() -> Iterator[None]:
    """Allow instances of fairchem's classes although they lack abstract methods of ASE, none of which are used."""
    kinds: list[Any] = [kind for kind in (OptimizableBatch, OptimizableUnitCellBatch) if inspect.isabstract(kind)]
    lacking = [kind.__abstractmethods__ for kind in kinds]
    for kind in kinds:
        kind.__abstractmethods__ = frozenset()
    try:
        yield
    finally:
        for kind, names in zip(kinds, lacking):
            kind.__abstractmethods__ = names


@contextlib.contextmanager
def _replaced(holder: Any, **values: Any) -> Iterator[Callable[..., None]]:
    """Replace attributes of ``holder`` in the block; the yielded function replaces more."""
    former: dict[str, Any] = {}

    def replace(**values: Any) -> None:
        for name, value in values.items():
            former.setdefault(name, getattr(holder, name))
            setattr(holder, name, value)

    try:
        replace(**values)
        yield replace
    finally:
        for name, value in former.items():
            setattr(holder, name, value)


@contextlib.contextmanager
def _averages(ema: Any) -> Iterator[None]:
    """Use the averaged weights, if there are any, in the block."""
    if ema is None:
        yield
        return
    ema.store()
    ema.copy_to()
    try:
        yield
    finally:
        ema.restore()
