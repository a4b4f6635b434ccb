"""Write the results of ``benchmarks/gpu.py`` into docs/performance.md: ``python benchmarks/gpu_report.py OUT/*.json``.

The files are stored as benchmarks/results/gpu_CARD_DATE.json, or gpu_CARD_DATE_compiled.json. From all stored files
come the page's section between its markers, which without any says that nothing was measured, and the table of sizes
for which ``implementation: auto`` takes the kernels. Without arguments, only these two are rewritten.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "benchmarks")]

import pages  # noqa: E402
from gpu_stages.page import ON_ITS_OWN, section  # noqa: E402
from gpu_stages.proven import proven  # noqa: E402

RESULTS = ROOT / "benchmarks/results"
PAGE = ROOT / "docs/performance.md"
TABLE = ROOT / "src/fairchem_hdgnn/models/ops/proven.json"
BEGIN, END = pages.marks("gpu")

NOTHING = """\
**Nothing on this page has been measured on a GPU yet.** The Triton kernels are run in Triton's interpreter and
compiled for three GPU generations by the tests, and `implementation: auto`, the default, takes them for no sizes yet.
Ratios between models on a CPU do not carry over.
"""


def main() -> None:
    """Keep the given files and write the page.

    Raises:
        SystemExit: a file is no result of ``benchmarks/gpu.py``, or is a rehearsal's.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", help="gpu.json of one or more calls")
    for path in parser.parse_args().files:
        keep(path)
    PAGE.write_text(replaced(PAGE.read_text(), page_part(stored_reports())))
    TABLE.write_text(table_of(stored_reports()))
    print(f"{PAGE.relative_to(ROOT)}: written from {len(stored_reports())} results")


def keep(path: Path) -> None:
    """Copy a result to where the page's numbers come from; learning curves are part of it and need no copy."""
    report = json.loads(path.read_text())
    if path.name in ("qm9.json", "hea.json"):
        return
    if "stages" not in report:
        sys.exit(f"gpu_report: {path} is no result of benchmarks/gpu.py")
    if report["tiny"]:
        sys.exit(f"gpu_report: {path} is a rehearsal (--tiny); its numbers mean nothing")
    machine = report["machine"]
    card = re.sub(r"\W+", "-", machine["device"].removeprefix("NVIDIA ")).strip("-").lower()
    on_its_own = f"_{ON_ITS_OWN}" if ON_ITS_OWN in report["stages"] else ""
    (RESULTS / f"gpu_{card}_{machine['date']}{on_its_own}.json").write_text(json.dumps(report, indent=1) + "\n")


def table_of(reports: list[dict[str, Any]]) -> str:
    """The table that ``implementation: auto`` follows, one record a line."""
    records = [json.dumps(record) for record in proven(reports)]
    return "[" + ",".join(f"\n{record}" for record in records) + "\n" * bool(records) + "]\n"


def stored_reports() -> list[dict[str, Any]]:
    """All results, in the order of their names."""
    return [json.loads(path.read_text()) for path in sorted(RESULTS.glob("gpu_*.json"))]


def replaced(text: str, part: str) -> str:
    """The page with ``part`` between its markers."""
    return pages.replaced(text, "gpu", part)


def page_part(reports: list[dict[str, Any]]) -> str:
    """Markdown of all results."""
    return "\n\n".join(map(section, reports)) if reports else NOTHING


if __name__ == "__main__":
    main()
