"""The result of converting a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fairchem_hdgnn.errors import ConfigError, DataError


@dataclass(frozen=True)
class Converted:
    """A new checkpoint.

    Attributes:
        path: the file.
        model_name: dotted name of the model in it.
        num_parameters: its number of parameters.
        averaged: whether the weights are the moving averages (EMA).
    """

    path: Path
    model_name: str
    num_parameters: int
    averaged: bool


def require_absent(out: Path) -> None:
    """Refuse to overwrite a file.

    Raises:
        DataError: it exists.
    """
    if out.exists():
        raise DataError(f"{out}: exists already; remove it or choose another name")


def require_raw(path: str | Path, averaged: bool | None, *, raw_weights: bool) -> None:
    """Refuse averaged weights (EMA) where raw ones are wanted.

    Raises:
        ConfigError: the file has averaged ones only.
    """
    if raw_weights and averaged:
        raise ConfigError(
            f"{path}: has averaged weights (EMA) only; for raw ones give checkpoint.pt of the run, or leave out "
            "--raw-weights"
        )
