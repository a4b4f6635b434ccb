"""Trainings on two ranks, several one after the other in the same two processes: starting those takes the most time."""

from __future__ import annotations

import json
import os
import socket
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import preloaded

INTERRUPT = "--interrupt="


def interrupted_at(step: int, batch: int, run: Sequence[str]) -> list[str]:
    """The command line, which rank 1 alone is told to stop at in a batch of ``step``."""
    return [f"{INTERRUPT}{step},{batch}", *run]


def train_on_two_ranks(*runs: Sequence[str]) -> None:
    """Run fairchem command lines on two CPU ranks, as srun or torchrun would start them."""
    ports = []
    for _ in runs:
        with socket.socket() as probe:
            probe.bind(("", 0))
            ports.append(probe.getsockname()[1])
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    command = [sys.executable, __file__, json.dumps([list(map(str, run)) for run in runs]), json.dumps(ports)]
    with tempfile.TemporaryDirectory() as folder:
        ranks = []
        for rank in range(2):
            env = {**inherited, "MASTER_ADDR": "localhost", "WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": "0"}
            log = Path(folder, str(rank))
            ranks.append((preloaded.start(command, env, Path.cwd(), log, log), log))
        for process, _ in ranks:
            process.join()
        for process, log in ranks:
            assert process.exitcode == 0, log.read_text()[-3000:]


def main() -> None:
    # Only the ranks need fairchem.
    import pytest  # noqa: PLC0415
    from small_runs import interrupt_at, run_here  # noqa: PLC0415

    for arguments, port in zip(json.loads(sys.argv[1]), json.loads(sys.argv[2])):
        os.environ["MASTER_PORT"] = str(port)
        if not arguments[0].startswith(INTERRUPT):
            run_here(arguments)
            continue
        step, batch = map(int, arguments[0].removeprefix(INTERRUPT).split(","))
        with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit):
            if os.environ["RANK"] == "1":
                interrupt_at(patch, step, batch=batch)
            run_here(arguments[1:])


if __name__ == "__main__":
    main()
