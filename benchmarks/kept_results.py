"""Results of long runs in ``benchmarks/results``: those of this machine are added to those of others."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from long_runs import LongRun

KEYS = ("model", "seed", "structures", "epochs", "steps")
"""What tells two runs of a study apart."""


def key_of(result: dict[str, Any]) -> tuple[Any, ...]:
    """What a run is known by."""
    return tuple(result.get(key) for key in KEYS)


@dataclass(frozen=True)
class KeptResults:
    """A JSON file with a line for each run.

    Attributes:
        path: of the file, which need not exist.
        errors: whether to keep the errors of single systems: a list for each split, in its order, to 0.01 meV.
    """

    path: Path
    errors: bool = False

    @property
    def results(self) -> list[dict[str, Any]]:
        """All that are kept."""
        return json.loads(self.path.read_text()) if self.path.is_file() else []

    def left(self, runs: Sequence[LongRun]) -> list[LongRun]:
        """Without the runs that were done elsewhere."""
        kept = {key_of(result) for result in self.results}
        return [run for run in runs if run.result or key_of({**run.facts, "seed": run.seed}) not in kept]

    def take(self, runs: Sequence[LongRun]) -> list[dict[str, Any]]:
        """Add the results of finished runs, write the file, and return all."""
        by_key = {key_of(result): result for result in self.results}
        for run in runs:
            result = run.result
            if result is not None:
                errors = result.pop("errors")
                if self.errors:
                    result["errors"] = {
                        split: [round(error, 5) for error in of_split.values()] for split, of_split in errors.items()
                    }
                by_key[key_of(result)] = result
        if by_key:
            lines = ",\n".join(json.dumps(result) for result in by_key.values())
            self.path.write_text(f"[\n{lines}\n]\n")
        return list(by_key.values())
