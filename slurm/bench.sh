#!/bin/bash
# Time the system on one GPU with nothing else on its node. The words after the name go to `musekit bench`.
#
#   sbatch slurm/bench.sh --weights ~/weights
#
# Nothing is saved on the way: a job that loses its node starts anew, and one that reaches its time limit has failed.
#
#SBATCH --job-name=muse-bench
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --mem-per-cpu=6G
#SBATCH --time=02:00:00
#SBATCH --exclusive
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --output=slurm-%j.out
#SBATCH --open-mode=append

cd "${SLURM_SUBMIT_DIR:-.}" || exit 2
[ -e slurm/job.sh ] || { echo "submit from the top of the checkout: sbatch slurm/bench.sh" >&2; exit 2; }
MUSE_PROCS=1 # whatever the job asked for
. slurm/job.sh

results=$(option results "$MUSEKIT_HOME/results" "$@")
start "$results"
work run_independent bench --results "$results" "$@"
