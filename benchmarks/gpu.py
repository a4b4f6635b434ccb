"""Measure HDGNN and eSCN on a GPU, in one call of about eight minutes.

    make gpu-bundle                                          # here: data and fairchem's wheel into .carry/
    python benchmarks/gpu.py --everything --carry .carry --budget 480 --out OUT
    python benchmarks/gpu_report.py OUT/gpu.json             # into docs/performance.md

Needs torch, torch-geometric, e3nn, numpy, pyyaml and jaxtyping; not fairchem, lmdb or a network. ``OUT/gpu.json`` is
rewritten after each stage, so an interrupted call loses only its current stage. If a stage fails, the file says so and
the next stage runs. ``--device cpu --tiny`` runs all stages in two minutes without a GPU.
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
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "benchmarks")]
# Batches change their size; without this each size leaves a hole. torch reads it when it is imported.
os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")

import torch  # noqa: E402
from gpu_stages.bench import Bench  # noqa: E402
from gpu_stages.ceilings import ceilings  # noqa: E402
from gpu_stages.kernels import kernels  # noqa: E402
from gpu_stages.machine import machine  # noqa: E402
from gpu_stages.memory import memory  # noqa: E402
from gpu_stages.networks import networks  # noqa: E402
from gpu_stages.parity import parity  # noqa: E402
from gpu_stages.profile import profile  # noqa: E402
from gpu_stages.summary import summary  # noqa: E402
from gpu_stages.training import training  # noqa: E402

from fairchem_hdgnn.files import complete_or_absent  # noqa: E402


class Stage(NamedTuple):
    """One stage.

    Attributes:
        run: returns what goes into the JSON file.
        end: when it should be over, as a share of the budget.
    """

    run: Callable[[Bench], Any]
    end: float


STAGES = {
    "ceilings": Stage(ceilings, 0.06),
    "parity": Stage(parity, 0.17),
    "kernels": Stage(kernels, 0.22),
    "networks": Stage(networks, 0.46),
    "profile": Stage(profile, 0.49),
    "memory": Stage(memory, 0.54),
    "training": Stage(training, 0.98),
}
"""In this order: what the others are compared with comes first, and training takes what is left."""


def main() -> None:
    """Run the chosen stages and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    chosen = parser.add_mutually_exclusive_group(required=True)
    chosen.add_argument("--everything", action="store_true", help="all stages")
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
    for name in args.stages or STAGES:
        bench.stage_end = began + STAGES[name].end * args.budget
        report["stages"][name] = run_stage(name, bench)
        write(report, args.out / "gpu.json")
    print(summary(report))


def run_stage(name: str, bench: Bench) -> dict[str, Any]:
    """Its result or its error, and how long it took."""
    print(f"== {name}, {bench.seconds_left():.0f} s", flush=True)
    began = time.monotonic()
    try:
        outcome = {"result": STAGES[name].run(bench)}
    except Exception as error:
        traceback.print_exc()
        outcome = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
    bench.free()
    return {"seconds": round(time.monotonic() - began, 1), **outcome}


def write(report: dict[str, Any], path: Path) -> None:
    """Whole or not at all."""
    with complete_or_absent(path) as temporary:
        temporary.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
