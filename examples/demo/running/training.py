"""The demonstration's training under fairchem-core 1.10."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from fairchem_hdgnn.host.checkpoints import read_checkpoint
from fairchem_hdgnn.host.fairchem1.config_files import read_config
from fairchem_hdgnn.host.shipped import shipped_configs
from running.run import Run
from structures.manifest import MANIFEST_FILE

CONFIG = "oc20/is2re/demo/hdgnn.yml"
DATA_SPLITS = {"train": "train", "val": "val_id", "test": "val_ood_both"}
"""Section of the config -> split of the data."""


class Training(Run):
    """A training of the shipped config of the demonstration; the best weights by validation MAE are scored."""

    STEP: ClassVar[re.Pattern[str]] = re.compile(
        r"^.*\bloss: (?P<loss>\S+?),.*\bepoch: (?P<epoch>\S+?),.*\bstep: (?P<step>\S+?)[,\s]*$"
    )

    NEXT: ClassVar[Mapping[str, str]] = {
        "training": "fairchem --mode train --config-yml configs/oc20/is2re/10k/hdgnn.yml",
        "checkpoint": "checkpoints/RUN/best_checkpoint.pt",
    }

    @property
    def config(self) -> Path:
        """The shipped config, relative to the working directory where it is below it."""
        path = shipped_configs() / CONFIG
        return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path

    @cached_property
    def optim(self) -> dict[str, Any]:
        """The config's section ``optim``."""
        return read_config(self.config)["optim"]

    @cached_property
    def settings(self) -> dict[str, Any]:
        """See :class:`Run`."""
        model = read_config(self.config)["model"]
        return {
            "model": {key: value for key, value in model.items() if key != "name"},
            "optimizer": self.optim["optimizer_params"],
            "batch_size": self.optim["batch_size"],
            "max_epochs": self.optim["max_epochs"],
            "eval_every": self.optim["eval_every"],
        }

    @property
    def validated(self) -> list[str]:
        """One split."""
        return [DATA_SPLITS["val"]]

    @property
    def command(self) -> list[str]:
        """What trains it, as one would type it."""
        command = ["fairchem", "--mode", "train", "--cpu", "--config-yml", str(self.config), "--seed", str(self.seed)]
        command += ["--run-dir", str(self.folder), "--timestamp-id", self.run_id]
        if self.folder != Path("demo"):
            command += [
                f"--dataset.{section}.src={self.data / split / 'data.lmdb'}" for section, split in DATA_SPLITS.items()
            ]
        if self.plan.epochs != self.optim["max_epochs"]:
            command.append(f"--optim.max_epochs={self.plan.epochs}")
        return command

    @property
    def more_arguments(self) -> list[str]:
        """How often a line is printed."""
        return ["--print-every", "5"]

    @cached_property
    def run_id(self) -> str:
        """Names the run by all that decides its outcome, so that a changed config or data set is trained again."""
        content = self.config.read_bytes() + (self.data / MANIFEST_FILE).read_bytes()
        return f"hdgnn-{hashlib.sha256(content + str(self.seed).encode()).hexdigest()[:8]}"

    @property
    def run_folder(self) -> Path:
        """Of this run's checkpoints."""
        return self.folder / "checkpoints" / self.run_id

    @property
    def checkpoint(self) -> Path:
        """The best weights by validation MAE."""
        return self.run_folder / "best_checkpoint.pt"

    @property
    def steps_done(self) -> int:
        """Step from which an interrupted run resumes; 0 before the first checkpoint."""
        path = self.run_folder / "checkpoint.pt"
        return int(read_checkpoint(path)["step"]) if path.is_file() else 0
