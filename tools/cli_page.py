"""Write ``docs/cli.md``, the page of all commands: ``python tools/cli_page.py``.

The arguments are those of the parsers themselves. Of fairchem's own flags, which ``train`` and ``submit`` take too, the
page has the names alone: ``fairchem --help`` explains them.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from fairchem.core.common.flags import flags
from lines import ROOT

from fairchem_hdgnn.cli import COMMANDS, ONLY_UNDER
from fairchem_hdgnn.cli.submit import cluster_parser
from fairchem_hdgnn.cli.train import training_parser
from fairchem_hdgnn.host.which import Host

PAGE = ROOT / "docs" / "cli.md"

HEAD = """\
# Command line

All commands of `fairchem-hdgnn`, generated from their parsers by `python tools/cli_page.py`. Each one has `--help`.
The exit status is 0 on success; 2 after an error, with one line that says what is wrong, or a line for each problem of
a submission; 1 if `check` finds errors or `target-stats` a difference; 75 if a signal stopped a training, which the
same command continues; 130 after Ctrl-C. If something does not work, run `fairchem-hdgnn doctor`.
"""

HOSTS = {Host.FAIRCHEM_1: "fairchem-core 1.10", Host.FAIRCHEM_2: "fairchem-core 2"}


def main() -> None:
    """Write the page."""
    PAGE.write_text(page())


def page() -> str:
    """The page as it should be."""
    return HEAD + "".join(_command(name, *of_command) for name, of_command in COMMANDS.items())


def parser_of(name: str) -> argparse.ArgumentParser:
    """The parser of a command's own arguments."""
    if name == "submit":
        return argparse.ArgumentParser(add_help=False, parents=[cluster_parser(), training_parser()])
    if name == "train":
        return training_parser()
    parser = argparse.ArgumentParser(add_help=False)
    importlib.import_module(f"fairchem_hdgnn.cli.{COMMANDS[name][0]}").configure(parser)
    return parser


def _command(name: str, _module: str, summary: str) -> str:
    known = {option for action in flags.get_parser()._actions for option in action.option_strings}
    theirs = known if name in ("train", "submit") else set()
    actions = [action for action in parser_of(name)._actions if not theirs & {*action.option_strings}]
    lines = [f"\n## {name}\n", f"{summary[0].upper()}{summary[1:]}."]
    if name in ONLY_UNDER:
        lines[-1] += f" Under {HOSTS[ONLY_UNDER[name]]} only."
    synopsis = ["fairchem-hdgnn", name, *map(_synopsis, _needed(actions))]
    if theirs:
        synopsis.append("--mode MODE --config-yml CONFIG")
    if any(not action.required for action in actions):
        synopsis.append("[OPTIONS]")
    lines += ["", "```text", " ".join(synopsis), "```"]
    if actions:
        rows = [["argument", "default", "what it does"], ["---"] * 3, *map(_row, actions)]
        lines += ["", *(f"| {' | '.join(row)} |" for row in rows)]
    if theirs:
        names = ", ".join(f"`{option}`" for option in sorted(theirs) if option.startswith("--") and option != "--help")
        lines += ["", f"And fairchem's flags, which `fairchem --help` explains: {names}.", ""]
        lines.append("Any key of the config can be set too: `--optim.batch_size=8`. [keys.md](keys.md) has them.")
    return "\n".join(lines) + "\n"


def _needed(actions: Iterable[argparse.Action]) -> Iterator[argparse.Action]:
    yield from (action for action in actions if action.required)


def _synopsis(action: argparse.Action) -> str:
    return " ".join([*action.option_strings[-1:], *_values(action)])


def _values(action: argparse.Action) -> list[str]:
    """Placeholders of the values that an argument takes."""
    if action.nargs == 0:
        return []
    name = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
    if action.choices is not None:
        name = "|".join(map(str, action.choices))
    repeated = {"+": f"{name} [{name} ...]", "*": f"[{name} ...]", "?": f"[{name}]"}
    return [name] * action.nargs if isinstance(action.nargs, int) else [repeated.get(str(action.nargs), name)]


def _row(action: argparse.Action) -> list[str]:
    argument = " ".join([", ".join(action.option_strings), *_values(action)]).strip()
    meaning = (action.help or "").replace("%(default)s", _text(action.default)).replace("%%", "%")
    default = "required" if action.required else _text(action.default)
    cells = [f"`{argument}`", default if action.required or not default else f"`{default}`", meaning]
    return [cell.replace("|", "\\|") for cell in cells]


def _text(value: Any) -> str:
    if value is None or value is False or value == [] or value is argparse.SUPPRESS:
        return ""
    if isinstance(value, (list, tuple)):
        return " ".join(map(str, value))
    return value.as_posix() if isinstance(value, Path) else str(value)


if __name__ == "__main__":
    main()
