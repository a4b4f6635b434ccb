"""The page of ``evaluate --html``: what it says, and what it does in a browser."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import add_adsorbate, fcc111, molecule
from ase.geometry import get_distances
from browser import chromium
from evaluation_data import make_records
from playwright.sync_api import Browser, Page
from scipy.special import erf, erfinv

from fairchem_hdgnn.cli import main
from fairchem_hdgnn.data.lmdb import write_lmdb
from fairchem_hdgnn.data.records import atoms_to_record, inside_cell
from fairchem_hdgnn.errors import DataError
from fairchem_hdgnn.evaluation.calibration import Calibration
from fairchem_hdgnn.evaluation.evaluate import Evaluation, evaluate
from fairchem_hdgnn.evaluation.inference import InferenceOptions
from fairchem_hdgnn.evaluation.page.drawings import drawing
from fairchem_hdgnn.evaluation.page.figures import threshold_figure
from fairchem_hdgnn.evaluation.page.page import write_page
from fairchem_hdgnn.evaluation.page.uncertainty import coverage_figure
from fairchem_hdgnn.evaluation.page.worst import worst_systems
from fairchem_hdgnn.evaluation.predictions import Predictions

CHECKPOINTS = Path(__file__).parent / "data"
SIZES = {"val_id": 30, "val_ood_ads": 20}
WORST = 5
HOSTILE = "</script><img src=x onerror=alert(1)>"
OPTIONS = InferenceOptions(cpu=True, progress=False)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Slabs with adsorbates; the worst of them has a name that would break a careless page."""
    folder = tmp_path_factory.mktemp("data")
    for seed, (split, num) in enumerate(SIZES.items()):
        records = make_records(num, 1000 * (seed + 1), seed)
        for record in records:
            record.energy = record.y_relaxed
        if split == "val_id":
            records[7].sid, records[7].energy = HOSTILE, 40.0
        (folder / split).mkdir()
        write_lmdb(folder / split, records)
    return folder


@pytest.fixture(scope="module")
def evaluation(root: Path) -> Evaluation:
    checkpoints = {"HDGNN": CHECKPOINTS / "hdgnn_paper.pt", "<b>eSCN</b>": CHECKPOINTS / "escn.pt"}
    return evaluate(checkpoints, root, list(SIZES), OPTIONS, num_resamples=20)


