"""Trainings that start from another model's weights: what is taken over, what stays, what learns how fast."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from ase.data import atomic_numbers, chemical_symbols
from fairchem.core.common import distutils
from fairchem.core.modules.exponential_moving_average import ExponentialMovingAverage
from small_runs import TINY_ESCN, TINY_HDGNN, arguments, load, set_keys, train, write_config
from torch import Tensor
from two_ranks import train_on_two_ranks

from fairchem_hdgnn import HDGNN, cli
from fairchem_hdgnn.convert.generations import SECOND, convert_generation
from fairchem_hdgnn.errors import ConfigError, DataError
from fairchem_hdgnn.host.fairchem1.inference import inference_trainer
from fairchem_hdgnn.host.fairchem1.trainer import Trainer
from fairchem_hdgnn.host.layer_rates import learning_rate_factors, use_factors
from fairchem_hdgnn.host.sections import FineTuning

fault = pytest.mark.fault
Outcome = Callable[[object], None]
HEADS = ("energy_head", "output_heads")
ONE_STEP = ["--optim.max_epochs=1", "--optim.batch_size=24", "--optim.eval_every=100"]
FROZEN_RATE = ["--optim.lr_initial=1e-12"]
"""So small that weights stay as they were at the start."""

BACKBONE = {
    **{key: value for key, value in TINY_HDGNN.items() if key != "name"},
    "model": "fairchem_hdgnn.HDGNNBackbone",
}
HYDRA = {
    "name": "hydra",
    "backbone": BACKBONE,
    "heads": {"energy": {"module": "fairchem_hdgnn.HDGNNEnergyHead"}},
}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_config(tmp_path_factory.mktemp("fine_tuning"))


@pytest.fixture(scope="module")
def trained(config: Path) -> Path:
    """A training of another seed and normalizer, with averages (EMA)."""
    train(config, "trained", "--seed=5", "--dataset.train.transforms.normalizer.energy.mean=0.25")
    return config.parent / "checkpoints" / "trained" / "checkpoint.pt"


def tuned(config: Path, run_id: str, start: Path, *extra: str) -> dict[str, Any]:
    """The checkpoint after a step that starts from ``start``."""
    train(config, run_id, f"--optim.fine_tuning.init_from={start}", *ONE_STEP, *extra)
    return stored(config.parent, run_id)


def stored(folder: Path, run_id: str, name: str = "checkpoint.pt") -> dict[str, Any]:
    """A run's checkpoint; weights without the prefix of ``DistributedDataParallel``."""
    checkpoint = load(folder, run_id, name)
    weights = {name.removeprefix("module."): value for name, value in checkpoint["state_dict"].items()}
    return {**checkpoint, "state_dict": weights}


def averages(path: Path) -> dict[str, Tensor]:
    """The averaged weights in a checkpoint, by name."""
    checkpoint = torch.load(path, weights_only=True)
    model = HDGNN(**{key: value for key, value in checkpoint["config"]["model"].items() if key != "name"})
    average = ExponentialMovingAverage(model.parameters(), 0.9)
    average.load_state_dict(checkpoint["ema"])
    average.copy_to()
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def assert_weights(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], *, tolerance: float = 1e-7) -> None:
    assert expected
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name], value, rtol=0, atol=tolerance, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("kind", ["checkpoint", "best_checkpoint", "inference_ckpt"])
def test_starts_from_averaged_weights_and_their_normalizer(
    config: Path, trained: Path, tmp_path: Path, kind: str
) -> None:
    start = trained if kind == "checkpoint" else trained.with_name("best_checkpoint.pt")
    if kind == "inference_ckpt":
        start = tmp_path / "inference_ckpt.pt"
        convert_generation(SECOND, trained, start)
    checkpoint = tuned(config, f"from-{kind}", start, *FROZEN_RATE)
    best = stored(config.parent, "trained", "best_checkpoint.pt")["state_dict"]
    expected = best if kind == "best_checkpoint" else averages(trained)
    assert_weights(checkpoint["state_dict"], {name: expected[name] for name in averages(trained)})
    assert checkpoint["normalizers"]["energy"]["mean"] == 0.25
    assert checkpoint["config"]["optim"]["fine_tuning"]["init_from"] == str(start)


