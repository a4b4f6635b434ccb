"""One result of ``benchmarks/gpu.py`` as a part of docs/performance.md."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from gpu_stages.bench import largest
from gpu_stages.summary import found_gates, misses, result_of

ON_ITS_OWN = "compiled"
"""The stage that is not among ``--everything``: compiling takes minutes."""

PREDICTED_STEP_MS = {
    ("authors", 16, "float32"): 1200,
    ("authors", 16, "tf32"): 740,
    ("authors", 16, "bfloat16"): 690,
    ("two resolutions", 16, "bfloat16"): 550,
}
"""For an H100, from operations and bytes counted on a CPU before anything ran on a GPU."""


def section(report: dict[str, Any]) -> str:
    """Markdown of one result."""
    machine, stages = report["machine"], report["stages"]
    blocks = [
        f"### {machine['device']}, {machine['date']}",
        f"`python benchmarks/gpu.py {stages_of(report)} --budget {report['budget_s']:.0f}`; torch {machine['torch']}, "
        f"Triton {machine['triton']}, CUDA {machine.get('cuda')}, driver {machine.get('driver')}, "
        f"code `{machine['code']}`.",
    ]
    for name, part in PARTS.items():
        result = result_of(report, name)
        if isinstance(result, dict) and "skipped" in result:
            blocks.append(f"`{name}` was not measured: {result['skipped']}.")
        elif result:
            blocks += part(report, name)
    missed = [f"- misses its gate: {miss}" for miss in misses(stages)]
    blocks += ["\n".join(missed)] * bool(missed)
    wanted = [ON_ITS_OWN] if ON_ITS_OWN in stages else [name for name in PARTS if name != ON_ITS_OWN]
    absent = [name for name in wanted if not stages.get(name, {}).get("result") and "error" not in stages.get(name, {})]
    cut = [name for name, stage in stages.items() if stage.get("unfinished")]
    failed = [f"`{name}`: {stage['error']}" for name, stage in stages.items() if "error" in stage]
    for what, names in (("Stages that failed", failed), ("Without a result", absent), ("Cut short", cut)):
        blocks += [f"{what}: {'; '.join(names)}."] * bool(names)
    return "\n\n".join(blocks)


def stages_of(report: dict[str, Any]) -> str:
    """The option that chose them."""
    return f"--stages {ON_ITS_OWN}" if ON_ITS_OWN in report["stages"] else "--everything"


def table(headers: str, rows: Iterable[Sequence[str]], text_columns: int) -> str:
    """A table whose first columns are text, the others numbers; ``headers`` are separated by ``|``."""
    names = [name.strip() for name in headers.split("|")]
    rules = ["---"] * text_columns + ["---:"] * (len(names) - text_columns)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (names, rules, *rows))


def ceilings_part(report: dict[str, Any], stage: str) -> list[str]:
    """What the card can do."""
    ceilings = result_of(report, stage)
    products = ceilings["products_tflop_per_s"]
    rows = [[shape, *(f"{products[mode][shape]:.0f}" for mode in products)] for shape in products["float32"]]
    return [
        f"A copy moves {ceilings['copy_tb_per_s']:.2f} TB/s (read and written). Products, TFLOP/s:",
        table("m x k x n | float32 | TF32 | bfloat16", rows, 1),
    ]


def networks_part(report: dict[str, Any], stage: str) -> list[str]:
    """Times beside the prediction, fairchem's eSCN and the floor."""
    rows = result_of(report, stage)
    headers = (
        "network | K | precision | options | forward, ms | step, ms | predicted for an H100, ms | share of the floor | "
        "AdamW, ms | peak, GB"
    )
    own = [row["energy_error_of_ours"]["error"] for row in rows if "error" in row.get("energy_error_of_ours", {})]
    return [
        f"{max(row['edges'] for row in rows):,} edges. A step is forward and backward pass; in brackets the ratio to "
        "fairchem's eSCN with as many layers in the same precision (bfloat16, which it lacks, to its TF32). Share of "
        "the floor: the operations of a step without recomputation at the rate of the fastest product above, over the "
        "measured time."
        + f" Energies of our eSCN with fairchem's weights differ from fairchem's by {own[0]:.1e}."
        * bool(own),
        table(headers, [network_row(report, row) for row in rows], 4),
    ]


