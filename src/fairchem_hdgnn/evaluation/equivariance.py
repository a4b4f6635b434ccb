"""How much a model's energy changes when nothing but the orientation or the edge frames change.

The mean absolute difference (MAD; An et al., ICLR 2024, Table 4) is ``|E(x) - E(R x)|`` over random rotations R. Where
frames have a random roll it mixes two effects, which are also measured apart: the noise of the frames, at the same
orientation, and the error of rotation, with frames that turn along with the structure. The edges are
found once and turned, so ties between neighbours, which a rotation can break otherwise, do not enter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fairchem.core.common.registry import registry
from fairchem.core.common.utils import setup_imports
from jaxtyping import Float
from scipy.spatial.transform import Rotation
from torch import Tensor, nn
from torch.utils.data import Subset
from tqdm import tqdm

from fairchem_hdgnn.errors import ConfigError, DataError
from fairchem_hdgnn.evaluation.inference import InferenceOptions, batches, evenly_spaced, open_split
from fairchem_hdgnn.host.checkpoints import quiet_fairchem
from fairchem_hdgnn.host.fairchem1.config_files import read_config, splits_of
from fairchem_hdgnn.host.fairchem1.inference import inference_trainer
from fairchem_hdgnn.host.fairchem1.models import PlainModel
from fairchem_hdgnn.host.fairchem1.names import known_model
from fairchem_hdgnn.host.graph import PlainGraph
from fairchem_hdgnn.host.sections import mean_and_deviation
from fairchem_hdgnn.models.so3.frames import edge_frames, random_roll


@dataclass(frozen=True)
class Subject:
    """A model to be measured.

    Attributes:
        name: file that it comes from.
        model: in evaluation mode.
        energy_unit: eV per unit of the model's output.
        trained: whether the weights are a checkpoint's, not random.
        dataset_config: how its data are read.
        optim: section of its configuration with the batch size.
    """

    name: str
    model: PlainModel
    energy_unit: float
    trained: bool
    dataset_config: Mapping[str, Any]
    optim: Mapping[str, Any]


@dataclass(frozen=True)
class Differences:
    """Absolute differences of one model, eV, each system's mean over the rotations.

    Attributes:
        mad: the model as it stands, before and after a rotation (Table 4's MAD).
        frame_noise: same orientation, two draws of frames with random rolls.
        rotation: structure and frames turned together.
        energy: the energy of each system, as it stands.
    """

    mad: Float[np.ndarray, "systems"]
    frame_noise: Float[np.ndarray, "systems"]
    rotation: Float[np.ndarray, "systems"]
    energy: Float[np.ndarray, "systems"]


def open_subject(source: str, options: InferenceOptions) -> Subject:
    """The model of a checkpoint, or of a config (``.yml``) with random weights drawn from ``options.seed``.

    Raises:
        ConfigError: its model is unknown, or none whose frames can be turned.
        DataError: the checkpoint cannot be read.
    """
    return (_of_config if source.endswith((".yml", ".yaml")) else _of_checkpoint)(source, options)


def _evaluated(source: str, model: nn.Module) -> PlainModel:
    """A model whose frames can be turned, in evaluation mode."""
    if not isinstance(model, PlainModel):
        raise ConfigError(
            f"{source}: its model is a {type(model).__name__}; only fairchem_hdgnn.HDGNN and ESCN let frames be turned"
        )
    return model.eval()


def _of_checkpoint(source: str, options: InferenceOptions) -> Subject:
    trainer = inference_trainer(
        source, cpu=options.cpu, seed=options.seed, model_overrides=options.model_overrides, trusted=options.trusted
    )
    unit = float(trainer.normalizers["energy"].rmsd) if "energy" in trainer.normalizers else 1.0
    model = _evaluated(source, trainer._unwrapped_model)
    return Subject(source, model, unit, True, trainer.config["dataset"], trainer.config["optim"])


def _of_config(source: str, options: InferenceOptions) -> Subject:
    config = read_config(source, sections=("model", "dataset", "optim"))
    with quiet_fairchem():
        setup_imports()
    keys = {**config["model"], **options.model_overrides}
    model_class = registry.get_model_class(known_model(keys.pop("name", None), source))
    torch.manual_seed(options.seed)
    dataset_config = splits_of(config).get("train", {})
    normalizers = (dataset_config.get("transforms") or {}).get("normalizer") or {}
    unit = mean_and_deviation(normalizers.get("energy") or {})[1]
    return Subject(source, _evaluated(source, model_class(**keys)), unit, False, dataset_config, config["optim"])


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
    dataset = open_split(subject.dataset_config, source, options.data_format)
    indices = evenly_spaced(len(dataset), num_systems)
    loader = batches(Subset(dataset, indices), subject.optim, options, otf_graph=bool(model.otf_graph))
    random = np.random.default_rng(options.seed)
    parts = []
    title = Path(subject.name).stem
    with tqdm(total=len(indices), desc=title, unit="system", disable=not options.progress) as progress:
        for batch in loader:
            with torch.no_grad():
                graph = model.plain_graph(batch.to(device))
                parts.append(_differences(model, graph, num_rotations, random))
            progress.update(graph.num_systems)
    scaled = [torch.cat(columns).double().cpu().numpy() * subject.energy_unit for columns in zip(*parts)]
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
        turn = torch.as_tensor(matrices, dtype=vectors.dtype, device=vectors.device).view(-1, 3, 3)[system]
        turned = torch.einsum("eij,ej->ei", turn, vectors)
        first = frames()
        with_first = energy(vectors, first)
        sums[0] += (energy(turned, [None]) - expected).abs()
        sums[1] += (energy(vectors, frames()) - with_first).abs()
        sums[2] += (energy(turned, [each @ turn.mT for each in first]) - with_first).abs()
    mad, noise, rotation = (total / num_rotations for total in sums)
    return mad, noise, rotation, expected
