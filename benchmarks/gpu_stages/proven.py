"""What results prove of the kernels: the table that ``implementation: auto`` follows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gpu_stages.summary import found_gates, result_of

LEAST_GAIN = 0.03
"""Of the time; less may be noise."""


def proven(reports: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """GPU, precision and sizes for which the kernels pass every check and are faster, in every result and depth."""
    verdicts = [verdict for report in reports for verdict in of_report(report)]
    refuted = [record for record, holds in verdicts if not holds]
    records: list[dict[str, Any]] = []
    for record, holds in verdicts:
        if holds and record not in refuted and record not in records:
            records.append(record)
    return sorted(records, key=str)


def of_report(report: dict[str, Any]) -> list[tuple[dict[str, Any], bool]]:
    """Each record that one result is about, and whether it proves it."""
    rows, plain = (_rows(result_of(report, stage)) for stage in ("triton_networks", "networks"))
    parity = result_of(report, "triton_parity")
    parity = parity if isinstance(parity, dict) else {}
    others = found_gates({name: found for name, found in parity.items() if name != "networks"})
    agreeing = _rows(parity.get("networks")) if others and all(others) else []
    right = {(row.get("network"), row.get("precision")) for row in agreeing if row.get("ok")}
    verdicts = []
    for network, precision in dict.fromkeys((row["network"], row.get("precision")) for row in rows):
        with_kernels, without = (_by_depth(of, network, precision) for of in (rows, plain))
        sizes = next((row["sizes"] for row in with_kernels.values() if "sizes" in row), None)
        if sizes is None:
            continue
        depths = with_kernels.keys() | without.keys()
        holds = (network, precision) in right and all(
            faster(with_kernels.get(depth, {}), without.get(depth, {})) for depth in depths
        )
        record = {"gpu": report["machine"].get("capability"), "precision": precision, "sizes": sizes}
        verdicts.append((record, holds))
    return verdicts


def faster(row: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether a network with kernels beats the plain one, forward and in a training step; not if one has no time."""
    names = ("forward_ms", "step_ms")
    if not row.get("ok") or any(name not in times for name in names for times in (row, other)):
        return False
    return all(row[name] < (1 - LEAST_GAIN) * other[name] for name in names)


def _rows(result: Any) -> list[dict[str, Any]]:
    return result if isinstance(result, list) else []


def _by_depth(rows: list[dict[str, Any]], network: str, precision: str | None) -> dict[int, dict[str, Any]]:
    """Rows of a network with default activations."""
    return {
        row["num_layers"]: row
        for row in rows
        if (row["network"], row.get("precision")) == (network, precision) and "activations" not in row
    }
