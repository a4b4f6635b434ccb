"""Open checkpoints of either fairchem-core under either version.

Checkpoints of 1.10 opened under 1.10 use its trainer; all others are opened as networks of this package, without
fairchem.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Subset

from fairchem_hdgnn.data.lmdb import LMDB_FORMATS
from fairchem_hdgnn.errors import ConfigError, DataError
from fairchem_hdgnn.host.checkpoints import read_checkpoint
from fairchem_hdgnn.host.generations import read_trained
from fairchem_hdgnn.host.inference_files import is_inference_file
from fairchem_hdgnn.host.network_inference import LabelledRecords, NetworkCheckpoint
from fairchem_hdgnn.host.opened import RANDOM_HEADS, OpenedCheckpoint, OpenedModel
from fairchem_hdgnn.host.targets import Target, target_of_config, target_of_network
from fairchem_hdgnn.host.trained import TrainedNetwork
from fairchem_hdgnn.host.which import Host, installed_host

READ_HERE = "oc20_lmdb"
"""Format of data sets that our own reader opens, whichever fairchem is installed."""


@dataclass(frozen=True)
class Described:
    """Model, data and target of a checkpoint.

    Attributes:
        model: name of its model.
        dataset: how its data are read; for :func:`open_split`.
        target: what it predicts.
    """

    model: str
    dataset: Mapping[str, Any]
    target: Target


def open_checkpoint(
    path: str | Path,
    *,
    cpu: bool = False,
    device_index: int = 0,
    seed: int = 0,
    model_overrides: Mapping[str, Any] | None = None,
    trusted: bool = False,
    as_network: bool = False,
) -> OpenedCheckpoint:
    """Open a checkpoint for prediction, with averaged weights (EMA) if it has them.

    Args:
        path: ``checkpoint.pt`` or ``best_checkpoint.pt`` of 1.10, ``inference_ckpt.pt`` of 2.
        cpu: run on the CPU even if a GPU is available.
        device_index: index of the GPU.
        seed: for other packages' models that draw random numbers in prediction.
        model_overrides: keys that override those of the checkpoint's model.
        trusted: see ``read_checkpoint``.
        as_network: open it without fairchem, whichever version trained it.

    Raises:
        DataError: the checkpoint cannot be read, or its weights do not match the model.
        ConfigError: its model is unknown here.
    """
    if _is_for_trainer(path) and not as_network:
        from fairchem_hdgnn.host.fairchem1.opened import TrainerCheckpoint  # noqa: PLC0415  needs fairchem 1.10

        return TrainerCheckpoint(
            path, cpu=cpu, device_index=device_index, seed=seed, model_overrides=model_overrides, trusted=trusted
        )
    trained = read_trained(path, trusted=trusted).with_keys(model_overrides or {})
    return _on_device(trained, cpu, device_index, seed)


def open_config(
    source: str, *, cpu: bool = False, seed: int = 0, model_overrides: Mapping[str, Any] | None = None
) -> OpenedModel:
    """Build the model of a config (``.yml``) of the installed fairchem-core, with random weights from ``seed``.

    The last layer of the heads is random too, unless ``model_overrides`` says otherwise: with ``readout_init: zero``
    the output is constant.

    Raises:
        ConfigError: the config or its model cannot be used.
    """
    if installed_host() is Host.FAIRCHEM_1:
        from fairchem_hdgnn.host.fairchem1.opened import ConfigModel  # noqa: PLC0415  needs fairchem 1.10

        return ConfigModel(source, seed, model_overrides or {})
    from fairchem_hdgnn.host.fairchem2.configs import untrained_network  # noqa: PLC0415  needs fairchem 2

    keys = {**RANDOM_HEADS, **(model_overrides or {})}
    return _on_device(untrained_network(source).with_keys(keys), cpu, 0, seed)


def describe_checkpoint(path: str | Path, *, trusted: bool = False) -> Described:
    """Read the model's name, the data settings and the target of a checkpoint.

    Raises:
        DataError: the checkpoint cannot be read.
        ConfigError: its model is unknown here.
    """
    if _is_for_trainer(path):
        from fairchem_hdgnn.host.fairchem1.config_forms import checkpoint_config  # noqa: PLC0415  needs fairchem 1.10

        checkpoint = read_checkpoint(path, trusted=trusted)
        config = checkpoint_config(checkpoint)
        target = target_of_config(config, checkpoint.get("normalizers") or {}, checkpoint.get("elementrefs") or {})
        return Described(str(config["model"]["name"]), config["dataset"], target)
    trained = read_trained(path, trusted=trusted)
    return Described(trained.name, _dataset(trained), target_of_network(trained))


def open_split(dataset_config: Mapping[str, Any], source: Path, data_format: str | None = None) -> Subset:
    """Open ``source`` as a data set, read like the checkpoint's training data, in the order of the file.

    Transforms are omitted: evaluation uses unmodified inputs.

    Args:
        dataset_config: ``dataset`` of an opened or described checkpoint; empty: an LMDB.
        source: LMDB file or folder.
        data_format: fairchem 1.10's name of the data format; ``None``: the config's, with ``safe_lmdb``, which runs no
            code from files, in place of ``lmdb``.

    Raises:
        DataError: the files are missing, damaged or empty, or contain objects that must not be unpickled.
        ConfigError: a format that only fairchem-core 1.10 reads.
    """
    name = data_format or dataset_config.get("format", "lmdb")
    here = installed_host() is not Host.FAIRCHEM_1
    if name == READ_HERE or (here and name in LMDB_FORMATS):
        records = LabelledRecords(source, dataset_config.get("key_mapping"))
        dataset = Subset(records, range(len(records)))
    elif here:
        raise ConfigError(f"{source}: format '{name}' can be read under fairchem-core 1.10 only; convert it to an LMDB")
    else:
        from fairchem_hdgnn.host.fairchem1.opened import open_lmdb_split  # noqa: PLC0415  needs fairchem 1.10

        dataset = open_lmdb_split(dataset_config, source, data_format)
    if len(dataset) == 0:
        raise DataError(f"{source}: contains no structures; check the path")
    return dataset


def _is_for_trainer(path: str | Path) -> bool:
    return installed_host() is Host.FAIRCHEM_1 and not is_inference_file(path)


def _on_device(trained: TrainedNetwork, cpu: bool, device_index: int, seed: int) -> NetworkCheckpoint:
    device = torch.device("cpu" if cpu or not torch.cuda.is_available() else f"cuda:{device_index}")
    return NetworkCheckpoint(trained, _dataset(trained), device, seed)


def _dataset(trained: TrainedNetwork) -> dict[str, Any]:
    known = {key: trained.dataset[key] for key in ("key_mapping", "src") if trained.dataset.get(key)}
    return {"format": READ_HERE, **known}
