"""Reading records without running them: the same graphs as pickle gives, and refusals of everything else."""

from __future__ import annotations

import importlib.util
import os
import pickle
import subprocess
import sys
import warnings
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from attacks import Runs, torchscript
from fairchem.core.common.utils import pyg2_data_transform
from torch_geometric.data import Data

from fairchem_hdgnn.data.safe_pickle import RefusedError, load_plain, load_record

FUZZ_SCRIPT = Path(__file__).parents[1] / "benchmarks" / "fuzz_records.py"


def oc20_record(natoms: int = 20, nedges: int = 0) -> Data:
    generator = torch.Generator().manual_seed(natoms)
    record = Data(
        atomic_numbers=torch.randint(1, 80, (natoms,), generator=generator).float(),
        pos=torch.rand(natoms, 3, generator=generator),
        cell=torch.rand(1, 3, 3, generator=generator),
        natoms=natoms,
        tags=torch.randint(0, 3, (natoms,), generator=generator),
        fixed=torch.zeros(natoms),
        sid=2_472_718,
        y_init=6.28,
        y_relaxed=-0.0255,
        pos_relaxed=torch.rand(natoms, 3, generator=generator).double(),
    )
    if nedges:
        record.edge_index = torch.randint(0, natoms, (2, nedges), generator=generator)
        record.cell_offsets = torch.randint(-1, 2, (nedges, 3), generator=generator)
        record.distances = torch.rand(nedges, generator=generator)
    return record


def as_pyg1(record: Data) -> Data:
    """The same graph as PyG 1 pickled it: attributes in ``__dict__``, absent ones as None."""
    old = Data.__new__(Data)
    absent = dict.fromkeys(("x", "edge_index", "edge_attr", "y", "normal", "face"))
    old.__dict__.update({**absent, **record.to_dict()})
    return old


def assert_same(one: Data, other: Data) -> None:
    assert set(one.keys()) == set(other.keys())
    for key, expected in one.to_dict().items():
        found = other[key]
        assert type(expected) is type(found), key
        if torch.is_tensor(expected):
            assert expected.dtype == found.dtype and expected.stride() == found.stride(), key
            assert torch.equal(expected, found), key
        else:
            np.testing.assert_array_equal(expected, found, err_msg=key)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("layout", [lambda record: record, as_pyg1], ids=["pyg2", "pyg1"])
def test_gives_the_graph_that_pickle_gives(protocol, layout):
    content = pickle.dumps(layout(oc20_record(nedges=300)), protocol=protocol)
    assert_same(pyg2_data_transform(pickle.loads(content)), load_record(content))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_admits_every_plain_value(protocol):
    record = Data(
        transposed=torch.arange(12).reshape(3, 4).T,
        sliced=torch.arange(12.0)[3:9:2],
        empty=torch.empty(0, 3),
        one=torch.tensor(1.5, dtype=torch.float16),
        truth=torch.tensor([True, False]),
        waves=torch.tensor([1 + 2j]),
        expanded=torch.zeros(1).expand(5),
        array=np.arange(6.0).reshape(2, 3).T,
        big_endian=np.arange(3, dtype=">i4"),
        words=np.array(["Cu", "Pt3"]),
        scalar=np.float32(2.5),
        name="CO on Cu(111)",
        nested={"a": [1, (2.5, None)], "b": OrderedDict(c=b"d")},
        large=10**40,
    )
    content = pickle.dumps(record, protocol=protocol)
    assert_same(pickle.loads(content), load_record(content))


def test_shared_tensors_stay_equal():
    record = oc20_record()
    record.again = record.pos
    loaded = load_record(pickle.dumps(record))
    assert torch.equal(loaded.again, loaded.pos)


def in_storage(payload: object) -> bytes:
    """A payload inside a tensor's storage, which stock unpickling hands to ``torch.load``."""
    path = Path(payload.call[1][0].split()[1]).with_suffix(".pt")
    torch.save(payload, path)
    loader = b"ctorch.storage\n_load_from_bytes\n"
    content = path.read_bytes()
    return b"\x80\x03" + loader + b"B" + len(content).to_bytes(4, "little") + content + b"\x85R."


def torchscript_in_storage(payload: object) -> bytes:
    marker = Path(payload.call[1][0].split()[1])
    content = torchscript(marker)
    return b"\x80\x03ctorch.storage\n_load_from_bytes\nB" + len(content).to_bytes(4, "little") + content + b"\x85R."


ATTACKS = {
    "bare": pickle.dumps,
    "protocol 0": lambda payload: pickle.dumps(payload, protocol=0),
    "attribute": lambda payload: pickle.dumps(Data(pos=torch.zeros(1, 3), name=payload)),
    "nested": lambda payload: pickle.dumps(Data(pos=torch.zeros(1, 3), name={"a": [payload]})),
    "key": lambda payload: pickle.dumps(Data(name={payload: 1})),
    "storage": in_storage,
    "TorchScript in storage": torchscript_in_storage,
}


@pytest.mark.fault("reading data", "a record that runs code when unpickled")
@pytest.mark.parametrize("attack", ATTACKS)
def test_nothing_runs(attack, tmp_path, outcome):
    marker = tmp_path / "ran"
    content = ATTACKS[attack](Runs(marker))
    with pytest.raises(RefusedError):
        load_record(content)
    assert not marker.exists()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pickle.loads(content)
    assert marker.exists(), "the attack itself does not work: the test shows nothing"
    outcome("refused, with the class named; nothing runs")


