"""A training of the demonstration: planned for this machine, and gone on with where it was ended."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from tqdm import tqdm

from fairchem_hdgnn.errors import UserError
from fairchem_hdgnn.files import complete_or_absent
from running.interruption import child
from running.plan import Plan, environment, measured_plan, read_plan
from structures.manifest import read_manifest


@dataclass(frozen=True)
class Run(ABC):
    """A training of the demonstration's config by the stock ``fairchem`` command.

    Attributes:
        folder: holds ``data`` and gets checkpoints and logs.
        seed: of weights and order of the data.
    """

    folder: Path
    seed: int = 0

    STEP: ClassVar[re.Pattern[str]]
    """Matches a line that fairchem prints of a step, with groups ``loss`` and ``step``."""

    NEXT: ClassVar[Mapping[str, str]]
    """The command that trains on OC20, and where the checkpoint comes to lie."""

    @property
    @abstractmethod
    def settings(self) -> Mapping[str, Any]:
        """Keys of the ``model``, of its ``optimizer``, ``batch_size``, ``max_epochs`` and ``eval_every`` (steps)."""

    @property
    @abstractmethod
    def validated(self) -> list[str]:
        """Splits that are predicted during the training."""

    @property
    @abstractmethod
    def command(self) -> list[str]:
        """What trains it, as one would type it."""

    @property
    @abstractmethod
    def more_arguments(self) -> list[str]:
        """What the command gets here besides: a line printed every few steps."""

    @property
    @abstractmethod
    def checkpoint(self) -> Path:
        """The weights to score."""

    @property
    @abstractmethod
    def run_folder(self) -> Path:
        """Of this run alone."""

    @property
    @abstractmethod
    def steps_done(self) -> int:
        """Step from which an interrupted run resumes; 0 before the first checkpoint."""

    @property
    def data(self) -> Path:
        """The data set: one directory per split."""
        return self.folder / "data"

    @cached_property
    def steps_per_epoch(self) -> int:
        """Number of batches."""
        return -(-read_manifest(self.data)["sizes"]["train"] // self.settings["batch_size"])

    @cached_property
    def plan(self) -> Plan:
        """How it is trained here: as when this run began, else by measurement.

        Raises:
            UserError: training fails at its first steps.
        """
        plan = read_plan(self._plan)
        if plan is None:
            plan = measured_plan(self.settings, self.data, self.steps_per_epoch)
            plan.write(self._plan)
        return plan

    @property
    def is_planned(self) -> bool:
        """Whether this run began before, so that its plan stands."""
        return read_plan(self._plan) is not None

    @property
    def _plan(self) -> Path:
        return self.run_folder / "plan.json"

    @property
    def steps(self) -> int:
        """Number of training steps."""
        return self.plan.epochs * self.steps_per_epoch

    @property
    def typed(self) -> str:
        """The command with what it needs in its environment, for a shell."""
        wanted = environment(self.plan.threads)
        settings = [f"{name}={wanted[name]}" for name in ("OMP_NUM_THREADS", "GOMP_SPINCOUNT")]
        return " ".join([*settings, shlex.join(self.command)])

    @property
    def log(self) -> Path:
        """What fairchem printed."""
        return self.folder / "train.log"

    @property
    def finished(self) -> bool:
        """Whether this run came to its end before."""
        return self._mark.is_file() and self.checkpoint.is_file()

    @property
    def _mark(self) -> Path:
        return self.run_folder / "finished.json"

    def run(self) -> None:
        """Train, with a progress bar, from the last checkpoint if there is one; what fairchem prints goes to ``log``.

        Raises:
            UserError: fairchem failed; with the last line that it printed.
        """
        done = self.steps_done
        program = [str(Path(sys.executable).with_name("fairchem")), *self.command[1:], *self.more_arguments]
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
                for step, loss in self._steps(line):
                    bar.set_postfix_str(f"loss {loss:.3f}")
                    bar.update(step - bar.n)
            if process.wait() == 0:
                bar.update(self.steps - bar.n)
        if process.returncode:
            reason = next(filter(None, reversed(last_lines)), "no output")
            raise UserError(f"training ended with status {process.returncode}: {reason} (all of it: {self.log})")
        with complete_or_absent(self._mark) as temporary:
            temporary.write_text(json.dumps({"command": self.typed, "steps": self.steps}) + "\n")

    def _steps(self, line: str) -> Iterator[tuple[int, float]]:
        match = self.STEP.match(line)
        if match:
            yield int(float(match["step"])), float(match["loss"])
