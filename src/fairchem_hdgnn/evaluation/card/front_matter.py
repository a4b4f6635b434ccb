"""The front matter of a card: YAML that the Hugging Face Hub reads."""

from __future__ import annotations

import re
from typing import Any

from fairchem_hdgnn.errors import ConfigError
from fairchem_hdgnn.evaluation.card.markdown import yaml_text

LICENCES = frozenset({
    "afl-3.0", "agpl-3.0", "apache-2.0", "artistic-2.0", "bsd-2-clause", "bsd-3-clause", "bsd-3-clause-clear",
    "bsl-1.0", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0",
    "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0",
    "cc-by-sa-3.0", "cc-by-sa-4.0", "cc0-1.0", "ecl-2.0", "epl-1.0", "epl-2.0", "eupl-1.1", "eupl-1.2", "gpl-2.0",
    "gpl-3.0", "isc", "lgpl-2.1", "lgpl-3.0", "mit", "mpl-2.0", "ms-pl", "ncsa", "ofl-1.1", "osl-3.0", "postgresql",
    "unlicense", "wtfpl", "zlib",
})  # fmt: skip
"""SPDX identifiers that the Hub has pages for, in its spelling; it takes others as ``license_name``."""

TAGS = ("fairchem-hdgnn", "fairchem", "catalysis", "chemistry", "equivariant", "graph-neural-network")


def front_matter(
    architecture: str, licence: str | None, dataset: str | None, results: list[dict[str, Any]]
) -> list[str]:
    """Lines of the block, with its fences.

    Args:
        architecture: becomes a tag.
        licence: SPDX identifier; ``None``: not stated.
        dataset: id of the training data on the Hub; ``None``: left out.
        results: ``model-index``; left out where empty.
    """
    fields: dict[str, Any] = _licence(licence)
    fields |= {"library_name": "fairchem", "pipeline_tag": "graph-ml", "tags": [architecture.lower(), *TAGS]}
    if dataset is not None:
        fields["datasets"] = [dataset]
    if results:
        fields |= {"metrics": ["mae"], "model-index": results}
    return ["---", yaml_text(fields).rstrip(), "---", ""]


def require_licence(text: str | None) -> None:
    """Reject a text that cannot be an SPDX identifier.

    Raises:
        ConfigError: names the flag and the value.
    """
    if text is not None and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.+-]*", text) is None:
        raise ConfigError(f"--licence {text!r}: give an SPDX identifier, such as MIT, Apache-2.0 or CC-BY-4.0")


def require_dataset(text: str | None) -> None:
    """Reject a text that cannot be the id of a data set.

    Raises:
        ConfigError: names the flag and the value.
    """
    if text is not None and re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", text) is None:
        raise ConfigError(f"--dataset {text!r}: give the id of a data set on the Hub, NAME or OWNER/NAME")


def _licence(spdx: str | None) -> dict[str, str]:
    if spdx is None:
        return {"license": "unknown"}
    name = re.sub(r"-(only|or-later)$", "", spdx.lower())
    return {"license": name} if name in LICENCES else {"license": "other", "license_name": spdx.lower()}
