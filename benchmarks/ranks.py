"""Cost of the gradient exchange in a training step: measured on ranks of this CPU, predicted for GPUs.

``python benchmarks/ranks.py measure CONFIG ...`` runs forward and backward passes of the configs' networks on 1, 2 and
4 gloo ranks with a thread each. Every rank has the same small graph, so that all have the same arithmetic. Three things
are timed in turn: the passes without exchange (DDP's ``no_sync``), the passes with it, and an all-reduce of as many
bytes alone.

``python benchmarks/ranks.py predict CONFIG ...`` measures nothing. It takes the time of a step from ``fairchem-hdgnn
cost``, that of the exchange from the rate of the links, and combines them.

Both write their table into docs/scaling.md.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from pages import put_into
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from fairchem_hdgnn.host.allocator import keep_freed_memory
from fairchem_hdgnn.host.cost import GPUS, Cost, random_graph
from fairchem_hdgnn.host.fairchem1.config_files import read_config
from fairchem_hdgnn.host.fairchem1.cost_report import MODELS, report
from fairchem_hdgnn.host.fairchem1.names import dotted_name
from fairchem_hdgnn.host.graph import GraphSettings

PAGE = Path(__file__).parents[1] / "docs" / "scaling.md"
RANKS = (1, 2, 4)
ATOMS = 8
"""Of each rank's graph."""

REPEATS = 3
GPU_COUNTS = (8, 16, 64, 256)
BUCKET_BYTES = 25 * 2**20
"""Gradients that DDP exchanges in one all-reduce, by default."""


def sent_bytes(gradient_bytes: float, ranks: int) -> float:
    """Bytes that each rank sends, and receives, in an all-reduce along a ring."""
    return 2 * (ranks - 1) / ranks * gradient_bytes


@dataclass(frozen=True)
class Cluster:
    """Nodes and their links.

    Attributes:
        gpus: in a node.
        inside: rate between GPUs of a node, bytes/s in each direction.
        between: rate between nodes, bytes/s in each direction, all network cards of a node together.
        latency: of a hop from rank to rank, s.
    """

    gpus: int
    inside: float
    between: float
    latency: float

    def exchange_seconds(self, gradient_bytes: float, ranks: int) -> float:
        """Time to all-reduce the gradients, bucket after bucket; the slowest link of the ring sets the rate."""
        rate = self.inside if ranks <= self.gpus else min(self.inside, self.between)
        hops = 2 * (ranks - 1) * buckets(gradient_bytes)
        return sent_bytes(gradient_bytes, ranks) / rate + hops * self.latency


def buckets(gradient_bytes: float) -> int:
    """All-reduces in a step."""
    return math.ceil(gradient_bytes / BUCKET_BYTES)


@dataclass(frozen=True)
class Step:
    """A training step of one GPU, without exchange.

    Attributes:
        forward: pass, s.
        backward: pass, s.
        gradient_bytes: to exchange.
    """

    forward: float
    backward: float
    gradient_bytes: float

    @classmethod
    def of(cls, cost: Cost) -> Step:
        """From a predicted cost, with the time split as the arithmetic is."""
        forward = cost.seconds * cost.forward_flops / cost.training_flops
        return cls(forward, cost.seconds - forward, 4 * cost.parameters)

    @property
    def alone(self) -> float:
        """Time on one GPU, s."""
        return self.forward + self.backward

    def one_after_the_other(self, exchange: float) -> float:
        """Time if the exchange starts when the backward pass is over, s."""
        return self.alone + exchange

    def overlapped(self, exchange: float) -> float:
        """Time if buckets are exchanged during the backward pass, all but the last, which is then just filled, s."""
        last = exchange / buckets(self.gradient_bytes)
        return self.forward + max(self.backward, exchange - last) + last


def prediction(config: str, gpu: str, clusters: Sequence[Cluster]) -> str:
    """Rows of the table: one structure on each GPU, and as many as the config has."""
    told = report(config, GPUS[gpu], 1)
    lines = []
    for size, cost in {1: told.structure, told.batch_size: told.batch}.items():
        step = Step.of(cost)
        for ranks in GPU_COUNTS:
            cells = [f"`{Path(config).name}`", f"{size}", f"{ranks}", f"{1e3 * step.alone:.0f}"]
            for cluster in clusters:
                exchange = cluster.exchange_seconds(step.gradient_bytes, ranks)
                times = step.overlapped(exchange), step.one_after_the_other(exchange)
                cells += [f"{1e3 * exchange:.1f}", " to ".join(f"{step.alone / t:.0%}" for t in reversed(times))]
            lines.append(f"| {' | '.join(cells)} |\n")
    return "".join(lines)


def prediction_table(configs: Sequence[str], gpu: str, clusters: Sequence[Cluster]) -> str:
    """As Markdown; efficiencies from no overlap to that of DDP."""
    columns = ["config", "structures per GPU", "GPUs", "passes, ms"]
    for cluster in clusters:
        columns += [f"exchange, ms, {cluster.between / 1e9:g} GB/s", "efficiency"]
    rows = "".join(prediction(config, gpu, clusters) for config in configs)
    return f"| {' | '.join(columns)} |\n| --- |{' ---: |' * (len(columns) - 1)}\n{rows}"


