"""The demonstration's training under fairchem-core 2."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from fairchem.core._cli import get_hydra_config_from_yaml
from omegaconf import OmegaConf

from fairchem_hdgnn.evaluation.splits import VALIDATION_SPLITS
from fairchem_hdgnn.host.shipped import shipped_configs
from running.run import Run
from structures.manifest import MANIFEST_FILE

CONFIG = "fairchem2/oc20/is2re/demo/hdgnn.yml"


class SecondHostTraining(Run):
    """A training of the shipped config of the demonstration; the averaged weights of the last step are scored."""

    STEP: ClassVar[re.Pattern[str]] = re.compile(r"^.*'train/loss': (?P<loss>[^,]+),.*'train/step': (?P<step>\d+),.*$")

    NEXT: ClassVar[Mapping[str, str]] = {
        "training": "fairchem -c configs/fairchem2/oc20/is2re/10k/hdgnn.yml",
        "checkpoint": "runs/RUN/checkpoints/final/inference_ckpt.pt",
    }

    @property
    def config(self) -> Path:
        """The shipped config, relative to the working directory where it is below it."""
        path = shipped_configs() / CONFIG
        return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path

    @cached_property
    def _runner(self) -> dict[str, Any]:
        runner = OmegaConf.to_container(get_hydra_config_from_yaml(str(self.config), []).runner)
        assert isinstance(runner, dict)
        return {str(key): value for key, value in runner.items()}

    @cached_property
    def settings(self) -> dict[str, Any]:
        """See :class:`Run`."""
        unit = self._runner["train_eval_unit"]
        return {
            "model": {key: value for key, value in unit["model"]["backbone"].items() if key != "model"},
            "optimizer": {key: value for key, value in unit["optimizer_fn"].items() if key[0] != "_"},
            "batch_size": self._runner["train_dataloader"]["batch_sampler_fn"]["batch_size"],
            "max_epochs": self._runner["max_epochs"],
            "eval_every": self._runner["evaluate_every_n_steps"],
        }

    @property
    def validated(self) -> list[str]:
        """All four splits."""
        return list(VALIDATION_SPLITS)

    @property
    def command(self) -> list[str]:
        """What trains it, as one would type it."""
        command = ["fairchem", "-c", str(self.config), f"job.run_dir={self.folder / 'fairchem2'}"]
        command += [f"+job.timestamp_id={self.run_id}", f"job.seed={self.seed}"]
        if self.folder != Path("demo"):
            command += [f"data.{split}={self.data / split / 'data.lmdb'}" for split in ("train", *VALIDATION_SPLITS)]
        if self.plan.epochs != self.settings["max_epochs"]:
            command.append(f"optim.max_epochs={self.plan.epochs}")
        return command

    @property
    def more_arguments(self) -> list[str]:
        """How often a line is printed."""
        return ["runner.train_eval_unit.print_every=5"]

    @cached_property
    def run_id(self) -> str:
        """Names the run by all that decides its outcome, so that a changed config or data set is trained again."""
        content = repr(self._runner).encode() + (self.data / MANIFEST_FILE).read_bytes()
        return f"hdgnn-{hashlib.sha256(content + str(self.seed).encode()).hexdigest()[:8]}"

    @property
    def run_folder(self) -> Path:
        """Of this run alone."""
        return self.folder / "fairchem2" / self.run_id

    @property
    def checkpoint(self) -> Path:
        """The averaged weights of the last step."""
        return self.run_folder / "checkpoints" / "final" / "inference_ckpt.pt"

    @property
    def steps_done(self) -> int:
        """Step from which an interrupted run resumes; 0 before the first checkpoint."""
        # fairchem writes this file last.
        whole = (self.run_folder / "checkpoints").glob("step_*/.metadata")
        return max((int(path.parent.name.removeprefix("step_")) for path in whole), default=0)

    @property
    def log(self) -> Path:
        """What fairchem printed."""
        return self.folder / "train_fairchem2.log"
