"""Where a GPU would be waited for, counted on a CPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

WAITING = {
    "_local_scalar_dense", "_unique2", "bincount", "equal", "lift_fresh", "masked_select", "nonzero",
}  # fmt: skip
"""Operations whose result's value or size the CPU needs, or that copy a constant to the GPU."""


class Waits(TorchDispatchMode):
    """Counts operations whose result's value or size the CPU needs, for which it waits for a GPU.

    ``tolist`` of a tensor on the CPU dispatches nothing, so it is counted by itself.
    """

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.patch = pytest.MonkeyPatch()

    def __enter__(self) -> Waits:
        to_list = torch.Tensor.tolist

        def counted(tensor: torch.Tensor) -> Any:
            self.count += 1
            return to_list(tensor)

        self.patch.setattr(torch.Tensor, "tolist", counted)
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        self.patch.undo()
        super().__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        aten = torch.ops.aten
        masked = func._overloadpacket in (aten.index, aten.index_put_) and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        self.count += masked or func._overloadpacket.__name__ in WAITING
        return func(*args, **(kwargs or {}))
