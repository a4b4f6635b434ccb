"""Check a sample of each split for records that a trainer cannot use or a model cannot learn from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Batch

from fairchem_hdgnn.checks.findings import Finding, error, one_line, warning
from fairchem_hdgnn.data.coinciding import coinciding_atoms
from fairchem_hdgnn.data.neighbor_lists import Search, find_edges
from fairchem_hdgnn.data.periodicity import completed_cells, flat_cells, make_boxes, periodic_directions
from fairchem_hdgnn.errors import DataError
from fairchem_hdgnn.host.noisy_nodes import TARGET
from fairchem_hdgnn.host.stop_conditions import on_free_atoms

SAMPLE = 16
"""Records checked in each split: the first, the last and random ones."""

LARGE_SYSTEM = 400
"""Atoms; OC20's largest system has 225."""


@runtime_checkable
class Records(Protocol):
    """A data set as the trainer reads it."""

    def __len__(self) -> int:
        """Number of records."""

    def __getitem__(self, index: int) -> Any:
        """One record."""


@dataclass(frozen=True)
class Needs:
    """What a model and a trainer require of a record.

    Attributes:
        cutoff: Å; ``None`` if the model does not declare one.
        max_num_elements: atomic numbers must be below it.
        use_pbc: whether structures are periodic.
        otf_graph: whether the model builds edges itself.
        targets: names of the outputs, under which labelled records store them -> whether it is one number per atom.
        on_free_atoms: names of the outputs that are trained or evaluated on free atoms only.
    """

    cutoff: float | None
    max_num_elements: int | None
    use_pbc: bool
    otf_graph: bool
    targets: dict[str, bool]
    on_free_atoms: tuple[str, ...] = ()

    @classmethod
    def of(cls, model: Any, outputs: dict[str, dict[str, Any]]) -> Needs:
        """Read the attributes that fairchem's models have in common."""
        model = getattr(model, "backbone", model) if not hasattr(model, "cutoff") else model
        return cls(
            cutoff=getattr(model, "cutoff", None),
            max_num_elements=getattr(model, "max_num_elements", None),
            use_pbc=getattr(model, "use_pbc", True),
            otf_graph=getattr(model, "otf_graph", True),
            targets={
                name: output.get("level", "system") == "atom"
                for name, output in outputs.items()
                if "decomposition" not in output
            },
            on_free_atoms=tuple(name for name, output in outputs.items() if on_free_atoms(output)),
        )


def record_findings(split: str, dataset: Records, needs: Needs, *, labelled: bool) -> Iterator[Finding]:
    """Check a sample of ``dataset``: one finding per kind of problem, naming the first record that has it.

    Args:
        split: ``train``, ``val`` or ``test``.
        dataset: records as the trainer reads them.
        needs: what is required of them.
        labelled: whether they must have the targets.
    """
    first: dict[str, Finding] = {}
    count: Counter[str] = Counter()
    attributes: Counter[str] = Counter()
    indices = sample(len(dataset), SAMPLE)
    for index in indices:
        try:
            record = read(dataset, index)
        except DataError as problem:
            yield error(f"dataset.{split}", str(problem))
            return
        try:
            problems = list(_problems(split, record, needs, labelled=labelled))
        except (TypeError, ValueError, AttributeError, RuntimeError) as problem:
            # An unforeseen kind of record: the trainer cannot read it either.
            yield error(f"dataset.{split}, record {index}", one_line(problem), "re-create the LMDB")
            return
        attributes.update(record.keys())
        for kind, finding in problems:
            first.setdefault(kind, finding)
            count[kind] += 1
    for name, present in attributes.items():
        if present < len(indices) and f"no {name}" not in first:
            yield error(
                f"dataset.{split}",
                f"'{name}' is in {present} of {len(indices)} records checked, but the records of a batch need the "
                "same attributes",
                "re-create the LMDB",
            )
    for kind, finding in first.items():
        frequency = f" ({count[kind]} of {len(indices)} records checked)" if len(indices) > 1 else ""
        yield Finding(finding.subject, finding.problem + frequency, finding.remedy, finding.fatal)


