"""Published OC20 IS2RE results, for comparison."""

from __future__ import annotations

from collections.abc import Sequence

from fairchem_hdgnn.evaluation.metrics import MEAN, OOD_MEAN, mean_columns
from fairchem_hdgnn.evaluation.splits import SUFFIXES, suffix_of

TABLE_1_CAPTION = (
    "* Table 1 of An et al., ICLR 2024: OC20 IS2RE direct, test sets (not the validation sets), trained on the IS2RE "
    "labels of 460,328 systems. Means are calculated from the columns; the paper prints 548 for HDGNN's four."
)

_TABLE_1: dict[str, dict[str, tuple[float, ...]]] = {
    "mae": {
        "CGCNN": (615, 916, 622, 851),
        "SchNet": (639, 734, 662, 704),
        "PaiNN": (575, 783, 604, 743),
        "TFN": (584, 766, 636, 700),
        "GemNet-dT": (527, 758, 549, 702),
        "DimeNet++": (562, 725, 576, 661),
        "GemNet-OC": (560, 711, 576, 671),
        "SphereNet": (563, 703, 571, 638),
        "SEGNN": (533, 692, 537, 679),
        "Equiformer": (504, 688, 521, 630),
        "SCN": (516, 643, 530, 604),
        "HDGNN": (510, 618, 523, 550),
    },
    "ewt": {"HDGNN": (5.08, 2.79, 4.58, 2.82)},
}


def table_1(metric: str, columns: Sequence[str] = (*SUFFIXES, MEAN, OOD_MEAN)) -> dict[str, dict[str, float]]:
    """Table 1 of the HDGNN paper: model -> column -> number, without columns that the table does not have.

    Args:
        metric: ``mae`` (meV) or ``ewt`` (%; known here for HDGNN only); the table has no others.
        columns: splits, such as ``val_ood_ads``, and ``mean`` and ``ood_mean`` of these.
    """
    splits = [column for column in columns if column not in (MEAN, OOD_MEAN)]
    means = {name: [splits[position] for position in positions] for name, positions in mean_columns(splits).items()}
    table: dict[str, dict[str, float]] = {}
    for model, row in _TABLE_1.get(metric, {}).items():
        known, table[model] = dict(zip(SUFFIXES, row)), {}
        for column in columns:
            parts = [known.get(suffix_of(split)) for split in means.get(column, [column])]
            numbers = [part for part in parts if part is not None]
            if len(numbers) == len(parts):
                table[model][column] = sum(numbers) / len(numbers)
    return table
