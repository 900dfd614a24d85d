"""codec: how much of a clip survives encoding and decoding."""

from __future__ import annotations

import numpy as np
import torch

from musekit.codec import angles, audio_from_magnitudes, compress, magnitudes
from musekit.config import CodecConfig
from musekit.evaluate.judge import ATTRIBUTES, ceiling_rows, ratio
from musekit.evaluate.study import Study, progress, target

CLIPS = 64


def chroma_correlation(decoded: np.ndarray, original: np.ndarray, sample_rate: int) -> float:
    """Pearson's correlation of two sounds' CQT chroma (12 x T values, a frame every 2048 samples), mono."""
    import librosa

    x, y = (librosa.feature.chroma_cqt(y=a.mean(0), sr=sample_rate, hop_length=2048) for a in (decoded, original))
    frames = min(x.shape[1], y.shape[1])
    x, y = x[:, :frames].ravel(), y[:, :frames].ravel()
    return 0.0 if min(x.std(), y.std()) < 1e-9 else float(np.corrcoef(x, y)[0, 1])


def log_mel_l1(decoded: np.ndarray, original: np.ndarray, sample_rate: int) -> float:
    """Mean absolute difference (dB) of mono 128-band mel power, floored 80 dB below the original's peak."""
    import librosa

    def mel(x: np.ndarray) -> np.ndarray:
        return librosa.feature.melspectrogram(y=x.mean(0), sr=sample_rate, n_fft=2048, hop_length=512, n_mels=128)

    x, y = mel(decoded), mel(original)
    floor, frames = max(y.max() * 1e-8, 1e-12), min(x.shape[1], y.shape[1])
    x, y = (10 * np.log10(np.maximum(m[:, :frames], floor)) for m in (x, y))
    return float(np.abs(x - y).mean())


def phase_alone(config: CodecConfig, audio: np.ndarray) -> np.ndarray:
    """(2, N) -> the audio recovered from its true magnitudes and angles: the loss due to phase only."""
    c = compress(config, torch.from_numpy(audio)[None])
    shape = config.n_fft, config.stft_hop, config.phase_iterations
    return audio_from_magnitudes(magnitudes(config, c), angles(config, c), *shape)[0, :, : audio.shape[1]].numpy()


def measure_codec(study: Study) -> None:
    """Writes results/codec.json: fidelity of 64 held-out clips, and the judge's accuracy on round trips."""
    clips = []
    for clip in progress(study.split(study.on)[:CLIPS], "codec"):
        original, rate = study.read(clip)
        sound = study.round_trip(clip)
        clips.append({"chroma_correlation": chroma_correlation(sound, original, rate)})
        clips[-1]["log_mel_l1_db"] = log_mel_l1(sound, original, rate)
    rows = []
    for name in clips[0]:
        values = [c[name] for c in clips]
        percentiles = {f"p{p}": float(np.percentile(values, p)) for p in (10, 50, 90)}
        rows.append({"measure": "percentiles", "name": name, "n": len(values), **percentiles})
    bars = [
        target("codec: chroma correlation, median", rows[0]["p50"], at_least=0.92),
        target("codec: chroma correlation, 10th percentile", rows[0]["p10"], at_least=0.75),
    ]
    ceiling = ceiling_rows(study)
    for attribute in ATTRIBUTES:
        value = ratio(ceiling, attribute, "held-out round trips", of="held-out originals")
        bars.append(target(f"codec keeps {attribute}: round trips / originals", value, at_least=0.95))
    study.write("codec", rows + ceiling + bars)
