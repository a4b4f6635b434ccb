"""The page: scores, plots and structures in one HTML file that works offline."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FunctionLoader, StrictUndefined
from plotly.graph_objects import Figure
from plotly.offline import get_plotlyjs

from fairchem_hdgnn.evaluation.calibration import Calibration
from fairchem_hdgnn.evaluation.calibration_report import TITLE, calibration_cells, calibration_notes
from fairchem_hdgnn.evaluation.ensemble import ENSEMBLE
from fairchem_hdgnn.evaluation.evaluate import Evaluation
from fairchem_hdgnn.evaluation.inference import InferenceOptions
from fairchem_hdgnn.evaluation.metrics import Comparison
from fairchem_hdgnn.evaluation.page.drawings import element_styles
from fairchem_hdgnn.evaluation.page.figures import error_figure, group_figures, parity_figure, threshold_figure
from fairchem_hdgnn.evaluation.page.uncertainty import coverage_figure, deviation_figure
from fairchem_hdgnn.evaluation.page.worst import Drawings, read_worst
from fairchem_hdgnn.evaluation.predictions import Predictions
from fairchem_hdgnn.evaluation.report import Section, all_notes, heading, sections
from fairchem_hdgnn.evaluation.splits import title_of
from fairchem_hdgnn.files import complete_or_absent


def write_page(
    path: Path, evaluation: Evaluation, options: InferenceOptions, most: int = 50, *, with_paper: bool = False
) -> Path:
    """Write the page.

    Args:
        path: file to write.
        evaluation: of checkpoints on LMDBs.
        options: as for the predictions.
        most: systems of each split and model, those with the largest errors, whose structures go into the page.
        with_paper: add the paper's Table 1.

    Raises:
        DataError: the file cannot be written, or an LMDB has changed since the predictions were made.
    """
    models = evaluation.predictions
    groups = group_figures(models)
    environment = Environment(autoescape=True, loader=FunctionLoader(_asset), undefined=StrictUndefined)
    text = environment.get_template("page.html").render(
        models=list(models),
        splits=[(split, title_of(split), len(each)) for split, each in next(iter(models.values())).items()],
        tables=[_table(evaluation.comparison, each) for each in sections(evaluation.comparison, with_paper=with_paper)],
        notes=all_notes(evaluation.notes, with_paper),
        groups=list(groups),
        calibration=_calibration(evaluation.calibration) if evaluation.calibration else None,
        facts=evaluation.facts,
        most=most,
        style=_asset("page.css"),
        script=_asset("page.js"),
        plotly=get_plotlyjs(),
        data=_data(evaluation, read_worst(evaluation, options, most), groups, most),
    )
    with complete_or_absent(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def _asset(name: str) -> str:
    return files(__package__).joinpath("assets", name).read_text(encoding="utf-8")


def _table(comparison: Comparison, section: Section) -> dict[str, Any]:
    """A table's data for the template."""
    rows = []
    for model, row in section.rows.items():
        cells = [tuple(map(section.number, astuple(row[column]))) for column in comparison.columns]
        rows.append((model, cells))
    published = [(model, section.published_cells(model, comparison.columns)) for model in section.published]
    headings = [heading(comparison, column).split("\n") for column in comparison.columns]
    return {"title": section.title, "headings": headings, "rows": rows, "published": published}


def _calibration(calibration: Calibration) -> dict[str, Any]:
    """What the template prints of the ensemble's calibration."""
    (_, *headings), *rows = calibration_cells(calibration)
    return {"title": TITLE, "headings": ["split", *headings], "rows": rows, "notes": calibration_notes(calibration)}


def _data(evaluation: Evaluation, drawings: Drawings, groups: Mapping[str, Figure], most: int) -> dict[str, Any]:
    """Data for the page's script."""
    models = evaluation.predictions
    figures: dict[str, Figure] = {"thresholds": threshold_figure(models)}
    for position, of_model in enumerate(models.values()):
        figures[f"parity-{position}"] = parity_figure(of_model)
        figures[f"errors-{position}"] = error_figure(of_model)
    for position, figure in enumerate(groups.values()):
        figures[f"groups-{position}"] = figure
    if evaluation.calibration:
        figures["coverage"] = coverage_figure(models[ENSEMBLE], evaluation.calibration)
        figures["deviations"] = deviation_figure(models[ENSEMBLE], evaluation.calibration)
    return {
        "models": list(models),
        "ensemble": list(models).index(ENSEMBLE) if evaluation.calibration else None,
        "data": evaluation.facts["data"],
        "most": most,
        "splits": {
            split: {"title": title_of(split), **_systems(each, [of_model[split] for of_model in models.values()])}
            for split, each in next(iter(models.values())).items()
        },
        "figures": {name: json.loads(figure.to_json()) for name, figure in figures.items()},
        "structures": {
            split: {position: each.as_json() for position, each in of_split.items()}
            for split, of_split in drawings.items()
        },
        "elements": element_styles([each for of_split in drawings.values() for each in of_split.values()]),
    }


def _systems(facts: Predictions, models: Sequence[Predictions]) -> dict[str, Any]:
    """The systems of a split in columns; energies in eV, in the order of the models."""
    return {
        "ids": facts.ids.astype(str).tolist(),
        "adsorbate": facts.adsorbate.tolist(),
        "elements": facts.elements.tolist(),
        "natoms": facts.natoms.tolist(),
        "record": facts.records.tolist(),
        "label": np.round(facts.labels.astype(np.float64), 4).tolist(),
        "energy": [np.round(each.energy.astype(np.float64), 4).tolist() for each in models],
        "std": _std(models),
    }


def _std(models: Sequence[Predictions]) -> list[float] | None:
    """Standard deviations of the ensemble, meV, which at most one of the models is."""
    found = [each.deviations for each in models if each.energy_std is not None]
    return np.round(1000 * found[0], 1).tolist() if found else None
