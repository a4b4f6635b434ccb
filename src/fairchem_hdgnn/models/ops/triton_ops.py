"""Rotations by the kernels of :mod:`~fairchem_hdgnn.models.ops.rotation_kernels`, for GPUs."""

from __future__ import annotations

import importlib
import os
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from fairchem_hdgnn.errors import ConfigError
from fairchem_hdgnn.models.edges import EdgeBlock
from fairchem_hdgnn.models.ops.edge_ops import FastEdgeOps
from fairchem_hdgnn.models.ops.rotations import BatchedRotations


class TritonRotations(BatchedRotations):
    """Gathers while rotating, and sums while rotating back, where x is float32."""

    def of_source(self, matrices: Tensor, x: Tensor, block: EdgeBlock) -> Tensor:
        """As :meth:`BatchedRotations.of_source`."""
        if x.dtype != torch.float32:
            return super().of_source(matrices, x, block)
        return _kernels().gather_rotate(matrices, x, block.source)

    def of_target(self, matrices: Tensor, x: Tensor, block: EdgeBlock) -> Tensor:
        """As :meth:`BatchedRotations.of_target`."""
        if x.dtype != torch.float32:
            return super().of_target(matrices, x, block)
        return _kernels().gather_rotate(matrices, x, block.target)

    def add_to_target(self, matrices: Tensor, y: Tensor, block: EdgeBlock, total: Tensor) -> None:
        """As :meth:`BatchedRotations.add_to_target`."""
        if y.dtype != torch.float32:
            super().add_to_target(matrices, y, block, total)
            return
        _kernels().rotate_back_sum(matrices, y, block.first_edge, total[block.first_node : block.last_node])


class TritonEdgeOps(FastEdgeOps):
    """As :class:`FastEdgeOps`, with rotations by kernels.

    Raises:
        ConfigError: the edges are not on a GPU, and Triton's interpreter is not switched on.
    """

    kernels = TritonRotations()

    def __init__(self, block: EdgeBlock, *arguments: Any, **keywords: Any) -> None:
        if block.on_cpu and os.environ.get("TRITON_INTERPRET") != "1":
            raise ConfigError("implementation: triton runs on GPUs only; on a CPU use 'fast'")
        super().__init__(block, *arguments, **keywords)


def _kernels() -> ModuleType:
    return importlib.import_module("fairchem_hdgnn.models.ops.rotation_kernels")
