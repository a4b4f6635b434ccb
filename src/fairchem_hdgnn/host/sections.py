"""Keys of a config's sections ``dataset``, ``optim``, ``loss_functions`` and, for relaxations, ``task``.

They are fairchem's, except ``accumulate``, ``effective_batch_size``, ``precision`` and ``fine_tuning`` of ``optim``,
``final_coefficient`` of a loss, ``noisy_nodes`` of ``transforms`` and the data format ``safe_lmdb``. The docstring of
a key says where this plugin's trainer differs from fairchem's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Optional, Union

from pydantic import Field, StrictBool, StrictFloat, StrictInt

from fairchem_hdgnn.host.precision import Precision
from fairchem_hdgnn.hyperparameters import REQUIRED, Keys, integer, other, real, switch, text

Count = Annotated[int, Field(strict=True, ge=1)]
MaybeCount = Optional[Count]
MaybeNumber = Optional[Annotated[float, Field(strict=True, ge=0)]]
CountOrNever = Union[Literal[-1], Count]
Places = Union[str, Annotated[list[str], Field(min_length=1)]]
Section = Optional[dict[str, Any]]
Balancing = Optional[Union[Literal["atoms"], StrictBool]]
OnError = Optional[Literal["raise", "warn_and_balance", "warn_and_no_balance"]]
Steps = list[StrictInt]
Decay = Optional[Annotated[float, Field(strict=True, ge=0, le=1)]]
Patterns = Optional[list[str]]
Rates = Optional[dict[str, Annotated[float, Field(strict=True, gt=0)]]]
MaybeStart = Optional[Literal["kept", "fresh"]]
Clip = Optional[Annotated[StrictFloat, Field(gt=0)]]


@dataclass(frozen=True)
class Split(Keys):
    """Keys of ``dataset.train``, ``dataset.val``, ``dataset.test`` and, the first five, ``dataset.relax``."""

    src: Places = other(None)
    """An LMDB, or a folder of them; fairchem's own formats also take a list."""

    format: str = text("lmdb")
    """``safe_lmdb`` reads the same files as ``lmdb``, but runs no code from them, and splits may share a file."""

    key_mapping: Section = other(None)
    """Name in the records -> name of the output, e.g. ``{y_relaxed: energy}``."""

    transforms: Section = other(None)
    """``normalizer`` by target, ``noisy_nodes``, and fairchem's other transforms."""

    use_train_settings: bool = switch(True)
    """Whether validation and test start from the settings of ``train``."""

    train_split_settings: Section = other(None)
    """Subset of the training data: ``first_n``, ``sample_n``, ``max_atoms``, ``seed``."""

    val_split_settings: Section = other(None)
    """The same for the validation data."""

    test_split_settings: Section = other(None)
    """The same for the test data."""

    first_n: MaybeCount = other(None)
    """Use only the first this many records. In ``train`` it applies to the other splits too: use
    ``train_split_settings``. Cost: an epoch in proportion."""

    sample_n: MaybeCount = other(None)
    """Use only this many records, drawn with ``seed``; see ``first_n``. Cost: an epoch in proportion."""

    max_atoms: MaybeCount = other(None)
    """Leave out structures with more atoms; needs ``metadata.npz``. Cost: memory of the largest batch."""


@dataclass(frozen=True)
class Normalizer(Keys):
    """Keys of ``dataset.train.transforms.normalizer.TARGET``: the network learns (target - ``mean``) / ``rmsd``."""

    mean: float = real(0.0)
    """Mean of the target over the training set."""

    rmsd: float = real(1.0, above=0.0)
    """Standard deviation of the target over the training set."""

    stdev: float = real(1.0, above=0.0)
    """Older name of ``rmsd``."""


def mean_and_deviation(normalizer: Mapping[str, Any]) -> tuple[float, float]:
    """Mean and divisor that fairchem uses: ``rmsd`` takes precedence over ``stdev``; defaults 0 and 1."""
    return float(normalizer.get("mean") or 0.0), float(normalizer.get("rmsd") or normalizer.get("stdev") or 1.0)


@dataclass(frozen=True)
class Loss(Keys):
    """Keys of a loss in ``loss_functions``."""

    fn: str = text(REQUIRED)
    """fairchem's name of the loss, e.g. ``mae``, ``l2mae``, ``mse``."""

    coefficient: float = real(REQUIRED, above=0.0)
    """Its weight in the sum."""

    final_coefficient: float = real(None, minimum=0.0)
    """Its weight at the last step, reached linearly; default ``coefficient``. This plugin's trainer only."""


