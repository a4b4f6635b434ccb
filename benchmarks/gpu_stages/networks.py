"""Forward pass, training step and optimiser step: HDGNN, our eSCN, and fairchem's eSCN on the same edges."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fairchem_hdgnn.host.counting import WorkCounter
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

DEPTHS = (4, 16)

OTHER_ACTIVATIONS = {"authors": "recompute", "escn": "store"}
"""What is not the default."""


def networks(bench: Bench) -> list[dict[str, Any]]:
    """Times and memory at both depths; the deep networks once each, without the kernels."""
    rows: list[dict[str, Any]] = []
    for depth in (1, 2) if bench.tiny else DEPTHS:
        deep = depth == DEPTHS[-1]
        for name in ("authors", "two resolutions", "escn"):
            for keys in variants(bench, name, deep):
                rows += hdgnn_rows(bench, name, depth, keys)
        rows += fairchem_rows(bench, depth)
    return rows


def variants(bench: Bench, name: str, deep: bool) -> list[dict[str, str]]:
    """Options to measure a network with."""
    options: list[dict[str, str]] = [{}]
    if name in OTHER_ACTIVATIONS:
        options.append({"activations": OTHER_ACTIVATIONS[name]})
    if bench.on_gpu and not deep:
        options.append({"implementation": "triton"})
    return options


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
    if depth == min(DEPTHS) or bench.tiny:
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
        adamw_ms = bench.milliseconds(torch.optim.AdamW(parameters, fused=True).step, seconds=0.2)
        with WorkCounter() as counter:
            step()
        return {
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
