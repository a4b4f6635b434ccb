"""Which model made a file of predictions: the comment of its zip archive, which readers of arrays ignore."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fairchem_hdgnn.files import sha256


@dataclass(frozen=True)
class Origin:
    """A model, or an ensemble, and the settings that change its predictions.

    Attributes:
        name: the checkpoints' paths, as given.
        digest: of their contents and the settings.
    """

    name: str
    digest: str

    @classmethod
    def of(cls, checkpoints: Sequence[Path], settings: Mapping[str, Any]) -> Origin:
        """Read from the checkpoints."""
        others = "" if len(checkpoints) == 1 else f" and {len(checkpoints) - 1} more"
        contents = [*sorted(sha256(path) for path in checkpoints), json.dumps(settings, sort_keys=True, default=str)]
        return cls(f"{checkpoints[0]}{others}", hashlib.sha256("\n".join(contents).encode()).hexdigest()[:12])

    @property
    def comment(self) -> str:
        """As :func:`origin_of` reads it."""
        return json.dumps(asdict(self))


def origin_of(path: Path) -> Origin | None:
    """The model that made a file; ``None`` if the file does not say so, as those of other programs."""
    try:
        with zipfile.ZipFile(path) as archive:
            return Origin(**json.loads(archive.comment))
    except (ValueError, TypeError, OSError, zipfile.BadZipFile):
        return None


def different_origins(files: Mapping[str, Path]) -> list[str]:
    """A sentence if some files were made by different models, as after an interrupted second prediction.

    Args:
        files: a split's name -> its file.
    """
    made: dict[Origin, list[str]] = {}
    for split, path in files.items():
        origin = origin_of(path)
        if origin is not None:
            made.setdefault(origin, []).append(split)
    if len({origin.digest for origin in made}) < 2:
        return []
    parts = [f"{', '.join(splits)} by {origin.name} ({origin.digest})" for origin, splits in made.items()]
    return [f"predictions of different models: {'; '.join(parts)}; predict all splits with one"]
