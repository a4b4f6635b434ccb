"""Collect in ``.carry/`` what ``benchmarks/gpu.py`` needs on a machine without network access: ``make gpu-bundle``.

- fairchem-core's wheel, from the package index: its eSCN is measured beside ours;
- QM9's gap: positions in float32, elements, splits and one target, from the package ``qm9pack``;
- ``oc20_s2ef.npz`` and ``hea_adsorption.npz``, and the authors' recorded numbers with their weights converted, where a
  folder ``shared`` beside the repository has them. Without them the stages that use them say so.

A file that is there already is kept. ``.carry/`` is ignored by git: the data have other owners.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from install import FAIRCHEM
from lines import ROOT

from fairchem_hdgnn.convert import from_authors_hdgnn
from fairchem_hdgnn.data.qm9_molecules import Molecules, collect
from fairchem_hdgnn.data.qm9_records import split_rows
from fairchem_hdgnn.data.qm9_sources import read_source
from fairchem_hdgnn.data.qm9_targets import TARGETS
from fairchem_hdgnn.files import complete_or_absent

CARRY = ROOT / ".carry"
SHARED = ROOT.parent / "shared"
LIMIT_MIB = 45
COPIED = ("oc20_s2ef.npz", "hea_adsorption.npz")
TARGET = "gap"


def main() -> None:
    """Create missing files, and list all of them.

    Raises:
        SystemExit: the wheel cannot be had, or all together is too large.
    """
    CARRY.mkdir(exist_ok=True)
    fetch_wheel()
    if not (CARRY / "qm9_gap.npz").is_file():
        write_qm9(collect(read_source("qm9pack")[1]), CARRY / "qm9_gap.npz")
    for name in COPIED:
        if (SHARED / "data" / name).is_file():
            shutil.copy(SHARED / "data" / name, CARRY)
    golden = SHARED / "golden/hdgnn_authors_L3.pt"
    if golden.is_file():
        write_golden(golden, CARRY / "authors.pt")
    files = sorted(CARRY.iterdir())
    for path in files:
        print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 2**20:.1f} MiB")
    total = sum(path.stat().st_size for path in files) / 2**20
    print(f"{total:.1f} MiB of {LIMIT_MIB}")
    if total > LIMIT_MIB:
        sys.exit(f"gpu-bundle: more than {LIMIT_MIB} MiB; remove what you do not need from {CARRY}")


def fetch_wheel() -> None:
    """Download fairchem-core's wheel from the package index."""
    if any(CARRY.glob("fairchem_core-*.whl")):
        return
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    if subprocess.run([*command, "--dest", str(CARRY), FAIRCHEM], check=False).returncode:
        sys.exit(f"gpu-bundle: `pip download {FAIRCHEM}` failed, see above; check the network connection")


def write_qm9(molecules: Molecules, path: Path) -> None:
    """Write the part of ``molecules.npz`` that training on one target reads, at a third of the size."""
    column = list(TARGETS).index(TARGET)
    splits = {name: rows.astype(np.int32) for name, rows in split_rows(len(molecules)).items()}
    with complete_or_absent(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file,
            offsets=molecules.offsets.astype(np.int32),
            numbers=molecules.numbers,
            positions=molecules.positions.astype(np.float32),
            targets=molecules.targets()[:, column : column + 1],
            target_names=np.array([TARGET]),
            **splits,  # type: ignore[arg-type]
        )


def write_golden(source: Path, path: Path) -> None:
    """Write the authors' recorded inputs and outputs, and our network with their weights."""
    recorded = torch.load(source, weights_only=True)
    network = from_authors_hdgnn(recorded["config"], recorded["state_dict"]).network
    numbers, edge_index = (recorded[name].long() for name in ("atomic_numbers", "edge_index"))
    keys = {name: getattr(value, "value", value) for name, value in vars(network.config).items()}
    torch.save(
        {
            "keys": keys,
            "state_dict": network.state_dict(),
            "arguments": (numbers, edge_index, recorded["edge_vec"], recorded["batch"], len(recorded["natoms"])),
            "frames": recorded["edge_rot_mat"],
            "layers": recorded["x_layers"],
            "energy": recorded["energy"],
        },
        path,
    )


if __name__ == "__main__":
    main()
