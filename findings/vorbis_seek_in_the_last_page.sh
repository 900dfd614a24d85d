#!/usr/bin/env bash
# A seek into the last page of an Ogg Vorbis file lands 88 samples late, and the file says that it did not.
#
# Guess before trying: seeks in Vorbis are exact to the sample (libvorbisfile's ov_pcm_seek promises it), at the end too.
# Seen with soundfile 0.14.0 (libsndfile 1.2.2, Linux x86_64), 10 s of noise that soundfile itself wrote: seeks up to
# 18,000 samples before the end are exact; in the last 15,000 (the last page) each one gives what is 88 samples (2 ms)
# later, while `tell` names the place that was asked for. A likely reason: the last page's position is cut to the true
# length, and positions inside it are counted back from there. The last clip of a recording is cut 2 ms off; in a loss
# that compares waveforms that is another signal.
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
noise = 0.1 * np.random.default_rng(3).standard_normal(RATE * 10)
file = io.BytesIO()
with soundfile.SoundFile(file, "w", RATE, 1, format="OGG", subtype="VORBIS") as stream:
    for i in range(0, len(noise), 16384):
        stream.write(noise[i : i + 16384])
whole = soundfile.read(io.BytesIO(file.getvalue()))[0]
assert len(whole) == len(noise)
late = {}
for before_end in [*range(421_000, 20_000, -20_000), *range(30_000, 2_000, -3_000)]:
    at = len(whole) - before_end
    stream = soundfile.SoundFile(io.BytesIO(file.getvalue()))
    stream.seek(at)
    assert stream.tell() == at
    got = stream.read(400)
    late[before_end] = [d for d in range(-500, 500) if np.abs(got - whole[at + d : at + d + 400]).max() < 1e-6]
print({place: late[place] for place in sorted(late) if place <= 30_000})
assert all(late[place] == [0] for place in late if place >= 18_000)
assert all(late[place] == [88] for place in late if place <= 15_000)
PYTHON
