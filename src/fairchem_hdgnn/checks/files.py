"""Check the files that a run reads (missing, empty, damaged, shared by splits) and writes (space, permission)."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import nn

from fairchem_hdgnn.checks.findings import Finding, error, warning
from fairchem_hdgnn.data.lmdb import LMDB_FORMATS, lmdb_files, open_lmdb, read_length
from fairchem_hdgnn.errors import DataError
from fairchem_hdgnn.host.fairchem1.config_files import sources

BYTES = 4
"""Bytes of a float32 number."""


def check_data_sets(splits: dict[str, dict[str, Any]]) -> None:
    """Open each LMDB named in the ``dataset`` section of a config, and check that it has records.

    Args:
        splits: settings by split: ``{"train": {"src": ..., "format": "lmdb"}, ...}``.

    Raises:
        DataError: an LMDB is missing, empty or unreadable; the message names split and file.
    """
    for split, settings in splits.items():
        if settings.get("format", "lmdb") not in LMDB_FORMATS:
            continue
        for source in sources(settings):
            try:
                _check_lmdb(source)
            except DataError as problem:
                raise DataError(f"dataset.{split}: {problem}") from problem


def _check_lmdb(path: Path) -> None:
    for file in lmdb_files(path):
        if read_length(open_lmdb(file)) == 0:
            raise DataError(f"LMDB {file} contains no records: re-create it")


def same_file_findings(splits: dict[str, dict[str, Any]]) -> Iterator[Finding]:
    """Report splits that share a file: fairchem's ``lmdb`` cannot, and scores on training systems mean little."""
    for (one, first), (other, second) in itertools.combinations(splits.items(), 2):
        shared = _files(first) & _files(second)
        if not shared:
            continue
        subject, problem = f"dataset.{other}.src", f"is {min(shared)}, the same as dataset.{one}.src"
        if first.get("format", "lmdb") != "safe_lmdb" and second.get("format", "lmdb") != "safe_lmdb":
            yield error(subject, f"{problem}, which `lmdb` cannot open twice", "give each split its own file")
        else:
            yield warning(subject, problem, "give each split its own file, unless this is an overfitting test")


def _files(settings: dict[str, Any]) -> set[Path]:
    """The files that ``src`` names; empty if one is missing, which opening the data set reports."""
    try:
        return {file.resolve() for path in sources(settings) for file in lmdb_files(path)}
    except DataError:
        return set()


def checkpoint_bytes(model: nn.Module, optim: dict[str, Any]) -> int:
    """Peak disk space of a run: ``checkpoint.pt``, its successor while being written, ``best_checkpoint.pt``.

    With an Adam-type optimizer a checkpoint holds the weights, two moments (three with amsgrad) and, with EMA, the
    averaged weights.
    """
    weights = sum(parameter.numel() for parameter in model.parameters())
    copies = 3 + bool((optim.get("optimizer_params") or {}).get("amsgrad")) + bool(optim.get("ema_decay"))
    return BYTES * weights * (2 * copies + 1)


def disk_findings(folder: Path, needed: int) -> Iterator[Finding]:
    """Check that ``needed`` bytes can be written below ``folder``, which need not exist yet."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        yield error(f"--run-dir {folder}", f"{existing} is a file", "give a folder")
        return
    if not os.access(existing, os.W_OK):
        yield error(f"--run-dir {folder}", "is not writable", "choose another folder for checkpoints and logs")
        return
    free = shutil.disk_usage(existing).free
    where = f"--run-dir {folder}"
    if free < needed:
        yield error(
            where,
            f"checkpoints need {_gb(needed)}, but {_gb(free)} are free",
            "free some space or choose another folder",
        )
    elif free < 2 * needed:
        yield warning(
            where, f"checkpoints take {_gb(needed)} of the {_gb(free)} that are free", "free some space for logs"
        )


def _gb(size: int) -> str:
    return f"{size / 1e9:.3g} GB"
