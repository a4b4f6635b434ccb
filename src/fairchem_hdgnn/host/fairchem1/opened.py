"""Open checkpoints of fairchem-core 1.10 in its trainer, and its data sets."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lmdb
import torch
from fairchem.core.common.registry import registry
from fairchem.core.common.utils import setup_imports
from fairchem.core.datasets import data_list_collater
from fairchem.core.datasets.base_dataset import create_dataset
from torch import Tensor, nn
from torch.utils.data import Subset
from torch_geometric.data import Batch, Data

from fairchem_hdgnn.errors import ConfigError, DataError, suggestion
from fairchem_hdgnn.host.checkpoints import quiet_fairchem
from fairchem_hdgnn.host.fairchem1.config_files import read_config, splits_of
from fairchem_hdgnn.host.fairchem1.inference import inference_trainer
from fairchem_hdgnn.host.fairchem1.names import known_model, with_keys
from fairchem_hdgnn.host.fairchem1.safe_lmdb import safe_format
from fairchem_hdgnn.host.models import PlainModel
from fairchem_hdgnn.host.opened import RANDOM_HEADS, OpenedCheckpoint, OpenedModel
from fairchem_hdgnn.host.sections import mean_and_deviation
from fairchem_hdgnn.host.targets import label_of, unit_of


class TrainerCheckpoint(OpenedCheckpoint):
    """fairchem's trainer with a checkpoint's weights.

    Args:
        path: the checkpoint.
        options: those of ``inference_trainer``.
    """

    def __init__(self, path: str | Path, **options: Any) -> None:
        self.trainer = inference_trainer(path, **options)
        config, normalizers = self.trainer.config, self.trainer.normalizers
        self.model = self.trainer._unwrapped_model
        self.outputs = tuple(config["outputs"])
        self.dataset = config["dataset"]
        target, self.unit = _target(self.model, self.dataset)
        self.scale = float(normalizers[target].rmsd) if target in normalizers else 1.0
        self.batch_size = _batch_size(config["optim"])

    def seed(self, seed: int) -> None:
        """Seed every generator, as fairchem does."""
        self.trainer.set_seed(seed)

    def collate(self, records: list[Data]) -> Batch:
        """Records as fairchem's batch."""
        return data_list_collater(records, otf_graph=self.trainer.config["model"].get("otf_graph", False))

    def predict(self, batch: Batch) -> Mapping[str, Tensor]:
        """Predict a batch through the trainer."""
        return self.trainer.predict(batch, per_image=False, disable_tqdm=True)


class ConfigModel(OpenedModel):
    """The model of a config, with random weights, in this package's heads too.

    Args:
        source: file with the config.
        seed: random seed of the weights.
        overrides: keys that override those of ``model:``.
    """

    def __init__(self, source: str, seed: int, overrides: Mapping[str, Any]) -> None:
        config = read_config(source, sections=("model", "dataset", "optim"))
        with quiet_fairchem():
            setup_imports()
        model_class = registry.get_model_class(known_model(config["model"].get("name"), source))
        random_heads = RANDOM_HEADS if issubclass(model_class, PlainModel) else {}
        keys = with_keys(config["model"], {**random_heads, **overrides})
        keys.pop("name", None)
        torch.manual_seed(seed)
        self.model = model_class(**keys)
        self.dataset = splits_of(config).get("train", {})
        normalizers = (self.dataset.get("transforms") or {}).get("normalizer") or {}
        target, self.unit = _target(self.model, self.dataset)
        self.scale = mean_and_deviation(normalizers.get(target) or {})[1]
        self.batch_size = _batch_size(config["optim"])

    def collate(self, records: list[Data]) -> Batch:
        """Records as fairchem's batch."""
        return data_list_collater(records, otf_graph=bool(getattr(self.model, "otf_graph", False)))


def _target(model: nn.Module, dataset: Mapping[str, Any]) -> tuple[str, str]:
    """Name of the output for a whole structure, and its unit."""
    name = str(getattr(model, "output_name", "energy"))
    return name, unit_of(name, label_of(dataset, name))


def _batch_size(optim: Mapping[str, Any]) -> int:
    return optim.get("eval_batch_size") or optim.get("batch_size", 1)


def open_lmdb_split(dataset_config: Mapping[str, Any], source: Path, data_format: str | None) -> Subset:
    """fairchem's data set over ``source``; see :func:`fairchem_hdgnn.host.opening.open_split`.

    Raises:
        DataError: the files are missing, damaged or contain objects that ``safe_lmdb`` refuses.
        ConfigError: fairchem has no such format.
    """
    config = {
        "format": data_format or safe_format(dataset_config.get("format", "lmdb")),
        "key_mapping": dataset_config.get("key_mapping"),
        "src": str(source),
        "no_shuffle": True,
    }
    name = str(config["format"])
    try:
        registry.get_dataset_class(name)
    except (RuntimeError, ImportError, ValueError) as error:
        known = registry.mapping["dataset_name_mapping"]
        raise ConfigError(f"{source}: fairchem has no data format '{name}'{suggestion(name, known)}") from error
    try:
        return create_dataset(config, "val")
    except (lmdb.Error, AssertionError, EOFError) as error:
        raise DataError(f"{source}: cannot be read as an LMDB of structures ({error})") from error
