"""Which layout of parameters a checkpoint holds, and how an earlier one becomes the present one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from fairchem_hdgnn.errors import DataError

MODEL_VERSION = 1
"""Of the present layout. A change of names, shapes, order or meaning of parameters makes it one more."""

UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}
"""Version -> what makes a checkpoint of the next version from one of this.

It gets whole checkpoints, averaged weights (EMA, a list in the order of parameters) and optimiser included, and leaves
alone what is not of its version: fairchem's own trainer writes no version, and other models have none.
"""


def upgraded(checkpoint: dict[str, Any], path: str | Path) -> dict[str, Any]:
    """A checkpoint in the present layout; one without ``model_version`` has that of release 0.1.0, which is 1.

    Args:
        checkpoint: what ``path`` holds.
        path: for messages.

    Raises:
        DataError: it is of a version that this package does not know.
    """
    version = checkpoint.get("model_version", 1)
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise DataError(f"{path}: its 'model_version' must be a whole number from 1, not {version!r}")
    if version > MODEL_VERSION:
        raise DataError(
            f"{path}: written by a later fairchem-hdgnn (model_version {version}, known up to {MODEL_VERSION}); "
            "upgrade fairchem-hdgnn"
        )
    for number in range(version, MODEL_VERSION):
        checkpoint = {**UPGRADES[number](checkpoint), "model_version": number + 1}
    return checkpoint
