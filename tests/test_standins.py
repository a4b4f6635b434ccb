"""The stand-ins for torch-scatter and torch-sparse in packaging/, each function against a loop in plain Python."""

from __future__ import annotations

import copy
import importlib.util
import itertools
import math
import pickle
import subprocess
import sys
import zipfile
from email.parser import HeaderParser
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch_scatter as installed
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

PACKAGING = Path(__file__).parents[1] / "packaging"
VERSIONS = {"torch-scatter": "2.1.2+standin", "torch-sparse": "0.6.18+standin"}
REDUCTIONS = ["sum", "add", "mul", "mean", "min", "max"]
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.int32]

quick = settings(max_examples=150, deadline=None, derandomize=True)


def load(distribution: str) -> ModuleType:
    """The package in packaging/ whatever is installed, under a name of its own."""
    package = distribution.replace("-", "_")
    folder = PACKAGING / distribution / package
    name = f"standin_{package}"
    spec = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


scatter_package = load("torch-scatter")
sparse_package = load("torch-sparse")


def places(shape: tuple[int, ...]) -> itertools.product:
    return itertools.product(*map(range, shape))


def numbers(draw: st.DrawFn, shape: tuple[int, ...], dtype: torch.dtype, low: int = -4, high: int = 4) -> Tensor:
    """Small whole numbers: their sums and products are exact in every dtype."""
    values = draw(st.lists(st.integers(low, high), min_size=math.prod(shape), max_size=math.prod(shape)))
    return torch.tensor(values, dtype=dtype).reshape(shape)


def reduced(
    src: Tensor, index: Tensor, dim: int, size: int, reduce: str, out: Tensor | None = None, towards_zero: bool = False
) -> tuple[Tensor, Tensor]:
    """Loop over ``src``; what has an index outside of ``range(size)`` is left out."""
    shape = (*src.shape[:dim], size, *src.shape[dim + 1 :])
    groups: dict[tuple[int, ...], list[tuple[float, int]]] = {place: [] for place in places(shape)}
    for place in places(src.shape):
        target = (*place[:dim], int(index[place]), *place[dim + 1 :])
        if target in groups:
            groups[target].append((src[place].item(), place[dim]))
    values, positions = torch.zeros(shape, dtype=src.dtype), torch.full(shape, src.size(dim))
    for place, group in groups.items():
        entries = [value for value, _ in group]
        start = None if out is None else out[place].item()
        if reduce in {"min", "max"}:
            sign = 1 if reduce == "max" else -1
            best, position = (-math.inf if start is None else sign * start), src.size(dim)
            for value, at in group:
                if sign * value > best:
                    best, position = sign * value, at
            values[place] = 0 if best == -math.inf else sign * best
            positions[place] = position
        elif reduce == "mul":
            neutral = 1 if src.numel() else 0
            values[place] = math.prod(entries, start=neutral if start is None else start)
        else:
            total = sum(entries, 0 if start is None else start)
            if reduce == "mean" and src.is_floating_point():
                total = total / max(len(entries), 1)
            elif reduce == "mean":
                quotient = total / max(len(entries), 1)
                total = math.trunc(quotient) if towards_zero else math.floor(quotient)
            values[place] = total
    return values, positions


def check(actual: Any, expected: tuple[Tensor, Tensor], reduce: str) -> None:
    """Values and, if there are any, positions. Only a mean is rounded."""
    values, positions = actual if isinstance(actual, tuple) else (actual, expected[1])
    rounding = {} if reduce == "mean" else {"rtol": 0, "atol": 0}
    torch.testing.assert_close(values, expected[0], **rounding)
    assert torch.equal(positions, expected[1])


