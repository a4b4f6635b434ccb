"""Forward pass, training step and optimiser step: HDGNN, our eSCN, and fairchem's eSCN on the same edges."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fairchem_hdgnn.host.counting import WorkCounter
from fairchem_hdgnn.models.ops.proven import sizes_of
from gpu_stages.bench import (
    PRECISIONS,
    Bench,
    attempt,
    frames_of,
    make_network,
    moved,
    precision,
    tf32_everywhere,
    usual_graph,
)
from gpu_stages.fairchem import fairchem_escn, same_weights

DEPTHS = (16, 4)

OTHER_ACTIVATIONS = {"authors": "recompute", "escn": "store"}
"""What is not the default."""


def networks(bench: Bench, implementation: str = "fast") -> list[dict[str, Any]]:
    """Times and memory, in the order of their value: deep networks first, other activations last."""
    rows: list[dict[str, Any]] = []
    chosen = {} if implementation == "fast" else {"implementation": implementation}
    deep, shallow = (2, 1) if bench.tiny else DEPTHS
    for depth in (deep, shallow):
        for name in ("authors", "escn", "two resolutions"):
            rows += hdgnn_rows(bench, name, depth, chosen)
            bench.save(rows)
            if name == "authors" and not chosen:
                rows += fairchem_rows(bench, depth)
    for name, activations in OTHER_ACTIVATIONS.items():
        rows += hdgnn_rows(bench, name, shallow, {**chosen, "activations": activations})
        bench.save(rows)
    return rows


def hdgnn_rows(bench: Bench, name: str, depth: int, keys: dict[str, str]) -> list[dict[str, Any]]:
    """One of our networks in all precisions."""
    arguments = moved(usual_graph(bench), bench.device)
    network = make_network(bench, name, depth, **keys).to(bench.device).train()
    rows = []
    for mode in PRECISIONS:

        def forward(mode: str = mode) -> Tensor:
            with precision(mode, bench.device):
                return network(*arguments)["energy"].sum()

        row = {"network": name, "num_layers": depth, "edges": arguments[1].shape[1], "precision": mode, **keys}
        row["sizes"] = sizes_of(network.config)
        rows.append({**row, **measure(bench, network, forward)})
    return rows


def fairchem_rows(bench: Bench, depth: int) -> list[dict[str, Any]]:
    """fairchem's eSCN: float32, and TF32 by torch's own setting. It has no bfloat16: sums stop in another dtype."""
    graph = usual_graph(bench)
    row = {"network": "fairchem escn", "num_layers": depth, "edges": graph[1].shape[1]}
    made = attempt(lambda: fairchem_escn(bench, graph, depth))
    if isinstance(made, dict):
        return [{**row, **made}]
    model, data = made
    rows = []
    for mode in ("float32", "tf32"):

        def forward() -> Tensor:
            return model(data)["energy"].sum()

        with tf32_everywhere(mode == "tf32"):
            rows.append({**row, "precision": mode, **measure(bench, model, forward)})
    if depth == max(DEPTHS) or bench.tiny:
        rows[0]["energy_error_of_ours"] = attempt(lambda: same_weights(bench, model, data, graph, frames_of(graph)))
    return rows


def measure(bench: Bench, network: nn.Module, forward: Callable[[], Tensor]) -> dict[str, Any]:
    """Median times, ms, and peak memory, GB; or why there are none."""
    if bench.seconds_left() < 2:
        return {"skipped": "no time was left"}
    parameters = [p for p in network.parameters() if p.requires_grad]

    def step() -> None:
        for parameter in parameters:
            parameter.grad = None
        forward().backward()

    def timed() -> dict[str, Any]:
        with torch.no_grad():
            forward_ms = bench.milliseconds(forward, seconds=0.5)
        bench.free()
        step_ms, peak_gb = bench.milliseconds(step, seconds=1.0), bench.peak_gb()
        # Weights stay as they are: the rate of products depends on their values.
        optimizer = torch.optim.AdamW(parameters, lr=0.0, weight_decay=0.0, fused=True)
        adamw_ms = bench.milliseconds(optimizer.step, seconds=0.2)
        with WorkCounter() as counter:
            step()
        return {
            "ok": bool(torch.isfinite(forward())),
            "forward_ms": forward_ms,
            "step_ms": step_ms,
            "adamw_ms": adamw_ms,
            "peak_gb": peak_gb,
            "parameters": sum(parameter.numel() for parameter in parameters),
            "step_tflop": counter.flops / 1e12,
            "step_tb": counter.traffic / 1e12,
            "step_operations": len(counter.operations),
        }

    bench.free()
    result = attempt(timed)
    for parameter in parameters:
        parameter.grad = None
    bench.free()
    return result
