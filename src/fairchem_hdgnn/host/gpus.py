"""What the data sheets say of the GPUs that OC20 models are trained on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from fairchem_hdgnn.errors import ConfigError
from fairchem_hdgnn.host.counting import Operation


@dataclass(frozen=True)
class Gpu:
    """A kind of GPU, its peaks from the vendor's data sheet (SXM boards, without sparsity).

    Attributes:
        name: as people call it.
        float32: TFLOP/s.
        tf32: TFLOP/s of the tensor cores; ``None`` without TF32, which is then float32.
        bfloat16: TFLOP/s of the tensor cores; ``None`` without bfloat16.
        bandwidth: of the memory, TB/s.
        memory: GB.
    """

    name: str
    float32: float
    tf32: float | None
    bfloat16: float | None
    bandwidth: float
    memory: int

    def seconds(self, operations: Iterable[Operation]) -> float:
        """Least time for the operations, one after the other, each bound by arithmetic or by memory.

        Raises:
            ConfigError: a product in bfloat16 on a GPU that has none.
        """
        return sum(self._seconds(operation) for operation in operations)

    def _seconds(self, operation: Operation) -> float:
        peak: float | None = (self.tf32 if operation.tf32 else None) or self.float32
        if operation.dtype is torch.bfloat16:
            peak = self.bfloat16
        if peak is None:
            raise ConfigError(f"optim.precision: a {self.name} has no bfloat16; set float32, or use --amp (float16)")
        return max(operation.flops / peak, operation.traffic / self.bandwidth) * 1e-12


GPUS = {
    "v100": Gpu("V100", 15.7, None, None, 0.9, 32),
    "a100": Gpu("A100", 19.5, 156.0, 312.0, 2.039, 80),
    "h100": Gpu("H100", 66.9, 494.7, 989.4, 3.35, 80),
}
