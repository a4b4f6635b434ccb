"""For which GPUs, sizes and precisions the kernels have been measured to be right and faster than plain products.

The table ``proven.json`` is written by ``benchmarks/gpu_report.py`` from stored results of ``benchmarks/gpu.py``.
"""

from __future__ import annotations

import importlib.util
import json
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any

import torch

from fairchem_hdgnn.models.arithmetic.precision import Compute

TABLE = Path(__file__).with_name("proven.json")

SIZES = (
    "message", "mlp", "neural_input", "output_activation", "tensor_product", "full_degree_product", "extra_linear",
    "squeeze_excitation", "layer_norm", "attention", "invariant_channels", "num_resolutions", "near_neighbors", "lmax",
    "mmax", "lmax_metp", "lmax_far", "resolution", "sphere_channels", "hidden_channels", "hidden_channels_far",
    "edge_channels", "activations",
)  # fmt: skip
"""Keys of a configuration that decide what the kernels work on; a model has some of them."""


def sizes_of(config: Any) -> dict[str, Any]:
    """What a configuration asks of the kernels, in the terms of YAML."""
    values = {name: getattr(config, name) for name in SIZES if hasattr(config, name)}
    plain = {name: value.value if isinstance(value, Enum) else value for name, value in values.items()}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in plain.items()}


def kernels_are_faster(config: Any, compute: Compute, device: torch.device) -> bool:
    """Whether a stored measurement says so for this configuration, precision and generation of GPU."""
    if device.type != "cuda" or torch.version.hip is not None or not _records():
        return False
    if importlib.util.find_spec("triton") is None:
        return False
    gpu = ".".join(map(str, torch.cuda.get_device_capability(device)))
    return {"gpu": gpu, "precision": precision_of(compute), "sizes": sizes_of(config)} in _records()


def precision_of(compute: Compute) -> str:
    """The value of ``optim.precision`` that products run with, or another dtype's name."""
    if compute.dtype == torch.float32 and compute.tf32:
        return "tf32"
    return str(compute.dtype).removeprefix("torch.")


@cache
def _records() -> list[dict[str, Any]]:
    return json.loads(TABLE.read_text())
