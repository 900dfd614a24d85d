#!/bin/bash
# Generate the pieces of a file of prompts on all GPUs. The words after the name go to `musekit generate`.
#
#   sbatch slurm/generate.sh --prompts prompts.jsonl --weights ~/weights --out ~/pieces
#   sbatch --nodes=4 --gpus-per-node=8 slurm/generate.sh ...
#
#SBATCH --job-name=muse-generate
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --mem-per-cpu=6G
#SBATCH --time=04:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --output=slurm-%j.out
#SBATCH --open-mode=append

cd "${SLURM_SUBMIT_DIR:-.}" || exit 2
[ -e slurm/job.sh ] || { echo "submit from the top of the checkout: sbatch slurm/generate.sh" >&2; exit 2; }
. slurm/job.sh

prompts=$(option prompts prompts "$@")
out=$(option out "$MUSEKIT_HOME/generated/$(basename "${prompts%.*}")" "$@")
[ "$gpus" = 0 ] || set -- --threads 1 "$@" # part of a recipe: otherwise another number of GPUs would change all pieces
start "$out"
work run_torchrun generate --out "$out" "$@"
