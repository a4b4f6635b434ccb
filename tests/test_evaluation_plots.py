"""What the plots show, and that they can be read."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.image import imread
from scipy import stats
from torch.utils.tensorboard import SummaryWriter

from fairchem_hdgnn.errors import DataError
from fairchem_hdgnn.evaluation.groups import MOST_GROUPS, grouped, mean_and_interval
from fairchem_hdgnn.evaluation.learning_curve import Curve, read_curves, read_events
from fairchem_hdgnn.evaluation.plots import draw_all, ewt_figure, group_figure, parity_figure
from fairchem_hdgnn.evaluation.predictions import Predictions


def split(scale: float, num: int = 200) -> Predictions:
    """The same systems at every call, with errors in proportion to ``scale``."""
    random = np.random.default_rng(num)
    target = random.normal(-1, 2, num).astype(np.float32)
    return Predictions(
        ids=np.arange(num).astype(str),
        energy=(target + scale * random.normal(size=num)).astype(np.float32),
        target=target,
        natoms=random.integers(20, 90, num),
        adsorbate=random.choice(["H", "O", "CO"], num, p=[0.5, 0.49, 0.01]),
        elements=random.choice(["Pt", "Cu-Pt", "Ag"], num),
    )


@pytest.fixture
def models() -> dict:
    splits = {"val_id": 200, "val_ood_ads": 150}
    return {name: {s: split(scale, num) for s, num in splits.items()} for name, scale in (("one", 0.1), ("two", 0.3))}


def test_ewt_curve_passes_through_the_ewt(models):
    for panel, name in zip(ewt_figure(models).axes, ("val_id", "val_ood_ads")):
        for line, model in zip(panel.get_lines(), models):
            below = line.get_xdata() < 20
            share = line.get_ydata()[below].max() if below.any() else 0.0
            expected = 100 * (np.abs(models[model][name].errors) < 0.02).mean()
            assert share == pytest.approx(expected)
            assert line.get_ydata().max() == 100


def test_groups_shown_are_the_most_frequent_ones():
    names = [f"C{number}" for number in range(1, MOST_GROUPS + 6)]
    adsorbate = np.repeat(names, 5 + np.arange(len(names)))
    of_split = replace(split(0.1, len(adsorbate)), adsorbate=adsorbate)
    assert set(grouped({"one": {"val_id": of_split}})["By adsorbate"]) == set(names[5:])


def test_bars_stand_beside_the_names_of_their_groups(models):
    adsorbates, elements, sizes = group_figure(models).axes
    member = np.concatenate([each.adsorbate for each in models["one"].values()])
    labels = [text.get_text() for text in adsorbates.get_yticklabels()]
    for position, splits in enumerate(models.values()):
        errors = 1000 * np.abs(np.concatenate([each.errors for each in splits.values()]))
        for label, shown in zip(labels, adsorbates.containers[position].lines[0].get_xdata()):
            of_group = member == label.split()[0]
            assert shown == pytest.approx(errors[of_group].mean()) and f"(n = {of_group.sum()})" in label
    assert {label.split()[0] for label in labels} == {"H", "O"}, "too few CO for a mean"
    assert {text.get_text().split()[0] for text in elements.get_yticklabels()} == {"Ag", "Cu", "Pt"}
    counted = [int(text.get_text().split("n = ")[1].rstrip(")")) for text in sizes.get_yticklabels()]
    assert sum(counted) == 350 and len(counted) == 8


def test_parity_panels_show_every_system_with_scores_and_units(models):
    figure = parity_figure("one", models["one"])
    parity, _, residuals, _ = figure.axes
    points = parity.collections[0].get_offsets()
    of_split = models["one"]["val_id"]
    np.testing.assert_allclose(points, np.stack([of_split.target, of_split.energy], 1), rtol=1e-6)
    np.testing.assert_allclose(residuals.collections[0].get_offsets()[:, 1], of_split.errors, atol=1e-6)
    error = np.abs(of_split.errors)
    assert parity.texts[0].get_text() == f"MAE {1000 * error.mean():.0f} meV\nEwT {100 * (error < 0.02).mean():.1f} %"
    assert parity.get_xlim() == parity.get_ylim()
    assert "eV" in parity.get_ylabel() and "eV" in residuals.get_ylabel() and "eV" in figure.get_supxlabel()


def test_residuals_beyond_the_axis_are_counted(models):
    of_split = models["one"]["val_id"]
    energy = of_split.energy.copy()
    energy[0] += 50
    figure = parity_figure("one", {"val_id": replace(of_split, energy=energy)})
    residuals = figure.axes[1]
    limit = residuals.get_ylim()[1]
    error = np.abs(energy - of_split.target)
    assert (error > limit).sum() == 1 and residuals.texts[0].get_text() == "1 beyond this range"


def test_intervals_of_groups_are_students():
    errors = np.array([1.0, 2.0, 4.0, 9.0])
    groups = {"three": np.array([True, True, True, False]), "one": np.array([False, False, False, True])}
    means, half_widths = mean_and_interval(errors, groups)
    expected = stats.t.interval(0.95, 2, loc=errors[:3].mean(), scale=stats.sem(errors[:3]))
    assert (means[0] - half_widths[0], means[0] + half_widths[0]) == pytest.approx(expected)
    assert means[1] == 9 and np.isnan(half_widths[1])


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_files_are_written(models, tmp_path, suffix):
    written = draw_all(models, {}, tmp_path, suffix)
    assert [path.name for path in written] == [
        f"{name}.{suffix}" for name in ("parity_1", "parity_2", "errors_by_group", "ewt")
    ]
    for path in written:
        if suffix == "svg":
            assert "meV" in path.read_text()
        else:
            image = imread(path)
            assert image.shape[1] > 800 and 0.01 < (image[..., :3].min(-1) < 0.9).mean() < 0.6


def test_learning_curves_are_read_from_event_files(models, tmp_path):
    run = tmp_path / "logs/tensorboard/a-run"
    for first, last, shift in ((0, 60, 0.0), (50, 100, 1.0)):  # the second part resumed from step 50
        with SummaryWriter(str(run)) as writer:
            for step in range(first, last):
                writer.add_scalar("train/energy_mae", 1 + shift + step, step)
                writer.add_scalar("train/lr", 1e-3, step)
            writer.add_scalar("val/energy_mae", 0.5, last)
    checkpoint = tmp_path / "checkpoints/a-run/checkpoint.pt"
    curves = read_curves({"one": checkpoint})["one"]
    assert curves["train/energy_mae"].steps.tolist() == list(range(100))
    assert curves["train/energy_mae"].values[[49, 50, 99]].tolist() == [50, 52, 101]
    assert curves["val/energy_mae"].steps.tolist() == [60, 100]
    assert read_events(run).keys() == curves.keys()
    names = [path.name for path in draw_all(models, {"one": checkpoint}, tmp_path / "plots")]
    assert "learning_curve.png" in names


def test_folder_without_event_files_is_named(tmp_path):
    assert read_curves({"one": tmp_path / "checkpoints/a/checkpoint.pt"}) == {}
    with pytest.raises(DataError, match="no event files"):
        read_curves({"one": tmp_path / "checkpoints/a/checkpoint.pt"}, tmp_path)


def test_averaging_keeps_the_mean():
    values = np.random.default_rng(0).normal(size=1003)
    curve = Curve(np.arange(1003.0), values).averaged(100)
    assert len(curve.values) == 101
    assert curve.values[0] == pytest.approx(values[:10].mean())
    assert curve.values[-1] == pytest.approx(values[1000:].mean())
