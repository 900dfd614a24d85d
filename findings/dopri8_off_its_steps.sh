#!/usr/bin/env bash
# torchdiffeq's solver of the highest order misses its tolerance by a factor of 300 at the end: the end is interpolated.
#
# Guess before trying: an adaptive solver steps exactly onto the last time that is asked for, so that the last value is
# as good as the tolerance; a lower accuracy is possible only at times in between.
# Seen with torchdiffeq 0.2.5 and torch 2.13.0, y' = cos(t) - y from 0 to 3 in float64: dopri8 steps beyond 3 (the
# function is asked up to t = 3.9) and takes the value at 3 from a polynomial of degree 4 through its last, long step.
# At tolerances of 1e-5, 1e-7 and 1e-9 its error is 16, 48 and 320 times the tolerance: steps of order 8 are too long
# for the polynomial. With options={"step_t": t[1:]} the errors are 0.12, 0.05 and 0.02 times it, at the same cost or
# less. dopri5, whose steps are shorter, is within its tolerance. The documentation advises such times for kinks only.
# (A closed issue, 78, is about the times beyond the end, not about the error.)
# Samples of a flow, likelihoods and gradients that come from `y[-1]` look converged and are not, and a network is asked
# at times outside of those on which it was trained. Pass `step_t` with every time whose value matters.
# Installs torch: 200 MB (CPU wheel) to several GB (CUDA).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 torchdiffeq==0.2.5 'numpy>=2,<3'
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import torch
from torchdiffeq import odeint

torch.set_num_threads(1)
asked = []


def slope(t, y):
    asked.append(float(t))
    return torch.cos(t) - y


def solve(method, tolerance, **options):
    """Returns the error at the end as a part of the tolerance, the last time that was asked and the number of calls."""
    asked.clear()
    start, t = torch.ones(1, dtype=torch.float64), torch.tensor([0, 3], dtype=torch.float64)
    end = odeint(slope, start, t, rtol=tolerance, atol=tolerance, method=method, options=options or None)[-1]
    true = (torch.cos(t[1]) + torch.sin(t[1]) + torch.exp(-t[1])) / 2
    return float((end - true).abs()) / tolerance, max(asked), len(asked)


stop = torch.tensor([3], dtype=torch.float64)
for tolerance, least in ((1e-5, 10), (1e-7, 30), (1e-9, 200)):
    error, last, calls = solve("dopri8", tolerance)
    error_onto, last_onto, calls_onto = solve("dopri8", tolerance, step_t=stop)
    print(f"dopri8 at {tolerance}: {error:.1f} times the tolerance ({calls} calls, up to t = {last:.2f}), "
          f"with step_t {error_onto:.2f} ({calls_onto} calls, up to t = {last_onto:.2f})")
    assert error > least and last > 3.1
    assert error_onto < 0.2 and last_onto < 3.0001 and calls_onto <= calls
    error, last, calls = solve("dopri5", tolerance)
    print(f"dopri5 at {tolerance}: {error:.1f} times the tolerance ({calls} calls, up to t = {last:.2f})")
    assert error < 1
PYTHON
