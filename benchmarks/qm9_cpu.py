"""HDGNN, its variants and eSCN on QM9's gap, each for the same time: ``python benchmarks/qm9_cpu.py data/qm9 OUT``.

Trains the configurations of ``configs/qm9/small`` through ``fairchem-hdgnn train``: 10,000 molecules, validated and
tested on 2,000 each. Every run has one thread and the same CPU time for its training steps: the time of a step is
measured first and determines the number of epochs and the learning rate schedule. Start-up and evaluations are not
counted. The checkpoint with the lowest validation error is tested. Finished runs are kept.

Writes ``table.md``, ``runs.json`` and ``learning_curves.png`` into OUT. Errors are in meV.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from fairchem.core.common.registry import registry
from fairchem.core.common.utils import setup_imports
from fairchem.core.datasets import data_list_collater
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from one_thread import cpu_minutes, seconds_per_step
from qm9_loop import read_config
from tqdm import tqdm

from fairchem_hdgnn.data.qm9_scores import score
from fairchem_hdgnn.data.qm9_targets import PUBLISHED_MAE
from fairchem_hdgnn.data.reading import Records
from fairchem_hdgnn.evaluation.learning_curve import read_events
from fairchem_hdgnn.evaluation.plot_style import colour, light_grid, save, style
from fairchem_hdgnn.host.allocator import keep_freed_memory
from fairchem_hdgnn.host.checkpoints import quiet_fairchem

CONFIGS = Path(__file__).parents[1] / "configs/qm9/small"
VARIANTS = {
    "hdgnn": ("HDGNN", (0, 1, 2)),
    "escn": ("eSCN", (0, 1, 2)),
    "linear": ("HDGNN, equivariant linear layers", (0,)),
    "fully_tp": ("HDGNN, tensor product alone", (0,)),
    "unrestricted": ("HDGNN, unrestricted network alone", (0,)),
}
"""File name -> what it is, and the seeds to run it with."""

TARGET, BATCH_SIZE, STEPS_PER_EPOCH = "gap", 16, 625


@dataclass(frozen=True)
class Run:
    """One training."""

    variant: str
    seed: int
    data: Path
    folder: Path
    minutes: float

    @property
    def config(self) -> Path:
        """The shipped YAML."""
        return CONFIGS / f"{self.variant}.yml"

    def result(self) -> dict[str, Any]:
        """Train and test, unless it was done before."""
        finished = self.folder / "result.json"
        if not finished.is_file():
            self.folder.mkdir(parents=True, exist_ok=True)
            facts = self.train()
            finished.write_text(json.dumps({**facts, **self.test()}, indent=1) + "\n")
        return json.loads(finished.read_text())

    def train(self) -> dict[str, Any]:
        """Measure a step, then train for as many epochs as the time suffices for."""
        timing = [sys.executable, __file__, str(self.data), str(self.folder), "--time-step-of", str(self.config)]
        cpu_minutes(timing, self.folder / "timing.log")
        seconds, parameters = json.loads((self.folder / "timing.log").read_text().splitlines()[-1])
        epochs = max(1, round(60 * self.minutes / seconds / STEPS_PER_EPOCH))
        command = self._command("train", f"--optim.max_epochs={epochs}")
        return {
            "variant": self.variant,
            "seed": self.seed,
            "parameters": parameters,
            "seconds_per_step": seconds,
            "epochs": epochs,
            "minutes": cpu_minutes(command, self.folder / "train.log"),
        }

    def test(self) -> dict[str, Any]:
        """Errors of the best checkpoint on the test molecules, in meV, and the learning curve."""
        checkpoint = self.folder / "checkpoints/train/best_checkpoint.pt"
        cpu_minutes(self._command("predict", "--checkpoint", str(checkpoint)), self.folder / "predict.log")
        predictions = next((self.folder / "results/predict").glob("*_predictions.npz"))
        (scores,) = score(predictions, self.data)
        curve = read_events(self.folder / "logs/tensorboard/train")[f"val/{TARGET}_mae"]
        return {
            "test_mae": scores.mae,
            "standard_error": scores.standard_error,
            "molecules": scores.num_molecules,
            "mean_predictor": scores.mean_predictor_mae,
            "curve": {"steps": curve.steps.tolist(), "val_mae": curve.values.tolist()},
        }

    def _command(self, mode: str, *more: str) -> list[str]:
        sources = [f"--dataset.{split}.src={self.data / split / 'data.lmdb'}" for split in ("train", "val", "test")]
        command = [sys.executable, "-m", "fairchem_hdgnn.cli", "train", "--mode", mode, "--config-yml"]
        command += [str(self.config), "--run-dir", str(self.folder), "--timestamp-id", mode, "--cpu"]
        return [*command, "--seed", str(self.seed), *sources, *more]


def time_step(config: Path, data: Path) -> tuple[float, int]:
    """CPU time of a training step, and the number of parameters."""
    torch.set_num_threads(1)
    keep_freed_memory()
    with quiet_fairchem():
        setup_imports()
    model = read_config(config)["model"]
    network = registry.get_model_class(model.pop("name"))(**model)
    records = Records(data / "train")

    def loss(step: int) -> torch.Tensor:
        rows = range(BATCH_SIZE * step, BATCH_SIZE * (step + 1))
        batch = data_list_collater([records[row] for row in rows], otf_graph=False)
        return (network(batch)[TARGET].flatten() - 1e-3 * batch[TARGET]).abs().mean()

    return seconds_per_step(network, loss, steps=60, warm_up=20)


def table(results: Sequence[dict[str, Any]]) -> str:
    """Markdown, the lowest mean error first."""
    lines = [
        "| model | seed | parameters | s per step of 16 | epochs | CPU minutes | test MAE, meV | of the mean's |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    by_variant = {variant: [row for row in results if row["variant"] == variant] for variant in VARIANTS}
    rows_of = {variant: rows for variant, rows in by_variant.items() if rows}
    for variant in sorted(rows_of, key=lambda each: statistics.mean(row["test_mae"] for row in rows_of[each])):
        for row in rows_of[variant]:
            lines.append(
                f"| {VARIANTS[variant][0]} | {row['seed']} | {row['parameters']:,} | {row['seconds_per_step']:.3f} | "
                f"{row['epochs']} | {row['minutes']:.1f} | {row['test_mae']:.0f} ± {row['standard_error']:.0f} | "
                f"{row['test_mae'] / row['mean_predictor']:.2f} |"
            )
    lines.append(f"| mean of the training set | | | | | | {results[0]['mean_predictor']:.0f} | 1 |")
    published = ", ".join(f"{model} {row[TARGET]:g}" for model, row in PUBLISHED_MAE.items())
    lines += [
        "",
        f"On {results[0]['molecules']:,} test molecules; ± is the standard error over molecules. CPU "
        f"minutes: with start and evaluations. Published, after some 300 epochs on 110,000 molecules: {published} meV.",
    ]
    return "\n".join(lines) + "\n"


def learning_curves(results: Sequence[dict[str, Any]]) -> Figure:
    """Validation error over the time spent on training steps."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for position, (variant, (title, _)) in enumerate(VARIANTS.items()):
        for place, row in enumerate(each for each in results if each["variant"] == variant):
            minutes = [step * row["seconds_per_step"] / 60 for step in row["curve"]["steps"]]
            label = title if place == 0 else None
            axes.plot(minutes, row["curve"]["val_mae"], "o-", color=colour(position), markersize=3, label=label)
    axes.set(yscale="log", xlabel="minutes of training steps, one thread", ylabel="validation MAE of the gap, meV")
    axes.yaxis.set_major_formatter("{x:.0f}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_yticks([150, 200, 300, 400, 600, 800])
    light_grid(axes)
    axes.legend(fontsize=9)
    return figure


def main() -> None:
    """Run what is left to run, and write table and figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder that prepare-qm9 wrote")
    parser.add_argument("out", type=Path, help="folder for runs, table and figure")
    parser.add_argument("--minutes", type=float, default=15.0, help="of training steps for each run")
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS), metavar="NAME")
    parser.add_argument("--at-once", type=int, default=2, help="runs at the same time, a core each")
    parser.add_argument("--time-step-of", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    data = args.data.resolve()
    if args.time_step_of:
        print(json.dumps(time_step(args.time_step_of, data)))
        return
    # All first seeds before the second ones: stopped early, the comparison still stands.
    wanted = sorted((seed, place) for place, name in enumerate(args.variants) for seed in VARIANTS[name][1])
    runs = [
        Run(
            args.variants[place],
            seed,
            data,
            (args.out / "runs" / f"{args.variants[place]}_{seed}").resolve(),
            args.minutes,
        )
        for seed, place in wanted
    ]
    with ThreadPoolExecutor(args.at_once) as pool:
        results = list(tqdm(pool.map(Run.result, runs), total=len(runs), unit="run"))
    text = table(results)
    (args.out / "table.md").write_text(text)
    (args.out / "runs.json").write_text(json.dumps(results, indent=1) + "\n")
    with style():
        save(learning_curves(results), args.out / "learning_curves.png")
    print(f"{text}\nWritten: table.md, runs.json and learning_curves.png in {args.out}")


if __name__ == "__main__":
    main()
