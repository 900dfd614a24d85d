#!/usr/bin/env bash
# The same samples, written twice as a float WAV, are two different files: libsndfile writes down when.
#
# Guess before trying: uncompressed files depend on their samples only, so their hashes can be keys of a cache.
# Seen with soundfile 0.14.0 (libsndfile 1.2.2) on Python 3.11: WAV and AIFF with float samples get a PEAK chunk, which
# holds the loudest sample and the second of writing. W64, RF64, CAF and 16-bit WAV, FLAC and MP3 are the same bytes
# each time. (Ogg Vorbis and Opus differ as well, by their stream's random serial number.)
# So hash samples, not files, or write FLAC; two runs within one second hide it from a test.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check soundfile==0.14.0 'numpy>=2,<3'
"$folder/venv/bin/python" - <<'PYTHON'
import io
import struct
import time

import numpy as np
import soundfile

print("soundfile", soundfile.__version__, "libsndfile", soundfile.__libsndfile_version__)
samples = np.linspace(-0.5, 0.5, 1000)
kinds = [("WAV", "FLOAT"), ("AIFF", "FLOAT"), ("W64", "FLOAT"), ("RF64", "FLOAT"), ("CAF", "FLOAT")]
kinds += [("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("MP3", "MPEG_LAYER_III"), ("OGG", "VORBIS"), ("OGG", "OPUS")]


def written() -> dict:
    files = {}
    for kind in kinds:
        file = io.BytesIO()
        soundfile.write(file, samples, 48000, format=kind[0], subtype=kind[1])
        files[kind] = file.getvalue()
    return files


first = written()
time.sleep(2.1)
second = written()
for kind in kinds:
    print(*kind, "the same bytes" if first[kind] == second[kind] else "other bytes")
changing = {kind for kind in kinds if first[kind] != second[kind]}
assert changing == {("WAV", "FLOAT"), ("AIFF", "FLOAT"), ("OGG", "VORBIS"), ("OGG", "OPUS")}, changing
a, b = (files["WAV", "FLOAT"] for files in (first, second))
place = a.index(b"PEAK")
(then,), (now,) = (struct.unpack_from("<I", file, place + 12) for file in (a, b))
print("the WAV's PEAK chunk says", then, "and", now)
assert 2 <= now - then <= 4 and abs(now - time.time()) < 60
assert [i for i in range(len(a)) if a[i] != b[i]] == [i for i in range(place + 12, place + 16) if a[i] != b[i]]
PYTHON
