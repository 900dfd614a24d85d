#!/usr/bin/env bash
# A FLAC of unknown length has 2^63 - 1 frames, and python-soundfile fails on its last block.
#
# FLAC allows 0 for "number of samples unknown" in its header: every encoder that writes into a pipe leaves it so.
# Guess before trying: `frames` is 0 or -1, and the file is read to its end like any other.
# Seen with soundfile 0.14.0 (libsndfile 1.2.2, Linux x86_64): `frames` is 9223372036854775807 (so `frames / samplerate`
# is 6.6 million years, and a buffer of that size is asked for by whoever trusts it), reading 1,000 frames works, and
# `blocks()` raises "Internal psf_fseek() failed." because soundfile seeks to where it believes to be after each read.
# Reading works to the end where `seekable()` is overridden to say False.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check soundfile==0.14.0 numpy==2.2.6
"$folder/venv/bin/python" - <<'PYTHON'
import io

import numpy as np
import soundfile

RATE, N = 44100, 3 * 44100
file = io.BytesIO()
soundfile.write(file, 0.1 * np.random.default_rng(0).standard_normal(N), RATE, format="FLAC")
data = bytearray(file.getvalue())
data[21] &= 0xF0  # the low 36 bits of STREAMINFO's eight bytes from 18 on: the number of samples
data[22:26] = bytes(4)


class Straight(soundfile.SoundFile):
    def seekable(self):
        return False


stream = soundfile.SoundFile(io.BytesIO(bytes(data)))
first = len(stream.read(1000))
print("frames", stream.frames, "; first read", first)
assert stream.frames == 2**63 - 1 and first == 1000
try:
    total = sum(len(block) for block in soundfile.SoundFile(io.BytesIO(bytes(data))).blocks(4096))
except soundfile.LibsndfileError as error:
    print("blocks():", error)
    assert "psf_fseek" in str(error)
else:
    raise AssertionError(f"blocks() read {total} frames")
stream, total = Straight(io.BytesIO(bytes(data))), 0
while n := len(stream.read(4096)):
    total += n
print("without seeking:", total, "frames of", N)
assert total == N
PYTHON
