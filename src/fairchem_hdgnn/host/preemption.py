"""Scheduler signals: recorded on arrival, handled between two batches, on all ranks together."""

from __future__ import annotations

import hashlib
import logging
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn, Optional

import torch
import torch.distributed as dist

logger = logging.getLogger(__name__)

PREEMPTED_EXIT_STATUS = 75
"""Exit status of a run that stopped to be resumed: EX_TEMPFAIL of sysexits.h, so ``afterok`` jobs do not start."""

RESUME = "to resume, give the same command with --timestamp-id and the name of the checkpoint's folder"

Handler = Callable[[int, Optional[FrameType]], Any]


class PreemptedError(Exception):
    """The scheduler is reclaiming the machine; raised between two batches, on all ranks."""


@contextmanager
def held_back() -> Iterator[None]:
    """Block SIGUSR1 for the :class:`PreemptionWatch` of this process or of the ranks it starts, which inherit it."""

    def keep(signum: int, frame: FrameType | None) -> None:
        # An older thread received it; leave it pending for the main thread, which blocks it for now.
        signal.pthread_kill(threading.main_thread().ident or 0, signum)

    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    signal.signal(signal.SIGUSR1, keep)
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


class PreemptionWatch:
    """A context manager in which SIGUSR1 and SIGTERM do not kill the process but are recorded.

    A signal can arrive during the optimizer's update, or on one rank before another. So the handler only records it,
    and the training loop calls ``agreed`` between two batches, which is true on all ranks or on none. A SIGUSR1 that
    arrived earlier, while the command blocked it, counts too.

    Under submitit its own signal (SIGUSR2, or SUBMITIT_PREEMPT_SIGNAL) is watched too, and submitit's handler, which
    pickles the job again, does the requeue.
    """

    def __init__(self) -> None:
        """Create the watch without starting it; collective if torch.distributed is initialised."""
        self._received: int | None = None
        self._replaced: dict[int, Any] = {}
        self._mask: set[int] = set()
        # Gloo, even if gradients use NCCL: agreeing must not wait for the GPU.
        self._group: Any = dist.new_group(backend="gloo") if dist.is_initialized() else None

    def __enter__(self) -> PreemptionWatch:
        """Install the handlers; no effect outside the main thread, where Python does not allow them."""
        if threading.current_thread() is threading.main_thread():
            watched: set[int] = {signal.SIGUSR1, signal.SIGTERM}
            if "SUBMITIT_EXECUTOR" in os.environ:
                watched.add(_submitit_signal())
            for signum in watched:
                self._replaced[signum] = signal.signal(signum, self._note)
            if signal.SIGUSR1 in signal.sigpending():
                logger.warning(
                    "SIGUSR1 arrived before the training started: give the job a longer time limit (sbatch --time), or "
                    "send the signal later (sbatch --signal)."
                )
            self._mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Restore the previous handlers and signal mask."""
        if self._replaced:
            signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
        for signum, handler in self._replaced.items():
            signal.signal(signum, handler)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        logger.warning("Received %s: stopping after this batch.", signal.Signals(signum).name)
        self._received = signum

    def agreed(self) -> bool:
        """Whether any rank has received a signal. All ranks must call this equally often."""
        if self._group is None:
            return self._received is not None
        flag = torch.tensor([self._received is not None], dtype=torch.int32)
        dist.all_reduce(flag, op=dist.ReduceOp.MAX, group=self._group)
        return bool(flag.item())

    def give_way(self, checkpoint: str) -> NoReturn:
        """Requeue the job, once and from rank 0, and exit this process with ``PREEMPTED_EXIT_STATUS``.

        Args:
            checkpoint: checkpoint from which the run will resume; for the log.
        """
        if self._group is None or dist.get_rank() == 0:
            logger.warning("Preempted; checkpoint: %s. %s", checkpoint, self._requeue())
        if self._group is not None:
            # srun --kill-on-bad-exit ends all ranks with the first: none may exit before the job is requeued.
            dist.barrier(group=self._group)
        raise SystemExit(PREEMPTED_EXIT_STATUS)

    def _requeue(self) -> str:
        job = os.environ.get("SLURM_JOB_ID")
        if job is None:
            return f"Not in a Slurm job: {RESUME}."
        if _slurm_job_state(job) == "COMPLETING":
            return "Slurm is already ending this job (scancel, or its own requeue); not requeued again."
        if "SUBMITIT_EXECUTOR" in os.environ:
            return self._requeue_through_submitit()
        if _at_terminal():
            return f"Job {job} is interactive, so it is not requeued: {RESUME}."
        return requeue(job)

    def _requeue_through_submitit(self) -> str:
        signum = _submitit_signal()
        handler: Handler = self._replaced[signum]
        try:
            handler(signum, None)
        except SystemExit:
            return "Requeued through submitit."
        return "submitit did not requeue the job."


def job_run_id(settings: object, identifier: str = "") -> str | None:
    """The run id of a training in a Slurm job, which is the same again when the job is requeued.

    Trainings of one job have different ids if they are different steps or have different settings.

    Args:
        settings: what the training was started with.
        identifier: the run's name, which ends the id.

    Returns:
        The id; ``None`` without a job, and in an interactive one, where the same command may start a new training.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if job is None or _at_terminal():
        return None
    digest = hashlib.sha256(repr(settings).encode()).hexdigest()[:6]
    return "-".join(filter(None, (f"job{job}.{os.environ.get('SLURM_STEP_ID', 'batch')}", digest, identifier)))


def _at_terminal() -> bool:
    """Whether this process belongs to a terminal; the tasks of a batch job do not."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True


def requeue(job: str) -> str:
    """Requeue a Slurm job, and return a sentence about the outcome."""
    scontrol = _slurm("scontrol", "requeue", job)
    if scontrol.returncode == 0:
        return f"Requeued job {job}."
    return f"Job {job} could not be requeued ({scontrol.stderr.strip()}): resubmit it with the same run id."


def _submitit_signal() -> int:
    return getattr(signal, "SIG" + os.environ.get("SUBMITIT_PREEMPT_SIGNAL", "USR2"))


def _slurm_job_state(job: str) -> str:
    return _slurm("squeue", "--noheader", "--format=%T", f"--jobs={job}").stdout.strip()


def _slurm(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a command of Slurm; one that is not there, as in a container, fails like others."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        return subprocess.CompletedProcess(command, 127, stdout="", stderr=f"{command[0]}: {error.strerror}")
