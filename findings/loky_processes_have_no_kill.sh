#!/usr/bin/env bash
# In joblib 1.6 the processes of loky's executor inherit `kill()` and cannot run it.
#
# Guess before trying: a LokyProcess is a multiprocessing process, so `kill()` ends it with SIGKILL, as `terminate()`
# does with SIGTERM.
# Seen with joblib 1.6.0 on Linux: `kill()` raises AttributeError, since loky's own Popen has `terminate` and no `kill`.
# A supervisor that kills what does not end by itself (as concurrent.futures does from Python 3.14 on by `kill_workers`)
# fails where it is needed; os.kill(process.pid, SIGKILL) works, and the executor replaces the process.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check joblib==1.6.0
"$folder/venv/bin/python" - 2> /dev/null <<'PYTHON'
import os
import signal
from multiprocessing.process import BaseProcess

from joblib.externals.loky import get_reusable_executor
from joblib.externals.loky.process_executor import BrokenProcessPool

executor = get_reusable_executor(1, timeout=60)
first = executor.submit(os.getpid).result()
[process] = executor._processes.values()
assert isinstance(process, BaseProcess) and callable(process.kill)
try:
    process.kill()
    raise SystemExit("kill() works now")
except AttributeError as error:
    print(f"process.kill(): AttributeError: {error}")
assert executor.submit(os.getpid).result() == first, "it should still be alive"
os.kill(first, signal.SIGKILL)
try:
    get_reusable_executor(1, timeout=60).submit(os.getpid).result()
except BrokenProcessPool:
    pass
second = get_reusable_executor(1, timeout=60).submit(os.getpid).result()
assert second != first
print("os.kill(process.pid, SIGKILL): ended, and replaced by another process")
PYTHON