@dataclass(frozen=True)
class Optim(Keys):
    """Keys of ``optim``; a scheduler's own arguments go here too."""

    max_epochs: int = integer(REQUIRED)
    """Passes over the training data. Cost: time in proportion."""

    lr_initial: float = real(REQUIRED, above=0.0)
    """Learning rate. ``OneCycleLR`` ignores it: its highest rate is ``max_lr``. Set both to the same number."""

    batch_size: int = integer(1)
    """Systems per batch on each rank. Cost: memory in proportion."""

    accumulate: int = integer(1)
    """Batches per optimiser step on each rank, equivalent to one large batch. All step counts in a config are optimiser
    steps. This plugin's trainer only. Cost: time of a step in proportion, no memory."""

    effective_batch_size: int = integer(None)
    """Systems per step (``batch_size`` times ``accumulate`` times ranks) for which the learning rate and its schedule
    were chosen. It changes nothing: ``check`` and this plugin's trainer warn if the actual number differs."""

    eval_batch_size: int = integer(None)
    """``batch_size`` in evaluations; default ``batch_size``."""

    num_workers: int = integer(None, minimum=0)
    """Data-loader processes per rank; fairchem requires it. Cost: a CPU core each."""

    load_balancing: Balancing = other(None)
    """``atoms`` gives all ranks about the same number of atoms; needs ``metadata.npz``."""

    load_balancing_on_error: OnError = other(None)
    """What to do without ``metadata.npz``; default ``raise`` if ``load_balancing`` is set."""

    optimizer: str = text("AdamW")
    """A class of ``torch.optim``."""

    optimizer_params: Section = other(None)
    """Its arguments."""

    weight_decay: MaybeNumber = other(None)
    """Overrides ``optimizer_params.weight_decay``."""

    scheduler: str = text(None)
    """A class of ``torch.optim.lr_scheduler``, with its arguments as further keys of ``optim``; ``Null`` for a constant
    rate; default: warm-up and milestones as below. ``OneCycleLR`` rises to ``max_lr``, then falls; without
    ``total_steps`` or ``steps_per_epoch`` it takes the length of the training."""

    scheduler_params: Section = other(None)
    """Ignored by fairchem 1.10: write a scheduler's arguments into ``optim``."""

    warmup_steps: int = integer(None, minimum=1)
    """Steps over which the learning rate rises from ``warmup_factor`` times its value; 1: only the first step."""

    warmup_factor: MaybeNumber = other(None)
    """See ``warmup_steps``."""

    lr_milestones: Steps = other(None)
    """Steps at which the learning rate is multiplied by ``lr_gamma``, none before 100."""

    lr_gamma: MaybeNumber = other(None)
    """See ``lr_milestones``."""

    clip_grad_norm: Clip = other(None)
    """Maximum norm to which the gradient is clipped."""

    ema_decay: Decay = other(None)
    """Decay of the moving average of weights (EMA) that is evaluated and saved; default: no average. Cost: a copy of
    the weights."""

    eval_every: int = integer(None)
    """Steps between evaluations; default one epoch. This plugin's trainer also evaluates at the end."""

    checkpoint_every: CountOrNever = other(None)
    """Steps between checkpoints; default ``eval_every``. -1: at the end of each epoch with this plugin's trainer, never
    with fairchem's."""

    precision: Precision = other(Precision.FLOAT32)
    """Precision of the networks; this plugin's trainer only."""

    fine_tuning: Section = other(None)
    """Start from another model's weights, and choose which layers train; see below. This plugin's trainer only."""


@dataclass(frozen=True)
class FineTuning(Keys):
    """Keys of ``optim.fine_tuning``. Patterns match names of parameters, with ``*`` and ``?`` as in a shell."""

    init_from: str = text(None)
    """Checkpoint whose weights, averaged ones (EMA) if it has them, the training starts from; on the command line
    ``--init-from``. Not read again when a run resumes."""

    heads: MaybeStart = other("kept")
    """``kept`` starts from that checkpoint's heads too; ``fresh`` is for another property."""

    normalizer: MaybeStart = other(None)
    """``kept`` uses that checkpoint's normalizers and element references in place of the config's numbers; default: as
    ``heads``."""

    freeze: Patterns = other(None)
    """Patterns of parameters that are not trained, such as ``*embedding*`` or ``*.layers.0.*``."""

    layer_decay: float = real(1.0, above=0.0, maximum=1.0)
    """Factor of the last layer's learning rate; the layer before it has the square, and so on."""

    learning_rates: Rates = other(None)
    """Pattern -> additional factor of the learning rate of these parameters."""

    @property
    def keeps_normalizer(self) -> bool:
        """Whether normalizers are taken from the file."""
        return (self.normalizer or self.heads) == "kept"


@dataclass(frozen=True)
class Task(Keys):
    """Keys of ``task`` for relaxations."""

    eval_relaxations: bool = switch(False)
    """Whether to also relax ``dataset.relax`` after each evaluation of a training. Cost: its time."""

    relaxation_steps: int = integer(300)
    """Maximum number of relaxation steps. Cost: time in proportion."""

    relaxation_fmax: float = real(0.02, above=0.0)
    """eV/Å; a structure is relaxed when no force on a free atom is larger."""

    relax_opt: Section = other(None)
    """Settings of the optimiser, LBFGS; see below."""

    write_pos: bool = switch(False)
    """Whether to write relaxed positions (Å), energies and forces to ``relaxed_positions.npz`` in the run's results."""

    save_full_traj: bool = switch(True)
    """Whether trajectories contain all steps; otherwise the first and the last. Cost: disk space."""

    num_relaxation_batches: MaybeCount = other(None)
    """Maximum number of batches that each rank relaxes; default all."""


@dataclass(frozen=True)
class RelaxOpt(Keys):
    """Keys of ``task.relax_opt``, the settings of fairchem's LBFGS."""

    maxstep: float = real(0.02, above=0.0)
    """Å; largest displacement of an atom in a step, before ``damping``."""

    memory: int = integer(100)
    """Number of steps that approximate the inverse Hessian. Cost: memory."""

    damping: float = real(1.2, above=0.0)
    """Factor of each step."""

    alpha: float = real(100.0, above=0.0)
    """eV/Å²; initial guess of the curvature of the energy."""

    traj_dir: str = text(None)
    """Folder for ASE trajectories, ``SID.traj``; default: none are written. Structures whose trajectory there has ended
    are not relaxed again; a training uses a subfolder ``step-N`` for each evaluation."""


FURTHER_OPTIM_KEYS = (
    "warmup_epochs", "max_steps", "loss_energy", "loss_forces", "energy_coefficient", "force_coefficient",
    "load_datasets_and_model_then_exit",
)  # fmt: skip
"""Further keys of ``optim`` that fairchem reads in older configs."""
