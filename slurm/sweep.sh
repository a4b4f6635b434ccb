#!/usr/bin/env bash
# One job per combination of the values in sweep.yml, as a job array. Prints job ids, run ids and logs.
#
# Run it on a login node, with sweep.yml in the same folder as this script.
set -euo pipefail

fairchem-hdgnn submit --via submitit --mode train \
  --config-yml hdgnn:oc20/is2re/10k/hdgnn.yml \
  --sweep-yml "$(dirname "$0")/sweep.yml" \
  --identifier sweep --num-gpus 1 \
  --slurm-partition gpu --slurm-mem 40 --slurm-timeout 12  # adapt
