"""The object that every launcher calls: fairchem's Runner, made to work with srun, CPU nodes and requeues."""

from __future__ import annotations

import copy
import logging
import os
import threading

import torch
from fairchem.core import _cli
from submitit.helpers import DelayedSubmission
from torch.distributed.elastic.multiprocessing.errors import record
from tqdm import tqdm

import fairchem_hdgnn  # noqa: F401  registers the models in every process that unpickles a Runner
from fairchem_hdgnn.errors import ConfigError
from fairchem_hdgnn.host.fairchem1.node_watch import node_watch
from fairchem_hdgnn.host.fairchem1.ranks import set_rank_environment

logger = logging.getLogger(__name__)


class Runner(_cli.Runner):
    """fairchem's Runner without its assumptions about the cluster.

    fairchem's own, when submitted, always requires NCCL, a CUDA device and a fixed port. This one takes ranks and the
    rendezvous from the environment (``ranks.set_rank_environment``) and the back end from the config, so the same class
    works with submitit, srun, torchrun and a single process, on CPU (gloo) and GPU (nccl).
    """

    def __call__(self, config: dict) -> None:
        """Train, validate, predict or relax according to the fairchem config."""
        self.config = config
        # tqdm's own lock is shared between processes; it outlives a rank that is killed, and Python would warn about
        # it after our last line.
        tqdm.set_lock(threading.RLock())
        set_rank_environment()
        with node_watch():
            super().__call__(_as_launched(with_device(config)))

    def checkpoint(self, *args, **kwargs) -> DelayedSubmission:
        """The job that submitit pickles for a requeue: this class again, with the checkpoint if there is one."""
        config = self.config
        if hasattr(self, "trainer"):
            config = super().checkpoint(*args, **kwargs).args[0]
        else:
            logger.info("Interrupted before the training started; the requeued job starts from the beginning.")
        return DelayedSubmission(type(self)(), config)


def with_device(config: dict) -> dict:
    """The config for an available device: without a GPU, predictions use the CPU, but a training needs ``--cpu``.

    Raises:
        ConfigError: a training without a GPU and without ``--cpu``.
    """
    if config.get("cpu") or torch.cuda.is_available():
        return config
    if config["mode"] == "train":
        raise ConfigError("torch finds no GPU: add --cpu; `fairchem-hdgnn doctor` shows what torch was built for")
    logger.warning("torch finds no GPU; running on the CPU, as with --cpu")
    return {**config, "cpu": True}


def _as_launched(config: dict) -> dict:
    """The config with world size and back end of this process."""
    config = copy.deepcopy(config)
    config["submit"] = False
    config["world_size"] = int(os.environ.get("WORLD_SIZE", config.get("world_size", 1)))
    config["distributed_backend"] = "gloo" if config.get("cpu") else "nccl"
    return config


@record
def runner_wrapper(config: dict) -> None:
    """The function that torch's elastic launcher starts in each rank; its error reaches the parent."""
    Runner()(config)
