#!/usr/bin/env bash
# FFmpeg's resampler mixes stereo to mono 3 dB louder when the samples come out as floats: 0.9 and 0.9 make 1.27.
#
# Guess before trying: the mono of PyAV's AudioResampler is (left + right) / 2, whatever the type of its samples is.
# Seen with PyAV 18.1.0 (FFmpeg 8.1.2, Linux x86_64): with "s16" or "s32" it is, with "flt", "fltp" and "dbl" it is
# (left + right) / sqrt(2). Only for integers does swresample scale its matrix so that nothing can clip, and its
# documentation of `rematrix_maxval` says nothing of types. From 5.1 to stereo the float is
# 7.7 dB louder than the integer. Mono to stereo is 3 dB softer in both.
# So a data set read as floats has other levels than one read as integers, and than files that are mono already, and
# clips where it is saved. Take the layout as it is and average the channels in numpy.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check av==18.1.0 numpy==2.2.6
"$folder/venv/bin/python" - <<'PYTHON'
import av
import numpy as np


def mix(channels, before, after, kind):
    """What 0.5 in every channel becomes where the layout is changed, as a part of full scale."""
    frame = av.AudioFrame.from_ndarray(np.full((channels, 4800), 0.5, np.float32), format="fltp", layout=before)
    frame.sample_rate = 48000
    out = av.AudioResampler(format=kind, layout=after, rate=48000).resample(frame)[0].to_ndarray()
    return float(out[0, 1000]) / {"s16p": 2**15, "s32p": 2**31}.get(kind, 1)


for channels, before, after in ((2, "stereo", "mono"), (6, "5.1", "stereo"), (1, "mono", "stereo")):
    level = {kind: round(mix(channels, before, after, kind), 3) for kind in ("s16p", "s32p", "fltp", "dblp")}
    print(f"{before} to {after}: 0.5 becomes {level}")
    expected = {"stereo": (0.5, 0.707), "5.1": (0.5, 1.207), "mono": (0.354, 0.354)}[before]
    assert tuple(level.values()) == (expected[0],) * 2 + (expected[1],) * 2
PYTHON
