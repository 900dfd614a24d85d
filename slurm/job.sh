# shellcheck shell=bash
# What the job scripts share: the log, the processes, the signal, the requeue. They source it; it is never submitted.
#
#   option NAME DEFAULT WORDS...   the last --NAME among the words
#   start FOLDER                   the log goes on in FOLDER; a job that gets no further ends here
#   work COMMAND...                runs it to its end, then: done, start again, or failed
#   together WORDS...              `musekit WORDS` by ranks that wait for each other: one torchrun a node
#   apart WORDS...                 `musekit WORDS` by ranks that only share the work: plain srun
#   train STAGE WORDS...           all of it for `musekit train STAGE WORDS`; the paper preset, unless they say another

[ -n "${SLURM_JOB_ID:-}" ] || { echo "this is a job script, submit it: sbatch slurm/..." >&2; exit 2; }
job=$SLURM_JOB_ID
# The number of an array's last task is also that of the whole array: its tasks need their long name.
[ -z "${SLURM_ARRAY_JOB_ID:-}" ] || job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
log=

say() {
    printf 'job %s: %s\n' "$job" "$*" >&2
    [ -z "$log" ] || printf 'job %s: %s\n' "$job" "$*" >&3 # Slurm's own log of the job, which start has left
}

fail() {
    say "${*:2}"
    exit "$1"
}

. slurm/env.sh || fail 2 "slurm/env.sh went wrong, see above"
if [ -n "$MUSE_ENV" ]; then
    [ -e "$MUSE_ENV/bin/activate" ] || fail 2 "no virtual environment in $MUSE_ENV: set MUSE_ENV, or edit slurm/env.sh"
    # shellcheck source=/dev/null
    . "$MUSE_ENV/bin/activate"
fi
command -v musekit >/dev/null || fail 2 "musekit is not installed in this environment: edit slurm/env.sh"

set -u # from here on: a site's own activation scripts may not bear it
gpus=${SLURM_GPUS_ON_NODE:-0} # of each node, which musekit must find
[ -z "$MUSE_PROCS" ] || gpus=0
procs=${MUSE_PROCS:-${SLURM_GPUS_ON_NODE:-0}}
[ "$procs" -gt 0 ] 2>/dev/null ||
    fail 2 "'$procs' processes a node: ask for GPUs, or say how many on CPUs: MUSE_PROCS=2 sbatch ..."
cpus=$((${SLURM_CPUS_PER_TASK:-1} / procs))
cpus=$((cpus > 0 ? cpus : 1)) # of each process
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$cpus} PYTHONUNBUFFERED=1 TQDM_MININTERVAL=${TQDM_MININTERVAL:-30}

option() {
    local name=$1 value=$2 word next=''
    for word in "${@:3}"; do
        [ -z "$next" ] || value=$word
        next=
        case ${word//_/-} in
            "--$name") next=1 ;;
            "--$name="*) value=${word#*=} ;;
        esac
    done
    printf '%s\n' "$value"
}

start() {
    local to=$1/slurm-$job.log mark=$1/.slurm-$job now stalls=0
    { mkdir -p "$1" && : >>"$to"; } 2>/dev/null ||
        fail 2 "cannot write $to: choose another folder, or set MUSEKIT_HOME in slurm/env.sh"
    say "log: $to"
    exec 3>&2 >>"$to" 2>&1
    log=$to

    # Requeued again and again without a new checkpoint, shard or piece: something is wrong that restarts do not cure.
    now=$(find "$1" \( -name 'checkpoint-*.pt' -o -name '*.safetensors' -o -name '*.wav' \) -printf '%p %T@\n' |
        LC_ALL=C sort | cksum)
    if [ "${SLURM_RESTART_COUNT:-0}" -gt 0 ] && [ "$now" = "$(tail -n 1 "$mark" 2>/dev/null)" ]; then
        stalls=$(($(head -n 1 "$mark") + 1))
    fi
    [ "$stalls" -lt "$MUSE_STALLS" ] || fail 1 "gave up: $((stalls + 1)) starts without getting any further"
    printf '%s\n' "$stalls" "$now" >"$mark"
    say "start $((${SLURM_RESTART_COUNT:-0} + 1)) at $(date -u +%FT%TZ): ${SLURM_JOB_NUM_NODES} x $procs processes on" \
        "$SLURM_JOB_NODELIST, $cpus CPUs each, commit $(git rev-parse --short HEAD 2>/dev/null || echo unknown)"
}

