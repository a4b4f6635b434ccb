"""bfloat16 for the networks, float32 for everything that needs it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from enum import Enum

import torch

from fairchem_hdgnn.errors import ConfigError, nearest


class Precision(str, Enum):
    """Values of ``optim.precision``."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"

    @classmethod
    def from_config(cls, optim: dict, *, amp: bool) -> Precision:
        """The precision that ``optim`` asks for, ``float32`` if it does not say.

        Raises:
            ConfigError: the value is unknown, or asks for bfloat16 beside ``amp`` (which is float16).
        """
        name = optim.get("precision", cls.FLOAT32.value)
        try:
            precision = cls(name)
        except ValueError as error:
            raise ConfigError(
                f"optim.precision: '{name}' is unknown{nearest(str(name), [p.value for p in cls])}"
            ) from error
        if amp and precision is cls.BFLOAT16:
            raise ConfigError("optim.precision: bfloat16 and --amp (float16) exclude each other; drop one of them")
        return precision

    def autocast(self, device: torch.device) -> AbstractContextManager[object]:
        """A context in which matrix products run in this precision.

        Models leave it for geometry, rotations, norms and sums; weights, gradients and the optimizer stay float32.
        No loss scaling is needed: bfloat16 has float32's range.
        """
        # Not autocast(enabled=False), which would switch off the float16 autocast of --amp around it.
        return torch.autocast(device.type, dtype=torch.bfloat16) if self is Precision.BFLOAT16 else nullcontext()
