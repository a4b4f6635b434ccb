"""HDGNN and its kernels on a GPU, with nothing but torch, e3nn and this package: ``python benchmarks/gpu.py``.

Checks each kernel against float64 and times it beside two floors: its bytes over the bandwidth, and its operations over
the matrix rate, that the same run measures. Then forward pass and training step of HDGNN (``authors``, one resolution,
L = 6, C = 128) in float32, TF32 and bfloat16, for both implementations, beside fairchem's eSCN where it is installed.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import statistics
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from fairchem_hdgnn.hdgnn.network import HDGNNNetwork
from fairchem_hdgnn.so3.segments import FusedSegments, Segments

ROWS, COLUMNS, CHANNELS, NEIGHBORS = 19, 49, 128, 40


def milliseconds(work: Callable[[], object], repeats: int = 20) -> float:
    """Median time on the GPU's own clock."""
    for _ in range(3):
        work()
    times = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times)


def floors() -> tuple[float, float]:
    """Measured bandwidth in bytes/ms and float32 (TF32 if allowed) rate in operations/ms."""
    block = torch.empty(2**28, device="cuda")
    target = torch.empty_like(block)
    bandwidth = 2 * block.nbytes / milliseconds(lambda: target.copy_(block))
    a, b = (torch.randn(4096, 4096, device="cuda") for _ in range(2))
    return bandwidth, 2 * 4096**3 / milliseconds(lambda: a @ b)


@contextlib.contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Matrix products in TF32 or in full float32."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = allowed
    yield
    torch.backends.cuda.matmul.allow_tf32 = before


def random_graph(atoms: int) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
    """Arguments of a network: atoms in a box, each with its nearest neighbours."""
    generator = torch.Generator().manual_seed(0)
    positions = torch.rand(atoms, 3, generator=generator) * (15.0 * atoms) ** (1 / 3)
    distances = torch.cdist(positions, positions).fill_diagonal_(torch.inf)
    count = min(NEIGHBORS, atoms - 1)
    source = distances.topk(count, largest=False).indices.flatten()
    target = torch.arange(atoms).repeat_interleave(count)
    numbers = torch.randint(1, 80, (atoms,), generator=generator)
    edge_vec = positions[source] - positions[target]
    batch = torch.zeros(atoms, dtype=torch.long)
    moved = [t.cuda() for t in (numbers, torch.stack([source, target]), edge_vec, batch)]
    return moved[0], moved[1], moved[2], moved[3], 1


def kernels(atoms: int) -> None:
    """Check and time both rotations."""
    edges = atoms * NEIGHBORS
    target = torch.arange(atoms, device="cuda").repeat_interleave(NEIGHBORS)
    source = torch.randint(atoms, (edges,), device="cuda")
    matrices = torch.randn(edges, ROWS, COLUMNS, device="cuda")
    x = torch.randn(atoms, COLUMNS, CHANNELS, device="cuda")
    y = torch.randn(edges, ROWS, CHANNELS, device="cuda")
    nodes = (0, atoms)
    plain, fused = Segments(target, atoms), FusedSegments(target, atoms)

    def collected(segments: Segments, dtype: torch.dtype = torch.float32) -> Tensor:
        out = torch.zeros_like(x, dtype=dtype)
        segments.collect(matrices.to(dtype), y.to(dtype), nodes, out)
        return out

    exact = {
        "gather and rotate": plain.gather(matrices.double(), x.double(), source),
        "rotate back and sum": collected(plain, torch.double),
    }
    bytes_moved = {
        "gather and rotate": matrices.nbytes + x.nbytes + y.nbytes,
        "rotate back and sum": matrices.nbytes + x.nbytes + y.nbytes,
    }
    operations = 2 * edges * ROWS * COLUMNS * CHANNELS
    bandwidth, rate = floors()
    print(f"\nkernels, {atoms} atoms, {edges} edges; floors: bytes and operations, ms")
    for name, expected in exact.items():
        for label, segments in (("torch", plain), ("triton", fused)):

            def work(segments: Segments = segments, name: str = name) -> Tensor:
                return segments.gather(matrices, x, source) if name.startswith("gather") else collected(segments)

            error = (work().double() - expected).abs().max() / expected.abs().max()
            print(
                f"  {name:20} {label:7} {milliseconds(work):8.3f} ms   floors {bytes_moved[name] / bandwidth:.3f} "
                f"{operations / rate:.3f}   error {error:.1e}"
            )


