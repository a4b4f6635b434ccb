"""Room for checkpoints, and leave to write them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import nn

from fairchem_hdgnn.host.preflight.findings import Finding, error, warning

BYTES = 4
"""Of a float32 number."""


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
