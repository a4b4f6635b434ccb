"""Count the resources that a computation needs: FLOPs, memory traffic, memory still in use."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from torch.utils.weak import WeakIdKeyDictionary

from fairchem_hdgnn.models.arithmetic.tf32 import tf32_allowed

aten = torch.ops.aten

IN_PLACE_PRODUCTS = (aten.addmm_, aten.baddbmm_)
"""Matrix products for which torch's registry has no formula."""

ALLOCATIONS = (aten.empty, aten.empty_like, aten.empty_strided, aten.new_empty, aten.new_empty_strided)
"""Operations that reserve memory and move nothing."""

GATHERS = (aten.index_select, aten.index, aten.gather, aten.embedding)
SCATTERS = (aten.index_add_, aten.index_copy_, aten.index_put_, aten.scatter_add_)
"""Operations that access only some rows of a tensor: those that they return, or those that they are given."""


@dataclass(frozen=True)
class Operation:
    """One call of a kernel.

    Attributes:
        flops: FLOPs of a matrix product, one multiply-add counted as two; 0 for anything else.
        traffic: bytes read and written, each number once.
        dtype: dtype of the result.
        tf32: whether a GPU may run it in TF32.
        name: with its namespace, as ``aten::mm``.
    """

    flops: int
    traffic: int
    dtype: torch.dtype
    tf32: bool = False
    name: str = ""


class WorkCounter(TorchDispatchMode):
    """A context manager that counts the operations in its block, including nested backward passes.

    torch's ``FlopCounterMode`` counts the same FLOPs but not in-place products or memory.
    """

    def __init__(self) -> None:
        """Start at zero."""
        super().__init__()
        self.operations: list[Operation] = []
        self._sizes: Any = WeakIdKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and record it."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        # Weights that oneDNN has reordered have no storage, and do not exist on a GPU.
        inputs = [tensor for tensor in _tensors([args, kwargs]) if not tensor.is_mkldnn]
        outputs = [tensor for tensor in _tensors(result) if not tensor.is_mkldnn]
        if outputs and not func.is_view and func._overloadpacket not in ALLOCATIONS:
            traffic = _traffic(func._overloadpacket, inputs, outputs)
            flops, dtype = _flops(func, args, kwargs, result), outputs[0].dtype
            tf32 = dtype is torch.float32 and tf32_allowed()
            self.operations.append(Operation(flops, traffic, dtype, tf32, func._schema.name))
        present = {tensor.untyped_storage()._cdata for tensor in inputs}
        for storage in (tensor.untyped_storage() for tensor in outputs):
            if storage._cdata not in present:
                self._sizes[storage] = storage.nbytes()
        return result

    @property
    def flops(self) -> int:
        """FLOPs of all matrix products so far."""
        return sum(operation.flops for operation in self.operations)

    @property
    def traffic(self) -> int:
        """Bytes read and written so far."""
        return sum(operation.traffic for operation in self.operations)

    @property
    def live_bytes(self) -> int:
        """Memory allocated since the start of the block and still in use."""
        return sum(self._sizes.values())


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)


def _traffic(packet: Any, inputs: list[Tensor], outputs: list[Tensor]) -> int:
    if packet in GATHERS:
        return 2 * _bytes(outputs)
    if packet in SCATTERS:
        return 3 * _bytes(inputs[1:])
    return _bytes(inputs) + _bytes(outputs)


def _bytes(tensors: list[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _flops(func: Any, args: Any, kwargs: Any, result: Any) -> int:
    packet = func._overloadpacket
    if packet in IN_PLACE_PRODUCTS:
        return 2 * args[1].numel() * args[2].shape[-1]
    if packet is torch.ops.mkldnn._linear_pointwise:
        return 2 * result.numel() * args[0].shape[-1]
    if packet in flop_registry:
        return int(flop_registry[packet](*args, **kwargs, out_val=result))
    return 0
