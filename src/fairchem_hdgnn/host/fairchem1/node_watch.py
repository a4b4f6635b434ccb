"""Detect a node that fails during a job, name it in one line, and requeue the job.

Otherwise the other ranks wait, or fail with only an address and a port in the message, and the job lasts until Slurm
declares the node down, which takes minutes (``SlurmdTimeout``, 300 s by default).
"""

from __future__ import annotations

import logging
import os
import re
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import torch.distributed as dist

from fairchem_hdgnn.host.fairchem1.ranks import is_rank_of_srun
from fairchem_hdgnn.host.preemption import PREEMPTED_EXIT_STATUS, requeue

logger = logging.getLogger(__name__)

BEAT = 2.0
"""Seconds between two heartbeats of a rank."""

SILENCE = 20.0
"""Seconds without a heartbeat after which the node is probed."""

PROBE = 5.0
"""Timeout of a probe, seconds."""

START = timedelta(minutes=30)
"""Maximum time for ranks to start."""

CLOCKS_APART = 60.0
"""Seconds of clock difference to warn about; ranks start within less."""

SLURMD_PORT = 6818
"""Slurm's default."""

LOST_CONNECTION = ("gloo", "NCCL", "peer", "Connection", "store")
"""Words in the errors that a rank raises when it loses the connection to another one."""


@contextmanager
def node_watch() -> Iterator[None]:
    """Monitor the nodes of a job while its ranks run; no effect if ``srun`` did not start them.

    If a node fails, the first rank on another node reports it and requeues the job. Its process exits with
    ``PREEMPTED_EXIT_STATUS``, and the recipes' ``srun --kill-on-bad-exit`` ends the others.
    """
    if not is_rank_of_srun() or int(os.environ.get("SLURM_STEP_NUM_NODES", "1")) == 1:
        yield
        return
    address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    watch = NodeWatch(address, rank, world_size, os.environ["SLURMD_NODENAME"])
    watch.start()
    try:
        yield
    except RuntimeError as error:
        if any(word in str(error) for word in LOST_CONNECTION):
            logger.warning("Lost the connection to another rank; checking whether its node is still up.")
            # If it is down, the watch ends this process meanwhile.
            time.sleep(SILENCE + 4 * PROBE)
        raise
    finally:
        watch.stop()


class NodeWatch(threading.Thread):
    """A thread that sends heartbeats to the store of torch.distributed; rank 0 reads those of all ranks.

    Args:
        address: host and port of torch.distributed's store.
        rank: rank of this process.
        world_size: number of ranks.
        node: Slurm's name of this node.
    """

    def __init__(self, address: tuple[str, int], rank: int, world_size: int, node: str) -> None:
        super().__init__(name="node watch", daemon=True)
        self._address, self._rank, self._world_size, self._node = address, rank, world_size, node
        self._stopped = threading.Event()
        self._nodes: list[str] = []
        self._beats = [0] * world_size
        self._heard = [0.0] * world_size

    def stop(self) -> None:
        """Stop at the next heartbeat."""
        self._stopped.set()

    def run(self) -> None:
        """Send and check heartbeats until stopped or until a node is down."""
        try:
            store = self._meet()
        except RuntimeError as error:  # a rank never connected; torch.distributed reports that itself
            logger.debug("nodes are not monitored: %s", error)
            return
        while not self._stopped.wait(BEAT):
            dead = self._dead_nodes(self._silent_ranks(store))
            if dead and not self._stopped.is_set():
                self._end(dead)

    def _dead_nodes(self, silent: Sequence[int]) -> list[str]:
        """Nodes of silent ranks that do not answer a probe; a rank that has ended is silent on a node that answers."""
        dead = [node for node in dict.fromkeys(self._nodes[rank] for rank in silent) if not answers(node)]
        for rank in silent:
            # Do not probe again before another period of silence.
            self._heard[rank] = time.monotonic()
        return dead

    def _meet(self) -> dist.TCPStore:
        """Connect, learn the node of each rank, and compare clocks.

        Raises:
            RuntimeError: another rank did not connect in time.
        """
        store = dist.TCPStore(*self._address, is_master=False, timeout=START, wait_for_workers=False)
        store.set(_key("node", self._rank), self._node)
        self._nodes = [store.get(_key("node", rank)).decode() for rank in range(self._world_size)]
        store.set(_key("clock", self._rank), str(time.time()))
        if self._rank == 0:
            # All ranks have just connected, at the same time.
            self._compare_clocks([float(store.get(_key("clock", rank))) for rank in range(self._world_size)])
        self._heard = [time.monotonic()] * self._world_size
        store.set_timeout(timedelta(seconds=PROBE))
        return store

    def _compare_clocks(self, clocks: Sequence[float]) -> None:
        for node, clock in dict(zip(self._nodes, clocks)).items():
            if abs(clock - clocks[0]) > CLOCKS_APART:
                logger.warning(
                    "The clocks of %s and %s are %.0f s apart: times in logs are misleading, and from 300 s on Slurm "
                    "refuses jobs; synchronise them (NTP).",
                    *(self._nodes[0], node, abs(clock - clocks[0])),
                )

    def _silent_ranks(self, store: dist.TCPStore) -> list[int]:
        """Ranks without a heartbeat for ``SILENCE``; rank 0 hosts the store, so it is silent if the store is lost."""
        now = time.monotonic()
        try:
            store.add(_key("beat", self._rank), 1)
            if self._rank > 0:
                self._heard[0] = now
                return []
            beats = [store.add(_key("beat", rank), 0) for rank in range(self._world_size)]
        except RuntimeError:
            return [0] if now - self._heard[0] > SILENCE else []
        for rank, (before, after) in enumerate(zip(self._beats, beats)):
            if after != before:
                self._heard[rank] = now
        self._beats = beats
        return [rank for rank, heard in enumerate(self._heard) if now - heard > SILENCE]

    def _end(self, dead: Sequence[str]) -> None:
        """Report the failure, requeue the job from the first remaining rank, and exit this process."""
        left = [rank for rank, node in enumerate(self._nodes) if node not in dead]
        if self._rank == left[0]:
            job = os.environ["SLURM_JOB_ID"]
            message = f"{' and '.join(map(self._with_ranks, dead))} does not answer: it or its network has failed."
            logger.error("%s", message)
            # The ranks' output goes through the first node, so its own failure cannot appear in the log.
            subprocess.run(["scontrol", "update", f"JobId={job}", f"Comment={message}"], check=False)
            logger.warning("%s It will resume from its last checkpoint.", requeue(job))
        else:
            # The exit of the first rank ends this one.
            time.sleep(6 * PROBE)
        logging.shutdown()
        # Called from a thread: the main thread may be waiting for a rank that will not answer.
        os._exit(PREEMPTED_EXIT_STATUS)

    def _with_ranks(self, node: str) -> str:
        ranks = [str(rank) for rank, at in enumerate(self._nodes) if at == node]
        return f"{node} (rank {', '.join(ranks)})"


def answers(node: str) -> bool:
    """Whether a node's Slurm daemon accepts a connection; call rarely, because the daemon logs such connections."""
    shown = subprocess.run(["scontrol", "show", "node", node], capture_output=True, text=True, check=False).stdout
    address, port = re.search(r"NodeAddr=(\S+)", shown), re.search(r"\bPort=(\d+)", shown)
    try:
        with socket.create_connection(
            (address[1] if address else node, int(port[1]) if port else SLURMD_PORT), timeout=PROBE
        ):
            return True
    except OSError:
        return False


def _key(what: str, rank: int) -> str:
    return f"fairchem_hdgnn/{what}/{rank}"
