"""A Slurm of two nodes for each module of tests."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator

import pytest
from slurm_cluster import NODES, SCRIPT, Cluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if os.geteuid() != 0:
        pytest.skip("starting a Slurm needs root")
    if shutil.which("slurmctld") is None and shutil.which("apt-get") is None:
        pytest.skip("no Slurm here, and no apt-get to install it")
    # A short path: the munge socket lies in it.
    cluster = Cluster(tmp_path_factory.mktemp("slurm"))
    try:
        started = cluster.call("bash", str(SCRIPT), "start", str(cluster.folder), str(NODES), check=False)
    except subprocess.TimeoutExpired:
        pytest.skip("Slurm could not be installed within three minutes")
    if started.returncode:
        cluster.call("bash", str(SCRIPT), "stop", str(cluster.folder))
        pytest.skip(f"Slurm cannot be started here: {' '.join(started.stderr.split())[-300:]}")
    yield cluster
    cluster.call("scancel", "--user=root", check=False)
    cluster.call("bash", str(SCRIPT), "stop", str(cluster.folder))
