"""Model cards under fairchem-core 2, of files of either generation."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from fairchem_hdgnn.cli import main

DATA = Path(__file__).parents[1] / "data"


@pytest.mark.parametrize("name", ["fairchem2_hdgnn.pt", "hdgnn_paper.pt"])
def test_card_with_scores(name: str, oc20: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["card", str(DATA / name), "--data", str(oc20), "--licence", "MIT", "--cpu", "--bootstrap", "5"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    matter = yaml.safe_load(printed.split("---\n", 2)[1])
    results = {result["dataset"]["split"]: result["metrics"] for result in matter["model-index"][0]["results"]}
    assert list(results) == ["val_id", "val_ood_ads", "val_ood_cat", "val_ood_both"]
    assert all(metrics[0]["value"] > 0 for metrics in results.values())
    assert "| median baseline |" in printed and "train 24, val_id 5" in printed
    assert str(oc20) not in printed


def test_converted_file_keeps_the_facts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "inference_ckpt.pt"
    assert main(["convert", "--from", "fairchem1", str(DATA / "escn.pt"), str(out)]) == 0
    assert main(["card", str(out)]) == 0
    assert "`mae` of `forces`, coefficient 1" in capsys.readouterr().out
