"""Train on all of QM9 on one GPU within a time limit, without fairchem.

    fairchem-hdgnn prepare-qm9 data/qm9                # on any machine; only molecules.npz is needed
    python benchmarks/qm9_gpu.py --minutes 60 --out runs/qm9_gpu

To resume an interrupted run (``--stop-after``, or killed) from its last evaluation, start it again with the same
arguments. It prints the learning curve and finally the test MAE, next to that of a mean predictor and published ones.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from plain_loop import Run, Session
from qm9_loop import qm9_network, qm9_task

from fairchem_hdgnn.host.precision import Precision


def main() -> None:
    """Run, or go on with, one training."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("configs/qm9/gap.yml"))
    parser.add_argument("--data", type=Path, default=Path("data/qm9"))
    parser.add_argument("--out", type=Path, default=Path("runs/qm9_gpu"))
    parser.add_argument("--minutes", type=float, default=25.0, help="training time in all")
    parser.add_argument("--stop-after", type=float, default=float("inf"), metavar="MINUTES", help="of this call")
    parser.add_argument("--train-size", type=int, default=110_000)
    parser.add_argument("--val-size", type=int, default=10_000)
    parser.add_argument("--test-size", type=int, default=10_831)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--evaluations", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--precision", choices=[each.value for each in Precision], default="tf32")
    parser.add_argument("--device", default="cuda")
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    device = torch.device(args.device)
    task = qm9_task(args.config, args.data / "molecules.npz", device)
    run = Run(
        seconds=60 * args.minutes,
        train_size=args.train_size,
        val_size=args.val_size,
        test_size=args.test_size,
        batch_size=args.batch_size,
        learning_rate=args.learning_rate,
        evaluations=args.evaluations,
        seed=args.seed,
        precision=args.precision,
    )
    result = Session(run, task, qm9_network(args.config).to(device), args.out).train(60 * args.stop_after)
    if result is None:
        print(f"stopped; start again to go on from {args.out / 'state.pt'}")
        return
    published = ", ".join(f"{model} {mae:g}" for model, mae in result["published_mae"].items())
    print(
        f"test MAE of {result['target']}: {result['test_mae']['test']:.3f} {result['unit']} after {args.minutes:g} min,"
        f" {result['epochs']:.1f} epochs of {result['train_size']:,} molecules\n"
        f"mean predictor {result['mean_predictor_mae']['test']:.1f}; published (about 300 epochs): {published}"
    )


if __name__ == "__main__":
    main()
