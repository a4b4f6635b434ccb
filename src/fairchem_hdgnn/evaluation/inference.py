"""Predictions of a checkpoint on LMDBs, on one or many devices.

Each process predicts its own share of the systems, so every system is predicted and counted exactly once.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int64, Shaped
from torch import nn
from torch.utils.data import DataLoader, Subset
from torch_geometric.data import Batch, Data
from tqdm import tqdm

from fairchem_hdgnn.data.periodicity import periodic_directions
from fairchem_hdgnn.data.surfaces.tagging import ADSORBATE
from fairchem_hdgnn.errors import ConfigError, DataError
from fairchem_hdgnn.evaluation.predictions import Predictions, element_set, hill_formula, merge
from fairchem_hdgnn.host.opened import OpenedCheckpoint, OpenedModel
from fairchem_hdgnn.host.opening import open_checkpoint, open_split
from fairchem_hdgnn.host.stop_conditions import explained_out_of_memory
from fairchem_hdgnn.models.so3.frame_source import set_draw

logger = logging.getLogger(__name__)

REMEDY = "use train --mode predict and, for QM9, evaluate-qm9"


@dataclass(frozen=True)
class InferenceOptions:
    """How predictions are made.

    Attributes:
        cpu: run on the CPU even if there is a GPU.
        num_ranks: number of processes; each uses one GPU, or the CPU.
        batch_size: systems in a batch; ``None`` uses the checkpoint's ``eval_batch_size``.
        num_workers: data-loader processes of each rank.
        seed: of resampling, and of other packages' models that draw random numbers; edge frames follow ``frame_seed``.
        model_overrides: keys that replace those of the checkpoint's ``model:``.
        trusted: unpickle everything in the checkpoint; it can then run code.
        data_format: fairchem's name of the data format; ``None`` uses the checkpoint's, but ``safe_lmdb``, which never
            runs code from a file, instead of ``lmdb``.
        progress: show progress bars.
    """

    cpu: bool = False
    num_ranks: int = 1
    batch_size: int | None = None
    num_workers: int = 0
    seed: int = 0
    model_overrides: Mapping[str, Any] = field(default_factory=dict)
    trusted: bool = False
    data_format: str | None = None
    progress: bool = True


def predict_splits(
    checkpoint: str | Path,
    sources: Mapping[str, Path],
    options: InferenceOptions | None = None,
    *,
    draw: int = 0,
) -> dict[str, Predictions]:
    """Predict every split in ``sources``, sorted by id.

    Args:
        checkpoint: file of the checkpoint.
        sources: name of each split -> LMDB file or folder.
        options: how predictions are made.
        draw: number of the draw of random edge frames (:func:`fairchem_hdgnn.models.so3.frame_source.set_draw`);
            torch's random generator is seeded with seed + draw.

    Raises:
        DataError: an LMDB or the checkpoint cannot be used.
        ConfigError: the checkpoint's model is unknown here or predicts no energy.
    """
    options = options or InferenceOptions()
    if not options.cpu and torch.cuda.is_available() and options.num_ranks > torch.cuda.device_count():
        raise ConfigError(f"{options.num_ranks} GPUs requested, but {torch.cuda.device_count()} are visible")
    work = partial(_predict_share, checkpoint, dict(sources), options, draw)
    if options.num_ranks == 1:
        shares = [work(0)]
    else:
        context = multiprocessing.get_context("spawn")
        try:
            with ProcessPoolExecutor(options.num_ranks, mp_context=context) as pool:
                shares = list(pool.map(work, range(options.num_ranks)))
        except BrokenProcessPool as error:
            raise DataError(
                f"{checkpoint}: a predicting process was killed, perhaps out of memory; lower --batch-size, "
                "--num-workers or --num-gpus"
            ) from error
    return {split: merge(share[split] for share in shares if split in share) for split in sources}


def _predict_share(
    checkpoint: str | Path, sources: Mapping[str, Path], options: InferenceOptions, draw: int, rank: int
) -> dict[str, Predictions]:
    """Predictions of one rank: systems ``rank``, ``rank + num_ranks``, ... of every split."""
    opened = open_checkpoint(
        checkpoint,
        cpu=options.cpu,
        device_index=rank,
        seed=options.seed,
        model_overrides=options.model_overrides,
        trusted=options.trusted,
    )
    if "energy" not in opened.outputs:
        raise ConfigError(f"{checkpoint}: predicts {', '.join(opened.outputs)}, but no 'energy'; {REMEDY}")
    set_draw(opened.model, draw)
    share = {}
    for split, source in sources.items():
        opened.seed(options.seed + draw + rank)
        dataset = open_split(opened.dataset, source, options.data_format)
        indices = range(rank, len(dataset), options.num_ranks)
        if len(indices) > 0:
            share[split] = _predict(opened, Subset(dataset, indices), split, options, rank)
    return share


def evenly_spaced(length: int, most: int) -> list[int]:
    """At most ``most`` indices below ``length``, ascending and evenly spaced."""
    return np.unique(np.linspace(0, length - 1, min(length, most)).astype(int)).tolist()


def batches(dataset: Subset, opened: OpenedModel, options: InferenceOptions) -> DataLoader:
    """Batches of a data set in its order.

    Args:
        dataset: records.
        opened: collates records, and has the batch size if ``options`` do not set it.
        options: batch size and number of data-loader processes.
    """
    return DataLoader(
        dataset,
        batch_size=options.batch_size or opened.batch_size,
        num_workers=options.num_workers,
        collate_fn=partial(_collate, opened),
    )


def _collate(opened: OpenedModel, records: list[Data]) -> Batch:
    """A batch of records that have the same attributes; torch_geometric takes those of the first."""
    wanted = set(records[0].keys())
    for record in records:
        if different := wanted.symmetric_difference(record.keys()):
            raise DataError(
                f"sid {record.sid}: has other attributes than sid {records[0].sid} ({', '.join(sorted(different))}); "
                "all records of a split need the same: re-create the LMDB with make-lmdb"
            )
    return opened.collate(records)


def _predict(
    opened: OpenedCheckpoint, dataset: Subset, split: str, options: InferenceOptions, rank: int
) -> Predictions:
    loader = batches(dataset, opened, options)
    parts = []
    bar = tqdm(total=len(dataset), desc=split, unit="system", position=rank, disable=not options.progress)
    with _each_message_once(), bar as progress:
        for batch in loader:
            facts = _facts(batch)
            if _ignores_cells(opened.model, batch):
                logger.warning(
                    "%s: has periodic structures, but model.use_pbc is false: no edges cross the faces of their cells. "
                    "That is right for molecules that no face cuts.",
                    split,
                )
            with explained_out_of_memory(batch, opened.model, "--batch-size, --num-gpus, --cpu"):
                outputs = opened.predict(batch)
            parts.append(_with_outputs(facts, outputs, batch))
            progress.update(len(facts))
    return merge([replace(each, record=records) for each, records in zip(parts, _records(dataset, parts))])


def _ignores_cells(model: nn.Module, batch: Batch) -> bool:
    """Whether a model that knows no periodicity gets structures with it."""
    if all(getattr(module, "use_pbc", True) for module in model.modules()) or "cell" not in batch:
        return False
    return bool(periodic_directions(batch).any() and batch.cell.any())


def _records(dataset: Subset, parts: Sequence[Predictions]) -> list[Int64[np.ndarray, "systems"]]:
    """Positions in the LMDB of the systems of each batch."""
    return np.split(np.asarray(dataset.indices, dtype=np.int64), np.cumsum([len(each) for each in parts])[:-1])


@contextlib.contextmanager
def _each_message_once() -> Iterator[None]:
    """Log each distinct message once; fairchem's ``predict`` warns of unfitted scale factors at every batch."""
    seen: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        message = record.getMessage()
        new = message not in seen
        seen.add(message)
        return new

    logging.root.addFilter(is_new)
    try:
        yield
    finally:
        logging.root.removeFilter(is_new)


