"""slurm/fairchem2.sh, fairchem-core 2's own submission, on two nodes; a requeued job goes on."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from slurm_cluster import Cluster
from small_runs import write_lmdb

ROOT = Path(__file__).parents[2]
BIN = ROOT / ".venv2" / "bin"
SPLITS = {"train": 24, "val_id": 6, "val_ood_ads": 6, "val_ood_cat": 6, "val_ood_both": 6}
NETWORK = {
    "lmax": 1, "lmax_metp": 1, "num_layers": 1, "sphere_channels": 4, "hidden_channels": 8, "edge_channels": 8,
    "invariant_channels": 8, "cutoff": 4.0, "max_neighbors": 8, "frames": "fixed",
}  # fmt: skip

pytestmark = pytest.mark.heavy


@pytest.mark.skipif(not BIN.is_dir(), reason="fairchem-core 2 is not installed: make install HOST=2")
def test_recipe_as_it_stands_but_for_what_it_trains(cluster: Cluster, tmp_path: Path) -> None:
    data = {split: write_lmdb(tmp_path / split / "data.lmdb", size) for split, size in SPLITS.items()}
    changes = [f"data.{split}={path}" for split, path in data.items()]
    changes += [f"++runner.train_eval_unit.model.backbone.{key}={value}" for key, value in NETWORK.items()]
    changes += ["job.device_type=CPU", "data.mean=0.5", "data.stdev=2.0", "optim.max_epochs=40", "optim.num_workers=0"]
    changes += ["optim.batch_size=2", "runner.train_eval_unit.print_every=1", "optim.eval_every=null"]
    recipe = (ROOT / "slurm" / "fairchem2.sh").read_text()
    for before, after in {
        "configs/fairchem2/oc20/is2re/all/hdgnn.yml": str(ROOT / "configs/fairchem2/oc20/is2re/demo/hdgnn.yml"),
        "ranks_per_node=4": "ranks_per_node=2",
        "mem_gb: 80": "mem_gb: 1",
        "cpus_per_task: 8": "cpus_per_task: 1",
        "optim.checkpoint_every=1000": " ".join(f"'{change}'" for change in [*changes, "optim.checkpoint_every=5"]),
    }.items():
        assert recipe.count(before) == 1
        recipe = recipe.replace(before, after)
    (tmp_path / "fairchem2.sh").write_text(recipe)
    cluster.environment["PATH"] = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    done = cluster.call("bash", "fairchem2.sh", cwd=tmp_path)
    found = re.search(r"slurm id: (\d+), logs: (\S+)", done.stdout + done.stderr)
    assert found, done.stdout + done.stderr
    job, log = found[1], Path(found[2]) / f"{found[1]}_0_log.err"
    [run] = (tmp_path / "runs").glob("hdgnn-*")
    cluster.wait(job, lambda: list(run.glob("checkpoints/step_*/.metadata")), log)
    cluster.call("scontrol", "requeue", job)
    cluster.wait(job, lambda: cluster.was_requeued(job), log)
    cluster.wait(job, lambda: cluster.has_ended(job), log)
    assert cluster.state(job) == "COMPLETED", log.read_text()[-3000:]
    assert (run / "checkpoints" / "final" / "inference_ckpt.pt").is_file()
    printed = "".join(path.read_text() for path in Path(found[2]).glob(f"{job}*_log.*"))
    resumed = re.search(r"this run resumes from step (\d+)", printed)
    assert resumed and int(resumed[1]) >= 5, printed[-3000:]
