"""The shapes and dtypes in the package's annotations are checked while the tests run."""

from __future__ import annotations

import sys

import pytest
import torch
from jaxtyping import TypeCheckError

from fairchem_hdgnn.models.so3.frames import edge_frames


@pytest.mark.skipif(sys.version_info < (3, 10), reason="Python 3.9 cannot evaluate X | Y in annotations")
def test_wrong_shape_is_refused() -> None:
    with pytest.raises(TypeCheckError):
        edge_frames(torch.zeros(5, 2), torch.zeros(5))
