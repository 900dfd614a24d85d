#!/usr/bin/env bash
# FSDP2's fully_shard refuses a module with a scalar parameter, as its message says ("Change scale to a 1D tensor with
# numel equal to 1"). Whoever follows the message and calls it again on the same module gets an AssertionError: it "has
# already been applied". The module is marked before its parameters are looked at, and the mark stays.
#
# Guess before trying: a call that raises changes nothing, so that after the change the second call succeeds.
# Seen with torch 2.13.0 and 2.11.0 on Python 3.11, one gloo rank on a CPU. The parameters are still whole, so the network
# looks as if it had never been sharded; it has to be built anew.
# Installs torch: 200 MB (CPU wheel) to several GB (CUDA). Needs Python 3.11.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 numpy
cat > "$folder/try.py" <<'EOF'
import torch
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor


class Scaled(nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.linear, self.scale = nn.Linear(4, 4), nn.Parameter(scale)

    def forward(self, x):
        return self.linear(x) * self.scale


torch.distributed.init_process_group("gloo", init_method="tcp://127.0.0.1:29511", rank=0, world_size=1)
fully_shard(right := Scaled(torch.ones(1)))
assert isinstance(right.scale, DTensor)  # so the shape was all that was wrong

network = Scaled(torch.ones(()))
for attempt in ("scalar", "one number"):
    try:
        fully_shard(network)
    except (ValueError, AssertionError) as error:
        print(attempt, type(error).__name__, str(error).splitlines()[0][:90])
    network.scale = nn.Parameter(torch.ones(1))
print("whole", not any(isinstance(p, DTensor) for p in network.parameters()))
torch.distributed.destroy_process_group()
EOF
"$folder/venv/bin/python" "$folder/try.py" > "$folder/log" 2> "$folder/errors" || { cat "$folder/errors"; exit 1; }
cat "$folder/log"
grep -q "^scalar ValueError fully_shard doesn't support scalar parameters" "$folder/log"
grep -q "^one number AssertionError Each distinct composable distributed API can only be applied to a module once" "$folder/log"
grep -q "^whole True" "$folder/log"
