"""The shapes and dtypes in the package's annotations are checked while the tests run."""

from __future__ import annotations

import sys

import annotations as checks
import pytest
import torch
from jaxtyping import TypeCheckError

from fairchem_hdgnn.models.so3.frames import edge_frames

pytestmark = pytest.mark.skipif(sys.version_info < (3, 10), reason="Python 3.9 cannot evaluate X | Y in annotations")


def test_wrong_shape_is_refused() -> None:
    with pytest.raises(TypeCheckError):
        edge_frames(torch.zeros(5, 2), torch.zeros(5))


def test_a_test_has_a_number_of_checks_and_the_next_one_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "CHECKS_OF_A_TEST", 1)
    checks.begin_test()
    edge_frames(torch.ones(5, 3), torch.zeros(5))
    with pytest.raises(ValueError, match="not enough values to unpack"):
        edge_frames(torch.zeros(5, 2), torch.zeros(5))
    checks.begin_test()
    with pytest.raises(TypeCheckError):
        edge_frames(torch.zeros(5, 2), torch.zeros(5))
