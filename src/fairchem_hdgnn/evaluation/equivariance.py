"""How much a model's energy changes when only the orientation or the edge frames change.

The mean absolute difference (MAD; An et al., ICLR 2024, Table 4) is ``|E(x) - E(R x)|`` over random rotations R.
If frames have a random roll, it mixes two effects, which are also measured separately: the noise of the frames, at the
same orientation, and the rotation error, with frames rotated together with the structure. The edges are found once and
rotated, so that ties between equidistant neighbours are not broken differently.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.spatial.transform import Rotation
from torch import Tensor
from torch.utils.data import Subset
from tqdm import tqdm

from fairchem_hdgnn.errors import ConfigError, DataError
from fairchem_hdgnn.evaluation.inference import InferenceOptions, batches, evenly_spaced
from fairchem_hdgnn.host.graph import PlainGraph
from fairchem_hdgnn.host.models import BackboneModel, PlainModel
from fairchem_hdgnn.host.opened import OpenedModel
from fairchem_hdgnn.host.opening import open_checkpoint, open_config, open_split
from fairchem_hdgnn.models.so3.frames import edge_frames, random_roll


@dataclass(frozen=True)
class Subject:
    """A model to be measured.

    Attributes:
        name: its checkpoint or config file.
        model: in evaluation mode.
        opened: how its data are read and batched, and the unit of its output.
        trained: whether the weights are a checkpoint's, not random.
    """

    name: str
    model: PlainModel
    opened: OpenedModel
    trained: bool


@dataclass(frozen=True)
class Differences:
    """Absolute differences of one model, in the unit of its target, each system's mean over the rotations.

    Attributes:
        mad: the unchanged model, before and after a rotation (Table 4's MAD).
        frame_noise: same orientation, two draws of frames with random rolls.
        rotation: structure and frames rotated together.
        energy: the energy of each unrotated system.
    """

    mad: Float[np.ndarray, "systems"]
    frame_noise: Float[np.ndarray, "systems"]
    rotation: Float[np.ndarray, "systems"]
    energy: Float[np.ndarray, "systems"]


def open_subject(source: str, options: InferenceOptions) -> Subject:
    """The model of a checkpoint, or of a config (``.yml``) with random weights drawn from ``options.seed``.

    Raises:
        ConfigError: its model is unknown, or its frames cannot be rotated.
        DataError: the checkpoint cannot be read.
    """
    trained = not source.endswith((".yml", ".yaml"))
    opened: OpenedModel
    how: dict[str, Any] = {"cpu": options.cpu, "seed": options.seed, "model_overrides": options.model_overrides}
    if trained:
        opened = open_checkpoint(source, trusted=options.trusted, **how)
        if isinstance(getattr(opened.model, "backbone", None), BackboneModel):
            # Heads of fairchem's hydra do not take rotated edges.
            opened = open_checkpoint(source, trusted=options.trusted, as_network=True, **how)
    else:
        opened = open_config(source, **how)
    if not isinstance(opened.model, PlainModel):
        raise ConfigError(
            f"{source}: its model is a {type(opened.model).__name__}; only frames of fairchem_hdgnn.HDGNN and ESCN "
            "can be rotated"
        )
    return Subject(source, opened.model.eval(), opened, trained)


def measure(
    subject: Subject, source: Path, num_systems: int, num_rotations: int, options: InferenceOptions
) -> Differences:
    """Differences of a model on ``num_systems`` systems, evenly spaced in the LMDB ``source``.

    Every model sees the same systems, rotations and, up to its own order of edges, frames.

    Raises:
        DataError: the LMDB is missing or cannot be read.
    """
    if not source.exists():
        raise DataError(f"{source}: no such LMDB file or folder of LMDBs")
    device = torch.device("cpu" if options.cpu or not torch.cuda.is_available() else "cuda")
    model = subject.model.to(device)
    dataset = open_split(subject.opened.dataset, source, options.data_format)
    indices = evenly_spaced(len(dataset), num_systems)
    loader = batches(Subset(dataset, indices), subject.opened, options)
    random = np.random.default_rng(options.seed)
    parts = []
    title = Path(subject.name).stem
    with tqdm(total=len(indices), desc=title, unit="system", disable=not options.progress) as progress:
        for batch in loader:
            with torch.no_grad():
                graph = model.plain_graph(batch.to(device))
                parts.append(_differences(model, graph, num_rotations, random))
            progress.update(graph.num_systems)
    scaled = [torch.cat(columns).double().cpu().numpy() * subject.opened.scale for columns in zip(*parts)]
    return Differences(*scaled)


def _differences(
    model: PlainModel, graph: PlainGraph, num_rotations: int, random: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """MAD, frame noise, rotation error and energy of each system of a batch, in the model's unit."""
    vectors = graph.edge_vec
    system = graph.batch[graph.edge_index[1]]
    # A model that averages frames is measured with the same number of draws.
    config: Any = model.network.config
    num_draws = config.frame_average

    def energy(vectors: Tensor, frames: Sequence[Tensor | None]) -> Tensor:
        draws = [model.network(*graph._replace(edge_vec=vectors), each)["energy"] for each in frames]
        return torch.stack(draws).mean(0)

    def frames() -> list[Tensor]:
        seeds = random.integers(1 << 63, size=num_draws).tolist()
        return [edge_frames(vectors, random_roll(len(vectors), seed, vectors)) for seed in seeds]

    expected = energy(vectors, [None])
    sums = [torch.zeros_like(expected) for _ in range(3)]
    for _ in range(num_rotations):
        matrices = Rotation.random(graph.num_systems, random_state=random).as_matrix()
        rotation = torch.as_tensor(matrices, dtype=vectors.dtype, device=vectors.device).view(-1, 3, 3)[system]
        rotated = torch.einsum("eij,ej->ei", rotation, vectors)
        first = frames()
        with_first = energy(vectors, first)
        sums[0] += (energy(rotated, [None]) - expected).abs()
        sums[1] += (energy(vectors, frames()) - with_first).abs()
        sums[2] += (energy(rotated, [each @ rotation.mT for each in first]) - with_first).abs()
    mad, noise, rotation_error = (total / num_rotations for total in sums)
    return mad, noise, rotation_error, expected
