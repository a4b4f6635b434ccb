"""What our trainer looks at before the first step: once a launch, under any launcher, by one rank for all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fairchem.core.trainers import OCPTrainer

from fairchem_hdgnn.host.preflight.disk import checkpoint_bytes, disk_findings
from fairchem_hdgnn.host.preflight.files import check_data_sets, splits_of
from fairchem_hdgnn.host.preflight.findings import stop_or_warn
from fairchem_hdgnn.host.preflight.keys import REQUIRED, key_findings
from fairchem_hdgnn.host.preflight.whole import data_findings, output_findings
from fairchem_hdgnn.host.ranks import on_first_rank

DATA_SETS = {"train": "dataset", "val": "val_dataset", "test": "test_dataset"}
"""Split -> where fairchem's trainer keeps its settings."""


def inspect_keys(trainer: OCPTrainer) -> None:
    """Look at the config before anything is built from it. Collective.

    Raises:
        ConfigError: a section, key or value that cannot be used.
        DataError: an LMDB that cannot be used, unless its format is ``safe_lmdb``, which looks for itself.
    """
    config = _sections(trainer)

    def look() -> None:
        stop_or_warn(key_findings(config))
        unsafe = {
            split: settings for split, settings in splits_of(config).items() if settings.get("format") != "safe_lmdb"
        }
        check_data_sets(unsafe)

    on_first_rank(look, trainer.device)


def inspect_data(trainer: OCPTrainer) -> None:
    """Look at the model, a sample of the data sets and the disk. Collective.

    Raises:
        ConfigError: the run would fail.
    """
    config, model = _sections(trainer), trainer._unwrapped_model
    data_sets = {split: getattr(trainer, f"{split}_dataset") for split in DATA_SETS}

    def look() -> None:
        stop_or_warn(output_findings(model, config["outputs"]))
        found = data_findings(model, config, {name: data for name, data in data_sets.items() if data is not None})
        needed = 0 if trainer.is_debug else checkpoint_bytes(model, config["optim"])
        stop_or_warn([*found, *disk_findings(Path(trainer.config["cmd"]["checkpoint_dir"]), needed)])

    on_first_rank(look, trainer.device)


def _sections(trainer: OCPTrainer) -> dict[str, Any]:
    """The config as its file has it."""
    splits = {split: trainer.config[key] for split, key in DATA_SETS.items()}
    return {name: trainer.config[name] for name in (*REQUIRED, "evaluation_metrics", "amp")} | {"dataset": splits}
