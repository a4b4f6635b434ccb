"""The whole card."""

from __future__ import annotations

from fairchem_hdgnn.evaluation.card.front_matter import front_matter
from fairchem_hdgnn.evaluation.card.limits import limits_section
from fairchem_hdgnn.evaluation.card.model import PAPERS, model_section
from fairchem_hdgnn.evaluation.card.results import model_index, results_section
from fairchem_hdgnn.evaluation.card.scores import Scores
from fairchem_hdgnn.evaluation.card.subject import Subject
from fairchem_hdgnn.evaluation.card.training import data_section, recipe_section
from fairchem_hdgnn.evaluation.card.training_data import TrainingData


def model_card(
    subject: Subject,
    data: TrainingData,
    scores: Scores | None = None,
    *,
    title: str | None = None,
    licence: str | None = None,
    dataset: str | None = None,
) -> str:
    """A card as Markdown with YAML front matter; contains no absolute path of this machine or of the training machine.

    Args:
        subject: the checkpoint.
        data: the training data, as far as they could be read.
        scores: with intervals; ``None``: the validation metrics stored in the checkpoint.
        title: default: architecture and sizes.
        licence: SPDX identifier.
        dataset: id of the training data on the Hub.
    """
    title = " ".join((title or "").split()) or subject.default_title
    results = model_index(subject, scores, title, dataset or _folder_of_splits(subject))
    lines = [
        *front_matter(subject.trained.name, licence, dataset, results),
        f"# {title}",
        "",
        f"{PAPERS[subject.trained.name]} for fairchem-core, with the package fairchem-hdgnn: predicts "
        f"{' and '.join(f'{name} in {unit}' for name, unit in subject.units.items())} of atomic structures.",
        "",
        *model_section(subject),
        *data_section(subject, data),
        *recipe_section(subject),
        *results_section(subject, scores, title),
        *limits_section(subject, data),
        *_use(subject),
        "## Licence",
        "",
        "Not stated." if licence is None else licence,
    ]
    return "\n".join(lines) + "\n"


def _folder_of_splits(subject: Subject) -> str:
    """The part of the training set's path before its split."""
    parts = str(subject.record.training_set.get("src") or "").split("/")
    return "/".join(parts[: parts.index("train")] if "train" in parts else parts) or "not stated"


def _use(subject: Subject) -> list[str]:
    name = subject.path.name
    if subject.target != "energy":
        return ["## Use", "", "```", f"fairchem --mode predict --config-yml CONFIG --checkpoint {name}", "```", ""]
    return [
        "## Use",
        "",
        "```python",
        "from fairchem_hdgnn import calculator",
        "",
        f'atoms.calc = calculator("{name}")',
        "energy = atoms.get_potential_energy()  # eV",
        "```",
        "",
    ]
