#!/usr/bin/env bash
# torchrun refuses options that belong to the script, after the script's name: `torchrun train.py --n 4` ends with
# "ambiguous option: --n could match --nnodes, --nproc-per-node, ...".
#
# Guess before trying: everything after the script (or `-m module`) is the script's; torchrun's help says "training
# script followed by the script's arguments", and `--standalone` there does reach the script.
# Seen with torch 2.13.0 and 2.11.0 on Python 3.11: argparse marks each word that begins with dashes as an option before
# it knows where the remainder begins, and finds abbreviations of its own options there. Those that fit one option reach
# the script; those that fit several (--n, --max, --no) are an error. A `--` after the script's name mends it.
# A launcher can call torch.distributed.run.parse_args with its own words only, and set training_script_args itself.
# Installs torch: 200 MB (CPU wheel) to several GB (CUDA). Needs Python 3.11.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 numpy
echo 'import sys; print("the script got", sys.argv[1:])' > "$folder/script.py"
run() {
    OMP_NUM_THREADS=1 "$folder/venv/bin/torchrun" --standalone --nproc-per-node 1 "$folder/script.py" "$@" \
        > "$folder/log" 2>&1 || true
    grep -E "the script got|ambiguous" "$folder/log" | cut -c1-80
}
[ "$(run --standalone)" = "the script got ['--standalone']" ]
[ "$(run --samples 4)" = "the script got ['--samples', '4']" ]
run --n 4
[[ "$(run --n 4)" = "torchrun: error: ambiguous option: --n could match"* ]]
[ "$(run -- --n 4)" = "the script got ['--n', '4']" ]
