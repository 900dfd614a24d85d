#!/usr/bin/env bash
# DistributedDataParallel keeps gloo's threads alive after destroy_process_group, unless torch.distributed.nn was
# imported before init_process_group.
#
# Guess before trying: destroy_process_group ends the group and joins its threads, whatever was imported and when.
# Seen with torch 2.13.0 and 2.11.0 (Linux x86_64, CPU): making a DDP module imports torch.distributed.nn, whose
# functions have `group=group.WORLD` as a default argument, evaluated at the import. Imported while a group exists, the
# defaults hold that group for the life of the process: after destroy_process_group its 3 threads (4 with a TCP store)
# still run. Imported before, they are gone. Such a thread can abort a rank ("terminate called without an active
# exception") while Python ends, after the work is done: 2 of 40 two-rank runs did on a busy machine. Importing
# torch.distributed.nn first is the remedy.
# Installs torch: 200 MB (CPU wheel) to several GB (CUDA).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 numpy
cat > "$folder/threads.py" <<'PYTHON'
import os
import sys

import torch

if sys.argv[1] == "first":
    import torch.distributed.nn
alone = len(os.listdir("/proc/self/task"))
store = f"file://{sys.argv[2]}"
torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 2))
model(torch.ones(1, 2)).sum().backward()
during = len(os.listdir("/proc/self/task"))
del model
torch.distributed.destroy_process_group()
print(during - alone, len(os.listdir("/proc/self/task")) - alone)
PYTHON
for order in first later; do
    seen=$(OMP_NUM_THREADS=1 "$folder/venv/bin/python" -W ignore "$folder/threads.py" "$order" "$folder/$order")
    echo "torch.distributed.nn imported $order: threads more (while the group exists, after its end): $seen"
    read -r during after <<< "$seen"
    case $order in
        first) [ "$during" -gt 0 ] && [ "$after" -eq 0 ] ;;
        later) [ "$after" -eq "$during" ] && [ "$after" -gt 0 ] ;;
    esac
done
