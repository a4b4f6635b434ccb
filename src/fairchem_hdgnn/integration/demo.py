"""The demonstration: from relaxations to a table and a leaderboard file, through the tools that users have."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from fairchem_hdgnn.errors import UserError
from fairchem_hdgnn.files import complete_or_absent
from fairchem_hdgnn.integration.command_line import shipped_configs

CONFIG = "oc20/is2re/demo/hdgnn.yml"
DATA_SPLITS = {"train": "train", "val": "val_id", "test": "val_ood_both"}
"""Section of the config -> split of the data."""

_STEP = re.compile(r"^.*\bloss: (?P<loss>\S+?),.*\bepoch: (?P<epoch>\S+?),.*\bstep: (?P<step>\S+?)[,\s]*$")


@dataclass(frozen=True)
class Training:
    """A training of the demonstration's config by the stock ``fairchem`` command.

    Attributes:
        folder: holds ``data`` and gets checkpoints and logs.
    """

    folder: Path

    @property
    def config(self) -> Path:
        """The shipped config, relative to the working directory where it is below it."""
        path = shipped_configs() / CONFIG
        return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path

    @property
    def command(self) -> list[str]:
        """What trains it, as one would type it."""
        command = ["fairchem", "--mode", "train", "--cpu", "--config-yml", str(self.config), "--seed", "0"]
        command += ["--run-dir", str(self.folder), "--timestamp-id", self.run_id]
        if self.folder != Path("demo"):
            command += [
                f"--dataset.{section}.src={self.folder / 'data' / split / 'data.lmdb'}"
                for section, split in DATA_SPLITS.items()
            ]
        return command

    @property
    def run_id(self) -> str:
        """Names the run by all that decides its outcome, so that a changed config or data set is trained again."""
        content = self.config.read_bytes() + (self.folder / "data" / "manifest.json").read_bytes()
        return f"hdgnn-{hashlib.sha256(content).hexdigest()[:8]}"

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
    def _mark(self) -> Path:
        return self.checkpoint.parent / "finished.json"

    def run(self) -> None:
        """Train, with a progress bar; what fairchem prints goes to ``log``.

        Raises:
            UserError: fairchem failed; with the last line that it printed.
        """
        steps = self._num_steps()
        program = [str(Path(sys.executable).with_name("fairchem")), *self.command[1:], "--print-every", "5"]
        last_lines: deque[str] = deque(maxlen=5)
        with (
            self.log.open("w", encoding="utf-8") as log,
            tqdm(total=steps, desc="training", unit="step") as bar,
            subprocess.Popen(
                program, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=_environment()
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
                bar.update(steps - bar.n)
        if process.returncode:
            reason = next(filter(None, reversed(last_lines)), "no output")
            raise UserError(f"training ended with status {process.returncode}: {reason} (all of it: {self.log})")
        with complete_or_absent(self._mark) as temporary:
            temporary.write_text(json.dumps({"command": shlex.join(self.command), "steps": steps}) + "\n")

    def _num_steps(self) -> int:
        settings: dict[str, Any] = yaml.safe_load(self.config.read_text())["optim"]
        systems = json.loads((self.folder / "data" / "manifest.json").read_text())["sizes"]["train"]
        return settings["max_epochs"] * -(-systems // settings["batch_size"])


def _steps(line: str) -> Iterator[tuple[int, float]]:
    match = _STEP.match(line)
    if match:
        yield int(float(match["step"])), float(match["loss"])


def _environment() -> dict[str, str]:
    """Small matrices are fastest on few cores; what fairchem prints comes at once."""
    return {"OMP_NUM_THREADS": "2", **os.environ, "PYTHONUNBUFFERED": "1"}