def timed(work: Callable[[], None]) -> tuple[float, float]:
    """Seconds until the slowest rank has done it, and CPU seconds of a rank, to which other programs add little."""
    dist.barrier()
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    slowest = torch.tensor(time.perf_counter() - wall, dtype=torch.float64)
    total = torch.tensor(time.process_time() - cpu, dtype=torch.float64)
    dist.all_reduce(slowest, dist.ReduceOp.MAX)
    dist.all_reduce(total)
    return float(slowest), float(total) / dist.get_world_size()


def network_of(config: str) -> tuple[nn.Module, int]:
    """The config's network on plain tensors, and the edges into each atom."""
    model = dict(read_config(config)["model"])
    model_class, _ = MODELS[str(dotted_name(model.pop("name")))]
    return model_class(**model).network, model.get("max_neighbors", GraphSettings.max_neighbors)


def measure_here(rank: int, ranks: int, folder: str, config: str, atoms: int, repeats: int) -> None:
    """The work of one rank; rank 0 leaves the least times of all repeats in the folder."""
    torch.set_num_threads(1)
    keep_freed_memory()
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=ranks)
    plain, neighbors = network_of(config)
    graph = random_graph(atoms, neighbors)
    network = DistributedDataParallel(plain)
    gradients = torch.zeros(sum(parameter.numel() for parameter in network.parameters()))

    def passes(exchanging: bool) -> None:
        with nullcontext() if exchanging else network.no_sync():
            torch.stack([value.sum() for value in network(*graph).values()]).sum().backward()

    def exchange() -> None:
        works = [dist.all_reduce(part, async_op=True) for part in gradients.split(BUCKET_BYTES // 4)]
        for work in works:
            work.wait()

    kinds = {"passes": lambda: passes(False), "step": lambda: passes(True), "exchange": exchange}
    taken: dict[str, list[tuple[float, float]]] = {kind: [] for kind in kinds}
    for _ in range(repeats + 1):
        for kind, work in kinds.items():
            network.zero_grad()
            taken[kind].append(timed(work))
    if rank == 0:
        least = {kind: [min(values) for values in zip(*times[1:])] for kind, times in taken.items()}
        Path(folder, "times.json").write_text(json.dumps({**least, "gradient_bytes": 4 * len(gradients)}))
    dist.destroy_process_group()


def measurement(config: str) -> str:
    """Rows of the table, one for each number of ranks."""
    lines = []
    for ranks in RANKS:
        with tempfile.TemporaryDirectory() as folder:
            mp.spawn(measure_here, (ranks, folder, config, ATOMS, REPEATS), nprocs=ranks)
            found = json.loads(Path(folder, "times.json").read_text())
        gradient_bytes = found.pop("gradient_bytes")
        sent = sent_bytes(gradient_bytes, ranks)
        cells = [f"`{Path(config).name}`", f"{ranks}", f"{gradient_bytes / 1e6:.0f}", f"{sent / 1e6:.0f}"]
        cells += [f"{cpu:.2f}" for _, cpu in found.values()] + [f"{wall:.2f}" for wall, _ in found.values()]
        cells.append(f"{sent / found['exchange'][0] / 1e6:.0f}" if sent else "")
        lines.append(f"| {' | '.join(cells)} |\n")
        print(lines[-1], end="", flush=True)
    return "".join(lines)


def measurement_table(configs: Sequence[str]) -> str:
    """As Markdown."""
    columns = ["config", "ranks", "gradients, MB", "each rank sends, MB"]
    columns += [f"{kind}, {unit}" for unit in ("CPU s", "s") for kind in ("passes", "with exchange", "exchange alone")]
    columns.append("rate, MB/s")
    rows = "".join(measurement(config) for config in configs)
    return f"| {' | '.join(columns)} |\n| --- |{' ---: |' * (len(columns) - 1)}\n{rows}"


def main() -> None:
    """Make one of the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    measure = commands.add_parser("measure")
    predict = commands.add_parser("predict")
    predict.add_argument("--gpu", choices=GPUS, default="h100")
    predict.add_argument("--gpus-per-node", type=int, default=8)
    predict.add_argument("--inside", type=float, default=450, help="GB/s between GPUs of a node, each direction")
    predict.add_argument("--between", type=float, nargs="+", default=[25, 50], help="GB/s between nodes")
    predict.add_argument("--latency", type=float, default=5, help="µs a hop")
    for command in (measure, predict):
        command.add_argument("configs", nargs="+", metavar="CONFIG")
    args = parser.parse_args()
    if args.command == "measure":
        put_into(PAGE, "ranks_measured", measurement_table(args.configs))
        return
    clusters = [
        Cluster(args.gpus_per_node, 1e9 * args.inside, 1e9 * rate, 1e-6 * args.latency) for rate in args.between
    ]
    put_into(PAGE, "ranks_predicted", prediction_table(args.configs, args.gpu, clusters))


if __name__ == "__main__":
    main()
