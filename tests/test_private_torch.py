"""Where a torch lacks a private operation that the code uses, the plain one gives the same."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch_geometric.data import Data

from fairchem_hdgnn.data import encoding
from fairchem_hdgnn.models.ops import silu

PRIVATE = ("_BACKWARD",)


@pytest.fixture(params=["this torch", "a torch without them"])
def _torch(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param != "this torch":
        for name in PRIVATE:
            monkeypatch.setattr(silu, name, None)
        monkeypatch.setattr(encoding, "rebuild_from_numpy", None)


def test_this_torch_has_them() -> None:
    """Otherwise one of the two cases below is not tried."""
    assert all(getattr(silu, name) is not None for name in PRIVATE)
    assert encoding.rebuild_from_numpy is not None


@pytest.mark.usefixtures("_torch")
def test_gradient_of_silu() -> None:
    x = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(7, 3, dtype=torch.float64)
    (x / (1 + torch.exp(-x))).backward(upstream)
    torch.testing.assert_close(silu.silu_backward(upstream, x.detach()), x.grad)
    assert silu.silu_backward(upstream, x.detach(), out=upstream) is upstream
    torch.testing.assert_close(upstream, x.grad)


@pytest.mark.usefixtures("_torch")
@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.bfloat16], ids=str)
def test_records_come_back(dtype: torch.dtype) -> None:
    record = Data(pos=torch.tensor([[1, 2, 3]]).to(dtype), sid="a", natoms=1)
    read = pickle.loads(encoding.encode(record))
    assert torch.equal(read.pos, record.pos)
    assert read.pos.dtype is dtype
    assert (read.sid, read.natoms) == ("a", 1)
