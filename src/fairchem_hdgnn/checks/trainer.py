"""This plugin's trainer with its checks: under any launcher, one rank checks everything once for all ranks."""

from __future__ import annotations

import logging
from typing import Any

from fairchem.core.common import distutils
from fairchem.core.common.registry import registry

from fairchem_hdgnn.checks.batch_size import batch_size_findings
from fairchem_hdgnn.checks.config import data_findings, output_findings
from fairchem_hdgnn.checks.files import check_data_sets, checkpoint_bytes, disk_findings
from fairchem_hdgnn.checks.findings import stop_or_warn
from fairchem_hdgnn.checks.keys import OURS, REQUIRED, key_findings
from fairchem_hdgnn.checks.loggers import logger_findings
from fairchem_hdgnn.checks.schedule import schedule_findings
from fairchem_hdgnn.checks.stages import NamedStages
from fairchem_hdgnn.checks.trial import try_steps
from fairchem_hdgnn.errors import ConfigError
from fairchem_hdgnn.host.fairchem1 import trainer
from fairchem_hdgnn.host.fairchem1.config_files import splits_of
from fairchem_hdgnn.host.fairchem1.config_forms import prepared
from fairchem_hdgnn.host.fairchem1.ranks import on_first_rank

logger = logging.getLogger(__name__)

DATA_SETS = {"train": "dataset", "val": "val_dataset", "test": "test_dataset", "relax": "relax_dataset"}
"""Split -> key under which fairchem's trainer keeps its settings."""

PREPARED = ("model", "task", "outputs", "optim", "loss_functions", "evaluation_metrics")
"""Sections, besides the data sets, that may contain ``1e-2`` or a path."""


@registry.register_trainer("hdgnn")
class Trainer(NamedStages, trainer.Trainer):
    """Drop-in for fairchem's ``ocp`` trainer: ``trainer: fairchem_hdgnn.Trainer`` in the YAML.

    It trains like :class:`fairchem_hdgnn.host.fairchem1.trainer.Trainer`, after checking config, data, model and disk
    and trying one step of training and of evaluation. Errors stop the run before the first step.
    """

    def load(self, inference_only: bool) -> None:
        """Check the config, then load as fairchem does. Collective.

        Raises:
            ConfigError: a section, key or value that cannot be used.
            DataError: an LMDB that cannot be used, unless its format is ``safe_lmdb``, which checks files itself.
        """
        self._prepare()
        if not inference_only:
            on_first_rank(self.inspect_config, self.device)
        super().load(inference_only)

    def train(self, disable_eval_tqdm: bool = False) -> None:
        """Try one step, then train as the base trainer does. A completed run has nothing to try. Collective.

        Raises:
            ConfigError: the first step would fail, or there is none although epochs are left. The base trainer's
                errors pass through.
        """
        self.initialise()
        max_epochs = self.config["optim"]["max_epochs"]
        if self.step < self.num_steps:
            try_steps(self)
        elif self.epoch < max_epochs - 1e-6:
            now = self.step * max_epochs / self.num_steps
            raise ConfigError(
                f"optim.max_epochs: the checkpoint has {self.epoch:g} of {max_epochs} epochs, but its steps "
                f"count as {now:g} epochs with this run's batch size and number of ranks, so no step is left; use "
                "those of the checkpoint, raise optim.max_epochs, or start a new training from its weights "
                "(--init-from, another --timestamp-id)"
            )
        else:
            logger.warning(
                "This run is complete: its checkpoint is at step %d of %d. To train longer, raise optim.max_epochs.",
                self.step,
                self.num_steps,
            )
        super().train(disable_eval_tqdm)

    def load_datasets(self) -> None:
        """Load as fairchem does, then check the model, a sample of the data sets and the disk. Collective.

        Raises:
            ConfigError: the run would fail.
        """
        super().load_datasets()
        on_first_rank(self.inspect_data, self.device)

    def _prepare(self) -> None:
        """Convert numbers and paths in the config: fairchem's own command line passes it on as written."""
        splits = {split: self.config[key] for split, key in DATA_SETS.items()}
        config = prepared({**{name: self.config[name] for name in PREPARED}, "dataset": splits})
        splits = config.pop("dataset")
        self.config.update(config, **{key: splits[split] for split, key in DATA_SETS.items()})

    def inspect_config(self) -> None:
        """Check keys and files; on one rank."""
        config = self._sections()
        found = [*key_findings(config), *batch_size_findings(config, distutils.get_world_size())]
        stop_or_warn([*found, *([] if self.is_debug else logger_findings(config))])
        splits = splits_of(config).items()
        check_data_sets({split: settings for split, settings in splits if settings.get("format") != "safe_lmdb"})

    def inspect_data(self) -> None:
        """Check records, targets and disk; on one rank."""
        config, model = self._sections(), self._unwrapped_model
        data_sets = {split: getattr(self, f"{split}_dataset") for split in DATA_SETS}
        stop_or_warn([*output_findings(model, config["outputs"]), *schedule_findings(config["optim"], self.num_steps)])
        found = data_findings(model, config, {name: data for name, data in data_sets.items() if data is not None})
        needed = 0 if self.is_debug else checkpoint_bytes(model, config["optim"])
        stop_or_warn([*found, *disk_findings(self.checkpoint_path.parent, needed)])

    def _sections(self) -> dict[str, Any]:
        """The config in the form of its file."""
        names = (*REQUIRED, "task", "evaluation_metrics", "amp", "logger")
        splits = {split: self.config[key] for split, key in DATA_SETS.items()}
        return {name: self.config[name] for name in names} | {"trainer": OURS, "dataset": splits}
