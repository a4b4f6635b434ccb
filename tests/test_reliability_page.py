"""docs/reliability.md lists every fault that the tests try."""

from __future__ import annotations

from pathlib import Path

import pytest
from faults import PAGE, clean, listed, table


def test_every_fault_is_listed(request: pytest.FixtureRequest) -> None:
    here = Path(__file__)
    others = [path for path in here.parent.glob("test_*.py") if path != here]
    with_faults = {path for path in others if "pytest.mark.fault" in path.read_text()}
    items = [item for item in request.session.items if item.get_closest_marker("fault")]
    if not with_faults <= {item.path for item in items}:
        pytest.skip("tests that try faults are left out of this run")
    tried = {mark.args for item in items for mark in item.iter_markers("fault")}
    assert tried
    assert not tried - listed(PAGE.read_text()), "run `pytest -m fault --write-reliability`"


def test_table_lists_what_it_is_given() -> None:
    rows = {("files", "cut short", clean("error: /tmp/x/a.lmdb:  a | b", ["/tmp/x"]))}
    assert table(rows).splitlines()[-1] == "| files | cut short | error: a.lmdb: a \\| b |"
    assert listed(f"<!-- faults: begin -->\n{table(rows)}<!-- faults: end -->") >= {("files", "cut short")}
