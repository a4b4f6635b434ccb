#!/usr/bin/env bash
# fairchem's own submission, unchanged: the dotted model name in the config lets the job find the model.
#
# Run it on a login node. The job is requeued by submitit, at most 3 times after its time limit. The identifier must be unique for each run:
# fairchem's time stamps have steps of 128 s. For CPU nodes and unlimited requeues: fairchem-hdgnn submit --via submitit.
set -euo pipefail

fairchem --submit --mode train \
  --config-yml configs/oc20/is2re/all/hdgnn.yml \
  --identifier "hdgnn-$(date +%s)-$RANDOM" \
  --num-nodes 2 --num-gpus 4 \
  --slurm-partition gpu --slurm-mem 80 --slurm-timeout 24  # adapt
