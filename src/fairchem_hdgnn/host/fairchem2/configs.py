"""Read configs of ``fairchem -c`` as networks without weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from fairchem.core._cli import get_hydra_config_from_yaml
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fairchem_hdgnn.errors import ConfigError
from fairchem_hdgnn.host.generations import from_fairchem2
from fairchem_hdgnn.host.inference_files import InferenceFile
from fairchem_hdgnn.host.trained import TrainedNetwork


def untrained_network(source: str | Path) -> TrainedNetwork:
    """The network of a training config, without weights.

    Raises:
        ConfigError: the file is not a training config, or its model is not one of this package.
    """
    try:
        # As `fairchem -c` reads it, with includes: the shipped configs include most of their keys.
        unit: Any = OmegaConf.select(get_hydra_config_from_yaml(str(source), []), "runner.train_eval_unit")
        model, tasks = (OmegaConf.to_container(unit[name], resolve=True) for name in ("model", "tasks"))
    except (OSError, HydraException, OmegaConfBaseException, yaml.YAMLError, TypeError, KeyError) as error:
        raise ConfigError(
            f"{source}: not a training config of fairchem-core 2 (runner.train_eval_unit.model and .tasks): "
            f"{str(error).splitlines()[0]}"
        ) from error
    return from_fairchem2(InferenceFile(model, tasks, {}, {}), Path(source))  # type: ignore[arg-type]
