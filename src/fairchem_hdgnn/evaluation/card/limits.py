"""The card's section on limitations."""

from __future__ import annotations

from ase.data import atomic_numbers, chemical_symbols

from fairchem_hdgnn.data.qm9_targets import TARGETS
from fairchem_hdgnn.data.statistics import Spread
from fairchem_hdgnn.evaluation.card.markdown import code
from fairchem_hdgnn.evaluation.card.subject import Subject
from fairchem_hdgnn.evaluation.card.training_data import TrainingData

MEANINGS = {
    "y_relaxed": "Predicts the energy of the relaxed structure from the unrelaxed one (IS2RE).",
    "y": "Predicts the energy of the given structure.",
    "energy": "Predicts the energy of the given structure.",
}
"""Label in the records -> what is predicted."""

REFERENCES = (
    "It has the same reference as the labels of the training set: OC20's are adsorption energies (relative "
    "to the clean surface and to gas molecules), others may be total energies. Do not mix the two."
)


def limits_section(subject: Subject, data: TrainingData) -> list[str]:
    """Lines of the section."""
    points = [_meaning(subject), *_range(data), *_forces(subject)]
    highest = chemical_symbols[min(subject.config.max_num_elements, len(chemical_symbols)) - 1]
    points += [
        f"Atomic numbers above {subject.config.max_num_elements - 1} ({highest}) are refused.",
        "It gives no uncertainty. For elements, adsorbates or kinds of structure that are not in the training set, "
        "errors may be many times those given above.",
        "The energy is not exactly the same in every orientation of the structure; `fairchem-hdgnn equivariance` "
        "measures the difference in meV.",
    ]
    return ["## Limits", "", *(f"- {point}" for point in points), ""]


def _meaning(subject: Subject) -> str:
    if subject.target in TARGETS:
        return f"Predicts {TARGETS[subject.target].description}, {TARGETS[subject.target].unit}, and no other property."
    label = subject.label
    if label is None:
        return f"The file does not state the label. {REFERENCES}"
    meaning = MEANINGS.get(label)
    return " ".join([f"Label {code(label)}.", *([meaning] if meaning else []), REFERENCES])


def _range(data: TrainingData) -> list[str]:
    if data.statistics is None:
        return ["Elements and sizes of the training set are unknown: its LMDB was missing when this card was written."]
    sizes = Spread.of([float(number) for number in data.statistics.natoms])
    symbols = sorted(data.statistics.elements, key=atomic_numbers.__getitem__)
    return [
        f"The training set has {data.num_training:,} systems of {sizes.low:.0f} to {sizes.high:.0f} atoms each (median "
        f"{sizes.median:.0f}){data.sampled}.",
        f"Its elements{data.sampled}: {', '.join(symbols)}.",
    ]


def _forces(subject: Subject) -> list[str]:
    if "forces" in subject.trained.outputs:
        return [
            "Forces come from a separate head, not from the gradient of the energy: they do not conserve energy. Do "
            "not use them for molecular dynamics."
        ]
    return ["It predicts no forces: not suitable for relaxations, molecular dynamics or vibrations."]
