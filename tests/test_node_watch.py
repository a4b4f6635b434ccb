"""What ranks on several nodes know of one another: nodes, clocks, silence, and a port that is taken."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from fairchem_hdgnn import cli
from fairchem_hdgnn.errors import ConfigError
from fairchem_hdgnn.host.fairchem1 import node_watch, ranks
from fairchem_hdgnn.host.fairchem1.node_watch import NodeWatch, answers
from fairchem_hdgnn.host.messages import user_message


@pytest.fixture
def address() -> Iterator[tuple[str, int]]:
    """Of a store of torch.distributed, as rank 0 has it."""
    store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    yield "localhost", store.port


def meet(watches: list[NodeWatch]) -> list[dist.TCPStore]:
    stores: dict[int, dist.TCPStore] = {}
    threads = [
        threading.Thread(target=lambda rank=rank, watch=watch: stores.update({rank: watch._meet()}))
        for rank, watch in enumerate(watches)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return [stores[rank] for rank in range(len(watches))]


def test_silent_ranks_are_those_that_stopped_beating(address: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_watch, "SILENCE", 0.3)
    watches = [NodeWatch(address, rank, 3, f"node{1 + rank // 2}") for rank in range(3)]
    stores = meet(watches)
    for _ in range(3):
        assert [watch._silent_ranks(store) for watch, store in zip(watches, stores)][1:] == [[], []]
        time.sleep(0.2)
    assert watches[0]._silent_ranks(stores[0]) == []
    for _ in range(3):
        watches[1]._silent_ranks(stores[1])
        silent = watches[0]._silent_ranks(stores[0])
        time.sleep(0.2)
    assert silent == [2]
    asked: list[str] = []
    monkeypatch.setattr(node_watch, "answers", lambda node: asked.append(node) or True)
    for _ in range(3):
        watches[1]._silent_ranks(stores[1])
        assert watches[0]._dead_nodes(watches[0]._silent_ranks(stores[0])) == []
    assert asked == ["node2"], "a rank that has ended on a node that is well: asked once, until another silence"


@pytest.mark.parametrize("ahead, warned", [(0.0, False), (-900.0, True)])
def test_clocks_apart_are_told(
    address: tuple[str, int],
    ahead: float,
    warned: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    watches = [NodeWatch(address, rank, 2, f"node{rank + 1}") for rank in range(2)]
    actual = dist.TCPStore.set

    def set_with_clock(store: dist.TCPStore, key: str, value: str) -> None:
        actual(store, key, str(float(value) + ahead) if key.endswith("clock/1") else value)

    monkeypatch.setattr(dist.TCPStore, "set", set_with_clock)
    with caplog.at_level(logging.WARNING):
        meet(watches)
    told = [record.getMessage() for record in caplog.records]
    assert any("The clocks of node1 and node2 are 900 s apart" in text for text in told) == warned


def test_node_answers_where_its_daemon_takes_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as daemon:
        port = daemon.getsockname()[1]

        class Shown:
            stdout = f"NodeAddr=127.0.0.1 NodeHostName=node2 Port={port} Version=22.05.8"

        monkeypatch.setattr(node_watch.subprocess, "run", lambda *args, **kwargs: Shown)
        assert answers("node2")
    assert not answers("node2")


def test_port_in_use_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(dist.DistNetworkError) as raised:
            dist.TCPStore("localhost", port, is_master=True, wait_for_workers=False)
    assert user_message(raised.value) == (
        f"port {port}, where the ranks connect, is in use by another program: set MASTER_PORT to a free one"
    )


def test_rank_that_does_not_see_the_checkpoint_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would start anew beside others that go on."""

    def from_rank_0(objects: list[int], **kwargs: object) -> None:
        objects[0] = 500

    monkeypatch.setattr(ranks.distutils, "broadcast_object_list", from_rank_0)
    path = tmp_path / "checkpoint.pt"
    ranks.check_same_start(path, 500, torch.device("cpu"))
    with pytest.raises(ConfigError, match=f"{path}: rank 0 resumes from step 500, but this rank from step 0; choose"):
        ranks.check_same_start(path, 0, torch.device("cpu"))


def test_error_in_a_job_of_several_nodes_names_the_node(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLURM_STEP_NUM_NODES", "2")
    monkeypatch.setenv("SLURMD_NODENAME", "node7")
    assert cli.main(["train", "--mode", "train", "--config-yml", "absent.yml"]) == 2
    assert "error: node7: no file 'absent.yml'" in capsys.readouterr().err
