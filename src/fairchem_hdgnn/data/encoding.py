"""Pickle records so that they load several times faster and take less space, into the very same objects."""

from __future__ import annotations

import io
import pickle
from typing import Any

import torch


class _Pickler(pickle.Pickler):
    """Reduces CPU tensors to ``torch.from_numpy(array)``.

    By default each tensor carries a nested ``torch.save`` archive, and opening it dominates loading a small graph.
    """

    def reducer_override(self, value: Any) -> Any:
        if type(value) is torch.Tensor and value.device.type == "cpu" and not value.requires_grad:
            try:
                return torch.from_numpy, (value.numpy(),)
            except TypeError:  # a type that NumPy lacks, such as bfloat16
                return NotImplemented
        return NotImplemented


def encode(record: Any) -> bytes:
    """The pickle of a record; ``pickle.loads`` reads it wherever torch is installed."""
    buffer = io.BytesIO()
    _Pickler(buffer, protocol=5).dump(record)
    return buffer.getvalue()
