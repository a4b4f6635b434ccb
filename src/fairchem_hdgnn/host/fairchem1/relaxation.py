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

import numpy as np
import torch
from ase.geometry import find_mic
from fairchem.core.common import distutils
from fairchem.core.common.relaxation import OptimizableBatch, OptimizableUnitCellBatch, ml_relaxation
from fairchem.core.modules import evaluator
from fairchem.core.modules.evaluator import min_diff
from fairchem.core.trainers import OCPTrainer
from jaxtyping import Float
from torch.utils.data import Dataset
from torch_geometric.data import Batch

from fairchem_hdgnn.errors import ConfigError, DataError
from fairchem_hdgnn.host.fairchem1.ranks import on_first_rank
from fairchem_hdgnn.host.fairchem1.relaxed import RESULTS, End, digest, end_of, summary, write_ends
from fairchem_hdgnn.host.fairchem1.trajectories import WholeTrajectories
from fairchem_hdgnn.host.sections import RelaxOpt, Task
from fairchem_hdgnn.hyperparameters import from_keys, key_names

logger = logging.getLogger(__name__)


def require_relaxable(task: Mapping[str, Any], outputs: Mapping[str, Any], *, has_data: bool) -> Task:
    """Check that a config has what relaxations need, and return their settings.

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
    return settings


def run_relaxations(trainer: OCPTrainer, relax: Callable[[], None], part: str = "") -> None:
    """Call fairchem's ``run_relaxations`` so that each structure is relaxed once. Collective.

    Unmodified, fairchem pads the ranks' shares, so that two ranks relax one structure and overwrite its trajectory;
    makes ranks wait for each other in forward passes, although their numbers differ; leaves the averaged weights (EMA)
    in the model; and subtracts each energy of a batch from each reference.

    Structures whose trajectory shows that they are relaxed, or had so many steps, are not relaxed again; others start
    anew. ``relaxed_positions.npz`` has all. A training relaxes again what a model with other weights has relaxed in a
    folder of its own, as after a resume.

    Args:
        trainer: the trainer, with the structures in ``relax_dataset``.
        relax: ``OCPTrainer.run_relaxations`` of ``trainer``.
        part: subfolder of ``task.relax_opt.traj_dir``.

    Raises:
        ConfigError: see :func:`require_relaxable`; or there are fewer structures than ranks.
        DataError: structures share a ``sid``, trajectories are of another model, or a file cannot be read or written.
    """
    task, outputs = trainer.config["task"], trainer.config["outputs"]
    settings = require_relaxable(task, outputs, has_data=trainer.relax_dataset is not None)
    optimiser = dict(settings.relax_opt or {})
    folder = optimiser.pop("traj_dir", None)
    folder = Path(folder) / part if folder else None
    records = _Labelled(trainer.relax_dataset)
    model = digest(trainer._unwrapped_model, trainer.ema) if folder else ""
    indices, ends = _share(records, folder, partial(_is_final, settings, model, again=bool(part)), trainer.device)
    if indices:
        optim = trainer.config["optim"]
        size = optim.get("eval_batch_size") or optim.get("batch_size", 1)
        batches = [indices[start : start + size] for start in range(0, len(indices), size)]
        with _averages(trainer.ema), _replaced(trainer, ema=None) as replace:
            replace(
                config={**trainer.config, "task": {**task, "relax_opt": optimiser, "write_pos": False}},
                model=trainer._unwrapped_model,
                collater=partial(_with_columns, trainer.collater),
                relax_dataset=records,
            )
            replace(relax_loader=trainer.get_dataloader(records, batches))
            lbfgs = partial(WholeTrajectories, ends=ends, model=model, folder=folder)
            with (
                _instantiable(),
                _replaced(ml_relaxation, LBFGS=lbfgs),
                _replaced(evaluator, min_diff=_shortest),
                _named_errors(folder),
            ):
                relax()
    gathered = distutils.gather_objects(ends)
    if not distutils.is_master() or trainer.is_debug:
        return
    ends = {sid: end for of_rank in gathered for sid, end in of_rank.items()}
    all_relaxed = all(end.is_converged(settings) for end in ends.values())
    logger.log(logging.INFO if all_relaxed else logging.WARNING, summary(ends, settings))
    if settings.write_pos:
        path = Path(trainer.config["cmd"]["results_dir"]) / RESULTS
        write_ends(path, ends, settings)
        logger.info("Relaxed positions: %s", path)


class _Labelled(Dataset):
    """Records whose relaxed energies have fairchem's name."""

    def __init__(self, records: Any) -> None:
        self.records = records

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Any:
        record = self.records[index]
        if "energy_relaxed" not in record and "y_relaxed" in record:
            record.energy_relaxed = record.y_relaxed
        return record