def test_fresh_heads_have_the_configs_normalizer(config: Path, trained: Path) -> None:
    checkpoint = tuned(config, "fresh", trained, "--optim.fine_tuning.heads=fresh", *FROZEN_RATE)
    old = averages(trained)
    layers = {name: value for name, value in old.items() if not any(head in name for head in HEADS)}
    assert_weights(checkpoint["state_dict"], layers)
    head = next(name for name in old if "energy_head" in name and old[name].dim() > 1)
    assert (checkpoint["state_dict"][head] - old[head]).abs().max() > 1e-2
    assert checkpoint["normalizers"]["energy"]["mean"] == 0.5


def test_normalizer_alone_can_be_the_configs(config: Path, trained: Path) -> None:
    checkpoint = tuned(config, "own-units", trained, "--optim.fine_tuning.normalizer=fresh", *FROZEN_RATE)
    assert_weights(checkpoint["state_dict"], averages(trained))
    assert checkpoint["normalizers"]["energy"]["mean"] == 0.5


def references(folder: Path, **energies: float) -> str:
    """Flag for a file with these energies of elements, eV."""
    values = np.zeros(119)
    values[[atomic_numbers[symbol] for symbol in energies]] = list(energies.values())
    path = folder / f"{'_'.join(energies)}.npz"
    np.savez(path, element_references=values)
    return f"--dataset.train.transforms.element_references.energy.file={path}"


def test_elements_that_the_file_does_not_know_keep_the_configs_energy(config: Path, tmp_path: Path) -> None:
    train(config, "copper", references(tmp_path, Cu=-3.0, O=-5.0), *ONE_STEP)
    start = config.parent / "checkpoints" / "copper" / "checkpoint.pt"
    checkpoint = tuned(config, "silver", start, references(tmp_path, Cu=-1.0, Ag=-2.5), *FROZEN_RATE)
    found = checkpoint["elementrefs"]["energy"]["element_references"]
    assert {chemical_symbols[number]: float(found[number]) for number in found.nonzero().flatten()} == {
        "O": -5.0,
        "Cu": -3.0,
        "Ag": -2.5,
    }


def test_element_energies_do_not_mix_with_those_of_a_file_without(config: Path, trained: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"element_references.energy: .* was trained without; set .*heads: fresh"):
        tuned(config, "mixed", trained, references(tmp_path, Cu=-3.0))


def test_a_file_without_a_normalizer_is_started_from_as_it_is(config: Path, trained: Path, tmp_path: Path) -> None:
    """The first predictions are those of the file, in eV."""
    checkpoint = torch.load(trained, weights_only=True)
    checkpoint["normalizers"] = {}
    torch.save(checkpoint, tmp_path / "plain.pt")
    checkpoint = tuned(config, "plain", tmp_path / "plain.pt", *FROZEN_RATE)
    assert {name: float(value) for name, value in checkpoint["normalizers"]["energy"].items()} == {
        "mean": 0.0,
        "rmsd": 1.0,
    }


def hydra_config(folder: Path, target: str = "energy") -> Path:
    """A config with HDGNN as backbone and head; fairchem names the target after its head."""
    path = write_config(folder, {**HYDRA, "heads": {target: HYDRA["heads"]["energy"]}})
    settings = yaml.safe_load(path.read_text().replace("y_relaxed: energy", f"y_relaxed: {target}"))
    settings["outputs"] = {target: {"level": "system", "property": "energy"}}
    settings["loss_functions"] = [{target: {"fn": "mae", "coefficient": 1}}]
    settings["evaluation_metrics"] = {"metrics": {target: ["mae"]}, "primary_metric": f"{target}_mae"}
    settings["dataset"]["train"]["transforms"] = {"normalizer": {target: {"mean": 0.5, "stdev": 2.0}}}
    path.write_text(yaml.safe_dump(settings))
    return path


@pytest.mark.parametrize("target", ["energy", "oc20_energy"])
def test_hydra_starts_from_a_plain_model_and_a_plain_model_from_hydra(
    config: Path, trained: Path, tmp_path: Path, target: str
) -> None:
    hydra = tuned(hydra_config(tmp_path, target), "hydra", trained, *FROZEN_RATE)
    renamed = {
        name.replace("network.backbone.", "backbone.backbone.").replace(
            "network.energy_head.", f"output_heads.{target}.readout."
        ): value
        for name, value in averages(trained).items()
    }
    assert_weights(hydra["state_dict"], renamed)
    assert hydra["normalizers"][target]["mean"] == 0.25
    plain = tuned(config, f"plain-{target}", tmp_path / "checkpoints/hydra/checkpoint.pt", *FROZEN_RATE)
    assert_weights(plain["state_dict"], averages(trained))
    assert plain["normalizers"]["energy"]["mean"] == 0.25