tell() { # again and again: a process that is just starting does not listen yet
    while scancel --quiet --signal=USR1 "$job"; sleep 15; do :; done
}

all_answer() { # every node of the job still starts a program
    timeout 60 srun --overlap --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 true >/dev/null 2>&1
}

cause() { # what musekit said first since this start; ranks that lost the one that failed say so after it
    awk '/^job [^ ]+: start [0-9]+ at / { said = "" }
        /^musekit: / && !/^musekit: note: / && !/ lost another rank/ && !said { said = $0 } END { print said }' "$log"
}

work() {
    local stop='' teller='' code pid
    trap 'say "the time limit is near: saving"; stop=again; [ -n "$teller" ] || { tell & teller=$!; }' USR1
    trap 'say "told to end: saving"; stop=end; [ -n "$teller" ] || { tell & teller=$!; }' TERM
    "$@" &
    pid=$!
    while code=0; wait "$pid" || code=$?; kill -0 "$pid" 2>/dev/null; do :; done # a signal interrupts wait
    trap '' USR1 TERM
    [ -z "$teller" ] || kill "$teller"

    [ "$code" != 0 ] || { say "done"; exit 0; }
    [ "$stop" != end ] || fail "$code" "stopped from outside; started again by Slurm or by the same command, it goes on"
    if [ "$code" != 75 ]; then # 75: state is saved, the same command goes on
        ! all_answer || fail "$code" "failed with $code, see $log; $(cause)"
        say "failed with $code, because a node is lost"
    fi
    say "to be started again"
    scontrol requeue "$job" || fail "$code" "cannot be started again by itself; submit the same command"
    exit 0
}

free_port() { # below the ports that the system deals out by itself: nobody gets it before torchrun listens there
    python -c 'import random, socket
ports = iter(lambda: random.randrange(20000, 32000), None)
print(next(port for port in ports if socket.socket().connect_ex(("", port))))'
}

together() {
    local head port
    export MUSEKIT_GPUS="$gpus" # as in `apart`
    head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1) # this script runs there
    port=${MUSE_PORT:-$(free_port)}
    # USR1 is for musekit: torchrun, which would die of it, starts with it ignored. A node gone: the rest has 5 minutes.
    # shellcheck disable=SC2016 # SLURMD_NODENAME is another one on every node
    exec srun --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 --cpus-per-task=$((cpus * procs)) --wait=300 \
        bash -c 'trap "" USR1; exec python -m musekit.launch --local-addr="$SLURMD_NODENAME" "$@"' _ \
        --nnodes="$SLURM_JOB_NUM_NODES" --nproc-per-node="$procs" --rdzv-id="$job.${SLURM_RESTART_COUNT:-0}" \
        --rdzv-backend=c10d --rdzv-endpoint="$head:$port" -m musekit "$@"
}

apart() {
    export LOCAL_WORLD_SIZE="$procs" MUSEKIT_GPUS="$gpus" # musekit compares them with the GPUs that it finds
    # shellcheck disable=SC2016 # these differ in every process
    exec srun --ntasks=$((SLURM_JOB_NUM_NODES * procs)) --ntasks-per-node="$procs" --cpus-per-task="$cpus" --wait=0 \
        bash -c 'trap "" USR1; RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS exec "$@"' _ \
        python -m musekit "$@"
}

train() {
    local stage=$1 preset run
    shift
    preset=$(option preset paper "$@")
    [ "$preset" != smoke ] || gpus=0 # tiny, for tests: where there are no GPUs it trains on CPUs
    run=$(option run-folder "$MUSEKIT_HOME/runs/$preset-$stage" "$@")
    start "$run"
    work together train "$stage" --preset "$preset" --run-folder "$run" --require-gpus "$gpus" "$@"
}
