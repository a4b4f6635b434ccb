"""Model cards: what is in the checkpoint is in the card, with units, and nothing of the machine."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from evaluation_data import SIZES, write_splits

from fairchem_hdgnn.checks.loggers import logger_findings
from fairchem_hdgnn.cli import main
from fairchem_hdgnn.evaluation.card.subject import read_subject
from fairchem_hdgnn.files import sha256
from fairchem_hdgnn.host.training_record import KEY, read_training_record, shortened

DATA = Path(__file__).parent / "data"
FIXTURES = ["hdgnn_paper.pt", "escn.pt", "fairchem2_hdgnn.pt", "fairchem2_escn.pt"]
fault = pytest.mark.fault
Outcome = Callable[[object], None]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_splits(tmp_path_factory.mktemp("someone") / "data" / "is2re")


@pytest.fixture(scope="module")
def checkpoint(root: Path) -> Path:
    """As the trainer writes it at the best epoch of a run, with absolute paths in its config."""
    contents = torch.load(DATA / "hdgnn_paper.pt", weights_only=True)
    contents["ema"] = None
    contents["versions"] = {"fairchem-hdgnn": "0.1.0", "fairchem-core": "1.10.0", "torch": "2.8.0"}
    contents["val_metrics"] = {
        "energy_mae": {"metric": 0.4321, "total": 4.3, "numel": 10},
        "energy_within_threshold": {"metric": 0.0625, "total": 1, "numel": 16},
        "loss": {"metric": 0.2, "total": 1.0, "numel": 5},
    }
    contents["config"].update(
        dataset={
            "src": str(root / "train" / "data.lmdb"),
            "format": "safe_lmdb",
            "key_mapping": {"y_relaxed": "energy"},
            "transforms": {"normalizer": {"energy": {"mean": 0.5, "stdev": 2.0}}},
        },
        val_dataset={"src": str(root / "val_id" / "data.lmdb"), "format": "safe_lmdb"},
        cmd={"seed": 7, "version": "1.10.0", "commit": "core:abc1234", "checkpoint_dir": str(root / "runs" / "first")},
        optim={
            "optimizer": "AdamW",
            "optimizer_params": {"weight_decay": 0.01},
            "lr_initial": 4e-4,
            "batch_size": 6,
            "max_epochs": 20,
            "ema_decay": 0.99,
            "warmup_steps": 100,
            "warmup_factor": 0.2,
        },
    )
    path = root.parent / "best_checkpoint.pt"
    torch.save(contents, path)
    return path


@pytest.fixture(scope="module")
def table(checkpoint: Path, root: Path) -> Path:
    out = root.parent / "results"
    names = ["--names", "first", "second"]
    files = ["--checkpoint", str(checkpoint), str(DATA / "fairchem2_hdgnn.pt")]
    command = ["evaluate", *files, *names, "--data", str(root), "--cpu", "--bootstrap", "20", "--out", str(out)]
    assert main(command) == 0
    return out / "table.json"


def card(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[str, dict[str, Any]]:
    """The card that is printed, and its front matter."""
    capsys.readouterr()
    assert main(["card", *map(str, arguments)]) == 0
    text = capsys.readouterr().out
    start, matter, _ = text.split("---\n", 2)
    assert start == ""
    return text, yaml.safe_load(matter)


def rows(text: str) -> dict[str, str]:
    """The tables of two columns."""
    return dict(re.findall(r"^\| (.+?) \| (.+) \|$", text, re.MULTILINE))


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line that the command ends with."""
    capsys.readouterr()
    assert main(["card", *map(str, arguments)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line.removeprefix("fairchem-hdgnn card: ")


@pytest.mark.parametrize("name", FIXTURES)
def test_any_checkpoint_has_a_card(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    text, matter = card(capsys, DATA / name, "--licence", "CC-BY-4.0")
    subject = read_subject(DATA / name)
    facts = rows(text)
    assert facts["parameters"] == f"{sum(p.numel() for p in subject.trained.build().parameters()):,}"
    assert facts["SHA-256"] == f"`{sha256(DATA / name)}`"
    assert facts["output `energy`"] == "eV, of a structure"
    assert ("output `forces`" in facts) == (name == "escn.pt")
    scale = subject.trained.scales["energy"]
    assert f"{scale.mean:g} eV + {scale.rmsd:g} eV ×" in facts["normaliser of `energy`"]
    assert facts["weights"].startswith("moving averages (EMA)")
    assert facts["seed"] == facts["version of torch"] == facts["commit"] == "not known"
    assert matter["license"] == "cc-by-4.0" and matter["library_name"] == "fairchem" and "model-index" not in matter
    assert ("hdgnn" if "hdgnn" in name else "escn") in matter["tags"]
    assert str(DATA) not in text


def test_what_the_training_was_is_in_the_card(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, matter = card(capsys, checkpoint, "--licence", "MIT", "--title", "A\nmodel", "--dataset", "me/slabs")
    facts = rows(text)
    assert "# A model\n" in text and matter["datasets"] == ["me/slabs"]
    assert facts["training set"] == "`is2re/train/data.lmdb`"
    assert facts["label"] == "`y_relaxed`, eV"
    assert facts["optimizer"] == "`AdamW`, weight_decay 0.01"
    assert facts["learning rate"] == "0.0004"
    assert facts["schedule"] == "warm-up over 100 steps from 0.2 times the rate"
    assert facts["batch size"].startswith("6 systems a step on each rank")
    assert facts["epochs"] == "done: not known; 20 epochs planned"
    assert facts["weights"] == "moving averages (EMA), decay 0.99"
    assert facts["seed"] == "7" and facts["commit"] == "`core:abc1234`"
    assert facts["version of torch"] == "2.8.0" and facts["version of fairchem-hdgnn"] == "0.1.0"
    assert facts["`cutoff`"] == "`4.0` Å | `8.0` Å" and facts["`lmax`"] == "`3` | `6`" and "`otf_graph`" not in facts
    recipe = yaml.safe_load(text.partition("```yaml\n")[2].partition("```")[0])
    assert recipe["optim"]["lr_initial"] == 4e-4 and recipe["trainer"] == "fairchem_hdgnn.Trainer"
    assert not list(logger_findings(recipe)), "needs no account"
    assert "cmd" not in recipe


def test_a_fine_tuned_model_says_what_it_started_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    contents = torch.load(DATA / "hdgnn_paper.pt", weights_only=True)
    start = {"init_from": "/home/someone/runs/first/best_checkpoint.pt", "heads": "fresh"}
    contents["config"]["optim"] = {**contents["config"]["optim"], "fine_tuning": start}
    torch.save(contents, tmp_path / "tuned.pt")
    text, _ = card(capsys, tmp_path / "tuned.pt")
    assert "| fine-tuned | from `runs/first/best_checkpoint.pt`, heads `fresh` |" in text


def test_scores_in_the_file_have_units_and_no_interval(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, matter = card(capsys, checkpoint)
    facts = rows(text)
    assert facts["`energy_mae`"] == "0.4321 eV" and facts["`energy_within_threshold`"] == "6.25 %"
    assert "without intervals" in text and "`loss`" not in facts
    (result,) = matter["model-index"][0]["results"]
    assert result["dataset"] == {"type": "is2re", "name": "is2re", "split": "validation"}
    assert result["metrics"] == [{"type": "mae", "name": "MAE of energy, eV", "value": 0.4321}]
    assert matter["license"] == "unknown" and text.endswith("## Licence\n\nNot stated.\n")


def test_a_target_of_qm9_has_its_own_unit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    contents = torch.load(DATA / "hdgnn_paper.pt", weights_only=True)
    contents["config"]["model"]["output_name"] = "gap"
    contents["config"]["outputs"] = {"gap": {"level": "system"}}
    contents["normalizers"] = {"gap": contents["normalizers"]["energy"]}
    torch.save(contents, tmp_path / "checkpoint.pt")
    text, _ = card(capsys, tmp_path / "checkpoint.pt")
    facts = rows(text)
    assert facts["output `gap`"] == "meV, of a structure" and "2 meV ×" in facts["normaliser of `gap`"]
    assert "HOMO-LUMO gap, meV" in text and "adsorption" not in text and "eV/Å" not in text


def test_scores_are_those_of_the_table(
    checkpoint: Path, table: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = json.loads(table.read_text())["scores"]
    text, matter = card(capsys, checkpoint, "--table", table)
    for result in matter["model-index"][0]["results"]:
        split = result["dataset"]["split"]
        for metric in result["metrics"]:
            assert metric["value"] == pytest.approx(scores[metric["type"]]["first"][split]["value"], abs=1e-4)
    mae = scores["mae"]["first"]["val_id"]
    assert f"{mae['value']:.0f} ({mae['low']:.0f}…{mae['high']:.0f})" in text and "Energy MAE, meV" in text
    assert "| median baseline |" in text and "second" not in text
    evaluated, again = card(capsys, checkpoint, "--data", root, "--cpu", "--bootstrap", "20")
    assert again["model-index"] == matter["model-index"]
    assert rows(evaluated)["systems"] == ", ".join(
        f"{split} {SIZES[split.removeprefix('val_')]}"
        for split in ("train", "val_id", "val_ood_ads", "val_ood_both", "val_ood_cat")
    )
    assert "24 systems of 9 to 10 atoms each" in evaluated and ": H, O, Cu, Pd, Pt." in evaluated
    for printed in (text, evaluated):
        assert str(root.parent) not in printed and "/tmp" not in printed and "pytest-of" not in printed


def test_converted_files_keep_the_facts(
    checkpoint: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    second, first = tmp_path / "inference_ckpt.pt", tmp_path / "checkpoint.pt"
    assert main(["convert", "--from", "fairchem1", str(checkpoint), str(second)]) == 0
    assert main(["convert", "--from", "fairchem2", str(second), str(first)]) == 0
    assert read_training_record(first) == read_training_record(second) == read_training_record(checkpoint)
    assert str(checkpoint.parent).encode() not in second.read_bytes()
    expected = rows(card(capsys, checkpoint)[0])
    for path in (second, first):
        found = rows(card(capsys, path)[0])
        changed = {name for name in expected if found.get(name) != expected[name]}
        assert changed == {"file", "SHA-256", "labels of the training set"}, "the path to the data stays behind"
    assert "chosen by its name" in card(capsys, second, "--table", table, "--name", "first")[0]


def test_a_converted_file_says_when_weights_are_raw(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "raw.pt"
    assert main(["convert", "--from", "fairchem1", str(DATA / "escn.pt"), str(out), "--raw-weights"]) == 0
    assert rows(card(capsys, out)[0])["weights"].startswith("raw")
    best = torch.load(DATA / "escn.pt", weights_only=True)
    for name in ("ema", "step"):
        best.pop(name, None)
    best["config"]["optim"]["ema_decay"] = 0.99
    torch.save(best, tmp_path / "best_checkpoint.pt")
    command = ["convert", "--from", "fairchem1", str(tmp_path / "best_checkpoint.pt"), str(tmp_path / "new.pt")]
    assert main([*command, "--raw-weights"]) == 2
    assert "best_checkpoint.pt: has averaged weights (EMA) only; for raw ones" in capsys.readouterr().err


def test_a_card_is_written_once(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "README.md"
    assert main(["card", str(checkpoint), "--out", str(out)]) == 0
    assert "states no licence" in capsys.readouterr().err
    before = out.read_text()
    assert refusal(capsys, checkpoint, "--out", out, "--licence", "MIT") == (
        f"error: {out}: exists already; remove it or choose another name"
    )
    assert out.read_text() == before


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/home/alice/data.lmdb", "data.lmdb"),
        ("/home/alice/oc20/is2re/10k/train/data.lmdb", "10k/train/data.lmdb"),
        ("../own/data.lmdb", "own/data.lmdb"),
        ("~/oc20/train", "train"),
        ("C:\\Users\\alice\\train\\data.lmdb", "train/data.lmdb"),
        ("data/is2re/10k/train/data.lmdb", "10k/train/data.lmdb"),
    ],
)
def test_paths_are_shortened(path: str, expected: str) -> None:
    assert shortened(path) == expected


@fault("model card", "of a file that is no checkpoint")
def test_no_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str], outcome: Outcome) -> None:
    path = tmp_path / "notes.pt"
    path.write_text("not a checkpoint")
    line = refusal(capsys, path)
    outcome(line)
    assert line.startswith(f"error: {path}: not a PyTorch checkpoint")


@fault("model card", "a table without the checkpoint")
def test_table_without_the_checkpoint(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], outcome: Outcome
) -> None:
    path = shutil.copy(DATA / "escn.pt", tmp_path)
    line = refusal(capsys, path, "--table", table)
    outcome(line.replace(f"{table.parents[1]}/", "").replace(f"{DATA}/", ""))
    assert "complete table" not in line
    assert "does not contain" in line and "first (" in line and "second (" in line and "--name" in line
    assert "it has: first, second" in refusal(capsys, DATA / "escn.pt", "--table", table, "--name", "third")


def test_a_changed_checkpoint_is_not_that_of_the_table(
    checkpoint: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = json.loads(table.read_text())
    report["sha256"]["first"] = "0" * 64
    changed = tmp_path / "table.json"
    changed.write_text(json.dumps(report))
    assert "the file has changed since" in refusal(capsys, checkpoint, "--table", changed)
    del report["sha256"]
    changed.write_text(json.dumps(report))
    assert "Energy MAE, meV" in card(capsys, checkpoint, "--table", changed)[0]


@fault("model card", "a table that is damaged")
def test_damaged_table(
    checkpoint: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], outcome: Outcome
) -> None:
    path = tmp_path / "table.json"
    path.write_text(table.read_text()[:100])
    line = refusal(capsys, checkpoint, "--table", path)
    outcome(line)
    assert "not JSON" in line
    for content in ("[]", "{}", '{"units": {"mae": "meV", "ewt": "%"}, "scores": [], "systems": {}}'):
        path.write_text(content)
        assert f"{path}: not a" in refusal(capsys, checkpoint, "--table", path)
    assert "cannot be read" in refusal(capsys, checkpoint, "--table", tmp_path / "none.json")


def test_damaged_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "checkpoint.pt"
    torch.save({**torch.load(DATA / "escn.pt", weights_only=True), KEY: {"step": "many"}}, path)
    assert f"its '{KEY}' is damaged (step)" in refusal(capsys, path)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--licence", "my own"], "--licence 'my own': give an SPDX identifier"),
        (["--dataset", "Open Catalyst 2020"], "--dataset 'Open Catalyst 2020': give the id"),
        (["--name", "first"], "--name selects a row of --table"),
        (["--splits", "val_id"], "--splits needs --data"),
        (["--data", "nowhere"], "nowhere: no such folder"),
    ],
)
def test_flags(arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert expected in refusal(capsys, DATA / "hdgnn_paper.pt", *arguments)
