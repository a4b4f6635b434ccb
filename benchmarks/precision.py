"""Effect of bfloat16 on a trained model: ``python benchmarks/precision.py CHECKPOINT DATA.lmdb``.

Predicts every structure in float32 and with ``optim.precision: bfloat16`` and prints the difference of the energies.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from fairchem.core.datasets import data_list_collater
from fairchem.core.datasets.lmdb_dataset import LmdbDataset
from tqdm import tqdm

from fairchem_hdgnn.host.fairchem1.inference import inference_trainer
from fairchem_hdgnn.host.precision import Precision

BATCH = 16


def main() -> None:
    """Predict twice and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--cpu", action="store_true")
    args = parser.parse_args()
    trainer = inference_trainer(args.checkpoint, cpu=args.cpu)
    model, unit = trainer._unwrapped_model.eval(), float(trainer.normalizers["energy"].rmsd)
    dataset = LmdbDataset({"src": str(args.data)})
    energies: dict[Precision, list[torch.Tensor]] = {precision: [] for precision in Precision}
    for start in tqdm(range(0, len(dataset), BATCH), unit="batch"):
        systems = [dataset[index] for index in range(start, min(start + BATCH, len(dataset)))]
        batch = data_list_collater(systems, otf_graph=True).to(trainer.device)
        for precision, predicted in energies.items():
            with torch.no_grad(), precision.autocast(trainer.device):
                predicted.append(model(batch)["energy"].double().flatten().cpu())
    difference = unit * (torch.cat(energies[Precision.BFLOAT16]) - torch.cat(energies[Precision.FLOAT32])).abs()
    print(
        f"{len(dataset)} structures, bfloat16 against float32: mean {1e3 * difference.mean():.2f} meV, "
        f"largest {1e3 * difference.max():.2f} meV"
    )


if __name__ == "__main__":
    main()
