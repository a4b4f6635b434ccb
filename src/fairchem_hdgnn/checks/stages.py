"""Build fairchem's trainer stage by stage; a failing stage is reported in one line with its config keys."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from fairchem.core.trainers import OCPTrainer

from fairchem_hdgnn.checks.findings import one_line
from fairchem_hdgnn.errors import ConfigError, UserError

SCHEDULE_REMEDY = "write its arguments into optim, next to its name"
SCHEDULE_REMEDIES = {
    None: (
        "without a scheduler fairchem reads warmup_steps, warmup_factor, lr_milestones (none below 100) and lr_gamma, "
        "in steps; scheduler: Null gives a constant rate"
    ),
    "LambdaLR": "remove optim.scheduler: the default is fairchem's schedule of warm-up and milestones",
}


@contextlib.contextmanager
def naming(subject: str, remedy: str) -> Iterator[None]:
    """Turn an exception in the block into one line that starts with ``subject`` and ends with ``remedy``.

    Raises:
        UserError: raised by the block, unchanged; any other exception becomes a ``ConfigError``.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as problem:
        raise ConfigError(f"{subject}: {one_line(problem)}; {remedy}") from problem


class NamedStages(OCPTrainer):
    """Mixin for fairchem's trainers: if loading a part fails, the error names the keys responsible.

    It must precede the trainer in the list of base classes.
    """

    def load_logger(self) -> None:
        """As the trainer; ``logger``."""
        remedy = "give logger: tensorboard, or log in (`wandb login`), or set WANDB_MODE=offline"
        with naming("logger", remedy):
            super().load_logger()

    def load_task(self) -> None:
        """As the trainer; ``outputs`` and ``evaluation_metrics``."""
        with naming("outputs, evaluation_metrics", "compare them with those in configs/"):
            super().load_task()

    def load_model(self) -> None:
        """As the trainer; ``model``."""
        with naming("model", "correct its keys"):
            super().load_model()

    def load_datasets(self) -> None:
        """As the trainer; ``dataset``, and the keys of ``optim`` that loading data needs."""
        with naming("dataset, optim", "add or correct it"):
            super().load_datasets()

    def load_references_and_normalizers(self) -> None:
        """As the trainer; ``dataset.train.transforms``."""
        with naming("dataset.train.transforms", "correct normalizer and element_references"):
            super().load_references_and_normalizers()

    def load_loss(self) -> None:
        """As the trainer; ``loss_functions``."""
        with naming("loss_functions", "compare them with those in configs/"):
            super().load_loss()

    def load_optimizer(self) -> None:
        """As the trainer; ``optim.optimizer`` and its parameters."""
        name = self.config["optim"].get("optimizer", "AdamW")
        with naming(f"optim.optimizer {name}", "correct optim.optimizer_params, optim.lr_initial, optim.weight_decay"):
            super().load_optimizer()

    def load_extras(self) -> None:
        """As the trainer; ``optim.scheduler`` and its arguments."""
        name = self.config["optim"].get("scheduler")
        with naming(f"optim.scheduler {name}" if name else "optim", SCHEDULE_REMEDIES.get(name, SCHEDULE_REMEDY)):
            super().load_extras()
