#!/usr/bin/env bash
# An MP3 of variable bit rate that is read in blocks is not the MP3 that is read at once: python-soundfile seeks after
# each read, and each seek damages up to 3,000 samples.
#
# Guess before trying: reading straight on in blocks gives the same samples as one read; only a seek might not be exact.
# Seen with soundfile 0.14.0 (libsndfile 1.2.2 with mpg123, Linux x86_64), 10 s of a growing tone and 20 s of noise: in
# blocks of 4,096 frames 20 % of the samples differ, by up to 0.57 of full scale; in blocks of 1,000 frames 33 %. After
# each `read` soundfile seeks to where it believes to be. A Layer III frame may use bits of earlier frames, which the
# decoder no longer has after a seek. `SoundFile.blocks` reads in the same way. Where `seekable()` is overridden to say
# False, the blocks are equal to the whole. At constant bit rate they are equal, too.
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
tone = 0.4 * np.sin(2 * np.pi * 440 * np.arange(RATE * 10) / RATE) * np.linspace(0, 1, RATE * 10)
music = np.concatenate([tone, 0.2 * np.random.default_rng(0).standard_normal(RATE * 20)])


class Straight(soundfile.SoundFile):
    def seekable(self):
        return False


seen = {}
for mode in ("VARIABLE", "CONSTANT"):
    file = io.BytesIO()
    options = {"format": "MP3", "subtype": "MPEG_LAYER_III", "bitrate_mode": mode, "compression_level": 0.5}
    soundfile.write(file, music, RATE, **options)
    whole = soundfile.read(io.BytesIO(file.getvalue()))[0]
    for reader in (soundfile.SoundFile, Straight):
        stream, blocks = reader(io.BytesIO(file.getvalue())), []
        while len(block := stream.read(4096)):
            blocks.append(block)
        error = np.abs(np.concatenate(blocks) - whole)
        seen[mode, reader.__name__] = share = float((error > 1e-3).mean())
        print(f"{mode} bit rate, {reader.__name__}: {100 * share:.1f} % of samples differ, by up to {error.max():.2f}")

assert seen.pop(("VARIABLE", "SoundFile")) > 0.1
assert not any(seen.values())
PYTHON
