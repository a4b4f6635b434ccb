"""Execution of messages: operations, precision, and what is stored for the backward pass."""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from fairchem_hdgnn.errors import ConfigError
from fairchem_hdgnn.models.arithmetic.precision import Compute
from fairchem_hdgnn.models.ops.edge_ops import EdgeOps, FastEdgeOps
from fairchem_hdgnn.models.ops.proven import kernels_are_faster
from fairchem_hdgnn.models.ops.sphere import PointwiseNetwork, number_per_chunk, on_sphere, on_sphere_fast
from fairchem_hdgnn.models.ops.triton_ops import TritonEdgeOps, on_sphere_fused


class Activations(str, Enum):
    """What messages store for their backward pass.

    ``store``: the networks' activations; for each edge and layer about 110 kB in HDGNN (L = 6, C = 128, H = 512) and
    90 kB in eSCN (L = 6, C = 128, H = 256). ``recompute``: hardly anything; they are computed again block by block. On
    a CPU a training step then takes a tenth (HDGNN) to a third (eSCN) more time.
    """

    STORE = "store"
    RECOMPUTE = "recompute"


class Implementation(str, Enum):
    """All give the same results, up to rounding.

    ``auto``: ``triton`` on GPUs and with sizes for which it has been measured to be faster (docs/performance.md says
    which), else ``fast``. ``fast``: matrix products on blocks of edges. ``triton``: fused kernels for GPUs, which need
    less memory; in another dtype than float32, the same as ``fast``. ``reference``: the plain equations, slower and
    with far more memory, for checking.
    """

    AUTO = "auto"
    FAST = "fast"
    TRITON = "triton"
    REFERENCE = "reference"


OPS: dict[Implementation, type[EdgeOps]] = {
    Implementation.REFERENCE: EdgeOps,
    Implementation.FAST: FastEdgeOps,
    Implementation.TRITON: TritonEdgeOps,
}


@dataclass(frozen=True)
class Execution:
    """How messages are run.

    Attributes:
        ops: the operations; plain ones run on all edges at once, in ordinary autograd.
        compute: how products with the networks' matrices run.
        keep: store what the backward pass needs of each block, instead of running the block again.
    """

    ops: type[EdgeOps]
    compute: Compute
    keep: bool

    @classmethod
    def chosen(cls, config: Any, compute: Compute, device: torch.device, dtype: torch.dtype) -> Execution:
        """The execution that a configuration selects for a device, and the dtype of edges and atoms.

        Raises:
            ConfigError: kernels are asked for, but the device is a CPU and Triton's interpreter is not switched on.
        """
        implementation = config.implementation
        if implementation is Implementation.AUTO:
            faster = kernels_are_faster(config, compute, device)
            implementation = Implementation.TRITON if faster else Implementation.FAST
        interpreted = os.environ.get("TRITON_INTERPRET") == "1"
        if implementation is Implementation.TRITON and device.type == "cpu" and not interpreted:
            raise ConfigError("implementation: triton runs on GPUs only; on a CPU use 'fast'")
        if implementation is Implementation.TRITON and dtype != torch.float32:
            implementation = Implementation.FAST
        return cls(OPS[implementation], compute, config.activations is Activations.STORE)

    @property
    def fast(self) -> bool:
        """Whether the operations are fast ones, which run on blocks."""
        return issubclass(self.ops, FastEdgeOps)

    @property
    def kernels(self) -> bool:
        """Whether they are GPU kernels."""
        return issubclass(self.ops, TritonEdgeOps)

    def on_sphere(
        self, x: Float[Tensor, "nodes rows channels"], network: PointwiseNetwork
    ) -> Float[Tensor, "nodes rows_out channels"]:
        """:func:`~fairchem_hdgnn.models.ops.sphere.on_sphere` of an update, by a fast implementation."""
        keep = self.keep and torch.is_grad_enabled()
        if not self.kernels:
            return (on_sphere if keep else on_sphere_fast)(x, network, self.compute)
        if keep:
            return on_sphere_fused(x, network, self.compute)
        options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False, "determinism_check": "none"}
        parts = x.split(number_per_chunk(x, len(network.to_grid)))
        return torch.cat([checkpoint(on_sphere_fused, part, network, self.compute, **options) for part in parts])
