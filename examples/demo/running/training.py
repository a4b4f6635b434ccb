"""The demonstration's training: the stock command, planned for this machine, and gone on with where it was ended."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tqdm import tqdm

from fairchem_hdgnn.errors import UserError
from fairchem_hdgnn.files import complete_or_absent
from fairchem_hdgnn.host.checkpoints import read_checkpoint
from fairchem_hdgnn.host.fairchem1.config_files import read_config, shipped_configs
from running.interruption import child
from running.plan import Plan, environment, measured_plan, read_plan
from structures.manifest import MANIFEST_FILE, read_manifest

CONFIG = "oc20/is2re/demo/hdgnn.yml"
DATA_SPLITS = {"train": "train", "val": "val_id", "test": "val_ood_both"}
"""Section of the config -> split of the data."""

_STEP = re.compile(r"^.*\bloss: (?P<loss>\S+?),.*\bepoch: (?P<epoch>\S+?),.*\bstep: (?P<step>\S+?)[,\s]*$")


@dataclass(frozen=True)
class Training:
    """A training of the demonstration's config by the stock ``fairchem`` command.

    Attributes:
        folder: holds ``data`` and gets checkpoints and logs.
        seed: of weights and order of the data.
    """

    folder: Path
    seed: int = 0

    @property
    def data(self) -> Path:
        """The data set: one directory per split."""
        return self.folder / "data"

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
    def steps_per_epoch(self) -> int:
        """Number of batches."""
        return -(-read_manifest(self.data)["sizes"]["train"] // self.optim["batch_size"])

    @cached_property
    def plan(self) -> Plan:
        """How it is trained here: as when this run began, else by measurement.

        Raises:
            UserError: training fails at its first steps.
        """
        plan = read_plan(self._plan)
        if plan is None:
            plan = measured_plan(self.config, self.data, self.optim["max_epochs"], self.steps_per_epoch)
            plan.write(self._plan)
        return plan

    @property
    def is_planned(self) -> bool:
        """Whether this run began before, so that its plan stands."""
        return read_plan(self._plan) is not None

    @property
    def _plan(self) -> Path:
        return self.checkpoint.with_name("plan.json")

    @property
    def steps(self) -> int:
        """Number of training steps."""
        return self.plan.epochs * self.steps_per_epoch

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
        if self.steps != self.optim["total_steps"]:
            command.append(f"--optim.total_steps={self.steps}")
        return command

    @property
    def typed(self) -> str:
        """The command with what it needs in its environment, for a shell."""
        wanted = environment(self.plan.threads)
        settings = [f"{name}={wanted[name]}" for name in ("OMP_NUM_THREADS", "GOMP_SPINCOUNT")]
        return " ".join([*settings, shlex.join(self.command)])

    @cached_property
    def run_id(self) -> str:
        """Names the run by all that decides its outcome, so that a changed config or data set is trained again."""
        content = self.config.read_bytes() + (self.data / MANIFEST_FILE).read_bytes()
        return f"hdgnn-{hashlib.sha256(content + str(self.seed).encode()).hexdigest()[:8]}"

    @property
    def log(self) -> Path:
        """What fairchem printed."""
        return self.folder / "train.log"

    @property
    def checkpoint(self) -> Path:
        """The best weights by validation MAE."""
        return self.folder / "checkpoints" / self.run_id / "best_checkpoint.pt"

    @property
    def finished(self) -> bool:
        """Whether this run came to its end before."""
        return self._mark.is_file() and self.checkpoint.is_file()

    @property
    def steps_done(self) -> int:
        """Where an interrupted run goes on; 0 before the first checkpoint."""
        path = self.checkpoint.with_name("checkpoint.pt")
        return int(read_checkpoint(path)["step"]) if path.is_file() else 0

    @property
    def _mark(self) -> Path:
        return self.checkpoint.parent / "finished.json"

    def run(self) -> None:
        """Train, with a progress bar, from the last checkpoint if there is one; what fairchem prints goes to ``log``.

        Raises:
            UserError: fairchem failed; with the last line that it printed.
        """
        done = self.steps_done
        program = [str(Path(sys.executable).with_name("fairchem")), *self.command[1:], "--print-every", "5"]
        last_lines: deque[str] = deque(maxlen=5)
        with (
            self.log.open("a" if done else "w", buffering=1, encoding="utf-8") as log,
            tqdm(total=self.steps, initial=done, desc="training", unit="step") as bar,
            child(
                program,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={**environment(self.plan.threads), "PYTHONUNBUFFERED": "1"},
            ) as process,
        ):
            assert process.stdout is not None
            for line in process.stdout:
                log.write(line)
                last_lines.append(line.strip())
                for step, loss in _steps(line):
                    bar.set_postfix_str(f"loss {loss:.3f}")
                    bar.update(step - bar.n)
            if process.wait() == 0:
                bar.update(self.steps - bar.n)
        if process.returncode:
            reason = next(filter(None, reversed(last_lines)), "no output")
            raise UserError(f"training ended with status {process.returncode}: {reason} (all of it: {self.log})")
        with complete_or_absent(self._mark) as temporary:
            temporary.write_text(json.dumps({"command": self.typed, "steps": self.steps}) + "\n")


def _steps(line: str) -> Iterator[tuple[int, float]]:
    match = _STEP.match(line)
    if match:
        yield int(float(match["step"])), float(match["loss"])
