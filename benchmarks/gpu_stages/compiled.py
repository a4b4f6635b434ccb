"""``torch.compile`` of the plain equations, layer by layer, beside the plain and the fast form."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from functools import partial
from typing import Any, cast
from unittest import mock

import torch
from torch import Tensor, nn

from fairchem_hdgnn.models.arithmetic import precision as precisions
from fairchem_hdgnn.models.arithmetic import products
from gpu_stages.bench import (
    ATOMS,
    SYSTEMS,
    Bench,
    frames_of,
    make_network,
    moved,
    precision,
    random_graph,
    redraw,
    relative,
    rows_of,
    within,
)
from gpu_stages.parity import TOLERANCE, gradients_of, joined

MODES = ("bfloat16", "float32")
LEAST_SECONDS = 60
"""Compiling takes about so long; nothing is begun with less time left."""


def compiled(bench: Bench) -> list[dict[str, Any]]:
    """Times of a training step of each, and how far the compiled one is off."""
    cases = [(name, mode) for mode in MODES for name in ("authors", "escn")]
    return rows_of(bench, cases, depth(bench), measure, LEAST_SECONDS)


def depth(bench: Bench) -> int:
    """Layers; a CPU has less memory."""
    return 4 if bench.on_gpu else 2


def measure(bench: Bench, name: str, mode: str) -> dict[str, Any]:
    """One network in one precision."""
    systems, atoms = (2, 8) if bench.tiny else (SYSTEMS if bench.on_gpu else 1, ATOMS)
    graph = random_graph(systems, atoms)
    arguments, frames = moved(graph, bench.device), frames_of(graph).to(bench.device, torch.float32)
    fast, plain = (
        redraw(make_network(bench, name, depth(bench), implementation=implementation)).to(bench.device).train()
        for implementation in ("fast", "reference")
    )

    def step(network: nn.Module) -> list[Tensor]:
        with precision(mode, bench.device):
            energies = network(*arguments, frames)["energy"]
        return [energies.detach(), joined(gradients_of(energies, network))]

    # The first step makes constants.
    expected = step(fast)
    step(plain)
    row = {"edges": graph[1].shape[1], "fast_step_ms": bench.milliseconds(partial(step, fast))}
    with without_tf32():
        row["plain_step_ms"] = bench.milliseconds(partial(step, plain))
        for layer in cast(nn.ModuleList, plain.get_submodule("backbone.layers")):
            layer.compile(dynamic=True, backend="aot_eager" if bench.tiny else "inductor")
        began = time.monotonic()
        got = step(plain)
        bench.synchronise()
        row["compile_s"] = time.monotonic() - began
        errors = [relative(a, b) for a, b in zip(got, expected)]
        row["compiled_step_ms"] = bench.milliseconds(partial(step, plain))
    return {**row, "errors_of_energies_and_gradient": errors, "ok": within(TOLERANCE[mode], *errors)}


@contextlib.contextmanager
def without_tf32() -> Iterator[None]:
    """The setting for TF32 stays as it is: each change of it would end what is compiled as one."""
    torch._dynamo.reset()
    with contextlib.ExitStack() as patches:
        for module in (precisions, products):
            patches.enter_context(mock.patch.object(module, "allow_tf32", lambda allowed: contextlib.nullcontext()))
        yield
    torch._dynamo.reset()
