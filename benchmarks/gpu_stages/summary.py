"""The short table at the end of a call."""

from __future__ import annotations

from typing import Any


def summary(report: dict[str, Any]) -> str:
    """One line per stage, failures, and the networks' times."""
    machine = report["machine"]
    lines = ["", f"{machine['device']}, torch {machine['torch']}, triton {machine['triton']}, code {machine['code']}"]
    for name, stage in report["stages"].items():
        lines.append(f"{name:15} {stage['seconds']:7.1f} s  {stage.get('error') or outcome(stage['result'])}")
    ceilings = result_of(report, "ceilings")
    if ceilings:
        products = ceilings["products_tflop_per_s"]
        best = ", ".join(f"{name} {max(rates.values()):.0f}" for name, rates in products.items())
        lines.append(f"copy {ceilings['copy_tb_per_s']:.2f} TB/s; products, TFLOP/s: {best}")
    for stage in ("networks", "triton_networks"):
        rows = result_of(report, stage)
        lines += network_lines(rows if isinstance(rows, list) else [])
    lines += [f"misses its gate: {miss}" for miss in misses(report["stages"])]
    return "\n".join(lines)


def result_of(report: dict[str, Any], stage: str) -> Any:
    """Result of a stage that ran, else ``None``."""
    return report["stages"].get(stage, {}).get("result")


def outcome(result: Any) -> str:
    """In a few words."""
    gates = list(found_gates(result))
    if isinstance(result, dict) and "skipped" in result:
        return f"skipped: {result['skipped']}"
    return f"{sum(gates)} of {len(gates)} gates passed" if gates else "done"


def found_gates(value: Any) -> list[bool]:
    """All ``ok`` in a result."""
    if isinstance(value, dict):
        own = [value["ok"]] if "ok" in value else []
        return own + [gate for each in value.values() for gate in found_gates(each)]
    return [gate for each in value for gate in found_gates(each)] if isinstance(value, list) else []


def misses(value: Any, where: str = "") -> list[str]:
    """Everything whose ``ok`` is false, on one line each."""
    if isinstance(value, dict):
        if value.get("ok") is False:
            return [f"{where} { ({key: each for key, each in value.items() if key != 'ok'}) }"]
        return [miss for key, each in value.items() for miss in misses(each, f"{where} {key}".strip())]
    return [miss for each in value for miss in misses(each, where)] if isinstance(value, list) else []


def network_lines(rows: list[dict[str, Any]]) -> list[str]:
    """Times of the networks, ms."""
    if not rows:
        return []
    lines = [
        f"{'network':16} {'K':>2} {'precision':9} {'options':26} {'forward':>9} {'step':>9} {'AdamW':>8} {'GB':>6}"
    ]
    for row in rows:
        options = ", ".join(row[key] for key in ("implementation", "activations") if key in row)
        head = f"{row['network']:16} {row['num_layers']:2} {row.get('precision', ''):9} {options:26}"
        if "forward_ms" not in row:
            lines.append(f"{head} {row.get('skipped') or row.get('error_message')}")
            continue
        memory = "" if row["peak_gb"] is None else f"{row['peak_gb']:.1f}"
        lines.append(f"{head} {row['forward_ms']:9.2f} {row['step_ms']:9.2f} {row['adamw_ms']:8.2f} {memory:>6}")
    return lines
