#!/bin/bash
# Compute a cache once, on one GPU or many jobs. The words after the name go to `musekit cache`.
#
#   sbatch slurm/cache.sh --preset paper --data ~/data/MusicBench --kinds clips tokens latents embeddings
#   sbatch --array=0-15 slurm/cache.sh ...                    16 jobs of one GPU, each with its share
#   sbatch --nodes=2 --gpus-per-node=4 slurm/cache.sh ...     one job of 8 processes
#
#SBATCH --job-name=muse-cache
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --mem-per-cpu=6G
#SBATCH --time=08:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --output=slurm-%j.out
#SBATCH --open-mode=append

cd "${SLURM_SUBMIT_DIR:-.}" || exit 2
[ -e slurm/job.sh ] || { echo "submit from the top of the checkout: sbatch slurm/cache.sh" >&2; exit 2; }
. slurm/job.sh

name=$(realpath -m "$(option corpus "$(option data scores "$@")" "$@")")
out=$(option out "$MUSEKIT_HOME/caches/$(basename "$name")" "$@")
share=
if [ -n "${SLURM_ARRAY_TASK_ID:-}" ]; then # every job of an array computes its share
    step=${SLURM_ARRAY_TASK_STEP:-1} first=${SLURM_ARRAY_TASK_MIN:-0} count=${SLURM_ARRAY_TASK_COUNT:-1}
    [ $(((${SLURM_ARRAY_TASK_MAX:-0} - first) / step + 1)) = "$count" ] ||
        fail 2 "this array has gaps, and their shares would be missing: use --array=0-N"
    share=$(((SLURM_ARRAY_TASK_ID - first) / step))/$count
fi
start "$out"
work run_independent cache --out "$out" ${share:+--share "$share"} "$@"
