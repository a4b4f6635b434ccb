"""One result of ``benchmarks/gpu.py`` as a part of docs/performance.md."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from gpu_stages.summary import found_gates, misses, result_of

PREDICTED_STEP_MS = {
    ("authors", 16, "float32"): 1200,
    ("authors", 16, "tf32"): 740,
    ("authors", 16, "bfloat16"): 690,
    ("two resolutions", 16, "bfloat16"): 550,
}
"""For an H100, from operations and bytes counted on a CPU before anything ran on a GPU."""

PREDICTED_LAUNCHES = 1660
"""A layer of ``authors`` in bfloat16, counted on a CPU."""


def section(report: dict[str, Any]) -> str:
    """Markdown of one result."""
    machine, stages = report["machine"], report["stages"]
    blocks = [
        f"### {machine['device']}, {machine['date']}",
        f"`python benchmarks/gpu.py --everything --budget {report['budget_s']:.0f}`; torch {machine['torch']}, Triton "
        f"{machine['triton']}, CUDA {machine.get('cuda')}, driver {machine.get('driver')}, code `{machine['code']}`.",
    ]
    for part in (ceilings_part, networks_part, kernels_part, parity_part, profile_part, memory_part, training_part):
        result = result_of(report, part.__name__.removesuffix("_part"))
        if isinstance(result, dict) and "skipped" in result:
            blocks.append(f"Not measured: {result['skipped']}.")
        elif result:
            blocks += part(report)
    failed = [f"`{name}`: {stage['error']}" for name, stage in stages.items() if "error" in stage]
    blocks += [f"Stages that failed: {'; '.join(failed)}"] * bool(failed)
    return "\n\n".join(blocks)


def table(headers: str, rows: Iterable[Sequence[str]], text_columns: int) -> str:
    """A table whose first columns are text, the others numbers; ``headers`` are separated by ``|``."""
    names = [name.strip() for name in headers.split("|")]
    rules = ["---"] * text_columns + ["---:"] * (len(names) - text_columns)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (names, rules, *rows))


def ceilings_part(report: dict[str, Any]) -> list[str]:
    """What the card can do."""
    ceilings = result_of(report, "ceilings")
    products = ceilings["products_tflop_per_s"]
    rows = [[shape, *(f"{products[mode][shape]:.0f}" for mode in products)] for shape in products["float32"]]
    return [
        f"A copy moves {ceilings['copy_tb_per_s']:.2f} TB/s (read and written). Products, TFLOP/s:",
        table("m x k x n | float32 | TF32 | bfloat16", rows, 1),
    ]


def networks_part(report: dict[str, Any]) -> list[str]:
    """Times beside the prediction, fairchem's eSCN and the floor."""
    rows = result_of(report, "networks")
    headers = (
        "network | K | precision | options | forward, ms | step, ms | predicted, ms | share of the floor | AdamW, ms | "
        "peak, GB"
    )
    return [
        f"{max(row['edges'] for row in rows):,} edges. A step is forward and backward pass; in brackets the ratio to "
        "fairchem's eSCN with as many layers in the same precision (bfloat16, which it lacks, to its TF32). Share of "
        "the floor: the step's operations at the rate of the fastest product above, over the measured time.",
        table(headers, [network_row(report, row, rows) for row in rows], 4),
    ]


def network_row(report: dict[str, Any], row: dict[str, Any], rows: list[dict[str, Any]]) -> list[str]:
    """Its cells."""
    mode = row.get("precision", "")
    options = ", ".join(row[key] for key in ("implementation", "activations") if key in row)
    head = [row["network"], str(row["num_layers"]), mode, options]
    if "step_ms" not in row:
        return [*head, row.get("skipped") or row["error_message"], *[""] * 5]
    predicted = None if options else PREDICTED_STEP_MS.get((row["network"], row["num_layers"], mode))
    rates = result_of(report, "ceilings")["products_tflop_per_s"][mode]
    share = 1000 * row["step_tflop"] / max(rates.values()) / row["step_ms"]
    return [
        *head,
        with_ratio(row, rows, "forward_ms"),
        with_ratio(row, rows, "step_ms"),
        f"{predicted:,}" if predicted else "",
        f"{100 * share:.0f} %",
        f"{row['adamw_ms']:.1f}",
        "" if row["peak_gb"] is None else f"{row['peak_gb']:.1f}",
    ]


def with_ratio(row: dict[str, Any], rows: list[dict[str, Any]], key: str) -> str:
    """A time, and in brackets its ratio to fairchem's eSCN."""
    mode = "tf32" if row["precision"] == "bfloat16" else row["precision"]
    wanted = {"network": "fairchem escn", "num_layers": row["num_layers"], "precision": mode}
    others = [other for other in rows if key in other and all(other.get(k) == v for k, v in wanted.items())]
    return f"{row[key]:,.1f} ({row[key] / others[0][key]:.2f})" if others else f"{row[key]:,.1f}"