def _facts(batch: Batch) -> Predictions:
    """Ids, sizes and labels of a batch; the energy is filled in after the forward pass."""
    natoms = batch.natoms.cpu().numpy().astype(np.int64)
    starts = np.cumsum(natoms)[:-1]
    numbers = batch.atomic_numbers.cpu().numpy().astype(np.int64)
    tags = batch.tags.cpu().numpy() if "tags" in batch else np.zeros(len(numbers))
    per_system = list(zip(np.split(numbers, starts), np.split(tags, starts)))
    return Predictions(
        ids=np.array(_ids(batch)),
        energy=np.full(len(natoms), np.nan, dtype=np.float32),
        natoms=natoms,
        adsorbate=np.array([hill_formula(z[tag == ADSORBATE]) for z, tag in per_system]),
        elements=np.array([element_set(z[tag != ADSORBATE]) for z, tag in per_system]),
        target=_numpy(batch.energy).reshape(-1) if "energy" in batch else None,
    )


def _with_outputs(facts: Predictions, outputs: Mapping[str, torch.Tensor], batch: Batch) -> Predictions:
    predictions = replace(facts, energy=_numpy(outputs["energy"]).reshape(-1))
    if "forces" not in outputs:
        return predictions
    if "fixed" not in batch:
        raise DataError(
            f"sid {_ids(batch)[0]}: has no 'fixed', which marks atoms without scored forces; re-create the LMDB"
        )
    free = batch.fixed.cpu().numpy() == 0
    labels = _numpy(batch.forces)[free] if "forces" in batch else None
    system = np.repeat(np.arange(len(facts)), facts.natoms)
    return replace(
        predictions,
        forces=_numpy(outputs["forces"])[free],
        target_forces=labels,
        free_atoms=np.bincount(system[free], minlength=len(facts)).astype(np.int64),
    )


def _ids(batch: Batch) -> Sequence[str]:
    """The ``record_id`` of each record of a batch."""
    names = [batch.sid, batch.fid] if "fid" in batch else [batch.sid]
    columns = [values.tolist() if torch.is_tensor(values) else values for values in names]
    return ["_".join(map(str, parts)) for parts in zip(*columns)]


def _numpy(values: Shaped[torch.Tensor, "..."]) -> Float32[np.ndarray, "..."]:
    return values.detach().cpu().numpy().astype(np.float32)
