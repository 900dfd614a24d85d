#!/usr/bin/env bash
# Every copy of a 16-bit file through pedalboard lowers each negative sample by one: a "lossless" FLAC sinks.
#
# Guess before trying: reading 16-bit samples as floats and writing them as 16 bits gives the same samples, as it does
# in soundfile.
# Seen with pedalboard 0.9.26 (Linux x86_64): `read` divides by 32767 (so -32768 becomes -1.00003, below the range), and
# `write` makes 32-bit integers of the floats and cuts the lower bits off, which rounds downwards. Zero and the positive
# samples come back, each negative one is 1 lower, at each copy again: after ten copies the halves of the wave are 10
# steps apart and the file has an offset. WAV, FLAC and AIFF are alike, and so is 24 bits. The documentation of `write`
# says only that the audio is converted.
# Fades end one-sided, hashes never match, and a data set that was re-saved twice differs from one that was saved once.
# `read_raw`, and integers given to `write`, are exact.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check pedalboard==0.9.26 soundfile==0.14.0 numpy==2.2.6
"$folder/venv/bin/python" - <<'PYTHON'
import io

import numpy as np
import soundfile
from pedalboard.io import AudioFile

samples = np.arange(-32000, 32001, dtype=np.int16)
for kind in ("WAV", "FLAC", "AIFF"):
    file = io.BytesIO()
    soundfile.write(file, samples, 44100, format=kind, subtype="PCM_16")
    for copies in range(1, 11):
        with AudioFile(io.BytesIO(file.getvalue())) as source:
            audio = source.read(source.frames)
        file = io.BytesIO()
        with AudioFile(file, "w", 44100, 1, bit_depth=16, format=kind.lower()) as target:
            target.write(audio)
    change = soundfile.read(io.BytesIO(file.getvalue()), dtype="int16")[0] - samples
    below, others = set(change[samples < 0].tolist()), set(change[samples >= 0].tolist())
    print(f"{kind}, {copies} copies: negative samples changed by {below}, others by {others}")
    assert (below, others) == ({-10}, {0})
PYTHON
