"""Pure-torch stand-in for the parts of torch-sparse that fairchem-core 1.10 uses."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

from ._missing import missing
from .cat import cat
from .storage import SparseStorage
from .tensor import SparseTensor

__version__ = "0.6.18+standin"

__all__ = ["SparseStorage", "SparseTensor", "__version__", "cat"]


def __getattr__(name: str) -> Callable[..., NoReturn]:
    """A function that the real package has beyond ``__all__``: it raises NotImplementedError when called."""
    return missing(name)