def require_structure(subject: str, record: Any, *, use_pbc: bool) -> None:
    """Require what training reads of a structure: attributes, their shapes, elements, positions, a cell with a volume.

    Args:
        subject: name of the record, for the message.
        record: an OC20 record.
        use_pbc: whether structures are periodic.

    Raises:
        DataError: the first problem, and what to do about it.
    """
    needs = Needs(None, None, use_pbc=use_pbc, otf_graph=True, targets={})
    for check in (_missing, _shapes, _values):
        for _, finding in check(subject, record, needs, labelled=False):
            if finding.fatal:
                raise DataError(str(finding))
    if "pos_relaxed" in record and record.pos_relaxed.shape != record.pos.shape:
        found = list(record.pos_relaxed.shape)
        raise DataError(f"{subject}: 'pos_relaxed' is {found}, not {list(record.pos.shape)}; re-create the LMDB")


def read(dataset: Records, index: int) -> Any:
    """Return record ``index``; any failure becomes a ``DataError``."""
    try:
        return dataset[index]
    except DataError:
        raise
    except Exception as problem:
        raise DataError(f"record {index} cannot be read ({problem!r}): re-create or re-copy the file") from problem


def sample(length: int, size: int) -> list[int]:
    """The first and last index and random ones, ascending."""
    if length <= size:
        return list(range(length))
    chosen = np.random.default_rng(0).choice(np.arange(1, length - 1), size - 2, replace=False)
    return [0, *sorted(int(index) for index in chosen), length - 1]


def _problems(split: str, record: Any, needs: Needs, *, labelled: bool) -> Iterator[tuple[str, Finding]]:
    subject = f"dataset.{split}, sid {_plain(record['sid'])}" if "sid" in record else f"dataset.{split}"
    checks: list[Callable[..., Iterator[tuple[str, Finding]]]] = [_missing, _shapes, _values, _geometry]
    for check in checks:
        found = list(check(subject, record, needs, labelled=labelled))
        yield from found
        if any(finding.fatal for _, finding in found):
            return


def _missing(subject: str, record: Any, needs: Needs, *, labelled: bool) -> Iterator[tuple[str, Finding]]:
    names = ["pos", "atomic_numbers", "natoms", "sid", "fixed"]
    names += ["cell"] * needs.use_pbc
    names += [] if needs.otf_graph or not needs.use_pbc else ["edge_index", "cell_offsets"]
    names += needs.targets if labelled else []
    for name in names:
        if name in record:
            continue
        remedy = "map it with dataset.key_mapping" if name in needs.targets else "re-create the LMDB"
        if name == TARGET:
            remedy = "noisy_nodes makes it from pos_relaxed: re-create the LMDB with relaxed positions"
        yield f"no {name}", error(subject, f"records have no '{name}', which the trainer reads", remedy)


def _shapes(subject: str, record: Any, needs: Needs, *, labelled: bool) -> Iterator[tuple[str, Finding]]:
    if not isinstance(record.natoms, (int, Tensor)) or isinstance(record.natoms, bool):
        problem = f"'natoms' is {type(record.natoms).__name__}, which cannot be batched as a tensor"
        yield "type of natoms", error(subject, problem, "store an int")
        return
    for name in needs.targets if labelled else ():
        if not isinstance(record[name], (int, float, Tensor, np.ndarray, np.generic)):
            problem = f"'{name}' is {type(record[name]).__name__}, not a number"
            yield f"type of {name}", error(subject, problem, "store a float, or a tensor of float32")
            return
    natoms = int(record.natoms)
    shapes = {"pos": (natoms, 3), "atomic_numbers": (natoms,), "fixed": (natoms,)}
    shapes |= {"cell": (1, 3, 3)} if needs.use_pbc else {}
    if needs.use_pbc and torch.as_tensor(getattr(record, "pbc", [True] * 3)).numel() != 3:
        yield "shape of pbc", error(subject, "'pbc' does not have three values", "re-create the LMDB")
    for name, expected in shapes.items():
        value = record[name]
        if not isinstance(value, Tensor) or tuple(value.shape) != expected:
            found = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
            yield (
                f"shape of {name}",
                error(subject, f"'{name}' is {found}, not a tensor of shape {list(expected)}", "re-create the LMDB"),
            )
    for name, per_atom in needs.targets.items() if labelled else ():
        numbers = torch.as_tensor(record[name]).numel()
        if (numbers % natoms != 0) if per_atom else (numbers != 1):
            level = "atom" if per_atom else "system"
            yield (
                f"shape of {name}",
                error(
                    subject,
                    f"'{name}' has {numbers} numbers, but its level is {level}",
                    f"correct outputs.{name}.level",
                ),
            )


