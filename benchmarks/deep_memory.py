"""Memory of one training step of a deep HDGNN on a large slab: ``python benchmarks/deep_memory.py``.

By default 16 layers with L = 6, C = 128 (``authors``, one resolution, H = 512) on a slab of 200 atoms, 8 Å, 40
neighbours, with ``activations: recompute``. Prints the peak resident memory of the process from its start to the
end of the optimizer step, including libraries, parameters, gradients and AdamW's moments.
"""

from __future__ import annotations

import argparse
import time

import torch
from process_memory import resident_kib
from slabs import CUTOFF, MAX_NEIGHBORS, batch_with_edges, slab

import fairchem_hdgnn
from fairchem_hdgnn.data.neighbor_lists import NeighborList


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--lmax", type=int, default=6)
    parser.add_argument("--channels", type=int, default=128)
    parser.add_argument("--activations", choices=("store", "recompute"), default="recompute")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    batch = batch_with_edges([slab((11, 6, 3))], NeighborList.VESIN)
    model = fairchem_hdgnn.HDGNN(
        preset="authors", num_resolutions=1, num_layers=args.layers, lmax=args.lmax, sphere_channels=args.channels,
        hidden_channels=512, cutoff=CUTOFF, max_neighbors=MAX_NEIGHBORS, otf_graph=False, regress_forces=False,
        activations=args.activations,
    )  # fmt: skip
    optimiser = torch.optim.AdamW(model.parameters())
    start = time.perf_counter()
    model(batch)["energy"].sum().backward()
    optimiser.step()
    peak = resident_kib("VmHWM") / 2**20
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(
        f"{args.layers} layers, L = {args.lmax}, C = {args.channels}, {parameters / 1e6:.1f} M parameters, "
        f"{len(batch.pos)} atoms, {batch.edge_index.shape[1]:,} edges, activations: {args.activations}: "
        f"peak {peak:.2f} GiB, {time.perf_counter() - start:.0f} s for the step"
    )


if __name__ == "__main__":
    main()
