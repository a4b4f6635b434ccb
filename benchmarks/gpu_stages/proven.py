"""What results prove of the kernels: the table that ``implementation: auto`` follows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gpu_stages.summary import found_gates, result_of


def proven(reports: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """GPU, precision and sizes for which the kernels pass every check and are faster, whatever the depth."""
    records: list[dict[str, Any]] = []
    for report in reports:
        for record in of_report(report):
            if record not in records:
                records.append(record)
    return sorted(records, key=str)


def of_report(report: dict[str, Any]) -> list[dict[str, Any]]:
    """The same, of one result."""
    parity, rows = result_of(report, "triton_parity"), result_of(report, "triton_networks")
    plain = result_of(report, "networks")
    if not isinstance(parity, dict) or "networks" not in parity or not isinstance(rows, list) or not plain:
        return []
    others = found_gates({name: found for name, found in parity.items() if name != "networks"})
    if not others or not all(others):
        return []
    right = {(row["network"], row["precision"]) for row in parity["networks"] if row.get("ok")}
    records = []
    for network, precision in dict.fromkeys((row["network"], row["precision"]) for row in rows):
        pairs = compared(rows, plain, network, precision)
        if pairs and (network, precision) in right and all(faster(*pair) for pair in pairs):
            gpu = report["machine"]["capability"]
            records.append({"gpu": gpu, "precision": precision, "sizes": pairs[0][0]["sizes"]})
    return records


def compared(
    rows: list[dict[str, Any]], plain: list[dict[str, Any]], network: str, precision: str
) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Rows of one network with kernels and without, of the same depth; default activations."""

    def by_depth(of: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
        return {
            row["num_layers"]: row
            for row in of
            if (row["network"], row.get("precision")) == (network, precision) and "activations" not in row
        }

    others = by_depth(plain)
    return [(row, others.get(depth, {})) for depth, row in by_depth(rows).items()]


def faster(row: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether a network with kernels beats the plain one, forward and in a training step; not if one has no time."""
    names = ("forward_ms", "step_ms")
    return bool(row.get("ok")) and all(name in row and name in other and row[name] < other[name] for name in names)
