"""Shared by all stages: the device, the clock, precisions, random graphs and the measured networks."""

from __future__ import annotations

import contextlib
import gc
import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fairchem_hdgnn.host.precision import Precision
from fairchem_hdgnn.models.escn.network import ESCNNetwork
from fairchem_hdgnn.models.hdgnn.network import HDGNNNetwork
from fairchem_hdgnn.models.so3.frames import edge_frames

PRECISIONS = tuple(precision.value for precision in Precision)
SYSTEMS, ATOMS, NEIGHBORS = 8, 70, 40
"""22,400 edges: a batch of OC20's average size."""

LONG_MS = 300.0
"""What takes longer is measured once."""

Arguments = tuple[Tensor, Tensor, Tensor, Tensor, int]
"""What a network takes: atomic numbers, edges, edge vectors, system of each atom, number of systems."""


@dataclass
class Bench:
    """One call of the command.

    Attributes:
        device: where to measure.
        tiny: sizes for a rehearsal.
        carry: folder of data that ``make gpu-bundle`` filled.
        out: folder for results.
        end: when the whole call must be over, by ``time.monotonic()``.
        stage_end: the same for the running stage.
        train: what to train on, ``qm9`` or ``hea``.
        ceilings: rates that the first stage measured: bytes/ms for ``copy``, operations/ms for each precision.
        save: writes what the running stage has so far.
    """

    device: torch.device
    tiny: bool
    carry: Path
    out: Path
    end: float
    stage_end: float
    train: str
    ceilings: dict[str, float] = field(default_factory=dict)
    save: Callable[[Any], None] = lambda part: None

    @property
    def on_gpu(self) -> bool:
        """Whether there is a GPU to measure."""
        return self.device.type == "cuda"

    def seconds_left(self) -> float:
        """Of the running stage."""
        return self.stage_end - time.monotonic()

    def synchronise(self) -> None:
        """Wait for the device."""
        if self.on_gpu:
            torch.cuda.synchronize()

    def free(self) -> None:
        """Give cached memory back, so that one measurement does not see the last one's."""
        gc.collect()
        if self.on_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peak_gb(self) -> float | None:
        """Largest memory that tensors took since :meth:`free`, GB; ``None`` on a CPU."""
        return torch.cuda.max_memory_allocated() / 1e9 if self.on_gpu else None

    def milliseconds(
        self, work: Callable[[], object], seconds: float = 1.0, repeats: int = 20, together: int = 1
    ) -> float:
        """Median time of ``work`` on the device's own clock, after two calls to warm up.

        Args:
            work: what to time.
            seconds: spend about this long, whatever ``repeats`` says.
            repeats: measurements, at most; at least three, or one if ``work`` takes long.
            together: calls in one measurement, so that gaps between launches do not count.
        """
        if self.tiny:
            repeats, seconds, together = 3, 0.1, 1
        once = self._time(work, 1)
        once = min(once, self._time(work, 1))
        least = 3 if once < LONG_MS else 1
        count = max(least, min(repeats, int(seconds * 1000 / max(once * together, 1e-3))))
        return statistics.median(self._time(work, together) for _ in range(count))

    def _time(self, work: Callable[[], object], together: int) -> float:
        if not self.on_gpu:
            began = time.perf_counter()
            work()
            return 1000 * (time.perf_counter() - began)
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        for _ in range(together):
            work()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / together


def attempt(work: Callable[[], Any]) -> Any:
    """What ``work`` returns, or what stopped it, so that one failure does not cost a stage its other results."""
    try:
        return work()
    except Exception as error:
        return {"error_message": f"{type(error).__name__}: {error}".splitlines()[0], "ok": False}


def rows_of(
    bench: Bench,
    cases: Iterable[tuple[str, str]],
    num_layers: int,
    measure: Callable[[Bench, str, str], dict[str, Any]],
    least_seconds: float,
) -> list[dict[str, Any]]:
    """What ``measure(bench, network, precision)`` finds for each case that has ``least_seconds`` left to begin with."""
    rows: list[dict[str, Any]] = []
    for name, mode in cases:
        left = bench.seconds_left() > least_seconds or bench.tiny
        found = attempt(partial(measure, bench, name, mode)) if left else {"skipped": "no time was left"}
        rows.append({"network": name, "num_layers": num_layers, "precision": mode, **found})
        bench.free()
        bench.save(rows)
    return rows


def relative(got: Tensor, expected: Tensor) -> float:
    """``|got - expected| / |expected|``, in float64."""
    exact = expected.double()
    return float((got.to(exact) - exact).norm() / exact.norm())