def kernels_part(report: dict[str, Any]) -> list[str]:
    """Rotations beside the card's ceilings."""
    rows = []
    for row in result_of(report, "kernels"):
        head = [row["kernel"], " x ".join(map(str, row["shape"])), row["form"]]
        if "ms" in row:
            rows.append([*head, f"{row['ms']:.2f}", f"{100 * row['share_of_copy']:.0f} %", f"{row['error']:.1e}"])
        else:
            rows.append([*head, row["error_message"], "", ""])
    headers = "kernel | rows x columns x channels | form | ms | share of copy | relative error"
    return ["Rotations of 22,400 edges:", table(headers, rows, 3)]


def parity_part(report: dict[str, Any]) -> list[str]:
    """Gates, and what misses them."""
    parity = result_of(report, "parity")
    gates = found_gates(parity)
    text = f"Agreement with a CPU in float64: {sum(gates)} of {len(gates)} gates passed."
    largest: dict[str, float] = {}
    for row in _rows(parity["networks"]):
        largest[row["precision"]] = max(largest.get(row["precision"], 0.0), row["energy"], row["gradient"])
    if largest:
        worst = ", ".join(f"{error:.1e} in {mode}" for mode, error in largest.items())
        text += f" Largest relative error of energies or gradient: {worst}."
    repeats = []
    for row in _rows(parity["same_step_twice"]):
        difference = "equal" if row["equal"] else f"{row['largest_difference']:.1e}"
        repeats.append(f"{row['network']} ({row['implementation']}) {difference}")
    text += f" The same step twice: {', '.join(repeats)}." * bool(repeats)
    missed = [f"- misses its gate: {miss}" for miss in misses(parity)]
    return [text, *(["\n".join(missed)] if missed else [])]


def _rows(result: Any) -> list[dict[str, Any]]:
    """Those that have numbers."""
    return [row for row in result if "error_message" not in row] if isinstance(result, list) else []


def profile_part(report: dict[str, Any]) -> list[str]:
    """Launches and the largest kernels."""
    profile = result_of(report, "profile")
    # A bar would end the cell.
    rows = [[f"`{k['name'].replace('|', ' ')}`", str(k["calls"]), f"{k['ms']:.1f}"] for k in profile["largest"]]
    return [
        f"One step of `authors` in bfloat16, {profile['num_layers']} layers: {profile['launches']:,} launches "
        f"({profile['launches_per_layer']:,.0f} a layer; predicted {PREDICTED_LAUNCHES:,}), {profile['step_ms']:.0f} "
        f"ms, the card busy for {100 * profile['busy_share']:.0f} % of it. Largest kernels:",
        table("kernel | calls | ms", rows, 1),
    ]


def memory_part(report: dict[str, Any]) -> list[str]:
    """Memory over batches of changing size."""
    memory = result_of(report, "memory")
    fewest, most = memory["edges"]
    lines = []
    for name in ("loss dropped", "loss kept"):
        row = memory.get(name, {})
        if "peak_gb" in row:
            reserved = row["reserved_gb"]
            lines.append(
                f"- {name}: peak {row['peak_gb']:.1f} GB, {row['allocated_after_step_gb']:.1f} GB after a step; "
                f"reserved {reserved['after 10 steps']:.1f} GB after 10 steps, {reserved['at the end']:.1f} GB after "
                f"{row['steps']}"
            )
    return [f"Memory over batches of {memory['batches']}, {fewest:,} to {most:,} edges:", "\n".join(lines)]


def training_part(report: dict[str, Any]) -> list[str]:
    """The learning curve."""
    training = result_of(report, "training")
    unit, run = training["unit"], training["run"]
    tests = ", ".join(
        f"{name} {mae:.1f} (mean predictor {training['mean_predictor_mae'][name]:.1f})"
        for name, mae in training["test_mae"].items()
    )
    rows = [
        [f"{point['seconds']:.0f}", f"{point['steps']:,}", f"{point['train_mae']:.1f}", f"{point['val_mae']:.1f}"]
        for point in training["curve"]
    ]
    return [
        f"Training on {training['target']}, {training['train_size']:,} structures, {run['precision']}: "
        f"{training['steps_per_s']:.1f} steps/s of {run['batch_size']}, {training['epochs']:.2f} epochs in "
        f"{training['seconds']:.0f} s. Test MAE, {unit}: {tests}. So short a run shows that it learns, not how well.",
        table(f"s | steps | train MAE, {unit} | validation MAE, {unit}", rows, 0),
    ]
