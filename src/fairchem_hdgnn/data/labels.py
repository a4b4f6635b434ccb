"""Labels of a batch as tensors, however the records hold them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch


def collect_labels(batch: Any, names: Iterable[str]) -> None:
    """Turn labels that records hold as numpy arrays or numbers into tensors, in place.

    torch_geometric joins floats and tensors, but leaves what is of numpy in a list.
    """
    for name in names:
        values = getattr(batch, name, None)
        if isinstance(values, list) and values and all(isinstance(value, (np.ndarray, np.generic)) for value in values):
            parts = [torch.from_numpy(np.atleast_1d(value)) for value in values]
            batch[name] = torch.cat(parts).to(batch.pos.device, torch.get_default_dtype())