@pytest.fixture(scope="module")
def written(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the command fills, with its page."""
    out = tmp_path_factory.mktemp("out")
    flags = [
        "--checkpoint",
        f"{CHECKPOINTS}/hdgnn_paper.pt",
        f"{CHECKPOINTS}/escn.pt",
        "--names",
        "HDGNN",
        "<b>eSCN</b>",
    ]
    data = ["--data", str(root), "--splits", *SIZES, "--out", str(out), "--cpu", "--bootstrap", "20"]
    assert main(["evaluate", *flags, *data, "--html", "--worst", str(WORST)]) == 0
    return out


# === what is drawn =========================================================================


def slab_with_methanol(shift: float) -> tuple[Atoms, np.ndarray]:
    """A skewed cell, in which the adsorbate stands across the boundaries; and displacements by relaxation."""
    atoms = fcc111("Pt", (3, 3, 3), vacuum=8.0)
    add_adsorbate(atoms, molecule("CH3OH"), 2.0, "ontop", mol_index=0)
    atoms.set_tags([0] * 18 + [1] * 9 + [2] * 6)
    atoms.pbc = True
    # Along c, too, so that the slab is cut.
    atoms.positions += shift * atoms.cell[0] + 0.7 * shift * atoms.cell[1] + shift * atoms.cell[2]
    return atoms, np.random.default_rng(0).normal(0, 0.1, (len(atoms), 3))


@pytest.mark.parametrize("shift", [0.0, 0.35, 0.62, 0.97])
def test_drawn_structure_is_the_same_crystal_with_a_whole_adsorbate(shift: float) -> None:
    atoms, moved = slab_with_methanol(shift)
    record = atoms_to_record(atoms, 1)
    record.pos = torch.tensor(inside_cell(atoms), dtype=torch.float32)
    record.pos_relaxed = record.pos + torch.tensor(moved, dtype=torch.float32)
    record.pos_relaxed[-1] += record.cell[0, 0]  # as if it had left the cell
    drawn = drawing(record)
    distances = [get_distances(p, cell=atoms.cell, pbc=True)[1] for p in (atoms.positions, drawn.atoms.positions)]
    np.testing.assert_allclose(*distances, atol=1e-4)
    assert drawn.relaxed is not None
    np.testing.assert_allclose(drawn.relaxed - drawn.atoms.positions, moved, atol=1e-4)
    # No periodicity here: bonds of the adsorbate are as long as in methanol, and slab and adsorbate are in one piece.
    np.testing.assert_allclose(drawn.atoms[-6:].get_all_distances(), atoms[-6:].get_all_distances(), atol=1e-4)
    assert np.ptp(drawn.atoms.positions[:, 2]) == pytest.approx(
        np.ptp(slab_with_methanol(0.0)[0].positions[:, 2]), abs=1e-3
    )
    place = drawn.atoms.cell.scaled_positions(drawn.atoms.positions[-6:])[:, :2]
    assert np.abs(place.mean(axis=0) - 0.5).max() < 0.1


def test_bonds_of_the_adsorbate_are_drawn_and_those_of_the_slab_are_not() -> None:
    record = atoms_to_record(slab_with_methanol(0.0)[0], 1)
    facts = drawing(record).as_json()
    bonds = {tuple(sorted(facts["symbols"][atom] for atom in pair)) for pair in facts["initial"]["bonds"]}
    assert ("C", "O") in bonds and ("C", "H") in bonds and ("H", "O") in bonds
    assert ("Pt", "Pt") not in bonds
    assert sum("Pt" not in (facts["symbols"][a], facts["symbols"][b]) for a, b in facts["initial"]["bonds"]) == 5
    assert "relaxed" not in facts and facts["cell"] is not None


def test_molecule_without_a_cell_is_drawn_with_all_its_bonds() -> None:
    atoms = molecule("C6H6")
    facts = drawing(atoms_to_record(atoms, 1)).as_json()
    assert facts["cell"] is None and len(facts["initial"]["bonds"]) == 12
    np.testing.assert_allclose(facts["initial"]["positions"], atoms.positions, atol=1e-3)


def test_relaxation_names_the_atom_that_moves_most() -> None:
    atoms, _ = slab_with_methanol(0.0)
    record = atoms_to_record(atoms, 1)
    record.pos_relaxed = record.pos.clone()
    record.pos_relaxed[30, 1] += 0.75
    assert drawing(record).as_json()["moved"] == {"atom": 30, "length": 0.75}


def test_worst_systems_are_those_of_either_model(evaluation: Evaluation) -> None:
    for split, found in worst_systems(evaluation.predictions, WORST).items():
        expected = set()
        for of_model in evaluation.predictions.values():
            ranked = sorted(range(SIZES[split]), key=lambda i: -abs(float(of_model[split].errors[i])))
            expected |= set(ranked[:WORST])
        assert found.tolist() == sorted(expected)


def test_curve_over_thresholds_counts_systems(evaluation: Evaluation) -> None:
    figure = threshold_figure(evaluation.predictions)
    for curve, of_model in zip(figure.data, evaluation.predictions.values()):
        errors = 1000 * np.abs(np.concatenate([each.errors for each in of_model.values()]))
        for threshold, share in zip(curve.x, curve.y):
            below, above = (100 * (errors < threshold + by).mean() for by in (-0.01, 0.01))
            assert below - 0.01 <= share <= above + 0.01
        assert curve.y[-1] == 100


# === what is written =======================================================================


def data_of(page: Path) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def test_page_holds_every_prediction(written: Path) -> None:
    data = data_of(written / "evaluation.html")
    with (written / "systems.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 2 * sum(SIZES.values())
    for row in rows:
        of_split = data["splits"][row["split"]]
        at = of_split["ids"].index(row["id"])
        energy = of_split["energy"][data["models"].index(row["model"])][at]
        assert energy == pytest.approx(float(row["energy_eV"]), abs=1e-4)
        assert of_split["label"][at] == pytest.approx(float(row["label_eV"]), abs=1e-4)
        assert (of_split["adsorbate"][at], of_split["elements"][at]) == (row["adsorbate"], row["elements"])


def test_record_is_the_one_that_inspect_prints(written: Path, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    of_split = data_of(written / "evaluation.html")["splits"]["val_ood_ads"]
    for at in (0, 13):
        assert main(["inspect", str(root / "val_ood_ads"), str(of_split["record"][at])]) == 0
        assert re.search(rf"^\s*sid\s+{of_split['ids'][at]} ", capsys.readouterr().out, re.MULTILINE)


def test_data_that_changed_in_between_are_refused(evaluation: Evaluation, root: Path, tmp_path: Path) -> None:
    moved = tmp_path / "data"
    for seed, (split, num) in enumerate(SIZES.items()):
        (moved / split).mkdir(parents=True)
        write_lmdb(moved / split, make_records(num, 5000 * (seed + 1), seed))
    changed = replace(evaluation, sources={split: moved / split for split in SIZES})
    with pytest.raises(DataError, match="has changed since the predictions were made; evaluate again"):
        write_page(tmp_path / "page.html", changed, OPTIONS)
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--html"], "--html needs --out DIR"),
        (["--html", "--out", "x", "--worst", "0"], "--worst 0: must be at least 1"),
    ],
)
def test_flags_that_do_not_fit(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--checkpoint", "x.pt", "--data", "x", *flags]) == 2
    assert message in capsys.readouterr().err


# === in a browser ==========================================================================


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as opened:
        yield opened


@pytest.fixture
def page(browser: Browser, written: Path) -> Iterator[Page]:
    with open_page(browser, written) as opened:
        yield opened


@contextmanager
def open_page(browser: Browser, written: Path) -> Iterator[Page]:
    """The page, opened without a network. It logs no error, opens no dialog and requests no other file."""
    context = browser.new_context(viewport={"width": 1400, "height": 900}, offline=True)
    context.set_default_timeout(60_000)
    opened = context.new_page()
    wrong: list[str] = []
    opened.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
    opened.on("request", lambda request: wrong.append(request.url) if not is_inline(request.url) else None)
    opened.goto((written / "evaluation.html").as_uri())
    opened.wait_for_selector("#errors .scatterlayer .point")
    yield opened
    context.close()
    assert not wrong


def is_inline(url: str) -> bool:
    return url.endswith("/evaluation.html") or url.startswith(("data:", "blob:"))


def worst_rows(page: Page) -> list[list[str]]:
    return [row.split("\t") for row in page.locator("#worst tbody").inner_text().splitlines()]


def shown_atoms(page: Page, scene: str) -> int:
    return page.evaluate("id => new Set(document.getElementById(id).data[0].text).size", scene)


def eye(page: Page, scene: str) -> list[float]:
    camera = page.evaluate("id => document.getElementById(id)._fullLayout.scene._scene.getCamera().eye", scene)
    return [camera[axis] for axis in "xyz"]


def test_tables_are_those_of_the_command(page: Page, written: Path) -> None:
    with (written / "table.csv").open() as stream:
        scores = [row for row in csv.DictReader(stream) if row["source"] == "score" and row["metric"] == "mae"]
    shown = page.locator("table.scores").first.locator("tbody tr").all_inner_texts()
    for model in ("HDGNN", "<b>eSCN</b>", "median baseline"):
        (row,) = [text for text in shown if text.startswith(model)]
        for score in scores:
            if score["model"] == model:
                assert f"{float(score['value']):.0f}" in row.split()


def test_click_on_a_row_shows_both_structures(page: Page, evaluation: Evaluation) -> None:
    assert page.locator("#structure").is_hidden()
    rows = worst_rows(page)
    errors = [abs(float(row[-1])) for row in rows]
    assert errors == sorted(errors, reverse=True) and rows[0][0] == HOSTILE
    page.locator("#worst tbody tr").nth(1).click()
    page.wait_for_function("['initial', 'relaxed'].every(id => document.getElementById(id)._fullLayout?.scene?._scene)")
    assert page.locator("#structure-title").inner_text() == rows[1][0]
    assert shown_atoms(page, "initial") == shown_atoms(page, "relaxed") == int(rows[1][4])
    assert "atom" in page.locator("#structure-note").inner_text()
    energies = page.locator("#structure-energies tbody tr").all_inner_texts()
    assert [text.split("\t")[0] for text in energies] == ["reference", "HDGNN", "<b>eSCN</b>"]
    page.keyboard.press("Escape")
    assert page.locator("#structure").is_hidden()


def test_turning_one_structure_turns_the_other(page: Page) -> None:
    page.locator("#worst tbody tr").nth(2).press("Enter")
    page.wait_for_function("['initial', 'relaxed'].every(id => document.getElementById(id)._fullLayout?.scene?._scene)")
    page.wait_for_timeout(500)
    before = eye(page, "initial")
    box = page.locator("#initial").bounding_box()
    assert box is not None
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(*middle)
    page.mouse.down()
    page.mouse.move(middle[0] + 90, middle[1] + 10, steps=8)
    page.mouse.up()
    page.wait_for_timeout(500)
    after = eye(page, "initial")
    assert np.abs(np.subtract(after, before)).max() > 0.2
    np.testing.assert_allclose(eye(page, "relaxed"), after, atol=1e-6)
    page.get_by_role("button", name="from above").click()
    page.wait_for_timeout(500)
    for scene in ("initial", "relaxed"):
        x, y, z = eye(page, scene)
        assert z > 1 and abs(x) + abs(y) < 1e-3


def test_point_says_what_it_is_and_shows_its_structure(page: Page, written: Path) -> None:
    worst = worst_rows(page)[0]  # far from all others, so that the pointer finds it
    assert worst[:2] == [HOSTILE, "ID"]
    at = data_of(written / "evaluation.html")["splits"]["val_id"]["ids"].index(HOSTILE)
    point = page.locator("#errors .scatterlayer .trace").nth(0).locator(".point").nth(at)
    point.scroll_into_view_if_needed()
    box = point.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.wait_for_selector("#errors .hoverlayer .hovertext")
    said = page.locator("#errors .hoverlayer").text_content()
    for fact in (
        worst[0],
        "ID",
        f"{worst[2]} on {worst[3]}, {worst[4]} atoms",
        f"{worst[5]} eV",
        f"{worst[6]} eV",
    ):
        assert fact.replace("-", "−") in said.replace("-", "−")
    page.mouse.down()
    page.mouse.up()
    page.wait_for_selector("#structure:not([hidden])")
    assert page.locator("#structure-title").inner_text() == worst[0]


def test_point_whose_structure_is_not_there_says_so(page: Page, written: Path) -> None:
    data = data_of(written / "evaluation.html")
    absent = next(i for i in range(SIZES["val_id"]) if str(i) not in data["structures"]["val_id"])
    click = "i => parity.emit('plotly_click', {points: [{data: {meta: 'val_id'}, pointNumber: i}]})"
    page.evaluate(click, absent)
    assert page.locator("#structure-title").inner_text() == data["splits"]["val_id"]["ids"][absent]
    assert "--worst" in page.locator("#structure-note").inner_text()
    assert page.locator("#initial").is_hidden()


def test_table_sorts_and_searches(page: Page) -> None:
    page.get_by_role("button", name="reference, eV").click()
    values = [float(row[5]) for row in worst_rows(page)]
    assert values == sorted(values, reverse=True)
    page.get_by_role("button", name="reference, eV").click()
    assert [float(row[5]) for row in worst_rows(page)] == sorted(values)
    page.locator("#split").select_option("val_ood_ads")
    assert {row[1] for row in worst_rows(page)} == {"OOD Ads"}
    adsorbate, slab = worst_rows(page)[0][2:4]
    page.locator("#search").fill(f"{slab} {adsorbate}".lower())
    kept = worst_rows(page)
    assert kept and all(adsorbate in row[2] + row[3] and slab in row[2] + row[3] for row in kept)
    page.locator("#search").fill("no such thing")
    assert page.locator("#worst tbody tr").count() == 0


def test_choice_of_the_model_changes_plots_and_table(page: Page, evaluation: Evaluation) -> None:
    other = evaluation.predictions["<b>eSCN</b>"]["val_id"]
    page.locator("#model").select_option(label="<b>eSCN</b>")
    page.wait_for_timeout(300)
    drawn = page.evaluate("document.getElementById('parity').data[0].y")
    np.testing.assert_allclose(drawn, other.energy, atol=1e-4)
    errors = {row[0]: float(row[-1]) for row in worst_rows(page) if row[1] == "ID"}
    assert len(errors) >= WORST
    for name, error in zip(other.ids.tolist(), other.errors):
        if name in errors:
            assert errors[name] == pytest.approx(1000 * error, abs=0.6)


def test_page_fits_a_phone(browser: Browser, written: Path) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 800}, offline=True)
    opened = context.new_page()
    opened.goto((written / "evaluation.html").as_uri())
    opened.wait_for_selector("#errors .scatterlayer .point")
    assert opened.evaluate("document.documentElement.scrollWidth") <= 390
    opened.locator("#worst tbody tr").first.click()
    opened.wait_for_selector("#initial canvas")
    box = opened.locator("#structure").bounding_box()
    assert box is not None and box["width"] <= 390
    context.close()


# === uncertainty ===========================================================================


@pytest.fixture(scope="module")
def with_ensemble(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ensemble")
    flags = ["--checkpoint", f"{CHECKPOINTS}/hdgnn_paper.pt", "--names", "HDGNN", "--ensemble", "--frame-draws", "3"]
    data = ["--data", str(root), "--splits", *SIZES, "--out", str(out), "--cpu", "--bootstrap", "20"]
    assert main(["evaluate", *flags, *data, "--html"]) == 0
    return out


def test_uncertainty_is_shown_with_its_calibration(browser: Browser, with_ensemble: Path) -> None:
    calibration = json.loads((with_ensemble / "table.json").read_text())["calibration"]
    data = data_of(with_ensemble / "evaluation.html")
    with open_page(browser, with_ensemble) as page:
        section = page.locator("section", has=page.get_by_role("heading", name="Uncertainty"))
        row = section.locator("tbody tr", has_text="OOD Ads").inner_text().split("\t")
        assert row[1] == str(SIZES["val_ood_ads"])
        assert f"{calibration['splits']['val_ood_ads']['miscalibration_area']:.2f}" in row
        assert f"--std-scale {calibration['std_scale']:.3g}" in section.inner_text()
        traces = {trace["name"]: trace for trace in page.evaluate("document.getElementById('deviations').data")}
        with (with_ensemble / "systems.csv").open() as stream:
            systems = [row for row in csv.DictReader(stream) if (row["model"], row["split"]) == ("ensemble", "val_id")]
        place = data["splits"]["val_id"]["ids"].index
        for system in systems:
            at = place(system["id"])
            scaled, error = (1000 * float(system[key]) for key in ("scaled_energy_std_eV", "error_eV"))
            assert traces["ID"]["x"][at] == pytest.approx(scaled, rel=1e-3, abs=1e-2)
            assert traces["ID"]["y"][at] == pytest.approx(abs(error), rel=1e-3, abs=1e-2)
        page.evaluate("deviations.emit('plotly_click', {points: [{data: {meta: 'val_id'}, pointNumber: 7}]})")
        assert page.locator("#structure-title").inner_text() == data["splits"]["val_id"]["ids"][7]


def test_coverage_of_normal_errors_is_on_the_diagonal() -> None:
    ensemble = {"val_id": normal_ensemble(20_000, seed=0)}
    raw, scaled = coverage_figure(ensemble, Calibration(scale=1.0, fitted_on="val_id", splits={})).data
    np.testing.assert_allclose(raw.y, raw.x, atol=1.5)
    wide, right = coverage_figure(ensemble, Calibration(scale=2.0, fitted_on="val_id", splits={})).data
    assert right.y[50] == pytest.approx(100 * erf(erfinv(0.5) * 2), abs=1.5) and wide.y == raw.y == scaled.y


def test_page_without_an_ensemble_has_no_uncertainty(written: Path) -> None:
    assert "<h2>Uncertainty</h2>" not in (written / "evaluation.html").read_text()
    assert "deviations" not in data_of(written / "evaluation.html")["figures"]


def normal_ensemble(num: int, seed: int) -> Predictions:
    random = np.random.default_rng(seed)
    std = np.exp(random.normal(-2, 0.7, num))
    return Predictions(
        ids=np.arange(num).astype(str),
        energy=(std * random.normal(size=num)).astype(np.float32),
        natoms=np.full(num, 30),
        adsorbate=np.full(num, "O"),
        elements=np.full(num, "Pt"),
        target=np.zeros(num, dtype=np.float32),
        energy_std=std.astype(np.float32),
    )
