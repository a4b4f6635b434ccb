#!/usr/bin/env bash
# fairchem-core 2's own submission, unchanged: `fairchem -c` submits the job to Slurm through submitit and returns.
#
# Run it on a login node: fairchem refuses inside a job. The job is requeued when it is preempted, and at most 3 times after
# its time limit; it resumes from its newest checkpoint and loses the steps since then. The time stamp names the run: with
# a used one a new job resumes the old run, and its log has a warning. Logs: RUN_DIR/STAMP/logs.
set -euo pipefail

fairchem -c configs/fairchem2/oc20/is2re/all/hdgnn.yml \
  job.run_dir="$PWD/runs" \
  +job.run_name=hdgnn \
  +job.timestamp_id="hdgnn-$(date +%s)-$RANDOM" \
  job.scheduler.mode=SLURM job.scheduler.num_nodes=2 job.scheduler.ranks_per_node=4 \
  '+job.scheduler.slurm={partition: gpu, mem_gb: 80, timeout_hr: 24, cpus_per_task: 8}' \
  optim.checkpoint_every=1000  # adapt all of these
