"""OC20 leaderboard files: assembled from predictions, checked, then written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from fairchem_hdgnn.data.npz import read_npz, write_npz
from fairchem_hdgnn.errors import DataError
from fairchem_hdgnn.evaluation.expected import ExpectedSystems
from fairchem_hdgnn.evaluation.origin import different_origins
from fairchem_hdgnn.evaluation.predictions import STANDARD_DEVIATIONS
from fairchem_hdgnn.evaluation.splits import SUFFIXES
from fairchem_hdgnn.evaluation.submission_checks import KEYS, Arrays, find_problems

UPLOAD_TEXT = """\
To submit it: open https://huggingface.co/spaces/facebook/fairchem_leaderboard, sign in with a Hugging Face account,
fill in the form, choose "{evaluation}", upload the file, press Submit and wait for confirmation.
Each user has 5 successful submissions a month for each kind of evaluation; there is no command-line upload."""

S2EF_TEXT = """\
S2EF: this file follows fairchem 1.10 (ids are sid_fid, forces of free atoms only). The leaderboard's newer example
uses sid and all atoms: ask on the Space's discussion tab which one it accepts before you use up a submission."""


class SubmissionError(DataError):
    """A submission with faults.

    Attributes:
        problems: one sentence for each fault.
    """

    def __init__(self, verdict: str, problems: list[str]) -> None:
        """Join ``verdict`` and ``problems`` into one message."""
        self.problems = problems
        count = "one problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__("\n  - ".join([f"{verdict}: {count}", *problems]))


def make_submission(
    files: Mapping[str, Path],
    out: Path,
    expected: Mapping[str, ExpectedSystems],
    *,
    task: str = "is2re",
    official_counts: bool = True,
) -> Arrays:
    """Join the predictions of the four splits into one leaderboard file.

    Args:
        files: ``id``, ``ood_ads``, ``ood_cat``, ``ood_both`` -> ``.npz`` of fairchem's or this package's
            ``predict``; an ensemble's standard deviations are dropped, as the leaderboard does not accept them.
        out: the ``.npz`` to write.
        expected: the systems of the LMDBs that were predicted.
        task: ``is2re`` (energies) or ``s2ef`` (energies and forces).
        official_counts: also require OC20's number of test systems.

    Raises:
        SubmissionError: something is wrong; nothing is written.
        DataError: a file is missing or unreadable.
    """
    arrays: dict[str, np.ndarray] = {}
    for suffix in SUFFIXES:
        if suffix not in files:
            continue
        for key, values in read_npz(files[suffix]).items():
            if key not in STANDARD_DEVIATIONS:
                arrays[f"{suffix}_{key}"] = _leaderboard_form(key, values)
    problems = find_problems(arrays, task, expected=expected, official_counts=official_counts)
    problems += different_origins({suffix: files[suffix] for suffix in SUFFIXES if suffix in files})
    if problems:
        raise SubmissionError(f"{out} not written", problems)
    ordered = {f"{suffix}_{key}": arrays[f"{suffix}_{key}"] for suffix in SUFFIXES for key in KEYS[task]}
    write_npz(out, ordered)
    return ordered


def check_submission(
    file: Path,
    *,
    task: str = "is2re",
    expected: Mapping[str, ExpectedSystems] | None = None,
    official_counts: bool = True,
) -> Arrays:
    """The arrays of a leaderboard file that has no faults; arguments as for ``make_submission``.

    Raises:
        SubmissionError: the file has faults.
    """
    arrays = read_npz(file)
    problems = find_problems(arrays, task, expected=expected, official_counts=official_counts)
    if problems:
        raise SubmissionError(str(file), problems)
    return arrays


def upload_text(task: str) -> str:
    """Instructions for the upload."""
    text = UPLOAD_TEXT.format(evaluation={"is2re": "OC20 IS2RE Test", "s2ef": "OC20 S2EF Test"}[task])
    return f"{text}\n{S2EF_TEXT}" if task == "s2ef" else text


def _leaderboard_form(key: str, values: Shaped[np.ndarray, "systems ..."]) -> Shaped[np.ndarray, "systems ..."]:
    """Text ids and one number for each energy; fairchem's ``predict`` writes energies as ``[systems, 1]``."""
    if key == "ids" and values.dtype.kind in "iu":
        return values.astype(str)
    if key == "energy" and values.ndim == 2 and values.shape[1] == 1:
        return values[:, 0]
    return values