def deep_list(depth: int) -> list:
    return [deep_list(depth - 1)] if depth else []


@pytest.mark.parametrize(
    ("content", "culprit"),
    [
        (pickle.dumps(Data(path=Path("x"))), "pathlib"),
        (pickle.dumps(Data(function=os.getcwd)), "posix.getcwd"),
        (pickle.dumps(Data(objects=np.array([None, {}]))), "numpy array of type O"),
        (pickle.dumps(Data(layer=torch.nn.Linear(1, 1))), "torch.nn.modules.linear.Linear"),
        (pickle.dumps(Data(dtype=np.dtype("f8"))), "bare numpy.dtype"),
        (pickle.dumps({"pos": torch.zeros(3)}), "a dict instead of a graph"),
        (b"\x80\x02cbuiltins\neval\nX\x01\x00\x00\x001\x85R.", "builtins.eval"),
        (b"\x80\x02c__builtin__\neval\nX\x01\x00\x00\x001\x85R.", "__builtin__.eval"),
        (pickle.dumps(Data(elements={"Cu"})), "bare set"),
        (b"\x80\x02(X\x01\x00\x00\x001ios\nsystem\n.", "INST"),
        (b"\x80\x02X\x01\x00\x00\x001Q.", "BINPERSID"),
        (b"\x80\x02\x82\x01.", "EXT1"),
        (b"\x80\x02K\x01r\xff\xff\xff\xff.", "LONG_BINPUT"),
        (b"\x80\x02" + b")" + b"\x85" * 200_000 + b".", "tuples"),
        (pickle.dumps(Data(lists=deep_list(50))), "nested"),
        (b"", "truncated"),
        (b"not a pickle", "instruction 0x6e"),
        (pickle.dumps(oc20_record())[:-200], "truncated"),
    ],
)
def test_refuses_naming_the_culprit(content, culprit):
    with pytest.raises(RefusedError, match=culprit):
        load_record(content)


def test_an_array_is_not_filled_from_a_number():
    """``bytearray(2**31)`` would take up the memory."""
    array = b"cnumpy.core.multiarray\n_reconstruct\n)R"
    dtype = b"cnumpy\ndtype\nX\x02\0\0\0f8\x85R"
    content = b"\x80\x02" + array + b"(K\x01K\x01\x85" + dtype + b"\x89J\xff\xff\xff\x7ftb."
    with pytest.raises(RefusedError, match="int in place of bytes"):
        load_plain(content)


@pytest.mark.parametrize(
    "name", ["torch_geometric.data.data\nData", "torch._utils\n_rebuild_tensor_v2", "numpy\ndtype"]
)
def test_a_pickle_cannot_change_what_it_may_name(name):
    """BUILD with a state on a class would set attributes of that class for the whole process."""
    content = b"\x80\x02c" + name.encode() + b"\n}X\x05\x00\x00\x00buildNs\x86b."
    with pytest.raises(RefusedError):
        load_plain(content)
    assert load_record(pickle.dumps(oc20_record())).natoms == 20


@pytest.mark.parametrize(
    "arguments",
    [
        ("storage", 0, (10**12,), (0,), False, OrderedDict()),
        ("storage", 0, (100,), (1,), False, OrderedDict()),
        ("storage", -1, (2,), (1,), False, OrderedDict()),
        ("storage", 0, (2,), (-1,), False, OrderedDict()),
        ("storage", 10**9, (1,), (1,), False, OrderedDict()),
        ("storage", 0, ("2",), (1,), False, OrderedDict()),
    ],
)
def test_a_tensor_stays_within_its_storage(arguments):
    storage = torch.arange(4.0).untyped_storage()

    class Rebuilt:
        def __reduce__(self) -> tuple:
            typed = torch.storage.TypedStorage(wrap_storage=storage, dtype=torch.float32, _internal=True)
            return torch._utils._rebuild_tensor_v2, (typed, *arguments[1:])

    with pytest.raises(RefusedError):
        load_plain(pickle.dumps(Rebuilt()))


@pytest.mark.fault("fuzz", "mutated records")
def test_mutated_records_are_read_or_refused(outcome):
    spec = importlib.util.spec_from_file_location("fuzz_records", FUZZ_SCRIPT)
    fuzz = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fuzz)
    outcomes = fuzz.fuzz(count=3000, seed=1)
    assert sum(outcomes.values()) == 3000
    assert outcomes["refused"] > 1000, "the mutations do no damage"
    outcome("read or refused, nothing else")


def test_reads_in_a_process_without_fairchem():
    code = (
        "import sys, pickle; sys.modules['fairchem'] = None\n"
        "import importlib.util\n"
        "spec = importlib.util.find_spec('fairchem_hdgnn'); root = spec.submodule_search_locations[0]\n"
        "spec = importlib.util.spec_from_file_location('safe_pickle', root + '/data/safe_pickle.py')\n"
        "module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module)\n"
        "print(module.load_record(sys.stdin.buffer.read()).natoms)"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], input=pickle.dumps(oc20_record()), capture_output=True, check=True
    )
    assert process.stdout.split() == [b"20"]
