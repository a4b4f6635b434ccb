"""The tutorials' commands run as they are printed, on small data and with narrow networks, and what they name exists.

A block of commands that cannot run in a test has a comment above it that says why; its ``fairchem-hdgnn`` commands are
parsed all the same.
"""

from __future__ import annotations

import contextlib
import io
import sys
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.io import write
from evaluation_data import make_records
from fairchem.core.common import distutils
from oxygen_slabs import labelled, slab
from qm9_files import some_rows, write_xyz_folder
from tutorial_pages import DOCS, blocks, snippets

from fairchem_hdgnn.cli import main
from fairchem_hdgnn.data.lmdb import write_lmdb

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tools"))

import cli_page  # noqa: E402

PAGES = [DOCS / "quickstart.md", *sorted((DOCS / "tutorials").glob("*.md"))]
NARROW = [
    *(
        "--cpu",
        "--optim.max_epochs=1",
        "--optim.eval_every=1",
        "--optim.num_workers=0",
        "--model.lmax=2",
        "--model.num_layers=1",
    ),
    *("--model.sphere_channels=4", "--model.hidden_channels=4", "--model.num_sphere_samples=16"),
]
"""Appended to trainings."""
NARROW_CHECK = [word for option in NARROW[2:] for word in ("--set", option.removeprefix("--"))]


def run(page: str, shorter: dict[str, list[str]]) -> list[str]:
    """Run the commands of a page, those of a name with further arguments; the names of all."""
    done = []
    for reason, commands in blocks(DOCS / page):
        if reason:
            continue
        for _, name, *arguments in commands:
            expanded = [path for word in arguments for path in (map(str, Path().glob(word)) if "*" in word else [word])]
            folder = [f"--run-dir={Path.cwd()}"] if name == "train" else []
            try:
                assert main([name, *expanded, *shorter.get(name, []), *folder]) == 0, (
                    f"{page}: fairchem-hdgnn {name} failed"
                )
            finally:
                distutils.cleanup()
            done.append(name)
    return done


def structures(count: int, seed: int) -> list[Atoms]:
    random = np.random.default_rng(seed)
    slabs = [slab(str(random.choice(["Cu", "Pt", "Pd"])), layers=int(random.integers(2, 5))) for _ in range(count)]
    return [labelled(atoms, float(random.normal())) for atoms in slabs]


def write_splits(root: Path, sizes: dict[str, int], *, labels: bool = True) -> None:
    """OC20's layout: ``ROOT/SPLIT/data.lmdb``."""
    for seed, (split, size) in enumerate(sizes.items()):
        (root / split).mkdir(parents=True)
        write_lmdb(root / split, make_records(size, 100 * seed, seed, labels=labels))


SPLITS = [f"ood_{kind}" for kind in ("ads", "cat", "both")]


def test_quick_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    write_splits(tmp_path / "demo/data", {"train": 12, "val_id": 4, **{f"val_{split}": 2 for split in SPLITS}})
    done = run("quickstart.md", {"train": NARROW, "check": NARROW_CHECK, "evaluate": ["--bootstrap", "10"]})
    assert done == ["inspect", "check", "train", "evaluate"]
    assert (tmp_path / "results/evaluation.html").is_file()


def test_own_structures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for seed, (name, size) in enumerate({"train": 12, "val": 4, "new": 3}.items()):
        write(f"{name}.extxyz", structures(size, seed))
    cpu = ["--cpu"]
    shorter = {"recipe": ["--epochs", "2"], "train": NARROW, "evaluate": [*cpu, "--bootstrap", "10"], "predict": cpu}
    done = run("tutorials/own_structures.md", {**shorter, "card": cpu})
    assert done == [*["make-lmdb"] * 3, "recipe", "check", "train", "evaluate", "predict", "card"]
    assert (tmp_path / "README.md").read_text().startswith("---")
    predictions = np.load("predictions/new.npz")
    (code,) = snippets(DOCS / "tutorials/own_structures.md")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(code, {})
    energies = [float(line) for line in printed.getvalue().splitlines()]
    np.testing.assert_allclose(sorted(energies), sorted(predictions["energy"]), atol=1e-4)


def test_oc20(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_splits(Path("data/is2re/10k"), {"train": 12})
    write_splits(Path("data/is2re/all"), {"val_id": 4, **{f"val_{split}": 2 for split in SPLITS}})
    write_splits(Path("data/is2re/all"), {f"test_{split}": 8 for split in ("id", *SPLITS)}, labels=False)
    cpu, counts = ["--cpu"], ["--counts", "any"]
    shorter = {"check": NARROW_CHECK, "train": NARROW, "evaluate": [*cpu, "--bootstrap", "10"], "predict": cpu}
    done = run("tutorials/oc20.md", {**shorter, "make-submission": counts, "check-submission": counts})
    assert done == ["check", "cost", "train", "evaluate", "predict", "make-submission", "check-submission"]
    assert len(np.load("submission.npz")["id_ids"]) == 8


def test_qm9(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    source = write_xyz_folder(tmp_path / "source", some_rows(60))
    partial = ["--partial", "--source", str(source)]
    first = [f"--dataset.{part}.{part}_split_settings.first_n=4" for part in ("train", "val", "test")]
    done = run("tutorials/qm9.md", {"prepare-qm9": partial, "train": [*NARROW, *first]})
    assert done == ["prepare-qm9", "train", "train", "evaluate-qm9"]


def test_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    write_splits(Path("data/is2re/all"), {"train": 2, "val_id": 2, "test_id": 2})
    assert run("tutorials/slurm.md", {}) == ["submit", "submit"]
    script = capsys.readouterr().out
    for line in ("--nodes=2", "--gpus-per-node=4", "--partition=gpu", "--optim.accumulate=4"):
        assert line in script


@pytest.mark.parametrize("page", [page.name for page in PAGES])
def test_commands_that_are_not_run_have_known_arguments(page: str) -> None:
    (path,) = (each for each in PAGES if each.name == page)
    assert blocks(path)
    for reason, commands in blocks(path):
        for program, name, *arguments in commands if reason else []:
            if program == "fairchem":
                continue
            parser = cli_page.parser_of(name)
            _, unknown = parser.parse_known_args(arguments)
            assert name in ("train", "submit") or not unknown, f"{page}: fairchem-hdgnn {name}: {unknown}"