def _shortest(
    relaxed: Float[np.ndarray, "atoms 3"],
    reference: Float[np.ndarray, "atoms 3"],
    cell: Float[np.ndarray, "vectors 3"],
    pbc: list[bool],
) -> Float[np.ndarray, "atoms 3"]:
    """Differences of positions modulo the cell; fairchem's function needs one with three vectors."""
    vectors = cell.any(axis=1)
    if vectors.all():
        return min_diff(relaxed, reference, cell, pbc)
    return find_mic(relaxed - reference, cell, vectors)[0]


@contextlib.contextmanager
def _named_errors(folder: Path | None) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if folder is None or not str(error.filename or folder).startswith(str(folder)):
            raise
        raise DataError(
            f"{error.filename or folder}: a trajectory cannot be written ({error.strerror or error})"
        ) from error


def _is_final(task: Task, model: str, path: Path, end: End, *, again: bool) -> bool:
    """Whether a structure need not be relaxed again."""
    same = end.model in ("", model)
    if not same and not again:
        raise DataError(
            f"{path}: is of a model with other weights; choose another task.relax_opt.traj_dir, or remove this one"
        )
    return same and end.is_final(task)


def _share(
    records: Any, folder: Path | None, is_final: Callable[[Path, End], bool], device: torch.device
) -> tuple[list[int], dict[str, End]]:
    """This rank's share of the records that are to be relaxed, of which all ranks get some or none does.

    Also the ends of the others, on the first rank.
    """
    found: list[Any] = [[], {}]
    on_first_rank(lambda: found.__setitem__(slice(None), _unfinished(records, folder, is_final)), device)
    unfinished, ends = found
    shared = [unfinished]
    distutils.broadcast_object_list(shared, src=0, device=device)
    (unfinished,), num_ranks = shared, distutils.get_world_size()
    if 0 < len(unfinished) < num_ranks:
        raise ConfigError(
            f"dataset.relax: {len(unfinished)} structures to relax on {num_ranks} ranks; start no more ranks than that"
        )
    return unfinished[distutils.get_rank() :: num_ranks], ends


def _unfinished(
    records: Any, folder: Path | None, is_final: Callable[[Path, End], bool]
) -> tuple[list[int], dict[str, End]]:
    """Positions of the records that are to be relaxed, and the ends of the others."""
    ids = [_sid(records[index]) for index in range(len(records))]
    for sid, count in Counter(ids).most_common(1):
        if count > 1:
            remedy = "renumber them"
            if "fid" in records[ids.index(sid)]:
                remedy = "they are frames of S2EF: make the LMDB with make-lmdb --task is2re --unlabelled"
            raise DataError(f"dataset.relax: {count} structures have sid {sid}, which identifies the results; {remedy}")
    if folder is None:
        return list(range(len(ids))), {}
    ends, num_begun = {}, 0
    for sid in ids:
        if "/" in sid:
            raise DataError(
                f"dataset.relax: sid {sid} cannot be the name of a trajectory; omit task.relax_opt.traj_dir, or make "
                "the LMDB with ids without '/'"
            )
        path = folder / f"{sid}.traj"
        if path.is_file():
            end = end_of(path)
            if is_final(path, end):
                ends[sid] = end
            else:
                num_begun += 1
    if ends:
        logger.info("%d of %d structures have a finished trajectory in %s", len(ends), len(ids), folder)
    if num_begun:
        logger.info("%d have another one, and are relaxed again", num_begun)
    return [index for index, sid in enumerate(ids) if sid not in ends], ends


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
