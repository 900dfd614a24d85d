# shellcheck shell=bash
# A site's settings. Every job reads this file when it starts, in the folder where sbatch was called.
# Each setting may also be given for one job: MUSE_ENV=~/envs/muse sbatch slurm/stage1.sh

# Partition, account and reservation are for sbatch, which reads them before any job runs: put them into your ~/.bashrc
#   export SBATCH_PARTITION=gpu SBATCH_ACCOUNT=my-project

# 1. Python with musekit: the folder of a virtual environment that every node sees. For conda or modules leave it empty
#    (MUSE_ENV=) and write your own lines below it.
MUSE_ENV=${MUSE_ENV-$PWD/.venv}
# module load python/3.11 cuda
# source ~/miniconda3/bin/activate muse

# 2. Caches, runs and weights: a file system that every node sees, with room (Stage 2 keeps ~50 GB of checkpoints).
export MUSEKIT_HOME=${MUSEKIT_HOME:-${XDG_CACHE_HOME:-$HOME/.cache}/musekit}

# 3. Compute nodes often have no internet: models then come from folders or from the hub's cache, filled beforehand.
export HF_HUB_OFFLINE=${HF_HUB_OFFLINE:-1}

# 4. Processes per node: one per GPU if empty. Nodes without GPUs need a number (they communicate through gloo).
MUSE_PROCS=${MUSE_PROCS:-}

# 5. A job that was restarted this often without any progress gives up.
MUSE_STALLS=${MUSE_STALLS:-3}

# 6. Networks with several interfaces: name the fast one.
# export NCCL_SOCKET_IFNAME=ib0 GLOO_SOCKET_IFNAME=ib0

# 7. A container with musekit in the place of point 1: what goes before `python`, or options of srun for pyxis.
MUSE_CONTAINER=${MUSE_CONTAINER:-}
# MUSE_CONTAINER="apptainer exec --nv --bind /data /data/muse.sif"
# MUSE_CONTAINER="--container-image=/data/muse.sqsh --container-mounts=/data,$PWD --container-workdir=$PWD"