@st.composite
def scatters(draw: st.DrawFn, dtypes: list[torch.dtype] = DTYPES, low: int = -4) -> dict[str, Any]:
    """Arguments of ``scatter``, with the index in full under ``full``."""
    shape = tuple(draw(st.lists(st.integers(0, 4), min_size=1, max_size=3)))
    dim = draw(st.integers(0, len(shape) - 1))
    dtype = draw(st.sampled_from(dtypes))
    size = draw(st.integers(1, 4))
    if draw(st.booleans()):
        index = numbers(draw, shape[dim : dim + 1], torch.long, 0, size - 1)
        full = index.reshape([-1 if axis == dim else 1 for axis in range(len(shape))]).expand(shape)
    else:
        leading = draw(st.integers(dim + 1, len(shape)))
        index = numbers(draw, shape[:leading], torch.long, 0, size - 1)
        assume(index.dim() > 1)
        full = index.reshape(shape[:leading] + (1,) * (len(shape) - leading)).expand(shape)
    dim_size = draw(st.sampled_from([None, size, size + 2]))
    out = numbers(draw, (*shape[:dim], size + 1, *shape[dim + 1 :]), dtype) if draw(st.booleans()) else None
    src = numbers(draw, shape, dtype, low)
    return {"src": src, "index": index, "dim": dim, "dim_size": dim_size, "out": out, "full": full}


EMPTY = {"src": torch.ones(0, 2), "index": torch.tensor([0, 1]), "dim": 1, "full": torch.zeros(0, 2).long()}


@quick
@example({**EMPTY, "dim_size": None, "out": None}, "mean", False)
@given(scatters(), st.sampled_from(REDUCTIONS), st.booleans())
def test_scatter(case, reduce, from_the_end):
    case = dict(case)
    full, out, src, dim = case.pop("full"), case.pop("out"), case["src"], case["dim"]
    smallest = int(full.max()) + 1 if full.numel() else 0
    size = smallest if case["dim_size"] is None else case["dim_size"]
    expected = reduced(src, full, dim, size if out is None else out.size(dim), reduce, out)
    case["dim"] = dim - src.dim() if from_the_end else dim
    actual = getattr(scatter_package, f"scatter_{reduce}")(**case, out=None if out is None else out.clone())
    check(actual, expected, reduce)
    check(scatter_package.scatter(**case, out=None if out is None else out.clone(), reduce=reduce), expected, reduce)
    if out is not None:
        result = scatter_package.scatter(**case, out=out, reduce=reduce)
        assert result is out
        check(out, expected, reduce)


@st.composite
def segments(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor, int, bool]:
    """Values, pointers, the segment of each value in full, number of segments, and whether they hold all values."""
    batch = tuple(draw(st.lists(st.integers(1, 2), max_size=2)))
    rest = tuple(draw(st.lists(st.integers(1, 2), max_size=1)))
    entries, size = draw(st.integers(0, 5)), draw(st.integers(1, 4))
    src = numbers(draw, (*batch, entries, *rest), draw(st.sampled_from(DTYPES)))
    alike = draw(st.booleans())
    pointers = numbers(draw, (*((1,) * len(batch) if alike else batch), size + 1), torch.long, 0, entries)
    pointers = pointers.sort(-1)[0]
    covers = draw(st.booleans())
    if covers:
        pointers[..., 0], pointers[..., -1] = 0, entries
    in_full = pointers.expand(*batch, size + 1)
    index = torch.full(src.shape, -1)
    for place in places(src.shape):
        row = in_full[place[: len(batch)]].tolist()
        for segment in range(size):
            if row[segment] <= place[len(batch)] < row[segment + 1]:
                index[place] = segment
    return src, pointers, index, size, covers


@quick
@given(segments(), st.sampled_from(["sum", "add", "mean", "min", "max"]))
def test_segments(case, reduce):
    src, pointers, index, size, covers = case
    dim = pointers.dim() - 1
    expected = reduced(src, index, dim, size, reduce, towards_zero=True)
    check(getattr(scatter_package, f"segment_{reduce}_csr")(src, pointers), expected, reduce)
    out = torch.full_like(expected[0], 7)
    assert scatter_package.segment_csr(src, pointers, out, reduce) is out
    check(out, expected, reduce)
    if not covers:
        return
    rows = index[(..., *(0,) * (src.dim() - dim - 1))]
    check(getattr(scatter_package, f"segment_{reduce}_coo")(src, rows, dim_size=size), expected, reduce)
    out = torch.full_like(expected[0], 3)
    expected = reduced(src, index, dim, size, reduce, out, towards_zero=True)
    assert scatter_package.segment_coo(src, rows, out, reduce=reduce) is out
    check(out, expected, reduce)


