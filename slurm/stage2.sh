#!/bin/bash
# Train Stage 2 (StableAudioMuQ, 1.05B) on 4 GPUs. The words after the name go to `musekit train stage2`.
#
#   sbatch slurm/stage2.sh
#   sbatch slurm/stage2.sh --preset smoke --train.samples 2000
#   sbatch --nodes=2 --gpus-per-node=2 slurm/stage2.sh
#
#SBATCH --job-name=muse-stage2
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --mem-per-cpu=6G
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --output=slurm-%j.out
#SBATCH --open-mode=append

cd "${SLURM_SUBMIT_DIR:-.}" || exit 2
[ -e slurm/job.sh ] || { echo "submit from the top of the checkout: sbatch slurm/stage2.sh" >&2; exit 2; }
. slurm/job.sh

train stage2 "$@"
