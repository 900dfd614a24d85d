#!/bin/bash
# Train Stage 1 (Text2MuQFlow, 271M) on 2 GPUs. The words after the name go to `musekit train stage1`.
#
#   sbatch slurm/stage1.sh
#   sbatch slurm/stage1.sh --preset smoke --train.samples 2000
#   sbatch --nodes=2 --gpus-per-node=1 slurm/stage1.sh
#
#SBATCH --job-name=muse-stage1
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=2
#SBATCH --cpus-per-task=16
#SBATCH --mem-per-cpu=6G
#SBATCH --time=12:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --output=slurm-%j.out
#SBATCH --open-mode=append

cd "${SLURM_SUBMIT_DIR:-.}" || exit 2
[ -e slurm/job.sh ] || { echo "submit from the top of the checkout: sbatch slurm/stage1.sh" >&2; exit 2; }
. slurm/job.sh

train stage1 "$@"