def within(tolerance: float, *errors: float) -> bool:
    """Whether all errors are numbers below a tolerance."""
    return all(math.isfinite(error) and error < tolerance for error in errors)


def largest(errors: Iterable[float]) -> float:
    """The largest error; not a number if one of them is none. 0 if there are none."""
    found = list(errors)
    return math.nan if any(math.isnan(error) for error in found) else max(found, default=0.0)


def precision(name: str, device: torch.device) -> contextlib.AbstractContextManager[object]:
    """``optim.precision`` as the trainer applies it to a forward pass."""
    return Precision(name).autocast(device)


@contextlib.contextmanager
def tf32_everywhere(allowed: bool = True) -> Iterator[None]:
    """Torch's global setting, which geometry must not follow; other people's code does."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def random_graph(systems: int, atoms: int, seed: int = 0, neighbors: int = NEIGHBORS) -> Arguments:
    """``systems`` boxes of ``atoms`` atoms, 15 Å³ each, every atom with its nearest neighbours; float64, on the CPU."""
    generator = torch.Generator().manual_seed(seed)
    positions = torch.rand(systems, atoms, 3, generator=generator, dtype=torch.float64) * (15.0 * atoms) ** (1 / 3)
    distances = torch.cdist(positions, positions) + torch.diag(torch.full((atoms,), torch.inf))
    count = min(neighbors, atoms - 1)
    first = atoms * torch.arange(systems).view(-1, 1, 1)
    source = (distances.topk(count, largest=False).indices + first).flatten()
    target = torch.arange(systems * atoms).repeat_interleave(count)
    numbers = torch.randint(1, 80, (systems * atoms,), generator=generator)
    flat = positions.flatten(0, 1)
    batch = torch.arange(systems).repeat_interleave(atoms)
    return numbers, torch.stack([source, target]), flat[source] - flat[target], batch, systems


def usual_graph(bench: Bench) -> Arguments:
    """The graph on which networks are timed."""
    return random_graph(2, 10) if bench.tiny else random_graph(SYSTEMS, ATOMS)


def moved(arguments: Arguments, device: torch.device, dtype: torch.dtype = torch.float32) -> Arguments:
    """The same on a device, vectors in ``dtype``."""
    numbers, edge_index, edge_vec, batch, systems = arguments
    return numbers.to(device), edge_index.to(device), edge_vec.to(device, dtype), batch.to(device), systems


def frames_of(arguments: Arguments, seed: int = 0) -> Tensor:
    """Edge frames with random rolls, float64, on the CPU: the same for every precision."""
    generator = torch.Generator().manual_seed(seed)
    edge_vec = arguments[2].cpu().double()
    roll = 2 * torch.pi * torch.rand(len(edge_vec), generator=generator, dtype=torch.float64)
    return edge_frames(edge_vec, roll)


NETWORKS: dict[str, dict[str, Any]] = {
    "authors": {"preset": "authors", "num_resolutions": 1},
    "two resolutions": {"preset": "authors"},
    "paper": {"preset": "paper", "mmax": 1},
    "fully connected": {"preset": "authors", "num_resolutions": 1, "lmax": 4, "tensor_product": "fully_connected"},
    "escn": {"lmax": 6, "mmax": 2, "sphere_channels": 128, "hidden_channels": 256, "basis_width": 2.0},
}
"""Keys of the networks that are measured; ``two resolutions`` is configs/oc20/is2re/all/hdgnn.yml."""

TINY = {"lmax": 3, "sphere_channels": 8, "hidden_channels": 16, "edge_channels": 16, "distance_resolution": 0.2}
"""What a rehearsal changes in them."""


def make_network(bench: Bench, name: str, num_layers: int, **keys: Any) -> nn.Module:
    """A network with fixed random weights, on the CPU, in float32."""
    torch.manual_seed(0)
    changes = TINY if bench.tiny else {}
    all_keys = {
        **NETWORKS[name],
        **changes,
        "num_layers": num_layers,
        "readout_init": "random",
        "implementation": "fast",
        **keys,
    }
    return ESCNNetwork(all_keys) if name == "escn" else HDGNNNetwork(all_keys)


def redraw(network: nn.Module) -> nn.Module:
    """The same with weights like trained ones; as initialised, energies are nearly the same whatever the structure."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            is_matrix = parameter.dim() > 1 and "embedding" not in name
            scale = parameter[0].numel() ** -0.5 if is_matrix else 0.3
            draw = torch.randn(parameter.shape, generator=generator)
            parameter.data = (scale * draw).to(parameter)
    return network
