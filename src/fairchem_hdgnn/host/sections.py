"""Keys of a config's sections ``dataset``, ``optim``, ``loss_functions`` and, for relaxations, ``task``.

They are fairchem's, but for ``accumulate``, ``effective_batch_size`` and ``precision`` of ``optim``,
``final_coefficient`` of a loss and the data format ``safe_lmdb``.
What this plugin's trainer does otherwise than fairchem's stands with the key.
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
    """``safe_lmdb`` reads what ``lmdb`` reads, but nothing in the file can run and splits may share it."""

    key_mapping: Section = other(None)
    """Names in the records -> names of outputs, e.g. ``{y_relaxed: energy}``."""

    transforms: Section = other(None)
    """``normalizer`` by target, ``noisy_nodes``, and what else fairchem offers."""

    use_train_settings: bool = switch(True)
    """Whether validation and test start from the settings of ``train``."""

    train_split_settings: Section = other(None)
    """Which records are used: ``first_n``, ``sample_n``, ``max_atoms``, ``seed``. Here of the training data."""

    val_split_settings: Section = other(None)
    """The same of the validation data."""

    test_split_settings: Section = other(None)
    """The same of the test data."""

    first_n: MaybeCount = other(None)
    """Only so many records, the first. Cost: an epoch in proportion."""

    sample_n: MaybeCount = other(None)
    """Only so many records, drawn by ``seed``. Cost: an epoch in proportion."""

    max_atoms: MaybeCount = other(None)
    """Larger structures are left out; needs ``metadata.npz``. Cost: memory of the largest batch."""


@dataclass(frozen=True)
class Normalizer(Keys):
    """Keys of ``dataset.train.transforms.normalizer.TARGET``: the network learns (target - ``mean``) / ``rmsd``."""

    mean: float = real(0.0)
    """Of the target over the training set."""

    rmsd: float = real(1.0, above=0.0)
    """Standard deviation of the target over the training set."""

    stdev: float = real(1.0, above=0.0)
    """What older configs call ``rmsd``."""


def mean_and_deviation(normalizer: Mapping[str, Any]) -> tuple[float, float]:
    """What fairchem subtracts and divides by: ``rmsd`` before its older name, 0 and 1 where nothing is given."""
    return float(normalizer.get("mean") or 0.0), float(normalizer.get("rmsd") or normalizer.get("stdev") or 1.0)


@dataclass(frozen=True)
class Loss(Keys):
    """Keys of a loss in ``loss_functions``."""

    fn: str = text(REQUIRED)
    """fairchem's name of it, e.g. ``mae``, ``l2mae``, ``mse``."""

    coefficient: float = real(REQUIRED, above=0.0)
    """Its weight in the sum."""

    final_coefficient: float = real(None, minimum=0.0)
    """Its weight at the last step, reached linearly; ``coefficient`` if left out. This plugin's trainer only."""


@dataclass(frozen=True)
class Optim(Keys):
    """Keys of ``optim``; a scheduler's own arguments stand beside them."""

    max_epochs: int = integer(REQUIRED)
    """Passes over the training data. Cost: time in proportion."""

    lr_initial: float = real(REQUIRED, above=0.0)
    """Learning rate."""

    batch_size: int = integer(1)
    """Systems in a batch, of each rank. Cost: memory in proportion."""

    accumulate: int = integer(1)
    """Batches of each rank that make a step of the optimiser, as if they were one batch. All steps in a config are such
    steps. This plugin's trainer only. Cost: time of a step in proportion, no memory."""

    effective_batch_size: int = integer(None)
    """Systems in a step, ``batch_size`` times ``accumulate`` times ranks, that the learning rate and its schedule are
    meant for. Changes nothing: ``check`` and this plugin's trainer warn if there are more or fewer."""

    eval_batch_size: int = integer(None)
    """The same in evaluations; ``batch_size`` if left out."""

    num_workers: int = integer(None, minimum=0)
    """Processes that load data for each rank; fairchem needs it. Cost: a CPU core each."""

    load_balancing: Balancing = other(None)
    """``atoms`` gives each rank about as many atoms; needs ``metadata.npz``."""

    load_balancing_on_error: OnError = other(None)
    """What happens without ``metadata.npz``; ``raise`` where ``load_balancing`` is set."""

    optimizer: str = text("AdamW")
    """A class of ``torch.optim``."""

    optimizer_params: Section = other(None)
    """Its arguments."""

    weight_decay: MaybeNumber = other(None)
    """Read in place of ``optimizer_params.weight_decay``."""

    scheduler: str = text(None)
    """A class of ``torch.optim.lr_scheduler``, its arguments beside it; ``Null`` for a constant rate; if left out,
    warm-up and milestones as below. The ``epochs`` of ``OneCycleLR`` are ``max_epochs`` if left out."""

    scheduler_params: Section = other(None)
    """Not read by fairchem 1.10: write a scheduler's arguments into ``optim``."""

    warmup_steps: int = integer(None, minimum=0)
    """Steps in which the learning rate rises from ``warmup_factor`` times its value."""

    warmup_factor: MaybeNumber = other(None)
    """See ``warmup_steps``."""

    lr_milestones: Steps = other(None)
    """Steps at which the learning rate is multiplied by ``lr_gamma``, none before 100."""

    lr_gamma: MaybeNumber = other(None)
    """See ``lr_milestones``."""

    clip_grad_norm: Clip = other(None)
    """Largest norm of the gradient."""

    ema_decay: Decay = other(None)
    """Of the moving average of weights that is evaluated and kept; none if left out. Cost: a copy of the weights."""

    eval_every: int = integer(None)
    """Steps between evaluations; one epoch if left out. This plugin's trainer also evaluates at the end."""

    checkpoint_every: CountOrNever = other(None)
    """Steps between checkpoints; ``eval_every`` if left out. -1: at the end of each epoch with this plugin's trainer,
    never with fairchem's."""

    precision: Precision = other(Precision.FLOAT32)
    """Of the networks; this plugin's trainer only."""

    fine_tuning: Section = other(None)
    """Another model's weights to start from, and which layers learn; see below. This plugin's trainer only."""