@quick
@given(segments())
def test_gather(case):
    src, pointers, index, size, covers = case
    assume(covers)
    dim = pointers.dim() - 1
    values = torch.randn(*src.shape[:dim], size, *src.shape[dim + 1 :])
    rows = index[(..., *(0,) * (src.dim() - dim - 1))]
    expected = torch.empty(src.shape)
    for place in places(src.shape):
        expected[place] = values[(*place[:dim], int(index[place]), *place[dim + 1 :])]
    for gathered in (scatter_package.gather_csr(values, pointers), scatter_package.gather_coo(values, rows)):
        assert torch.equal(gathered, expected)
    out = torch.empty(src.shape)
    assert scatter_package.gather_csr(values, pointers, out) is out
    assert torch.equal(out, expected)


KINDS = [("scatter", reduce) for reduce in REDUCTIONS]
KINDS += [(kind, reduce) for kind in ("segment_coo", "segment_csr") for reduce in ("sum", "mean", "min", "max")]


@pytest.mark.parametrize(("kind", "reduce"), KINDS)
def test_first_and_second_derivatives(kind, reduce):
    where = torch.tensor([0, 2, 4, 5]) if kind == "segment_csr" else torch.tensor([0, 0, 2, 2, 4])
    dim = {"dim": 0} if kind == "scatter" else {}

    def function(src: Tensor) -> Tensor:
        return getattr(scatter_package, kind)(src.sin(), where, reduce=reduce, **dim)

    src = torch.linspace(0.2, 3.0, 15, dtype=torch.float64).reshape(5, 3).requires_grad_()
    assert gradcheck(function, src)
    assert gradgradcheck(function, src)


@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_derivatives_through_out(reduce):
    src = torch.tensor([0.3, 2.0, -0.7, 0.9], dtype=torch.float64, requires_grad=True)
    start = torch.tensor([0.5, 0.4, 0.6], dtype=torch.float64, requires_grad=True)
    index = torch.tensor([0, 0, 2, 2])
    assert gradcheck(lambda s, o: scatter_package.scatter(s, index, out=o * 1, reduce=reduce), (src, start))


@pytest.mark.parametrize("reduce", ["min", "max"])
def test_of_equal_entries_the_first_has_the_gradient(reduce):
    src = torch.tensor([1.0, 2.0, 2.0, 1.0, 1.0, 2.0], requires_grad=True)
    values, positions = getattr(scatter_package, f"scatter_{reduce}")(src, torch.tensor([0, 0, 0, 0, 2, 2]), dim_size=4)
    first = {"min": [0, 6, 4, 6], "max": [1, 6, 5, 6]}[reduce]
    assert positions.tolist() == first
    (gradient,) = torch.autograd.grad(values.sum(), src)
    assert gradient.tolist() == [float(place in first) for place in range(6)]


