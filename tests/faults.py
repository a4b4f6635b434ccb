"""The table of faults in docs/reliability.md: what the tests marked ``fault`` tried, and what came of it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "reliability.md"
BEGIN, END = "<!-- faults: begin -->", "<!-- faults: end -->"


class Recorder:
    """Collects outcomes from all processes of a test run and writes the table at its end."""

    def __init__(self) -> None:
        self.rows: set[tuple[str, str, str]] = set()
        self.failures = 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.failures += report.failed
        if report.when == "call":
            self.rows |= {tuple(value) for name, value in report.user_properties if name == "fault"}

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.failures or not self.rows:
            terminalreporter.write_line(f"{PAGE.name} is left as it was: tests failed, or none tried a fault")
            return
        before, _, rest = PAGE.read_text().partition(BEGIN)
        after = rest.partition(END)[2]
        PAGE.write_text(f"{before}{BEGIN}\n{table(self.rows)}{END}{after}")
        terminalreporter.write_line(f"{PAGE.name}: {len(self.rows)} outcomes")


def table(rows: Iterable[tuple[str, str, str]]) -> str:
    """Markdown, sorted by area and fault."""
    lines = ["| area | fault | outcome |", "| --- | --- | --- |"]
    lines += [f"| {area} | {what} | {came} |" for area, what, came in sorted(rows)]
    return "\n".join(lines) + "\n"


def clean(text: str, places: Iterable[str]) -> str:
    """One line of an outcome, without what differs from machine to machine or run to run."""
    for place in places:
        text = text.replace(place + "/", "").replace(place, ".")
    text = re.sub(r"process \d+ on \S+?(?=[);,]|$)", "process ... on ...", " ".join(text.split()))
    text = re.sub(r"\(\d+ of \d+ bytes\)", "(... of ... bytes)", text)
    return text.replace("|", "\\|")


def listed(page: str) -> set[tuple[str, str]]:
    """(area, fault) of each row of the page's table."""
    rows = [line.split(" | ") for line in page.partition(BEGIN)[2].partition(END)[0].splitlines()]
    return {(row[0].removeprefix("| "), row[1]) for row in rows if len(row) >= 3}
