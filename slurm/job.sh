# shellcheck shell=bash
# What the job scripts share: the log, the processes, the signals, the requeue. They source it; it is never submitted.
#
#   option NAME DEFAULT WORDS...   prints the value of the last --NAME among the words
#   start FOLDER                   continues the log in FOLDER; ends a job that makes no progress
#   work COMMAND...                runs it to its end, then ends the job: done, requeued, or failed
#   run_torchrun WORDS...          `musekit WORDS` by ranks that communicate: one torchrun per node
#   run_independent WORDS...       `musekit WORDS` by ranks that only share the work: plain srun
#   train STAGE WORDS...           `musekit train STAGE WORDS`, with the paper preset unless they name another

[ -n "${SLURM_JOB_ID:-}" ] || { echo "this is a job script, submit it: sbatch slurm/..." >&2; exit 2; }
job=$SLURM_JOB_ID
# The number of an array's last task is also that of the whole array: its tasks need their long name.
[ -z "${SLURM_ARRAY_JOB_ID:-}" ] || job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
log=

say() {
    printf 'job %s: %s\n' "$job" "$*" >&2
    [ -z "$log" ] || printf 'job %s: %s\n' "$job" "$*" >&3 # also into Slurm's own log of the job
}

fail() {
    say "${*:2}"
    exit "$1"
}

# After `sbatch --export=NONE` srun would start its programs without this script's environment, even without a PATH.
unset SLURM_EXPORT_ENV

. slurm/env.sh || fail 2 "slurm/env.sh failed, see above"
inside=() in_srun=() # words of MUSE_CONTAINER: of a command before python, or of srun
case ${MUSE_CONTAINER:=} in
    -*) read -ra in_srun <<<"$MUSE_CONTAINER" ;;
    ?*) read -ra inside <<<"$MUSE_CONTAINER" ;;
esac
if [ -n "$MUSE_CONTAINER" ]; then
    MUSE_ENV=
elif [ -n "$MUSE_ENV" ]; then
    [ -e "$MUSE_ENV/bin/activate" ] || fail 2 "no virtual environment in $MUSE_ENV: set MUSE_ENV, or edit slurm/env.sh"
    # shellcheck source=/dev/null
    . "$MUSE_ENV/bin/activate"
fi
[ -n "$MUSE_CONTAINER" ] || command -v musekit >/dev/null || fail 2 "musekit is not installed in this environment: edit slurm/env.sh"

set -u # not earlier: a site's activation scripts may use unset variables
gpus=${SLURM_GPUS_ON_NODE:-0} # per node; musekit refuses to start with fewer
[ -z "$MUSE_PROCS" ] || gpus=0
procs=${MUSE_PROCS:-${SLURM_GPUS_ON_NODE:-0}}
[ "$procs" -gt 0 ] 2>/dev/null ||
    fail 2 "'$procs' processes per node: request GPUs, or set their number on CPUs: MUSE_PROCS=2 sbatch ..."
cpus=$((${SLURM_CPUS_PER_TASK:-1} / procs))
cpus=$((cpus > 0 ? cpus : 1)) # per process
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$cpus} PYTHONUNBUFFERED=1 TQDM_MININTERVAL=${TQDM_MININTERVAL:-30}
export MUSEKIT_GPUS="$gpus" LOCAL_WORLD_SIZE="$procs" # musekit compares them with the GPUs that torch sees

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

    # Requeued several times without a new checkpoint, shard or piece: restarts do not cure what is wrong.
    now=$(find "$1" \( -name 'checkpoint-*.pt' -o -name '*.safetensors' -o -name '*.wav' \) -printf '%p %T@\n' |
        LC_ALL=C sort | cksum)
    if [ "${SLURM_RESTART_COUNT:-0}" -gt 0 ] && [ "$now" = "$(tail -n 1 "$mark" 2>/dev/null)" ]; then
        stalls=$(($(head -n 1 "$mark") + 1))
    fi
    [ "$stalls" -lt "$MUSE_STALLS" ] || fail 1 "gave up: $((stalls + 1)) starts without any progress"
    printf '%s\n' "$stalls" "$now" >"$mark"
    say "start $((${SLURM_RESTART_COUNT:-0} + 1)) at $(date -u +%FT%TZ): ${SLURM_JOB_NUM_NODES} x $procs processes on" \
        "$SLURM_JOB_NODELIST, $cpus CPUs each, commit $(git rev-parse --short HEAD 2>/dev/null || echo unknown)"
}

