"""Memory over batches of changing size, with the last step's loss kept and not kept."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gpu_stages.bench import SYSTEMS, Arguments, Bench, make_network, moved, precision, random_graph
from gpu_stages.slabs import slabs

STEPS = 40


def memory(bench: Bench) -> dict[str, Any]:
    """Peak and reserved memory of ``authors`` in bfloat16, GB, over real OC20 frames if available."""
    steps = 3 if bench.tiny else STEPS
    batches, source = varying_batches(bench, steps)
    edges = [arguments[1].shape[1] for arguments in batches]
    result: dict[str, Any] = {"batches": source, "edges": [min(edges), max(edges)]}
    for kept in (False, True):
        if bench.seconds_left() < 1:
            break
        result["loss kept" if kept else "loss dropped"] = train(bench, batches, kept)
    return result


def varying_batches(bench: Bench, steps: int) -> tuple[list[Arguments], str]:
    """Batches of 8 structures, and what they are."""
    path = bench.carry / "oc20_s2ef.npz"
    systems = 2 if bench.tiny else SYSTEMS
    try:
        frames = slabs(path, bench, cutoff=8.0, max_neighbors=10 if bench.tiny else 40)
    except (ImportError, FileNotFoundError) as failure:
        sizes = torch.randint(8, 12, (steps,)) if bench.tiny else torch.randint(20, 120, (steps,))
        graphs = [random_graph(systems, int(size), seed) for seed, size in enumerate(sizes)]
        return [moved(graph, bench.device) for graph in graphs], f"random boxes ({failure})"
    order = torch.randperm(len(frames.targets), generator=torch.Generator().manual_seed(0))
    return [frames.batch(rows, 8.0) for rows in order[: steps * systems].split(systems)], "OC20 frames"


def train(bench: Bench, batches: list[Arguments], kept: bool) -> dict[str, Any]:
    """One step a batch; a loop that keeps its loss must not hold the activations behind it."""
    network = make_network(bench, "authors", 1 if bench.tiny else 4).to(bench.device).train()
    optimiser = torch.optim.AdamW(network.parameters())
    bench.free()
    loss: Tensor | None = None
    allocated, reserved = [], []
    for arguments in batches:
        with precision("bfloat16", bench.device):
            new = network(*arguments)["energy"].square().mean()
        optimiser.zero_grad()
        new.backward()
        optimiser.step()
        loss = new if kept else None
        del new
        if bench.on_gpu:
            allocated.append(torch.cuda.memory_allocated() / 1e9)
            reserved.append(torch.cuda.memory_reserved() / 1e9)
    result: dict[str, Any] = {"steps": len(batches), "finite": bool(torch.isfinite(_norm(network)))}
    if bench.on_gpu:
        result |= {
            "peak_gb": bench.peak_gb(),
            "allocated_after_step_gb": max(allocated),
            "reserved_gb": {"after 10 steps": reserved[min(9, len(reserved) - 1)], "at the end": reserved[-1]},
        }
    del loss
    bench.free()
    return result


def _norm(network: torch.nn.Module) -> Tensor:
    return torch.stack([parameter.detach().norm() for parameter in network.parameters()]).norm()
