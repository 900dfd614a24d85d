#!/bin/bash
# Check GPUs, driver, network between the ranks, disk and clocks of the machines that a job gets: `musekit info --cluster`.
#
#   sbatch slurm/check.sh
#   sbatch --nodes=2 --gpus-per-node=4 slurm/check.sh
#
#SBATCH --job-name=muse-check
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=2
#SBATCH --cpus-per-task=8
#SBATCH --mem-per-cpu=6G
#SBATCH --time=00:10:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --output=slurm-%j.out
#SBATCH --open-mode=append

cd "${SLURM_SUBMIT_DIR:-.}" || exit 2
[ -e slurm/job.sh ] || { echo "submit from the top of the checkout: sbatch slurm/check.sh" >&2; exit 2; }
. slurm/job.sh

start "$MUSEKIT_HOME"
work run_torchrun info --cluster "$@"
