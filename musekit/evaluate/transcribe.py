"""Notes of a sound by a transcriber that this project did not make: Basic Pitch, for any instruments.

Basic Pitch (Bittner et al. 2022, arXiv 2203.09893) comes with its network inside its package (ONNX, 0.2 MB) and takes
0.4 s of one CPU core for a clip of 12 s. The package asks for TensorFlow below 2.15.1, which refuses numpy 2, and does
not need it: it is installed without its requirements.
"""

import contextlib
import functools
import io
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile

from musekit.config import MuseError, home
from musekit.evaluate.study import Sound, Study, cached, progress

PACKAGE = "basic-pitch==0.4.0"
ONSET, FRAME = 0.6, 0.4  # thresholds of its two outputs; chosen on held-out clips of the valid split
SHORTEST = 60  # ms of a note: semiquavers at 180 BPM are 83 ms apart
WINDOW = 0.05  # seconds by which an onset may be off, and 50 cents in pitch (mir_eval's and MIREX's defaults)


@functools.cache
def network():
    """Basic Pitch on one thread. Raises MuseError where its package is missing."""
    try:
        logging.disable(logging.WARNING)  # it warns of the runtimes that are missing
        from basic_pitch import FilenameSuffix, build_icassp_2022_model_path
        from basic_pitch.inference import Model
        from onnxruntime import InferenceSession, SessionOptions
    except ImportError as error:
        raise MuseError(
            f"the judge of notes needs {error.name}: pip install 'musekit[judge]'; pip install --no-deps {PACKAGE}"
        ) from error
    finally:
        logging.disable(logging.NOTSET)
    path, options = str(build_icassp_2022_model_path(FilenameSuffix.onnx)), SessionOptions()
    model, options.intra_op_num_threads = Model(path), 1
    model.model = InferenceSession(path, options)
    return model


def transcribe(audio: np.ndarray, rate: int) -> np.ndarray:
    """Notes of audio (2, N): rows [onset s, offset s, pitch in MIDI numbers, amplitude 0 to 1], in order of onset."""
    model = network()
    from basic_pitch.inference import predict

    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        path = Path(folder) / "sound.wav"
        soundfile.write(path, audio.T, rate, subtype="FLOAT")
        _, _, events = predict(path, model, ONSET, FRAME, SHORTEST)
    return np.array(sorted(e[:4] for e in events), float).reshape(-1, 4)


def notes_of(study: Study, sounds: Sequence[Sound]) -> list[np.ndarray]:
    """`transcribe` of sounds, each once."""
    found = []
    for sound in progress(sounds, "transcribing"):
        key = study.key(sound)
        path = home() / "eval" / f"notes-{PACKAGE}-{ONSET}-{FRAME}-{SHORTEST}" / key[:2] / f"{key}.npz"
        found.append(cached(path, lambda s=sound: {"notes": transcribe(*study.read(s))})["notes"])
    return found


def note_f1(found: np.ndarray, truth: np.ndarray) -> float:
    """F1 of notes (n, >= 3): a note is right when its onset is within 50 ms and its pitch within 50 cents of a note of
    the truth that no other has matched; offsets do not count. 1 where both have none."""
    from mir_eval.transcription import precision_recall_f1_overlap
    from mir_eval.util import midi_to_hz

    if not len(found) or not len(truth):
        return float(len(found) == len(truth))
    sides = [(np.c_[x[:, 0], np.maximum(x[:, 1], x[:, 0] + 1e-3)], midi_to_hz(x[:, 2])) for x in (truth, found)]
    return float(precision_recall_f1_overlap(*sides[0], *sides[1], WINDOW, offset_ratio=None)[2])