def network_row(report: dict[str, Any], row: dict[str, Any]) -> list[str]:
    """Its cells."""
    rows = [*_rows(result_of(report, "networks")), *_rows(result_of(report, "triton_networks"))]
    mode = row.get("precision", "")
    options = _options(row)
    head = [row["network"], str(row["num_layers"]), mode, options]
    if "step_ms" not in row:
        return not_measured(head, row, 6)
    predicted = None if options else PREDICTED_STEP_MS.get((row["network"], row["num_layers"], mode))
    return [
        *head,
        with_ratio(row, rows, "forward_ms"),
        with_ratio(row, rows, "step_ms"),
        f"{predicted:,}" if predicted else "",
        share_of_floor(report, row, rows),
        f"{row['adamw_ms']:.1f}",
        "" if row["peak_gb"] is None else f"{row['peak_gb']:.1f}",
    ]


def not_measured(head: list[str], row: dict[str, Any], columns: int) -> list[str]:
    """The reason in the first of so many columns."""
    return [*head, row.get("skipped") or row["error_message"], *[""] * (columns - 1)]


def share_of_floor(report: dict[str, Any], row: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """Empty without a rate. Products are counted without recomputation, whatever the row does."""
    ceilings = result_of(report, "ceilings")
    same = ("network", "num_layers", "precision")
    counts = [
        other["step_tflop"]
        for other in rows
        if "step_tflop" in other and all(other[key] == row[key] for key in same) and not _options(other)
    ]
    if not ceilings or not counts:
        return ""
    rate = max(ceilings["products_tflop_per_s"][row["precision"]].values())
    return f"{100 * 1000 * counts[0] / rate / row['step_ms']:.0f} %"


def _options(row: dict[str, Any]) -> str:
    return ", ".join(row[key] for key in ("implementation", "activations") if key in row)


def with_ratio(row: dict[str, Any], rows: list[dict[str, Any]], key: str) -> str:
    """A time, and in brackets its ratio to fairchem's eSCN."""
    mode = "tf32" if row["precision"] == "bfloat16" else row["precision"]
    wanted = {"network": "fairchem escn", "num_layers": row["num_layers"], "precision": mode}
    others = [other for other in rows if key in other and all(other.get(k) == v for k, v in wanted.items())]
    return f"{row[key]:,.1f} ({row[key] / others[0][key]:.2f})" if others else f"{row[key]:,.1f}"


def kernels_part(report: dict[str, Any], stage: str) -> list[str]:
    """Operations of a message beside the card's ceiling."""
    rows = []
    for row in result_of(report, stage):
        head = [row["operation"], row["implementation"], row["precision"]]
        if "forward_ms" in row:
            share = "" if row["share_of_copy"] is None else f"{100 * row['share_of_copy']:.0f} %"
            rows.append([*head, f"{row['forward_ms']:.2f}", f"{row['both_ms']:.2f}", share, f"{row['error']:.1e}"])
        else:
            rows.append(not_measured(head, row, 4))
    headers = "operation | implementation | precision | forward, ms | and backward, ms | share of copy | relative error"
    return [
        "Operations of a message on 22,400 edges. Share of copy: arguments and results once, forward, at the rate of "
        "the copy above, over the measured time. Error: of values and gradients, against float64.",
        table(headers, rows, 3),
    ]


def parity_part(report: dict[str, Any], stage: str) -> list[str]:
    """Gates, and how far off."""
    parity = result_of(report, stage)
    gates = found_gates(parity)
    kind = "the kernels" if stage == "triton_parity" else "the plain and the fast form"
    text = f"Agreement of {kind} with a CPU in float64: {sum(gates)} of {len(gates)} gates passed."
    errors: dict[str, list[float]] = {}
    for row in _rows(parity.get("networks")):
        errors.setdefault(row["precision"], []).extend((row["energy"], row["gradient"]))
    if errors:
        worst = ", ".join(f"{largest(of_mode):.1e} in {mode}" for mode, of_mode in errors.items())
        text += f" Largest relative error of energies or gradient: {worst}."
    repeats = []
    for row in _rows(parity.get("same_step_twice")):
        difference = "equal" if row["equal"] else f"{row['largest_difference']:.1e}"
        repeats.append(f"{row['network']} ({row['implementation']}) {difference}")
    return [text + f" The same step twice: {', '.join(repeats)}." * bool(repeats)]


def _rows(result: Any) -> list[dict[str, Any]]:
    """Those that have numbers."""
    if not isinstance(result, list):
        return []
    return [row for row in result if "error_message" not in row and "skipped" not in row]


def profile_part(report: dict[str, Any], stage: str) -> list[str]:
    """Launches and the largest kernels."""
    profile = result_of(report, stage)
    kind = ", with kernels" if stage == "triton_profile" else ""
    # A bar would end the cell.
    rows = [[f"`{k['name'].replace('|', ' ')}`", str(k["calls"]), f"{k['ms']:.1f}"] for k in profile["largest"]]
    return [
        f"One step of `authors` in bfloat16{kind}, {profile['num_layers']} layers: {profile['launches']:,} launches "
        f"({profile['launches_per_layer']:,.0f} a layer), {profile['step_ms']:.0f} ms, the card "
        f"busy for {100 * profile['busy_share']:.0f} % of it. Largest kernels:",
        table("kernel | calls | ms", rows, 1),
    ]


def graphs_part(report: dict[str, Any], stage: str) -> list[str]:
    """Steps as CUDA graphs."""
    rows = []
    for row in result_of(report, stage):
        head = [row["network"], str(row["num_layers"]), row["precision"]]
        if "captured_ms" in row:
            worst = largest(error for errors in row["errors_of_energies_and_gradient"] for error in errors)
            rows.append([*head, f"{row['uncaptured_ms']:.1f}", f"{row['captured_ms']:.1f}", f"{worst:.1e}"])
        else:
            rows.append(not_measured(head, row, 3))
    return [
        "A training step of the kernels as one CUDA graph, replayed on its own batch and on one with fewer atoms and "
        "edges, both padded to the same numbers. Error: of energies and gradient, against the step without padding.",
        table("network | K | precision | step, ms | captured, ms | relative error", rows, 3),
    ]


def compiled_part(report: dict[str, Any], stage: str) -> list[str]:
    """Steps of the compiled plain equations."""
    rows = []
    for row in result_of(report, stage):
        head = [row["network"], str(row["num_layers"]), row["precision"]]
        if "compiled_step_ms" in row:
            times = [f"{row[f'{name}_step_ms']:,.1f}" for name in ("fast", "plain", "compiled")]
            error = largest(row["errors_of_energies_and_gradient"])
            rows.append([*head, *times, f"{row['compile_s']:.0f}", f"{error:.1e}"])
        else:
            rows.append(not_measured(head, row, 5))
    headers = "network | K | precision | `fast`, ms | `reference`, ms | compiled, ms | compiling, s | relative error"
    return [
        "A training step of the plain equations (`implementation: reference`), each layer compiled by "
        "`torch.compile(dynamic=True)`, without its switches for TF32. Error: of energies and gradient, against "
        "`fast`.",
        table(headers, rows, 3),
    ]


def memory_part(report: dict[str, Any], stage: str) -> list[str]:
    """Memory over batches of changing size."""
    memory = result_of(report, stage)
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


def training_part(report: dict[str, Any], stage: str) -> list[str]:
    """The learning curve."""
    training = result_of(report, stage)
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


PARTS: dict[str, Callable[[dict[str, Any], str], list[str]]] = {
    "ceilings": ceilings_part,
    "networks": networks_part,
    "triton_networks": networks_part,
    "kernels": kernels_part,
    "parity": parity_part,
    "triton_parity": parity_part,
    "profile": profile_part,
    "triton_profile": profile_part,
    "graphs": graphs_part,
    "compiled": compiled_part,
    "memory": memory_part,
    "training": training_part,
}
"""What describes each stage, in the order of the page."""
