"""Pair initial and relaxed structures in separate files by the wildcards of two patterns."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from fairchem_hdgnn.data.structures.files import matching_paths
from fairchem_hdgnn.data.structures.names import Parts, name_parts
from fairchem_hdgnn.errors import DataError

_WILDCARDS = re.compile(r"\*\*/|\*|\?")


@dataclass(frozen=True)
class Pair:
    """Two files of one system.

    Attributes:
        names: what the system may be called: by the path of its initial file, by what the wildcards stand for, by the
            path of its relaxed file.
        initial: file of the initial structure.
        relaxed: file of the relaxed one.
    """

    names: list[Parts]
    initial: Path
    relaxed: Path


def paired_files(root: Path, patterns: str) -> tuple[list[Pair], list[Path]]:
    """Files of ``root`` that match ``INITIAL,RELAXED``, two glob patterns relative to it.

    Files belong together where the wildcards stand for the same: ``*/POSCAR,*/CONTCAR`` pairs by folder,
    ``start/*.vasp,end/*.vasp`` by name.

    Returns:
        The pairs, sorted by the path of the initial file, and files without a partner.

    Raises:
        DataError: the patterns are not two with the same wildcards, or nothing matches one of them.
    """
    both = patterns.split(",")
    if len(both) != 2 or not all(part.strip() for part in both):
        raise DataError(f"--pairs '{patterns}': write two patterns separated by a comma, such as '*/POSCAR,*/CONTCAR'")
    initial, relaxed = (part.strip().removeprefix("./") for part in both)
    if _WILDCARDS.findall(initial) != _WILDCARDS.findall(relaxed):
        raise DataError(f"--pairs '{patterns}': both patterns need the same wildcards in the same order")
    if initial == relaxed:
        raise DataError(f"--pairs '{patterns}': both patterns match the same files")
    if not root.is_dir():
        raise DataError(f"{root}: is not a folder; --pairs needs the folder that the patterns are relative to")
    starts, ends = _matches(root, initial), _matches(root, relaxed)
    for pattern, found in ((initial, starts), (relaxed, ends)):
        if not found:
            raise DataError(f"{root}: no file there matches '{pattern}' of --pairs")
    pairs = [Pair(_names(key, path, ends[key], root), path, ends[key]) for key, path in starts.items() if key in ends]
    lonely = [path for key, path in starts.items() if key not in ends]
    lonely += [path for key, path in ends.items() if key not in starts]
    return sorted(pairs, key=lambda pair: pair.initial), sorted(lonely)


def _matches(root: Path, pattern: str) -> dict[Parts, Path]:
    """Text matched by the wildcards -> file."""
    if Path(pattern).is_absolute() or ".." in Path(pattern).parts:
        raise DataError(f"--pairs '{pattern}': write it relative to {root}")
    expression = re.compile(_expression(pattern))
    found = {}
    for path in matching_paths(root, pattern):
        match = expression.fullmatch(path.relative_to(root).as_posix())
        if path.is_file() and match:
            found[match.groups()] = path
    return found


def _expression(pattern: str) -> str:
    meaning = {"**/": "((?:[^/]+/)*)", "*": "([^/]*)", "?": "([^/])"}
    literal, wild = _WILDCARDS.split(pattern), _WILDCARDS.findall(pattern)
    return "".join(re.escape(text) + meaning.get(mark, "") for text, mark in zip(literal, [*wild, ""]))


def _names(key: Parts, initial: Path, relaxed: Path, root: Path) -> list[Parts]:
    by_path = [name_parts(path.relative_to(root)) for path in (initial, relaxed)]
    by_wildcards = tuple(part for piece in key for part in piece.split("/") if part)
    return [by_path[0], *([by_wildcards] if by_wildcards else []), by_path[1]]
