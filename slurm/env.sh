# shellcheck shell=bash
# What a site says once. Every job reads this file when it starts, in the folder where sbatch was called.
# Each setting may also be given for one job, from outside: MUSE_ENV=~/envs/muse sbatch slurm/stage1.sh

# Partition, account and reservation belong to sbatch, which reads them before any job runs: put into your ~/.bashrc
#   export SBATCH_PARTITION=gpu SBATCH_ACCOUNT=my-project

# 1. Python with musekit: the folder of a virtual environment. For conda or modules leave it empty (MUSE_ENV=) and write
#    your own lines below it. Every node must see the same one.
MUSE_ENV=${MUSE_ENV-$PWD/.venv}
# module load python/3.11 cuda
# source ~/miniconda3/bin/activate muse

# 2. Caches, runs and weights: a file system that every node sees, with room (Stage 2 keeps ~50 GB of checkpoints).
export MUSEKIT_HOME=${MUSEKIT_HOME:-${XDG_CACHE_HOME:-$HOME/.cache}/musekit}

# 3. Compute nodes often have no internet: models then come from folders or from the hub's cache, filled beforehand.
export HF_HUB_OFFLINE=${HF_HUB_OFFLINE:-1}

# 4. Processes a node: empty is one a GPU. Nodes without GPUs need a number (they talk through gloo).
MUSE_PROCS=${MUSE_PROCS:-}

# 5. A job that was started again this often without getting any further gives up.
MUSE_STALLS=${MUSE_STALLS:-3}

# 6. Networks with several interfaces: name the fast one.
# export NCCL_SOCKET_IFNAME=ib0 GLOO_SOCKET_IFNAME=ib0
