"""``fairchem-hdgnn make-aselmdb``: convert OC20 LMDBs to the native format of fairchem-core 2."""

from __future__ import annotations

import argparse

from fairchem_hdgnn.cli._flags import path


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("lmdb", type=path, metavar="LMDB", help="an .lmdb file, or a folder of them: IS2RE or S2EF")
    parser.add_argument("out", type=path, metavar="OUT", help="folder to create, with .aselmdb files and metadata.npz")


def run(args: argparse.Namespace) -> None:
    """Convert, and print the keys for the config."""
    from fairchem_hdgnn.host.fairchem2.aselmdb import make_aselmdb  # noqa: PLC0415 (needs fairchem-core 2)

    counts = make_aselmdb(args.lmdb, args.out)
    print(f"{args.out}: {counts['systems']:,} systems, {counts['energy']:,} energies, {counts['forces']:,} with forces")
    mapping = ""
    if counts["energy"]:
        names = "{energy: TASK}" if not counts["forces"] else "{energy: TASK, forces: TASK}"
        mapping = f"; key_mapping: {names}"
    print(f"Config: src: {args.out}; format: ase_db; transforms.common_transform.dataset_name: oc20{mapping}")
