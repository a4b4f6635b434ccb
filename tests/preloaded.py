"""Processes of Python commands, forked from one that has imported fairchem already, which takes seconds each time.

Otherwise they know no more than a new process: neither the tests nor the plugin are imported before the fork. What
depends on how Python starts or ends needs ``subprocess``.
"""

from __future__ import annotations

import atexit
import functools
import json
import multiprocessing
import multiprocessing.forkserver
import os
import runpy
import subprocess
import sys
import tempfile
import types
from collections.abc import Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from unittest import mock

IMPORTED = ["e3nn.o3", "fairchem.core._cli", "fairchem.core.trainers", "tensorboard.backend.event_processing"]


def run(command: Sequence[str], env: Mapping[str, str], cwd: Path) -> subprocess.CompletedProcess:
    """``subprocess.run`` of a Python script or of ``python -c``, with its output as text."""
    with tempfile.TemporaryDirectory() as folder:
        stdout, stderr = Path(folder, "stdout"), Path(folder, "stderr")
        process = start(command, env, cwd, stdout, stderr)
        process.join()
        return subprocess.CompletedProcess(command, process.exitcode, stdout.read_text(), stderr.read_text())


def start(command: Sequence[str], env: Mapping[str, str], cwd: Path, stdout: Path, stderr: Path) -> BaseProcess:
    """The running process, which writes to these files; they may be the same."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    # Numbers of threads are read once, when the libraries are loaded.
    with mock.patch.dict(os.environ, OMP_NUM_THREADS="1", MKL_NUM_THREADS="1"):
        multiprocessing.forkserver.ensure_running()
    process = context.Process(target=_become, args=([*map(str, command)], dict(env), cwd, stdout, stderr, _path()))
    process.start()
    return process


@functools.cache
def _path() -> list[str]:
    """Where a new process looks for modules, but for the folder of its script."""
    command = [sys.executable, "-c", "import json, sys; print(json.dumps(sys.path[1:]))"]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return json.loads(subprocess.run(command, env=env, capture_output=True, check=True).stdout)


def _become(command: list[str], env: dict[str, str], cwd: Path, stdout: Path, stderr: Path, path: list[str]) -> None:
    """Turn this process into one of the command, and run that to its end."""
    for stream, file in (("stdout", stdout), ("stderr", stderr)):
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, getattr(sys, stream).fileno())
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    if command[0] == sys.executable:
        del command[0]
    added = [entry for entry in env.get("PYTHONPATH", "").split(os.pathsep) if entry]
    try:
        if command[0] == "-c":
            sys.argv = ["-c", *command[2:]]
            sys.path[:] = ["", *added, *path]
            sys.modules["__main__"] = module = types.ModuleType("__main__")
            exec(compile(command[1], "<string>", "exec"), vars(module))
        else:
            sys.argv = command
            sys.path[:] = [str(Path(command[0]).parent), *added, *path]
            runpy.run_path(command[0], run_name="__main__")
    finally:
        atexit._run_exitfuncs()
