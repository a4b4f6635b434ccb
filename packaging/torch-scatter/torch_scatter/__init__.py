"""Pure-torch stand-in for the parts of torch-scatter that fairchem-core 1.10 uses."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

from ._missing import missing
from .extremum import scatter_max, scatter_min
from .scatter import scatter, scatter_add, scatter_mean, scatter_mul, scatter_sum
from .segment_coo import (
    gather_coo,
    segment_add_coo,
    segment_coo,
    segment_max_coo,
    segment_mean_coo,
    segment_min_coo,
    segment_sum_coo,
)
from .segment_csr import (
    gather_csr,
    segment_add_csr,
    segment_csr,
    segment_max_csr,
    segment_mean_csr,
    segment_min_csr,
    segment_sum_csr,
)

__version__ = "2.1.2+standin"

__all__ = [
    "__version__",
    "gather_coo",
    "gather_csr",
    "scatter",
    "scatter_add",
    "scatter_max",
    "scatter_mean",
    "scatter_min",
    "scatter_mul",
    "scatter_sum",
    "segment_add_coo",
    "segment_add_csr",
    "segment_coo",
    "segment_csr",
    "segment_max_coo",
    "segment_max_csr",
    "segment_mean_coo",
    "segment_mean_csr",
    "segment_min_coo",
    "segment_min_csr",
    "segment_sum_coo",
    "segment_sum_csr",
]


def __getattr__(name: str) -> Callable[..., NoReturn]:
    """A function that the real package has beyond ``__all__``: it raises NotImplementedError when called."""
    return missing(name)
