"""docs/reliability.md lists every fault that the tests of this run try."""

from __future__ import annotations

import pytest
from faults import PAGE, clean, listed, table


def test_every_fault_is_listed(request: pytest.FixtureRequest) -> None:
    tried = {mark.args for item in request.session.items for mark in item.iter_markers("fault")}
    missing = tried - listed(PAGE.read_text())
    assert not missing, "run `pytest -m fault --write-reliability`"


def test_table_lists_what_it_is_given() -> None:
    rows = {("files", "cut short", clean("error: /tmp/x/a.lmdb:  a | b", ["/tmp/x"]))}
    assert table(rows).splitlines()[-1] == "| files | cut short | error: a.lmdb: a \\| b |"
    assert listed(f"<!-- faults: begin -->\n{table(rows)}<!-- faults: end -->") >= {("files", "cut short")}
