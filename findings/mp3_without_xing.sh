#!/usr/bin/env bash
# libsndfile reads a third of a streamed MP3 of variable bit rate, and calls that the whole.
#
# Guess before trying: without a Xing frame the length in the header is an estimate, but reading goes on to the end of
# the stream, as ffmpeg and mpg123 do.
# Seen with soundfile 0.14.0 (libsndfile 1.2.2, Linux x86_64): the length is guessed from the bit rate of the first
# frame, and reading stops there without an error. 30 s, of which the first 10 are quiet: 10.4 s are read. The same 30 s
# with the quiet part last: 7.4 s. With the Xing frame both are 30.0 s. Recordings of web radio and MP3s cut without
# re-encoding have no such frame. A data set reader must count the frame headers, or decode with another library.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check soundfile==0.14.0 numpy==2.2.6
"$folder/venv/bin/python" - <<'PYTHON'
import io

import numpy as np
import soundfile

RATE = 44100
rng = np.random.default_rng(0)
quiet = 1e-4 * rng.standard_normal(10 * RATE)
loud = 0.3 * rng.standard_normal(20 * RATE)


def seconds(data):
    """What the header promises, and what reading to the end gives."""
    promised = soundfile.info(io.BytesIO(data)).frames / RATE
    return round(promised, 1), round(len(soundfile.read(io.BytesIO(data))[0]) / RATE, 1)


seen = {}
for name, audio in (("quiet first", [quiet, loud]), ("loud first", [loud, quiet])):
    file = io.BytesIO()
    options = {"format": "MP3", "subtype": "MPEG_LAYER_III", "bitrate_mode": "VARIABLE", "compression_level": 0.5}
    soundfile.write(file, np.concatenate(audio), RATE, **options)
    data = file.getvalue()
    xing = data.index(b"Xing")
    second = next(k for k in range(xing + 8, len(data)) if data[k] == 0xFF and data[k + 1] & 0xE0 == 0xE0)
    seen[name] = seconds(data), seconds(data[second:])
    print(f"{name}: with Xing frame (promised, read) {seen[name][0]}, without {seen[name][1]} of 30 s")

assert all(whole == (30.0, 30.0) for whole, _ in seen.values()), seen
assert all(promised == read < 12 for _, (promised, read) in seen.values()), seen
PYTHON