def test_keys_of_a_hydra_checkpoint_can_be_changed(trained: Path, tmp_path: Path) -> None:
    tuned(hydra_config(tmp_path), "hydra", trained)
    path = tmp_path / "checkpoints/hydra/checkpoint.pt"
    model = inference_trainer(path, cpu=True, model_overrides={"frame_average": 3})._unwrapped_model
    assert model.backbone.config.frame_average == 3


def test_frozen_layers_stay_and_others_learn(config: Path, trained: Path) -> None:
    patterns = "--optim.fine_tuning.freeze=['*embedding*','*.layers.0.*']"
    checkpoint = tuned(config, "frozen", trained, patterns, "--optim.max_epochs=3")
    old, new = averages(trained), checkpoint["state_dict"]
    frozen = {name: value for name, value in old.items() if "embedding" in name or ".layers.0." in name}
    assert_weights(new, frozen, tolerance=0)
    learned = [name for name in old if name not in frozen and not torch.equal(old[name], new[name])]
    assert len(learned) > 0.9 * (len(old) - len(frozen))
    # Averages of all parameters, as every reader of checkpoints expects.
    assert len(checkpoint["ema"]["shadow_params"]) == len(old)
    assert_weights(averages(config.parent / "checkpoints" / "frozen" / "checkpoint.pt"), frozen, tolerance=0)
    trained_parameters = sum(len(group["params"]) for group in checkpoint["optimizer"]["param_groups"])
    assert trained_parameters == len(old) - len(frozen)


def test_averages_of_frozen_layers_after_a_start_from_the_best_weights(config: Path, trained: Path) -> None:
    """``best_checkpoint.pt`` has no averages, so new ones begin after the layers were frozen."""
    patterns = "--optim.fine_tuning.freeze=['*.layers.0.*']"
    best = trained.with_name("best_checkpoint.pt")
    train(config, "from-best", patterns, f"--checkpoint={best}", *ONE_STEP)
    path = config.parent / "checkpoints/from-best/checkpoint.pt"
    weights = stored(config.parent, "trained", best.name)["state_dict"]
    frozen = {name: value for name, value in averages(path).items() if ".layers.0." in name}
    assert_weights(frozen, {name: weights[name] for name in frozen}, tolerance=0)
    train(config, "from-best", patterns, "--optim.max_epochs=2", *ONE_STEP[1:])
    assert stored(config.parent, "from-best")["step"] == 2


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("layer_decay=1.0", "layer_decay=0.5"),
        ("layer_decay=0.5", "layer_decay=1.0"),
        ("layer_decay=1.0", "freeze=['*.layers.0.*']"),
        ("freeze=['*.layers.0.*']", "freeze=['*.layers.1.*']"),
    ],
)
def test_an_optimizer_of_other_groups_is_not_resumed(config: Path, before: str, after: str) -> None:
    run_id = f"groups-{before}-{after}".translate(dict.fromkeys(map(ord, "[]'*"), None))
    train(config, run_id, f"--optim.fine_tuning.{before}", *ONE_STEP)
    with pytest.raises(DataError, match=r"was trained with other groups of parameters .*--init-from"):
        train(config, run_id, f"--optim.fine_tuning.{after}", *ONE_STEP, "--optim.max_epochs=2")


def test_interrupted_fine_tuning_goes_on_to_the_bit_without_the_file(
    config: Path, trained: Path, tmp_path: Path
) -> None:
    start = tmp_path / "start.pt"
    start.write_bytes(trained.read_bytes())
    options = (
        f"--optim.fine_tuning.init_from={start}",
        "--optim.fine_tuning.layer_decay=0.5",
        "--optim.fine_tuning.freeze=['*.layers.0.*']",
    )
    train(config, "whole", *options)
    train(config, "halves", *options, "--optim.max_epochs=2")
    start.unlink()
    train(config, "halves", *options, f"--checkpoint={config.parent}/checkpoints/halves/checkpoint.pt")
    assert_weights(
        stored(config.parent, "halves")["state_dict"], stored(config.parent, "whole")["state_dict"], tolerance=0
    )


