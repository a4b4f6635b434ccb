"""Profile of one training step: launches, utilisation of the GPU, and the largest kernels."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity

from gpu_stages.bench import Bench, make_network, moved, precision, usual_graph

NUM_KERNELS = 15
NUM_LAYERS = 4


def profile(bench: Bench, implementation: str = "fast") -> dict[str, Any]:
    """One step of ``authors`` in bfloat16, on a CPU its operations instead of kernels."""
    arguments = moved(usual_graph(bench), bench.device)
    num_layers = 1 if bench.tiny else NUM_LAYERS
    network = make_network(bench, "authors", num_layers, implementation=implementation).to(bench.device).train()

    def step() -> None:
        network.zero_grad()
        with precision("bfloat16", bench.device):
            energy = network(*arguments)["energy"].sum()
        energy.backward()

    for _ in range(2):
        step()
    bench.synchronise()
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * bench.on_gpu
    with torch.profiler.profile(activities=activities) as profiler:
        step()
        bench.synchronise()
    wanted = DeviceType.CUDA if bench.on_gpu else DeviceType.CPU
    events = [event for event in profiler.events() if event.device_type == wanted]
    spans = sorted((event.time_range.start, event.time_range.end) for event in events)
    times: dict[str, float] = defaultdict(float)
    calls: dict[str, int] = defaultdict(int)
    for event in events:
        times[event.name[:100]] += event.time_range.elapsed_us() / 1000
        calls[event.name[:100]] += 1
    largest = sorted(times, key=lambda name: times[name], reverse=True)[:NUM_KERNELS]
    whole = spans[-1][1] - spans[0][0]
    return {
        "num_layers": num_layers,
        "launches": len(events),
        "launches_per_layer": len(events) / num_layers,
        "step_ms": whole / 1000,
        "busy_share": covered(spans) / whole,
        "largest": [{"name": name, "calls": calls[name], "ms": times[name]} for name in largest],
    }


def covered(spans: list[tuple[float, float]]) -> float:
    """Length of the union of sorted intervals."""
    total, end = 0.0, float("-inf")
    for first, last in spans:
        total += max(0.0, last - max(first, end))
        end = max(end, last)
    return total