signal_steps() { # repeatedly: a process that is just starting does not handle signals yet
    # While the job's state changes, scancel would try again after 5 s, and so signal the next start.
    while timeout 4 scancel --quiet --signal=USR1 "$job"; sleep 15; do :; done
}

nodes_alive() { # every node of the job still starts a program; one that says why it cannot is not lost
    local said
    said=$(timeout 60 srun --overlap --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 --cpus-per-task=1 true 2>&1) ||
        [[ $said = *'execve()'* ]]
}

cause() { # the first error since this start; ranks that lost the one that failed report it later
    awk '/^job [^ ]+: start [0-9]+ at / { said = "" }
        /^(musekit: |torchrun: rank [0-9]+ ended with [0-9]+)/ && !/^musekit: note: / && !/ lost another rank/ && !said {
            said = $0 }
        END { print said }' "$log"
}

work() {
    local stop='' signaller='' code pid why
    trap 'say "the time limit is near: saving"; stop=again; [ -n "$signaller" ] || { signal_steps & signaller=$!; }' USR1
    trap 'say "asked to end: saving"; stop=end; [ -n "$signaller" ] || { signal_steps & signaller=$!; }' TERM
    "$@" &
    pid=$!
    while code=0; wait "$pid" || code=$?; kill -0 "$pid" 2>/dev/null; do :; done # a signal interrupts wait
    trap '' USR1 TERM
    [ "$code" -le 128 ] || { code=0; wait "$pid" || code=$?; } # it ended while a signal interrupted the last wait
    [ -z "$signaller" ] || kill "$signaller"

    [ "$code" != 0 ] || { say "done"; exit 0; }
    [ "$stop" != end ] || fail "$code" "stopped from outside; the same command, or Slurm itself, continues it"
    if [ "$code" != 75 ]; then # 75: the state is saved, the same command continues
        why=$(cause)
        case $code:$why in # 1 or 2 with a cause is a mistake or a crash; without one, ranks only say that others are lost
            [12]:?*) fail "$code" "failed with $code, see $log; $why" ;;
        esac
        ! nodes_alive || fail "$code" "failed with $code, see $log; $why"
        say "failed with $code, because a node is lost"
    fi
    say "to be started again"
    scontrol requeue "$job" || fail "$code" "cannot be requeued; submit the same command"
    exit 0
}

free_port() { # below the ports that the system assigns: no other program gets it before torchrun listens there
    local port
    while port=$((20000 + RANDOM % 12000)) && (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do :; done
    echo "$port"
}

run_torchrun() {
    local head port
    head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1) # this script runs there
    port=${MUSE_PORT:-$(free_port)}
    # USR1 is for musekit; torchrun would die of it, so it starts with it ignored. After a lost node: 5 minutes.
    # shellcheck disable=SC2016 # SLURMD_NODENAME differs between nodes
    exec srun --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 --cpus-per-task=$((cpus * procs)) --wait=300 \
        "${in_srun[@]}" bash -c 'trap "" USR1; exec "$@"' _ "${inside[@]}" \
        bash -c 'exec python -m musekit.launch --local-addr="$SLURMD_NODENAME" "$@"' _ --nnodes="$SLURM_JOB_NUM_NODES" --nproc-per-node="$procs" --rdzv-id="$job.${SLURM_RESTART_COUNT:-0}" \
        --rdzv-backend=c10d --rdzv-endpoint="$head:$port" -m musekit "$@"
}

run_independent() {
    # shellcheck disable=SC2016 # these differ between processes
    exec srun --ntasks=$((SLURM_JOB_NUM_NODES * procs)) --ntasks-per-node="$procs" --cpus-per-task="$cpus" --wait=0 \
        "${in_srun[@]}" \
        bash -c 'trap "" USR1; RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS exec "$@"' _ \
        "${inside[@]}" python -m musekit "$@"
}

train() {
    local stage=$1 preset run
    shift
    preset=$(option preset paper "$@")
    [ "$preset" != smoke ] || gpus=0 MUSEKIT_GPUS=0 # for tests: without GPUs it trains on CPUs
    run=$(option run-folder "$MUSEKIT_HOME/runs/$preset-$stage" "$@")
    start "$run"
    work run_torchrun train "$stage" --preset "$preset" --run-folder "$run" --require-gpus "$gpus" "$@"
}