def _values(subject: str, record: Any, needs: Needs, *, labelled: bool) -> Iterator[tuple[str, Finding]]:
    natoms = int(record.natoms)
    if natoms == 0:
        yield "empty", error(subject, "has no atoms", "remove the record")
        return
    numbers = record.atomic_numbers.long()
    limit = needs.max_num_elements
    outside = (numbers < 1) | (numbers >= (limit or 119))
    if bool(outside.any()):
        atom = int(outside.nonzero()[0])
        remedy = f"raise model.max_num_elements, now {limit}, or remove it" if limit else "remove it"
        yield "element", error(subject, f"atom {atom} has atomic number {int(numbers[atom])}", remedy)
    broken = ~torch.isfinite(record.pos).all(dim=1)
    if bool(broken.any()):
        atom = int(broken.nonzero()[0])
        yield "position", error(subject, f"atom {atom} is at {record.pos[atom].tolist()}", "remove the record")
    if needs.use_pbc and bool(flat_cells(completed_cells(record.cell.double(), periodic_directions(record))).any()):
        yield "volume", error(subject, "its cell has no volume", "correct it, or set model.use_pbc: false")
    if not needs.use_pbc and "cell" in record and bool(record.cell.any() and periodic_directions(record).any()):
        yield (
            "not periodic",
            warning(
                subject,
                "is periodic, but model.use_pbc is false: it gets no edges across the boundaries of its cell",
                "set model.use_pbc: true, unless it is a molecule that the faces of its box do not cut",
            ),
        )
    for name in needs.targets if labelled else ():
        if not bool(torch.isfinite(torch.as_tensor(record[name], dtype=torch.float64)).all()):
            yield f"target {name}", error(subject, f"its '{name}' is not finite", "remove the record")
    if needs.on_free_atoms and not bool((record.fixed == 0).any()):
        name = needs.on_free_atoms[0]
        problem = f"all atoms are fixed: it teaches nothing of '{name}', and a batch of such records stops the training"
        remedy = f"remove the record, or set outputs.{name}.train_on_free_atoms and eval_on_free_atoms to false"
        yield "no free atom", warning(subject, problem, remedy)
    if natoms > LARGE_SYSTEM:
        yield (
            "large",
            warning(
                subject,
                f"has {natoms} atoms; batches with such systems need far more memory than others",
                f"drop them with max_atoms: {LARGE_SYSTEM}, or lower optim.batch_size",
            ),
        )


def _geometry(subject: str, record: Any, needs: Needs, *, labelled: bool) -> Iterator[tuple[str, Finding]]:
    batch = Batch.from_data_list([record])
    boxes = make_boxes(batch, needs.cutoff or 0.0, use_pbc=needs.use_pbc)
    touching = coinciding_atoms(batch.batch, boxes)
    if touching is not None:
        yield "touching", error(subject, f"atoms {touching[0]} and {touching[1]} coincide", "remove one of them")
        return
    if needs.cutoff is not None:
        search = Search(needs.cutoff, max_neighbors=1)
        targets = find_edges(boxes, boxes.sizes.tolist(), batch.batch, search).edge_index[1]
        alone = torch.bincount(targets, minlength=len(record.pos)) == 0
        if bool(alone.any()):
            yield (
                "alone",
                warning(
                    subject,
                    f"atom {int(alone.int().argmax())} has no neighbour within {needs.cutoff:g} Å: it receives no "
                    "messages",
                    "check the structure; if it is correct, raise model.cutoff",
                ),
            )


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
