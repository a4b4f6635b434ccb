"""Measure HDGNN and eSCN on a GPU, in one call of about eight minutes.

    make gpu-bundle                                          # here: data and fairchem's wheel into .carry/
    python benchmarks/gpu.py --everything --carry .carry --budget 480 --out OUT
    python benchmarks/gpu_report.py OUT/gpu.json             # into docs/performance.md

Needs torch, torch-geometric, e3nn, numpy, pyyaml and jaxtyping; not fairchem, lmdb or a network. ``OUT/gpu.json`` is
rewritten after each stage, and during long ones. If a stage fails, the file says so and the next stage runs. Triton's
kernels come last, since an illegal access in one ends all work on the GPU in this process. ``--device cpu --tiny`` runs
all stages in two minutes without a GPU.

    python benchmarks/gpu.py --stages compiled --budget 480 --out OUT

measures ``torch.compile`` in a call of its own; with ``--device cpu`` on one structure and two layers.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "benchmarks")]
# Batches change their size; without this each size leaves a hole. torch reads it when it is imported.
os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")

import torch  # noqa: E402
from gpu_stages.bench import Bench  # noqa: E402
from gpu_stages.ceilings import ceilings  # noqa: E402
from gpu_stages.compiled import compiled  # noqa: E402
from gpu_stages.graphs import graphs  # noqa: E402
from gpu_stages.kernels import kernels  # noqa: E402
from gpu_stages.machine import machine  # noqa: E402
from gpu_stages.memory import memory  # noqa: E402
from gpu_stages.networks import networks  # noqa: E402
from gpu_stages.page import ON_ITS_OWN  # noqa: E402
from gpu_stages.parity import parity  # noqa: E402
from gpu_stages.profile import profile  # noqa: E402
from gpu_stages.summary import summary  # noqa: E402
from gpu_stages.training import training  # noqa: E402

from fairchem_hdgnn.files import complete_or_absent  # noqa: E402


class Stage(NamedTuple):
    """One stage.

    Attributes:
        run: returns what goes into the JSON file.
        share: of the budget, which it may take from its beginning on.
    """

    run: Callable[[Bench], Any]
    share: float


STAGES = {
    "ceilings": Stage(ceilings, 0.06),
    "parity": Stage(parity, 0.12),
    "networks": Stage(networks, 0.28),
    "profile": Stage(profile, 0.03),
    "memory": Stage(memory, 0.05),
    "training": Stage(training, 0.12),
    "kernels": Stage(kernels, 0.08),
    "triton_parity": Stage(partial(parity, implementations=("triton",)), 0.12),
    "triton_networks": Stage(partial(networks, implementation="triton"), 0.14),
    "triton_profile": Stage(partial(profile, implementation="triton"), 0.03),
    "graphs": Stage(graphs, 0.06),
    "compiled": Stage(compiled, 1.0),
}
"""In this order: what the others are compared with comes first."""

NEED_TRITON = ("triton_parity", "triton_networks", "triton_profile")
"""Stages that need a GPU even in a rehearsal."""


def main() -> None:
    """Run the chosen stages and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    chosen = parser.add_mutually_exclusive_group(required=True)
    chosen.add_argument("--everything", action="store_true", help=f"all stages but {ON_ITS_OWN}")
    chosen.add_argument("--stages", nargs="+", choices=list(STAGES), metavar="NAME", help=", ".join(STAGES))
    parser.add_argument("--carry", type=Path, default=ROOT / ".carry", help="what `make gpu-bundle` wrote")
    parser.add_argument("--budget", type=float, default=480.0, metavar="SECONDS", help="for the whole call")
    parser.add_argument("--out", type=Path, default=ROOT / "runs/gpu")
    parser.add_argument("--train", choices=("qm9", "hea"), default="qm9", help="what the last stage trains on")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a rehearsal: small sizes, no useful numbers")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("gpu.py: torch sees no GPU here; nothing was measured (--device cpu --tiny rehearses)")
    # Others' deprecations would hide the table.
    warnings.simplefilter("ignore")
    args.out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    device = torch.device(args.device)
    bench = Bench(device, args.tiny, args.carry, args.out, began + args.budget, 0.0, args.train)
    report: dict[str, Any] = {"machine": machine(device), "tiny": args.tiny, "budget_s": args.budget, "stages": {}}
    path = args.out / "gpu.json"
    for name in args.stages or [name for name in STAGES if name != ON_ITS_OWN]:
        bench.stage_end = min(bench.end, time.monotonic() + STAGES[name].share * args.budget)

        def save(part: Any, name: str = name) -> None:
            report["stages"][name] = {"seconds": 0.0, "result": part, "unfinished": True}
            write(report, path)

        bench.save = save
        report["stages"][name] = run_stage(name, bench)
        write(report, path)
    print(summary(report))


def run_stage(name: str, bench: Bench) -> dict[str, Any]:
    """Its result or its error, and how long it took."""
    print(f"== {name}, {bench.seconds_left():.0f} s", flush=True)
    if name in NEED_TRITON and not bench.on_gpu:
        return {"seconds": 0.0, "result": {"skipped": "Triton's kernels need a GPU"}}
    began = time.monotonic()
    outcome: dict[str, Any] = {}
    try:
        outcome["result"] = STAGES[name].run(bench)
        bench.free()
    except Exception as error:
        traceback.print_exc()
        outcome["error"] = f"{type(error).__name__}: {error}".splitlines()[0]
    return {"seconds": round(time.monotonic() - began, 1), **outcome}


def write(report: dict[str, Any], path: Path) -> None:
    """Whole or not at all."""
    with complete_or_absent(path) as temporary:
        temporary.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