def networks(atoms: int, num_layers: int) -> None:
    """Forward pass and training step of HDGNN, and of fairchem's eSCN where fairchem is installed."""
    arguments = random_graph(atoms)
    print(f"\nforward pass and training step, {atoms} atoms, {arguments[1].shape[1]} edges, {num_layers} layers, ms")
    for implementation in ("fast", "triton"):
        keys = {"preset": "authors", "num_resolutions": 1, "num_layers": num_layers, "implementation": implementation}
        network = HDGNNNetwork(keys).cuda()
        measure(f"HDGNN {implementation}", network, arguments)
    if importlib.util.find_spec("fairchem") is None:
        print("  fairchem's escn: fairchem is not installed here, so it was not measured")
        return
    escn, batch = fairchem_escn(arguments, num_layers)
    escn, batch = escn.cuda(), batch.to("cuda")
    measure("fairchem escn", escn, (batch,))


def fairchem_escn(arguments: tuple[Tensor, Tensor, Tensor, Tensor, int], num_layers: int) -> tuple[nn.Module, Any]:
    """fairchem's eSCN (L = 6, M = 2, C = 128, H = 256) and a batch with the same edges."""
    from fairchem.core.common.registry import registry  # noqa: PLC0415 - optional
    from fairchem.core.common.utils import setup_imports  # noqa: PLC0415
    from torch_geometric.data import Batch, Data  # noqa: PLC0415

    setup_imports()
    numbers, edge_index, edge_vec = (value.cpu() for value in arguments[:3])
    # All atoms at the origin of a cell of 1 mÅ: the offsets alone then make the edges, to 1 mÅ.
    offsets = (edge_vec / 1e-3).round().long()
    record = Data(
        atomic_numbers=numbers,
        pos=torch.zeros(len(numbers), 3),
        cell=1e-3 * torch.eye(3)[None],
        natoms=len(numbers),
        tags=torch.zeros(len(numbers), dtype=torch.long),
        edge_index=edge_index,
        cell_offsets=offsets,
        neighbors=edge_index.shape[1],
    )
    model = registry.get_model_class("escn")(
        use_pbc=True, regress_forces=False, otf_graph=False, num_layers=num_layers, lmax_list=[6], mmax_list=[2],
        sphere_channels=128, hidden_channels=256, cutoff=8.0, max_neighbors=NEIGHBORS, basis_width_scalar=2.0,
    )  # fmt: skip
    return model, Batch.from_data_list([record])


def measure(name: str, network: nn.Module, inputs: tuple[Any, ...]) -> None:
    """Print times and peak memory in three precisions."""
    for precision in ("float32", "tf32", "bfloat16"):

        def forward(precision: str = precision) -> Tensor:
            with torch.autocast("cuda", torch.bfloat16, enabled=precision == "bfloat16"):
                return network(*inputs)["energy"].sum()

        def step(forward: Callable[[], Tensor] = forward) -> None:
            network.zero_grad()
            forward().backward()

        with tf32(precision != "float32"):
            torch.cuda.reset_peak_memory_stats()
            try:
                with torch.no_grad():
                    of_forward = milliseconds(forward)
                of_step = milliseconds(step)
            except RuntimeError as error:
                print(f"  {name:14} {precision:9} fails: {str(error).splitlines()[0]}")
                continue
            memory = torch.cuda.max_memory_allocated() / 2**20
        print(f"  {name:14} {precision:9} forward {of_forward:8.2f}  step {of_step:8.2f}  peak {memory:.0f} MiB")


def main() -> None:
    """Run all, where there is a GPU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--atoms", type=int, default=528, help="default: 8 slabs of 66 atoms")
    parser.add_argument("--layers", type=int, default=2)
    args = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("gpu.py: torch sees no GPU here; nothing was measured")
    print(torch.cuda.get_device_name(), "torch", torch.__version__)
    for allowed in (False, True):
        with tf32(allowed):
            print("\nTF32" if allowed else "\nfloat32", end="")
            kernels(args.atoms)
    networks(args.atoms, args.layers)


if __name__ == "__main__":
    main()