@pytest.mark.heavy
def test_two_ranks_fine_tune_as_one(config: Path, trained: Path, tmp_path: Path) -> None:
    fixed = write_config(tmp_path, {**TINY_HDGNN, "frames": "fixed"}, max_epochs=2, eval_every=8, checkpoint_every=8)
    options = [f"--optim.fine_tuning.init_from={trained}", "--optim.fine_tuning.freeze=['*.layers.0.*']"]
    train(fixed, "alone", *options, "--optim.batch_size=6")
    train_on_two_ranks(arguments(fixed, "ranks", *options, "--optim.batch_size=3"))
    together = stored(tmp_path, "ranks")["state_dict"]
    assert_weights(together, stored(tmp_path, "alone")["state_dict"], tolerance=1e-5)
    frozen = {name: value for name, value in averages(trained).items() if ".layers.0." in name}
    assert_weights(together, frozen, tolerance=0)


def small_model() -> HDGNN:
    return HDGNN(**{key: value for key, value in TINY_HDGNN.items() if key != "name"})


def test_rates_fall_layer_by_layer() -> None:
    model = small_model()
    settings = FineTuning(layer_decay=0.5, learning_rates={"*norm*": 0.1}, freeze=["*.layers.1.update.third.*"])
    factors = learning_rate_factors(model, settings)
    assert factors["network.energy_head.sphere.readout.first.weight"] == 1.0
    assert factors["network.backbone.layers.1.update.first.weight"] == 0.5
    assert factors["network.backbone.layers.0.update.first.weight"] == 0.25
    assert factors["network.backbone.layers.0.norm.weight"] == pytest.approx(0.025)
    assert factors["network.backbone.element_embedding.weight"] == 0.125
    assert factors["network.backbone.layers.1.update.third.weight"] == 0.0
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    use_factors(optimizer, model, factors)
    assert optimizer.param_groups[0]["lr"] == 1.0
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(
            before[name] - parameter, torch.full_like(parameter, factors[name]), rtol=1e-4, atol=1e-6
        )


SCHEDULES = {
    "warm-up and milestones": {},
    "OneCycleLR": {
        "scheduler": "OneCycleLR",
        "max_lr": 2e-3,
        "total_steps": 18,
        "pct_start": 0.3,
        "cycle_momentum": False,
    },
    "CosineAnnealingLR": {"scheduler": "CosineAnnealingLR", "T_max": 40},
}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_rates_keep_their_ratio_along_the_schedule(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, schedule: str
) -> None:
    rates: list[list[float]] = []
    after = Trainer._after_step

    def noted(self: Trainer, cadence: Any) -> None:
        rates.append([group["lr"] for group in self.optimizer.param_groups])
        after(self, cadence)

    monkeypatch.setattr(Trainer, "_after_step", noted)
    config = write_config(tmp_path, **SCHEDULES[schedule])
    train(config, "plain", "--optim.max_epochs=2")
    plain, rates[:] = [step[0] for step in rates], []
    train(config, "layers", "--optim.max_epochs=2", "--optim.fine_tuning.layer_decay=0.5")
    assert len(set(plain)) > 2
    assert [step[0] for step in rates] == pytest.approx(plain)
    for step in rates:
        assert sorted({round(rate / step[0], 6) for rate in step}) == [0.125, 0.25, 0.5, 1]


def test_flag_and_messages_on_the_command_line(config: Path, trained: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    line = ["train", *arguments(config, "flag", "--init-from", str(trained), *ONE_STEP, *FROZEN_RATE)]
    try:
        assert cli.main(line) == 0
    finally:
        distutils.cleanup()
    assert_weights(stored(config.parent, "flag")["state_dict"], averages(trained))
    assert f"averaged weights (EMA) from {trained}" in caplog.text
    assert "normalizer of energy from the file: Scale(mean=0.25" in caplog.text


def refusal(config: Path, capfd: pytest.CaptureFixture[str], *extra: str) -> str:
    """The one line that a training ends with."""
    capfd.readouterr()
    try:
        assert cli.main(["train", *arguments(config, "refused", *ONE_STEP, *extra)]) == 2
    finally:
        distutils.cleanup()
    [line] = [line for line in capfd.readouterr().err.splitlines() if line.startswith("fairchem-hdgnn train: error:")]
    assert not (config.parent / "checkpoints" / "refused" / "checkpoint.pt").exists()
    return line


@fault("fine-tuning", "a start from a checkpoint of another architecture")
def test_another_architecture(
    trained: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], outcome: Outcome
) -> None:
    line = refusal(write_config(tmp_path, TINY_ESCN), capfd, f"--init-from={trained}")
    assert (
        f"{trained}: contains HDGNN, but model.name is eSCN; start from a checkpoint of the same architecture" in line
    )
    outcome(line)


