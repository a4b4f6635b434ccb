"""Files that a run reads: missing, empty, damaged, or one for two splits. Files that it writes: room, and leave."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import nn

from fairchem_hdgnn.checks.findings import Finding, error, warning
from fairchem_hdgnn.data.lmdb import lmdb_files, open_lmdb, read_length
from fairchem_hdgnn.errors import DataError
from fairchem_hdgnn.host.fairchem1.safe_lmdb import LMDB_FORMATS

BYTES = 4
"""Of a float32 number."""


def check_data_sets(splits: dict[str, dict[str, Any]]) -> None:
    """Open each LMDB that the ``dataset`` section of a config names, and see that there is something in it.

    Args:
        splits: settings by split: ``{"train": {"src": ..., "format": "lmdb"}, ...}``.

    Raises:
        DataError: an LMDB is missing, empty or unreadable; names split and file.
    """
    for split, settings in splits.items():
        if settings.get("format", "lmdb") not in LMDB_FORMATS:
            continue
        for source in sources(settings):
            try:
                _check_lmdb(source)
            except DataError as problem:
                raise DataError(f"dataset.{split}: {problem}") from problem


def sources(settings: dict[str, Any]) -> list[Path]:
    """The paths that ``src`` names."""
    value = settings.get("src") or []
    return [Path(source) for source in ([value] if isinstance(value, str) else value)]


def _check_lmdb(path: Path) -> None:
    for file in lmdb_files(path):
        if read_length(open_lmdb(file)) == 0:
            raise DataError(f"LMDB {file} holds no record: make it again")


def same_file_findings(splits: dict[str, dict[str, Any]]) -> Iterator[Finding]:
    """Splits that read the same file: fairchem's ``lmdb`` cannot, and scores on training systems say little."""
    for (one, first), (other, second) in itertools.combinations(splits.items(), 2):
        shared = _files(first) & _files(second)
        if not shared:
            continue
        subject, problem = f"dataset.{other}.src", f"is {min(shared)}, as dataset.{one}.src is"
        if first.get("format", "lmdb") != "safe_lmdb" and second.get("format", "lmdb") != "safe_lmdb":
            yield error(subject, f"{problem}, which `lmdb` cannot open twice", "give each split a file of its own")
        else:
            yield warning(subject, problem, "give each split a file of its own, unless this is a test of overfitting")


def _files(settings: dict[str, Any]) -> set[Path]:
    """The files that ``src`` names; where there is none, the one who opens the data set says so."""
    try:
        return {file.resolve() for path in sources(settings) for file in lmdb_files(path)}
    except DataError:
        return set()


def checkpoint_bytes(model: nn.Module, optim: dict[str, Any]) -> int:
    """What a run needs on disk at once: ``checkpoint.pt``, its successor while it is written, ``best_checkpoint.pt``.

    With an optimizer of Adam's kind a checkpoint holds the weights, two moments (three with amsgrad) and, with EMA,
    the averaged weights.
    """
    weights = sum(parameter.numel() for parameter in model.parameters())
    copies = 3 + bool((optim.get("optimizer_params") or {}).get("amsgrad")) + bool(optim.get("ema_decay"))
    return BYTES * weights * (2 * copies + 1)


def disk_findings(folder: Path, needed: int) -> Iterator[Finding]:
    """Whether ``needed`` bytes can be written below ``folder``, which need not exist yet."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        yield error(f"--run-dir {folder}", f"{existing} is a file", "name a folder")
        return
    if not os.access(existing, os.W_OK):
        yield error(f"--run-dir {folder}", "is not writable", "choose another folder for checkpoints and logs")
        return
    free = shutil.disk_usage(existing).free
    where = f"--run-dir {folder}"
    if free < needed:
        yield error(where, f"checkpoints need {_gb(needed)}, but {_gb(free)} are free", "make room or choose another")
    elif free < 2 * needed:
        yield warning(where, f"checkpoints take {_gb(needed)} of the {_gb(free)} that are free", "make room for logs")


def _gb(size: int) -> str:
    return f"{size / 1e9:.3g} GB"
