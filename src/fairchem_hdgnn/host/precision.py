"""bfloat16 or TF32 for the networks, float32 for everything else."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from enum import Enum

import torch

from fairchem_hdgnn.errors import ConfigError, suggestion
from fairchem_hdgnn.models.arithmetic.precision import networks_in_tf32


class Precision(str, Enum):
    """``bfloat16`` and ``tf32`` are for the networks' matrix products; geometry, norms and sums stay ``float32``."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    TF32 = "tf32"

    @classmethod
    def from_config(cls, optim: dict, *, amp: bool) -> Precision:
        """The precision that ``optim`` sets, ``float32`` by default.

        Raises:
            ConfigError: the value is unknown, or not float32 together with ``amp`` (which is float16).
        """
        name = optim.get("precision", cls.FLOAT32.value)
        try:
            precision = cls(name)
        except ValueError as error:
            raise ConfigError(
                f"optim.precision: '{name}' is unknown{suggestion(str(name), [p.value for p in cls])}"
            ) from error
        if amp and precision is not cls.FLOAT32:
            raise ConfigError(
                f"optim.precision: {precision.value} and --amp (float16) exclude each other; remove one of them"
            )
        return precision

    def autocast(self, device: torch.device) -> AbstractContextManager[object]:
        """A context for forward passes that runs the networks' matrix products, also backward, in this precision.

        Models disable it for geometry, rotations, norms and sums; weights, gradients and the optimizer stay float32.
        No loss scaling is needed: both have float32's range. TF32 does not use torch's own setting, which applies to
        the whole process; only the networks of our models follow it.
        """
        if self is Precision.BFLOAT16:
            return torch.autocast(device.type, dtype=torch.bfloat16)
        # Not autocast(enabled=False), which would switch off the float16 autocast of --amp around it.
        return networks_in_tf32() if self is Precision.TF32 else nullcontext()
