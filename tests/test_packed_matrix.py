"""Products with a prepared matrix are ordinary products, in every dtype, for any number of rows, on any processor."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn.functional import linear, silu

from fairchem_hdgnn.models.ops import packed_matrix
from fairchem_hdgnn.models.ops.packed_matrix import PackedMatrix, can_pack

ROOT = Path(__file__).parents[1]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-4, torch.bfloat16: 0.2, torch.float16: 0.02}

AVX2_ONLY = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
"""Environment in which torch takes any x86 processor for one without AVX-512."""


@pytest.fixture(params=["this torch", "a torch without oneDNN's private operations"])
def torch_kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param != "this torch":
        monkeypatch.setattr(packed_matrix, "can_pack", lambda dtype: False)


@pytest.mark.usefixtures("torch_kind")
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("rows", [0, 1, 37, 300])
def test_products(dtype: torch.dtype, rows: int) -> None:
    weight, bias = torch.randn(48, 80).to(dtype), torch.randn(48).to(dtype)
    x, other = torch.randn(rows, 80).to(dtype), torch.randn(rows, 48)
    matrix = PackedMatrix(weight)
    exact = linear(x.double(), weight.double())
    for got, expected in {
        matrix.product(x): exact,
        matrix.product(x, bias): exact + bias,
        matrix.product(x, bias, activated=True): silu(exact + bias),
        matrix.added_product(x, other.to(dtype)): exact + other,
        matrix.added_product(x, other): exact + other,
    }.items():
        torch.testing.assert_close(got.double(), expected, atol=TOLERANCE[dtype], rtol=2 * TOLERANCE[dtype] / 10)
    assert matrix.added_product(x, other).dtype == torch.promote_types(dtype, torch.float32)


def test_transposed_weights() -> None:
    weight = torch.randn(30, 20)
    x = torch.randn(5, 30)
    torch.testing.assert_close(PackedMatrix(weight.T).product(x), x @ weight)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch was built without oneDNN")
def test_float32_is_packed_also_when_first_asked_under_autocast() -> None:
    can_pack.cache_clear()
    with torch.autocast("cpu", torch.bfloat16):
        assert can_pack(torch.float32)
    assert not can_pack(torch.float64)


@pytest.mark.parametrize("broken", ["_pack", "_packed_product", "_packed_sum"])
@pytest.mark.parametrize("failure", ["is missing", "takes other arguments", "gives another value"])
def test_changed_private_operations_are_not_used(broken: str, failure: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """``can_pack`` says no where a later torch has lost or changed one of them."""
    real = getattr(packed_matrix, broken)

    def changed(*arguments: object, **keywords: object) -> torch.Tensor:
        if failure == "is missing":
            raise AttributeError(broken)
        if failure == "takes other arguments":
            raise TypeError(broken)
        return 2 * real(*arguments, **keywords) if broken != "_pack" else real(2 * arguments[0])

    monkeypatch.setattr(packed_matrix, broken, changed)
    assert not can_pack.__wrapped__(torch.float32)


def test_bfloat16_on_a_processor_without_avx512() -> None:
    """There oneDNN refuses bfloat16; networks and these products run all the same."""
    environment = {**os.environ, **AVX2_ONLY, "OMP_NUM_THREADS": "1", "PYTEST_ADDOPTS": ""}
    query = f"import torch; from {can_pack.__module__} import can_pack; print(can_pack(torch.bfloat16))"
    done = subprocess.run([sys.executable, "-c", query], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    networks = str(Path(__file__).with_name("test_escn_network.py"))
    selection = ["-k", "(fast_path_is_the_reference and cpu and store) or products", "-n0"]
    command = [sys.executable, "-m", "pytest", "-q", *selection, networks, f"{__file__}::test_products"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout[-3000:]
    passed = re.search(r"^(\d+) passed", done.stdout.splitlines()[-1])
    assert passed and int(passed[1]) >= 15 + 32, done.stdout[-3000:]