@dataclass(frozen=True)
class FineTuning(Keys):
    """Keys of ``optim.fine_tuning``. Patterns fit names of parameters, ``*`` and ``?`` as in a shell."""

    init_from: str = text(None)
    """Checkpoint whose weights, averaged ones (EMA) where it has them, a training starts from; the command line's
    ``--init-from``. Not read again when a run goes on."""

    heads: MaybeStart = other("kept")
    """Whether heads are that checkpoint's as well; ``fresh`` for another property."""

    normalizer: MaybeStart = other(None)
    """Whether normalizers and element references are that checkpoint's as well, in place of the config's numbers; as
    ``heads`` if left out."""

    freeze: Patterns = other(None)
    """Patterns of parameters that stay as they are, such as ``*embedding*`` or ``*.layers.0.*``."""

    layer_decay: float = real(1.0, above=0.0, maximum=1.0)
    """The learning rate of the last layer is multiplied by it, that of the one before by its square, and so on."""

    learning_rates: Rates = other(None)
    """Pattern -> what the learning rate of these parameters is multiplied by as well."""

    @property
    def keeps_normalizer(self) -> bool:
        """Whether normalizers come from the file."""
        return (self.normalizer or self.heads) == "kept"


@dataclass(frozen=True)
class Task(Keys):
    """Keys of ``task`` for relaxations."""

    eval_relaxations: bool = switch(False)
    """Whether ``dataset.relax`` is also relaxed after each evaluation of a training. Cost: its time."""

    relaxation_steps: int = integer(300)
    """Most steps of a relaxation. Cost: time in proportion."""

    relaxation_fmax: float = real(0.02, above=0.0)
    """eV/Å; a structure is relaxed when no free atom's force is larger."""

    relax_opt: Section = other(None)
    """Settings of the optimiser, LBFGS; see below."""

    write_pos: bool = switch(False)
    """Whether relaxed positions (Å) are written, to ``relaxed_positions.npz`` among the run's results."""

    save_full_traj: bool = switch(True)
    """Whether trajectories hold all steps; otherwise the first and the last. Cost: disk."""

    num_relaxation_batches: MaybeCount = other(None)
    """Each rank relaxes only so many batches; all if left out."""


@dataclass(frozen=True)
class RelaxOpt(Keys):
    """Keys of ``task.relax_opt``, the settings of fairchem's LBFGS."""

    maxstep: float = real(0.02, above=0.0)
    """Å; the longest way of an atom in a step, before ``damping``."""

    memory: int = integer(100)
    """Steps that the inverse Hessian is made of. Cost: memory."""

    damping: float = real(1.2, above=0.0)
    """Each step is multiplied by it."""

    alpha: float = real(100.0, above=0.0)
    """eV/Å²; first guess of the curvature of the energy."""

    traj_dir: str = text(None)
    """Folder for ASE trajectories, ``SID.traj``; none are written if left out. Structures that have one there are done;
    a training takes a folder ``step-N`` below it for each evaluation."""


FURTHER_OPTIM_KEYS = (
    "warmup_epochs", "max_steps", "loss_energy", "loss_forces", "energy_coefficient", "force_coefficient",
    "load_datasets_and_model_then_exit",
)  # fmt: skip
"""What fairchem also reads in ``optim``, for older configs."""
