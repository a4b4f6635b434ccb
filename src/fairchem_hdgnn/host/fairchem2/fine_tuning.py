"""Fine-tuning under fairchem-core 2: start from the weights of another checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ase.data import chemical_symbols
from torch import nn

from fairchem_hdgnn.errors import ConfigError
from fairchem_hdgnn.host.generations import read_trained
from fairchem_hdgnn.host.starting_weights import starting_weights
from fairchem_hdgnn.host.trained import IDENTITY

logger = logging.getLogger(__name__)

HEADS = ("kept", "fresh")


def take_weights(model: nn.Module, backbone: Mapping[str, Any], path: str, heads: str) -> None:
    """Load the weights of a checkpoint, averaged ones (EMA) if it has them, into a new model.

    Args:
        model: a backbone with heads of this package.
        backbone: its keys.
        path: ``inference_ckpt.pt``, or a checkpoint of fairchem-core 1.10.
        heads: ``kept`` or ``fresh``.

    Raises:
        DataError: the file cannot be read, or its weights do not match.
        ConfigError: it has a model of another architecture, or ``heads`` has another value.
    """
    if heads not in HEADS:
        raise ConfigError(f"model.init_heads: is {heads!r}; give {' or '.join(HEADS)}")
    trained = read_trained(Path(path).expanduser())
    keys = {key: value for key, value in backbone.items() if key != "model"}
    start = starting_weights(model, keys, trained, keep_heads=heads == "kept")
    start.copy_into(model)
    start.announce(trained)
    if heads == "kept":
        for output in trained.outputs:
            logger.warning(
                "Fine-tuning: the %s head was trained with mean %.6g, rmsd %.6g; set the task's normalizer to these.",
                output,
                *trained.scales.get(output, IDENTITY),
            )
        for output, energies in trained.references.items():
            listed = (f"{chemical_symbols[number]} {energies[number]:.6g}" for number in energies.nonzero().flatten())
            logger.warning(
                "Fine-tuning: the %s head was trained with element references, eV: %s; set the task's to these.",
                output,
                ", ".join(listed),
            )
