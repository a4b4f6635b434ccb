"""Holds rank 0 of a training at a moment until Slurm's signal has come; Python imports this first, from PYTHONPATH.

A file in the folder that ``HOLD`` names asks for it: ``start`` (in the imports), ``evaluation`` (after its first batch)
or ``checkpoint`` (half written). It holds the number of the step, and is renamed when the moment has come.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
import time
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

REQUESTS = Path(os.environ["HOLD"])


def hold(moment: str, step: int, has_come: Callable[[], object]) -> None:
    request = REQUESTS / moment
    if os.environ.get("SLURM_PROCID") != "0" or not request.is_file() or int(request.read_text()) != step:
        return
    request.rename(request.with_suffix(".reached"))
    while not has_come():
        time.sleep(0.05)


def hold_trainings(trainer: ModuleType) -> None:
    """Wrap what a training goes through; ``trainer`` is the module of that name."""
    come: list[int] = []
    note, forward, save = trainer.PreemptionWatch._note, trainer.Trainer._forward, trainer.torch.save

    def noted(watch: Any, signum: int, frame: Any) -> None:
        note(watch, signum, frame)
        come.append(signum)

    def held_forward(self: Any, batch: Any) -> Any:
        predictions = forward(self, batch)
        if not self.model.training:
            hold("evaluation", self.step, lambda: come)
        return predictions

    def held_save(state: Any, file: Any, *args: Any, **kwargs: Any) -> None:
        save(state, file, *args, **kwargs)
        if isinstance(file, Path) and file.name.startswith(".checkpoint.pt"):
            whole = file.read_bytes()
            file.write_bytes(whole[: len(whole) // 2])
            hold("checkpoint", state["step"], lambda: come)
            file.write_bytes(whole)

    trainer.PreemptionWatch._note, trainer.Trainer._forward, trainer.torch.save = noted, held_forward, held_save


class Finder(MetaPathFinder):
    """Comes to know of imports."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name == "fairchem.core":
            hold("start", 0, lambda: signal.SIGUSR1 in signal.sigpending())
        if name != "fairchem_hdgnn.host.fairchem1.trainer":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        assert spec is not None and spec.loader is not None
        load = spec.loader.exec_module

        def load_and_hold(module: ModuleType) -> None:
            load(module)
            hold_trainings(module)

        spec.loader.exec_module = load_and_hold  # type: ignore[method-assign]
        return spec


sys.meta_path.insert(0, Finder())
