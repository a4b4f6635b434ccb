"""Convert the labels of a batch to tensors, however the records store them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch


def collect_labels(batch: Any, names: Iterable[str]) -> None:
    """Convert labels that records store as numpy arrays or numbers to tensors, in place.

    torch_geometric collates floats and tensors, but leaves numpy values in a list.
    """
    for name in names:
        values = getattr(batch, name, None)
        if isinstance(values, list) and values and all(isinstance(value, (np.ndarray, np.generic)) for value in values):
            parts = [torch.from_numpy(np.atleast_1d(value)) for value in values]
            batch[name] = torch.cat(parts).to(batch.pos.device, torch.get_default_dtype())
