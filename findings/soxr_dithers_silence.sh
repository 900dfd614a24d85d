#!/usr/bin/env bash
# Silence is no longer silent when it is resampled as 16-bit integers by soxr.
#
# Guess before trying: a linear filter maps zeros to zeros, whatever the type of the numbers is.
# Seen with soxr 1.1.0 on Python 3.11: of int16 zeros, 48 to 44.1 kHz, some 23 % of the samples come back as 1 or -1, for
# libsoxr dithers 16-bit output unless it is told not to, and soxr.resample has no argument for that. Both channels get
# noise of their own, so silent stereo has a width. int32, float32 and float64 zeros stay zeros, and two calls
# give the same samples.
# So resample as floats: tests for digital silence, trimming at 0 and hashes of mono files fail otherwise.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check soxr==1.1.0 'numpy>=2,<3'
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import soxr

print("soxr", soxr.__version__)
for kind in ("int16", "int32", "float32", "float64"):
    silence = soxr.resample(np.zeros((48000, 2), kind), 48000, 44100)
    assert silence.dtype == kind
    print(f"{kind}: {(silence != 0).mean():.0%} of {silence.size:,} samples are not 0, the loudest is {abs(silence).max()}")
    if kind == "int16":
        assert abs(silence).max() == 1 and 0.15 < (silence != 0).mean() < 0.3
        assert np.array_equal(silence, soxr.resample(np.zeros((48000, 2), kind), 48000, 44100))
        print("left and right are alike in", f"{(silence[:, 0] == silence[:, 1]).mean():.0%}")
        assert not np.array_equal(silence[:, 0], silence[:, 1])
    else:
        assert not silence.any()
PYTHON
