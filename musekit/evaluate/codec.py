"""codec: what is left of a clip after encode and decode."""

from __future__ import annotations

import numpy as np
import torch

from musekit.codec import audio_from_magnitudes
from musekit.evaluate.ceiling import rate_of, ratio, references
from musekit.evaluate.judge import ATTRIBUTES
from musekit.evaluate.subject import Subject, bar, read_audio, table, target

CLIPS = 64
WORST = 5


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


def phase_alone(audio: np.ndarray, n_fft: int, hop: int, iterations: int) -> np.ndarray:
    """(2, N) -> the audio recovered from its true magnitudes: what the guessed phase costs."""
    x = torch.from_numpy(audio)
    x = torch.nn.functional.pad(x, (0, -x.shape[1] % hop))
    m = torch.stft(x, n_fft, hop, window=torch.hann_window(n_fft), return_complex=True).abs()
    return audio_from_magnitudes(m[None, :, :, :-1], n_fft, hop, iterations)[0, :, : audio.shape[1]].numpy()


def measure_codec(subject: Subject) -> None:
    """Writes results/codec.json: fidelity of 64 test clips, and what the judge hears in round trips."""
    config, clips = subject.muse.config.codec, []
    for clip in bar(subject.split("test")[:CLIPS], "codec"):
        original, rate = read_audio(subject.path(clip))
        decoded = subject.round_trip(clip)
        phased = phase_alone(original, config.n_fft, config.stft_hop, config.phase_iterations)
        clips.append(
            {
                "measure": "clip",
                "id": clip["id"],
                "instrumentation": clip["instrumentation"],
                "texture": clip["texture"],
                "speed": clip["speed"],
                "chroma_correlation": chroma_correlation(decoded, original, rate),
                "log_mel_l1_db": log_mel_l1(decoded, original, rate),
                "phase_alone_chroma_correlation": chroma_correlation(phased, original, rate),
                "phase_alone_log_mel_l1_db": log_mel_l1(phased, original, rate),
            }
        )
    rows = []
    for name in [name for name in clips[0] if name.endswith(("correlation", "_db"))]:
        values = [c[name] for c in clips]
        some = {f"p{p}": float(np.percentile(values, p)) for p in (10, 50, 90)}
        rows.append({"measure": "percentiles", "name": name, "n": len(values), **some})
    table(rows, "name", "n", "p10", "p50", "p90")
    chroma = next(r for r in rows if r["name"] == "chroma_correlation")
    clips.sort(key=lambda c: c["chroma_correlation"])
    print("worst clips:")
    table(clips[:WORST], "id", "instrumentation", "texture", "speed", "chroma_correlation", "log_mel_l1_db")
    bars = [
        target("codec: chroma correlation, median", chroma["p50"], at_least=0.92),
        target("codec: chroma correlation, 10th percentile", chroma["p10"], at_least=0.75),
    ]
    heard = references(subject)
    for attribute in ATTRIBUTES:
        sources = [rate_of(heard, attribute, f"held-out {s}") for s in ("round trips", "originals")]
        bars.append(target(f"codec keeps {attribute}: round trips / originals", ratio(*sources), at_least=0.95))
    table(heard, "attribute", "source", "n", "accuracy", "low", "high")
    table(bars, "name", "value", "bar", "met")
    subject.write("codec", rows + clips + heard + bars)
