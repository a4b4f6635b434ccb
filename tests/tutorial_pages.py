"""The commands and Python snippets that pages of the documentation print."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import NamedTuple

DOCS = Path(__file__).parents[1] / "docs"
_BLOCK = re.compile(r"(?:<!-- not run: (.*?) -->\n)?```bash\n(.*?)```", re.DOTALL)
_SNIPPET = re.compile(r"```python\n(.*?)```", re.DOTALL)


class Block(NamedTuple):
    """A block of commands.

    Attributes:
        not_run: why it is not run where the others are, or nothing.
        commands: of ``fairchem-hdgnn`` and ``fairchem``, as words.
    """

    not_run: str
    commands: list[list[str]]


def blocks(page: Path) -> list[Block]:
    """The blocks of commands of a page, in order."""
    found = []
    for reason, code in _BLOCK.findall(page.read_text()):
        lines = [shlex.split(line) for line in code.replace("\\\n", " ").splitlines()]
        found.append(Block(reason, [words for words in lines if words and words[0] in ("fairchem-hdgnn", "fairchem")]))
    return found


def snippets(page: Path) -> list[str]:
    """The Python snippets of a page, in order."""
    return _SNIPPET.findall(page.read_text())
