#!/usr/bin/env bash
# Write the OC20 leaderboard's file: predict the four test splits in parallel, then merge them if all jobs succeed.
#
# Run it on a login node:
#
#   slurm/leaderboard.sh checkpoints/RUN/best_checkpoint.pt data/is2re/all results/RUN
set -euo pipefail
checkpoint=$1 data=$2 out=$3
mkdir -p "$out"

predictions=$(sbatch --parsable <<JOB
#!/bin/bash
#SBATCH --job-name=predict
#SBATCH --array=0-3
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=5
#SBATCH --mem=32G
#SBATCH --time=02:00:00           # adapt
#SBATCH --partition=gpu           # adapt
#SBATCH --output=$out/predict-%a.out

source .venv/bin/activate         # adapt
splits=(test_id test_ood_ads test_ood_cat test_ood_both)
fairchem-hdgnn predict --checkpoint "$checkpoint" --data "$data" --splits "\${splits[SLURM_ARRAY_TASK_ID]}" \
  --num-workers 4 --out "$out"
JOB
)

submission=$(sbatch --parsable --dependency="afterok:$predictions" --kill-on-invalid-dep=yes <<JOB
#!/bin/bash
#SBATCH --job-name=submission
#SBATCH --mem=8G
#SBATCH --time=00:30:00           # adapt
#SBATCH --partition=gpu           # adapt
#SBATCH --output=$out/submission.out

source .venv/bin/activate         # adapt
fairchem-hdgnn make-submission --data "$data" --out "$out/submission.npz" \
  --id "$out/test_id.npz" --ood-ads "$out/test_ood_ads.npz" \
  --ood-cat "$out/test_ood_cat.npz" --ood-both "$out/test_ood_both.npz"
JOB
)
echo "Submitted $predictions (predictions), then $submission: $out/submission.npz; logs in $out"