@given(scatters([torch.float64, torch.int64], low=1), st.sampled_from(REDUCTIONS))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_the_real_package_agrees(case, reduce):
    """Also where no loop says what is right: gradients at equal entries and of empty input, infinities, NaN."""
    if "standin" in installed.__version__:
        pytest.skip("the real torch-scatter is not installed: nothing to compare with")
    src, out, full = case.pop("src"), case.pop("out"), case.pop("full")
    # There the real package cannot take a mean.
    assume(full.numel() or not case["index"].numel())
    if src.is_floating_point() and reduce in {"min", "max"} and src.numel() > 2:
        src.view(-1)[:3] = torch.tensor([math.nan, math.inf, -math.inf])
    outcomes = []
    for package in (installed, scatter_package):
        leaf = src.clone().requires_grad_(src.is_floating_point())
        target = None if out is None else out.clone()
        value = package.scatter(leaf, **case, out=target, reduce=reduce)
        gradient = torch.autograd.grad(value.square().sum(), leaf)[0] if src.is_floating_point() else None
        outcomes.append((value.detach(), gradient))
    torch.testing.assert_close(outcomes[1], outcomes[0], equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_mean_of_many_in_low_precision(dtype):
    src, index = torch.ones(512, dtype=dtype), torch.zeros(512, dtype=torch.long)
    mean = scatter_package.scatter_mean(src, index)
    # bfloat16 cannot count past 256 by ones; nor, in some versions of torch, add up.
    assert mean.dtype == dtype
    assert mean.item() == scatter_package.scatter_sum(src, index).item() / 512


def test_autocast_keeps_dtypes():
    src, index = torch.randn(5, 3), torch.tensor([0, 1, 1, 0, 2])
    with torch.autocast("cpu", torch.bfloat16):
        for reduce in REDUCTIONS:
            for values in (src, src.bfloat16()):
                assert scatter_package.scatter(values, index, 0, reduce=reduce).dtype == values.dtype


def test_broadcast():
    src = torch.randn(2, 3, 4)
    index = torch.tensor([5, 6, 7])
    for dim in (1, -2):
        expanded = scatter_package.utils.broadcast(index, src, dim)
        assert expanded.shape == src.shape
        assert expanded.data_ptr() == index.data_ptr()
        assert torch.equal(expanded[1, :, 2], index)
    with pytest.raises(RuntimeError):
        scatter_package.utils.broadcast(index, src, 2)


@pytest.mark.parametrize("function", ["scatter", "segment_coo", "segment_csr"])
def test_unknown_reduction(function):
    with pytest.raises(ValueError, match="reduce is 'median'"):
        getattr(scatter_package, function)(torch.ones(2), torch.tensor([0, 1]), reduce="median")


MISSING = [(scatter_package, "scatter_softmax", "torch-scatter"), (sparse_package, "spspmm", "torch-sparse")]


@pytest.mark.parametrize(("package", "name", "distribution"), MISSING)
def test_what_is_left_out_says_where_to_get_it(package, name, distribution):
    line = rf"\.{name} is not in this stand-in; install the real package: pip install .*{distribution} -f https://data"
    function = getattr(package, name)
    with pytest.raises(NotImplementedError, match=line):
        function(torch.ones(2))
    assert not hasattr(package, "no_such_function")
    with pytest.raises(AttributeError, match="install the real package"):
        _ = package.no_such_function


Entry = tuple[int, int, int]


@st.composite
def matrices(draw: st.DrawFn) -> tuple[list[Entry], tuple[int, int]]:
    """Entries of a matrix in any order, several perhaps at the same place; and its sizes."""
    sizes = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    place = st.tuples(st.integers(0, sizes[0] - 1), st.integers(0, sizes[1] - 1))
    found = draw(st.lists(place, max_size=12))
    return [(row, col, number) for number, (row, col) in enumerate(found)], sizes


def sparse(entries: list[Entry], sizes: tuple[int, int] | None) -> Any:
    row, col, value = torch.tensor(entries, dtype=torch.long).reshape(-1, 3).T
    return sparse_package.SparseTensor(row=row, col=col, value=value, sparse_sizes=sizes)


def in_order(entries: list[Entry]) -> list[Entry]:
    """By row and column; entries at the same place stay in the order given."""
    return sorted(entries, key=lambda entry: entry[:2])


def check_matrix(matrix: Any, entries: list[Entry], sizes: tuple[int, int]) -> None:
    """Every way to look at it."""
    assert [tuple(entry) for entry in torch.stack(matrix.coo(), 1).tolist()] == entries
    assert matrix.sparse_sizes() == tuple(matrix.sizes()) == sizes == (matrix.size(0), matrix.size(1))
    assert matrix.nnz() == len(entries)
    for dim, (pointers, count) in enumerate((("rowptr", "rowcount"), ("colptr", "colcount"))):
        counts = [sum(entry[dim] == place for entry in entries) for place in range(sizes[dim])]
        assert getattr(matrix.storage, pointers)().tolist() == [0, *itertools.accumulate(counts)]
        assert getattr(matrix.storage, count)().tolist() == counts
        totals = [sum(entry[2] for entry in entries if entry[dim] == place) for place in range(sizes[dim])]
        assert matrix.sum(dim=1 - dim).tolist() == totals
        without_values = matrix.set_value(None).sum(dim=1 - dim)
        assert without_values.dtype == torch.float32
        assert without_values.tolist() == counts
    assert matrix.sum() == sum(entry[2] for entry in entries)
    by_column = sorted(range(len(entries)), key=lambda i: (entries[i][1], entries[i][0]))
    assert matrix.storage.csr2csc().tolist() == by_column


@quick
@given(matrices(), st.data())
def test_sparse_tensor(matrix, data):
    entries, sizes = matrix
    adjacency, entries = sparse(entries, sizes), in_order(entries)
    check_matrix(adjacency, entries, sizes)
    from_pointers = sparse_package.SparseTensor(
        rowptr=adjacency.storage.rowptr(), col=adjacency.storage.col(), value=adjacency.storage.value(), is_sorted=True
    )
    check_matrix(from_pointers, entries, (sizes[0], 1 + max((entry[1] for entry in entries), default=-1)))

    rows = data.draw(st.lists(st.integers(0, sizes[0] - 1), max_size=6))
    selected = [(new, col, value) for new, old in enumerate(rows) for row, col, value in entries if row == old]
    picked = adjacency[torch.tensor(rows, dtype=torch.long)]
    check_matrix(picked, selected, (len(rows), sizes[1]))
    mask = torch.zeros(sizes[0], dtype=torch.bool)
    mask[rows] = True
    unique = sorted(set(rows))
    selected = [(unique.index(row), col, value) for row, col, value in entries if row in unique]
    check_matrix(adjacency[mask], selected, (len(unique), sizes[1]))

    for dim in (0, 1):
        start = data.draw(st.integers(0, sizes[dim] - 1))
        length = data.draw(st.integers(0, sizes[dim] - start))
        shift = (start, 0) if dim == 0 else (0, start)
        kept = [(e[0] - shift[0], e[1] - shift[1], e[2]) for e in entries if start <= e[dim] < start + length]
        narrowed = (length, sizes[1]) if dim == 0 else (sizes[0], length)
        check_matrix(adjacency.narrow(dim, start, length), kept, narrowed)


@quick
@given(st.lists(matrices(), min_size=1, max_size=3), st.sampled_from([0, 1, (0, 1)]))
def test_cat(blocks, dim):
    dims = (dim,) if isinstance(dim, int) else dim
    entries, ends, largest = [], [0, 0], [0, 0]
    for block, sizes in blocks:
        shift = [ends[d] if d in dims else 0 for d in (0, 1)]
        entries += [(row + shift[0], col + shift[1], value) for row, col, value in in_order(block)]
        ends = [end + size for end, size in zip(ends, sizes)]
        largest = [max(pair) for pair in zip(largest, sizes)]
    stacked = tuple(ends[d] if d in dims else largest[d] for d in (0, 1))
    check_matrix(sparse_package.cat([sparse(*block) for block in blocks], dim), in_order(entries), stacked)


def test_sparse_tensor_values_and_copies():
    row, col, value = torch.tensor([1, 0, 1]), torch.tensor([0, 2, 0]), torch.randn(3, 2, dtype=torch.float64)
    matrix = sparse_package.SparseTensor.from_edge_index(torch.stack([row, col]), value)
    assert (matrix.sizes(), matrix.dim(), matrix.dtype()) == ([2, 3, 2], 3, torch.float64)
    assert repr(matrix) == "SparseTensor(size=(2, 3, 2), nnz=3, dtype=torch.float64)"
    for other in (pickle.loads(pickle.dumps(matrix)), copy.deepcopy(matrix), matrix.clone(), matrix.cpu()):
        assert torch.equal(other.storage.value(), value[[1, 0, 2]])
    single = matrix.to("cpu", torch.float32, non_blocking=True)
    assert (single.dtype(), single.storage.row().dtype) == (torch.float32, torch.int64)
    assert matrix.to(device="cpu").dtype() == torch.float64
    assert not matrix.is_cuda()
    assert matrix.device() == torch.device("cpu")

    matrix.set_value_(torch.arange(3), layout="coo")
    assert matrix.storage.value().tolist() == [0, 1, 2]
    assert matrix.set_value(None).set_value(value).has_value()
    values = torch.randn(3, dtype=torch.float64, requires_grad=True)
    assert matrix.set_value(values).requires_grad()
    assert not matrix.set_value(values).detach().requires_grad()
    assert gradcheck(lambda v: matrix.set_value(v).sum(1), values)
    assert matrix.share_memory_().storage.row().is_shared()


FAULTS = [
    ({"row": torch.tensor([0])}, "needs col"),
    ({"col": torch.tensor([0])}, "row or rowptr"),
    ({"row": torch.tensor([0, 1]), "col": torch.tensor([0])}, "row is torch.int64 of shape"),
    ({"row": torch.tensor([0.0]), "col": torch.tensor([0])}, "row is torch.float32"),
    ({"row": torch.tensor([3]), "col": torch.tensor([0]), "sparse_sizes": (3, 3)}, "index 3 is outside of size 3"),
    ({"row": torch.tensor([0]), "col": torch.tensor([0]), "value": torch.ones(2)}, "2 values"),
]


@pytest.mark.parametrize(("arguments", "message"), FAULTS)
def test_sparse_tensor_faults(arguments, message):
    with pytest.raises(ValueError, match=message):
        sparse_package.SparseTensor(**arguments)


def test_sparse_tensor_limits():
    matrix = sparse([(0, 1, 5)], (2, 2))
    uses = [
        lambda: matrix[0],
        lambda: matrix.index_select(1, torch.tensor([0])),
        lambda: matrix.narrow(2, 0, 1),
        lambda: matrix.sum(dim=2),
        lambda: matrix.set_value(torch.ones(1), layout="csc"),
        lambda: sparse_package.cat([matrix], 2),
    ]
    for use in uses:
        with pytest.raises(NotImplementedError, match="install the real package"):
            use()
    with pytest.raises(AttributeError, match=r"SparseTensor\.matmul is not in this stand-in"):
        matrix.matmul(torch.ones(2))
    with pytest.raises(AttributeError, match=r"SparseStorage\.csc2csr is not in this stand-in"):
        matrix.storage.csc2csr()
    with pytest.raises(ValueError, match="at least one"):
        sparse_package.cat([], 0)


@pytest.mark.parametrize("distribution", VERSIONS)
def test_wheel(distribution, tmp_path):
    folder, package = PACKAGING / distribution, distribution.replace("-", "_")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=folder, check=True, capture_output=True)
    (path,) = tmp_path.iterdir()
    version = VERSIONS[distribution]
    assert path.name == f"{package}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path) as wheel:
        names = set(wheel.namelist())
        metadata = HeaderParser().parsestr(wheel.read(f"{package}-{version}.dist-info/METADATA").decode())
    sources = {file.relative_to(folder).as_posix() for file in (folder / package).glob("*.py")}
    assert {name for name in names if not name.startswith(f"{package}-{version}.dist-info/")} == sources
    assert (metadata["Name"], metadata["Version"]) == (distribution, version)
    assert sys.modules[f"standin_{package}"].__version__ == version
    assert (metadata["Requires-Python"], metadata.get_all("Requires-Dist")) == (">=3.9", ["torch>=2.4"])
    assert "stand-in" in metadata["Summary"]
    assert f"pip install --force-reinstall --no-deps {distribution} -f https://data" in metadata.get_payload()
