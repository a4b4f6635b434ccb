"""``fairchem-hdgnn inspect``: show the contents of an LMDB: statistics of all records, or one of them."""

from __future__ import annotations

import argparse
from typing import Any

import torch
from ase.symbols import Symbols
from torch_geometric.data import Data
from tqdm import tqdm

from fairchem_hdgnn.cli._flags import path
from fairchem_hdgnn.cli._statistics import statistics_lines
from fairchem_hdgnn.data.reading import Records
from fairchem_hdgnn.data.statistics import LABELS, Statistics, is_element, symbol_of
from fairchem_hdgnn.errors import DataError

UNITS = {
    **dict.fromkeys(LABELS, "eV"),
    **dict.fromkeys(("pos", "pos_relaxed", "cell", "edge_cutoff"), "Å"),
    "forces": "eV/Å",
}


VECTORS = ("pos", "pos_relaxed", "forces")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("lmdb", type=path, metavar="LMDB", help="an .lmdb file, or a folder of them")
    parser.add_argument(
        "index", type=int, nargs="?", metavar="I", help="print this record (default: statistics of all)"
    )


def run(args: argparse.Namespace) -> None:
    """Print statistics or one record."""
    records = Records(args.lmdb)
    if len(records) == 0:
        raise DataError(f"{args.lmdb}: contains no records")
    if args.index is not None:
        record = records.structure(args.index)
        print("\n".join([f"{args.lmdb}, record {args.index} of {len(records):,}", *record_lines(record)]))
        return
    statistics = Statistics()
    for index in tqdm(range(len(records)), desc="records", unit="record", leave=False):
        statistics.add(records.structure(index))
    files = "" if len(records.files) == 1 else f" in {len(records.files)} files"
    metadata = "present" if records.has_metadata else "missing (the load balancer needs it)"
    print(f"{args.lmdb}: {len(records):,} records{files}, metadata.npz: {metadata}")
    for name, count in statistics.attributes.items():
        everywhere = "" if count == len(records) else f"   in {count:,} of {len(records):,} records"
        print(f"  {name:<15} {describe(records[0][name]) if name in records[0] else ''}{everywhere}")
    print("\n".join(["", *statistics_lines(statistics)]))


def record_lines(record: Data) -> list[str]:
    """One line for each attribute, then a table of the atoms."""
    lines = []
    for name in record.keys():  # noqa: SIM118 (iterating over a Data gives pairs)
        unit = f" {UNITS[name]}" if name in UNITS else ""
        lines.append(f"  {name:<15} {describe(record[name])}{unit}")
    numbers = record.atomic_numbers.int().tolist()
    known = [number if is_element(number) else 0 for number in numbers]
    lines += ["", f"  {Symbols(known).get_chemical_formula('metal')}"]
    cell = record.cell.reshape(-1, 3).tolist() if "cell" in record else []
    lines += ["  cell " + "  ".join(f"{value:9.4f}" for value in row) for row in cell]
    names = [name for name in (*VECTORS, "tags", "fixed") if name in record]
    values = {name: record[name] for name in names if len(record[name]) == len(numbers)}
    columns = [name for name in VECTORS if name in values]
    lines += ["", f"  {'atom':>4} {'':<3} tag fixed" + "".join(f"   {f'{n} ({UNITS[n]})':<27}" for n in columns)]
    for atom, number in enumerate(numbers):
        tag, fixed = (int(values[name][atom]) if name in values else "-" for name in ("tags", "fixed"))
        vectors = "".join("   " + " ".join(f"{x:8.3f}" for x in values[name][atom].tolist()) for name in columns)
        lines.append(f"  {atom:>4} {symbol_of(number):<3} {tag:>3} {fixed:>5}{vectors}")
    return lines


def describe(value: Any) -> str:
    """A number by its value, an array by its type and shape."""
    if isinstance(value, torch.Tensor):
        kind = str(value.dtype).replace("torch.", "")
        return f"{value.item():g} ({kind})" if value.numel() == 1 else f"{kind} {list(value.shape)}"
    return f"{value!r} ({type(value).__name__})"
