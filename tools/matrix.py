"""Test the project on every supported torch, each in its own environment, and write the table in docs/install.md.

``python tools/matrix.py`` takes all lines of torch, each on the oldest and the newest Python at hand;
``python tools/matrix.py 2.7 --python 3.12`` one of them. ``--whole`` runs the whole test suite in place of the checks
that the table names. Environments and logs stay in ``.matrix/``; results in ``benchmarks/results/matrix.json``.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from install import Environment, install
from lines import LINES, ROOT, Line, Python, text

FOLDER = ROOT / ".matrix"
RESULTS = ROOT / "benchmarks" / "results" / "matrix.json"
PAGE = ROOT / "docs" / "install.md"
MARKS = ("<!-- matrix: written by `make matrix` -->\n", "<!-- end of matrix -->\n")

CHECKS = {
    "command line": ("test_plugin_matrix",),
    "two ranks": ("test_ddp",),
    "resume": ("test_resume",),
    "calculator": ("test_calculator",),
    "HDGNN": ("test_hdgnn_reference", "test_hdgnn_golden"),
    "eSCN": ("test_escn_parity", "test_convert"),
    "submission": ("test_leaderboard", "test_submission"),
    "precision": ("test_precision", "test_packed_matrix"),
    "stand-ins": ("test_standins", "test_standins_models"),
}
"""Column of the table -> test files."""

WHOLE = "whole suite"

VERSIONS = """
import json
from importlib import metadata
print(json.dumps({name: metadata.version(name) for name in ("numpy", "torch-scatter", "torch-geometric")}))
"""


def main() -> None:
    """Test the lines given on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("torch", nargs="*", help="lines of torch to test, such as 2.7 (default: all)")
    parser.add_argument("--python", action="append", default=[], help="only these Pythons, such as 3.12")
    parser.add_argument("--whole", action="store_true", help="run the whole suite, not only the table's checks")
    args = parser.parse_args()
    for line in LINES:
        if args.torch and line.name not in args.torch:
            continue
        for python, program in pythons(line, args.python):
            print(f"\n=== torch {line.torch}, Python {text(python)}", flush=True)
            keep(line, python, attempt(line, python, program, whole=args.whole))
    write_page()


def pythons(line: Line, asked: list[str]) -> list[tuple[Python, str]]:
    """The Pythons to test a line on, each with its program: those given, else the oldest and newest available."""
    found = []
    for minor in range(line.oldest[1], line.newest[1] + 1):
        program = shutil.which(f"python3.{minor}")
        # A version manager may have a program of this name that only says that the version is not selected.
        if program and not subprocess.run([program, "-c", ""], capture_output=True, check=False).returncode:
            found.append(((3, minor), program))
    if asked:
        return [(python, program) for python, program in found if text(python) in asked]
    return found if len(found) < 2 else [found[0], found[-1]]


def attempt(line: Line, python: Python, program: str, *, whole: bool) -> dict[str, Any]:
    """Install a line and run its tests; return the outcomes by column of the table."""
    environment = Environment(FOLDER / f"torch-{line.name}-python-{text(python)}", program)
    install(environment, line)
    report = environment.folder / "report.xml"
    files = [f"tests/{name}.py" for names in CHECKS.values() for name in names]
    processes = ["-n", "2", "--dist", "loadfile", "--no-loadscope-reorder"]
    command = [str(environment.python), "-m", "pytest", *processes, f"--junitxml={report}"]
    log = environment.folder / "tests.log"
    with log.open("w") as output:
        quiet = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        tests = [] if whole else files
        subprocess.run([*command, *tests], stdout=output, stderr=output, env=quiet, cwd=ROOT, check=False)
    results = outcomes(report, whole=whole)
    print(
        "; ".join(f"{name}: {outcome}" for name, outcome in results.items()), f"({log.relative_to(ROOT)})", flush=True
    )
    return {**json.loads(environment.answer(VERSIONS)), **results}


def outcomes(report: Path, *, whole: bool) -> dict[str, str]:
    """Column of the table -> such as ``12 passed``, from pytest's XML report."""
    cases = [*ElementTree.parse(report).iter("testcase")]
    columns = {WHOLE: cases} if whole else {}
    for column, files in CHECKS.items():
        columns[column] = [case for case in cases if case.get("classname", "").split(".")[-1] in files]
    return {column: summary(found) for column, found in columns.items()}


def summary(cases: list[ElementTree.Element]) -> str:
    """Such as ``12 passed, 1 failed, 2 skipped``."""
    kinds = {"failed": 0, "skipped": 0, "passed": 0}
    for case in cases:
        bad = case.find("failure") is not None or case.find("error") is not None
        kinds["failed" if bad else "skipped" if case.find("skipped") is not None else "passed"] += 1
    order = ("passed", "failed", "skipped")
    return ", ".join(f"{kinds[kind]} {kind}" for kind in order if kinds[kind]) or "not run"


def keep(line: Line, python: Python, row: dict[str, Any]) -> None:
    """Add a row to the stored results, replacing an older one of the same torch and Python."""
    rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    name = f"{line.torch}, Python {text(python)}"
    date, machine = datetime.date.today().isoformat(), processor()
    rows[name] = {
        **rows.get(name, {}),
        "torch": line.torch,
        "python": text(python),
        "date": date,
        "machine": machine,
        **row,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    order = {line.torch: position for position, line in enumerate(LINES)}
    kept = {key: row for key, row in rows.items() if row["torch"] in order}
    ranked = sorted(kept.items(), key=lambda item: (order[item[1]["torch"]], int(item[1]["python"].split(".")[1])))
    RESULTS.write_text(json.dumps(dict(ranked), indent=1) + "\n")


def processor() -> str:
    """Name of the processor, and the features that make bfloat16 fast on it."""
    try:
        info = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.machine()
    name = re.search(r"model name\s*: (.*)", info)
    kind = "AVX-512" if "avx512f" in info else "no AVX-512"
    return f"{name[1] if name else platform.machine()}, {os.cpu_count()} cores, {kind}"


def write_page() -> None:
    """Write the table of the stored results into the page, between its marks."""
    page = PAGE.read_text()
    first, last = (page.index(mark) for mark in MARKS)
    PAGE.write_text(page[: first + len(MARKS[0])] + table(json.loads(RESULTS.read_text())) + page[last:])


def table(rows: dict[str, dict[str, Any]]) -> str:
    """The results as Markdown."""
    columns = [*CHECKS, *([WHOLE] if any(WHOLE in row for row in rows.values()) else [])]
    heading = ["torch", "Python", "numpy", "torch-scatter", *columns]
    lines = [heading, ["---"] * len(heading)]
    for row in rows.values():
        cells = [row["torch"], row["python"], row["numpy"], row["torch-scatter"]]
        lines.append(cells + [row.get(column, "not run").replace(" passed", "") for column in columns])
    machines = sorted({f"{row['machine']} ({row['date']})" for row in rows.values()})
    body = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    return f"\n{body}\n\nTests passed, unless it says otherwise; on {'; '.join(machines)}.\n\n"


if __name__ == "__main__":
    main()
