"""``fairchem-hdgnn doctor``: check the installation and suggest remedies."""

from __future__ import annotations

import argparse

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fairchem_hdgnn.checks.installation import State, report

STYLES = {State.OK: "green", State.NOTE: "yellow", State.BROKEN: "bold red"}


def configure(parser: argparse.ArgumentParser) -> None:
    """Take no arguments."""


def run(args: argparse.Namespace) -> int:
    """Print the findings and their remedies; the exit status is 1 if something required is broken."""
    console = Console(highlight=False, soft_wrap=False)
    with console.status("checking (about 15 s)"):
        found = list(report())
    table = Table("", "state", box=None)
    table.add_column("finding", overflow="fold")
    for finding in found:
        state = f"[{STYLES[finding.state]}]{finding.state.value}[/]"
        table.add_row(escape(finding.subject), state, escape(finding.detail))
    console.print(table)
    for finding in found:
        if finding.remedy:
            console.print(f"\n{finding.subject}: {finding.remedy}", soft_wrap=True, markup=False)
    return int(any(finding.state is State.BROKEN for finding in found))
