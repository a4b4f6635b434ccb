"""A node that dies under a job: noticed by the silence of its ranks, named in one line, and the job requeued.

Otherwise the other ranks wait, or fail with an address and a port for a reason, and the job lasts until Slurm gives the
node up, which takes minutes (``SlurmdTimeout``, 300 s by default).
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
"""Seconds between two signs of life of a rank."""

SILENCE = 20.0
"""Seconds without one, after which it is asked whether the node is still there."""

PROBE = 5.0
"""Seconds within which a node has to take a connection."""

START = timedelta(minutes=30)
"""How long ranks may take to start."""

CLOCKS_APART = 60.0
"""Seconds; ranks start within fewer."""

SLURMD_PORT = 6818
"""Slurm's default."""

LOST_CONNECTION = ("gloo", "NCCL", "peer", "Connection", "store")
"""In the messages of errors that a rank raises because another one has gone."""


@contextmanager
def node_watch() -> Iterator[None]:
    """Watch over the nodes of a job while its ranks run; without effect where ``srun`` did not start them.

    If a node dies, the first rank on another one says so and requeues the job. Its process ends with
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
            logger.warning("The connection to another rank is lost; asking whether its node is still there.")
            # If it is not, the watch ends this process meanwhile.
            time.sleep(SILENCE + 4 * PROBE)
        raise
    finally:
        watch.stop()


class NodeWatch(threading.Thread):
    """A thread that gives signs of life to the store of torch.distributed; rank 0 reads those of all ranks.

    Args:
        address: host and port of torch.distributed's store.
        rank: of this process.
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
        """End at the next beat."""
        self._stopped.set()

    def run(self) -> None:
        """Beat and look, until stopped or until a node is dead."""
        try:
            store = self._meet()
        except RuntimeError as error:  # a rank that never came; torch.distributed says so itself
            logger.debug("no watch over the nodes: %s", error)
            return
        while not self._stopped.wait(BEAT):
            dead = self._dead_nodes(self._silent_ranks(store))
            if dead and not self._stopped.is_set():
                self._end(dead)

    def _dead_nodes(self, silent: Sequence[int]) -> list[str]:
        """Nodes of silent ranks that do not answer; a rank that has ended is silent, too, on a node that does."""
        dead = [node for node in dict.fromkeys(self._nodes[rank] for rank in silent) if not answers(node)]
        for rank in silent:
            # Not to be asked about again before another silence.
            self._heard[rank] = time.monotonic()
        return dead

    def _meet(self) -> dist.TCPStore:
        """Connect, learn where each rank is, and compare clocks.

        Raises:
            RuntimeError: another rank has not come in time.
        """
        store = dist.TCPStore(*self._address, is_master=False, timeout=START, wait_for_workers=False)
        store.set(_key("node", self._rank), self._node)
        self._nodes = [store.get(_key("node", rank)).decode() for rank in range(self._world_size)]
        store.set(_key("clock", self._rank), str(time.time()))
        if self._rank == 0:
            # All ranks met just now, at the same time.
            self._compare_clocks([float(store.get(_key("clock", rank))) for rank in range(self._world_size)])
        self._heard = [time.monotonic()] * self._world_size
        store.set_timeout(timedelta(seconds=PROBE))
        return store

    def _compare_clocks(self, clocks: Sequence[float]) -> None:
        for node, clock in dict(zip(self._nodes, clocks)).items():
            if abs(clock - clocks[0]) > CLOCKS_APART:
                logger.warning(
                    "The clocks of %s and %s are %.0f s apart: times in logs mislead, and from 300 s on Slurm refuses "
                    "jobs; set them right (NTP).",
                    *(self._nodes[0], node, abs(clock - clocks[0])),
                )

    def _silent_ranks(self, store: dist.TCPStore) -> list[int]:
        """Ranks without a sign of life for ``SILENCE``; rank 0 has the store, so without the store it is silent."""
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
        """Say what has happened, requeue from the first rank that is left, and end this process."""
        left = [rank for rank, node in enumerate(self._nodes) if node not in dead]
        if self._rank == left[0]:
            job = os.environ["SLURM_JOB_ID"]
            message = f"{' and '.join(map(self._with_ranks, dead))} does not answer: it or its network has failed."
            logger.error("%s", message)
            # All that ranks print goes through the first node, so that of its own death the log says nothing.
            subprocess.run(["scontrol", "update", f"JobId={job}", f"Comment={message}"], check=False)
            logger.warning("%s It goes on from its last checkpoint.", requeue(job))
        else:
            # The first rank's end ends this one.
            time.sleep(6 * PROBE)
        logging.shutdown()
        # From a thread, while the main thread may wait for a rank that will not answer.
        os._exit(PREEMPTED_EXIT_STATUS)

    def _with_ranks(self, node: str) -> str:
        ranks = [str(rank) for rank, at in enumerate(self._nodes) if at == node]
        return f"{node} (rank {', '.join(ranks)})"


def answers(node: str) -> bool:
    """Whether a node's Slurm daemon takes a connection; asked seldom, as the daemon notes such calls in its log."""
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