@fault("fine-tuning", "a start from a checkpoint with more or fewer layers, or of other sizes")
@pytest.mark.parametrize(
    "change, reason",
    [
        ({"num_layers": 3}, "model.num_layers: 2 in the file, 3 in the config"),
        ({"num_layers": 1}, "model.num_layers: 2 in the file, 1 in the config"),
        ({"hidden_channels": 12}, "model.hidden_channels: 8 in the file, 12 in the config"),
    ],
)
def test_other_sizes(
    trained: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    outcome: Outcome,
    change: dict[str, Any],
    reason: str,
) -> None:
    line = refusal(write_config(tmp_path, {**TINY_HDGNN, **change}), capfd, f"--init-from={trained}")
    assert f"{trained}: its weights do not match this config's model ({reason}" in line
    outcome(line)


@fault("fine-tuning", "a start from a file that is not there, or no checkpoint")
def test_no_checkpoint(config: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], outcome: Outcome) -> None:
    line = refusal(config, capfd, f"--init-from={tmp_path / 'missing.pt'}")
    assert "missing.pt: no such checkpoint" in line
    outcome(line)
    (tmp_path / "notes.pt").write_text("notes")
    assert "notes.pt: not a PyTorch checkpoint" in refusal(config, capfd, f"--init-from={tmp_path / 'notes.pt'}")
    unopened = write_config(tmp_path)
    assert cli.main(["check", str(unopened), "--set", f"optim.fine_tuning.init_from={tmp_path / 'missing.pt'}"]) == 1
    assert "missing.pt: no such checkpoint" in capfd.readouterr().out


@fault("fine-tuning", "a pattern of frozen layers that fits nothing, or everything")
def test_patterns(config: Path, capfd: pytest.CaptureFixture[str], outcome: Outcome) -> None:
    line = refusal(config, capfd, "--optim.fine_tuning.freeze=['*.layer.0.*']")
    assert "optim.fine_tuning.freeze: '*.layer.0.*' matches no parameter; did you mean '*layers.0.*'?" in line
    line = refusal(config, capfd, "--optim.fine_tuning.learning_rates={'*heads*': 2.0}")
    assert "optim.fine_tuning.learning_rates: '*heads*' matches no parameter" in line
    assert "freezes all parameters" in refusal(config, capfd, "--optim.fine_tuning.freeze=['*']")
    outcome(line)


@fault("fine-tuning", "a wrong key or value of fine-tuning")
@pytest.mark.parametrize(
    "key, words",
    [
        ("frozen=['*']", "optim.fine_tuning: unknown key 'frozen'"),
        ("layer_decay=1.5", "layer_decay"),
        ("heads=new", "heads"),
        ("freeze=*.layers.0.*", "freeze"),
    ],
)
def test_wrong_keys(config: Path, capfd: pytest.CaptureFixture[str], outcome: Outcome, key: str, words: str) -> None:
    line = refusal(config, capfd, f"--optim.fine_tuning.{key}")
    assert words in line
    outcome(line)


@fault("fine-tuning", "--init-from together with --checkpoint")
def test_start_and_continuation_at_once(
    config: Path, trained: Path, capfd: pytest.CaptureFixture[str], outcome: Outcome
) -> None:
    line = refusal(config, capfd, f"--init-from={trained}", f"--checkpoint={trained}")
    assert "--init-from: only for the start of a training" in line
    outcome(line)


@fault("fine-tuning", "kept heads without the normalizer that they answer in")
def test_kept_heads_need_a_normalizer(
    config: Path, trained: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], outcome: Outcome
) -> None:
    settings = set_keys(yaml.safe_load(config.read_text()), {"dataset.train.transforms": {}})
    other = tmp_path / "config.yml"
    other.write_text(yaml.safe_dump(settings))
    line = refusal(other, capfd, f"--init-from={trained}", f"--run-dir={tmp_path}")
    assert re.search(r"dataset\.train\.transforms\.normalizer\.energy: missing, .*heads: fresh", line)
    outcome(line)


def test_a_schedule_with_one_rate_for_all_is_refused(tmp_path: Path) -> None:
    keys = {"scheduler": "CyclicLR", "base_lr": 1e-4, "max_lr": 1e-3, "cycle_momentum": False}
    with pytest.raises(ConfigError, match="CyclicLR: sets one rate for all layers"):
        train(write_config(tmp_path, **keys), "cyclic", "--optim.fine_tuning.layer_decay=0.5")
