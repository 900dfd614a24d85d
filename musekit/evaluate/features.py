"""Features of a sound, computed by librosa: timbre, chroma and onsets.

They were learned from nothing, so they are independent of the joint embedding. The judge classifies them.
"""

from collections.abc import Sequence

import numpy as np

VERSION = 2  # names the cache of features: raise it when `features` changes
RATE, HOP, OCTAVES, STEPS = 22050, 1024, 7, 3  # Hz, samples, octaves from C1, CQT bins per semitone


def features(audio: np.ndarray, sample_rate: int) -> dict[str, np.ndarray]:
    """Features of audio (N,) or (channels, N), all float32: timbre (D,), chroma (4, 12), onsets (E,).

    See the functions of these names. The sound must be finite and a second long at least.
    """
    import librosa

    y = np.asarray(audio, np.float32)
    y = y.mean(0) if y.ndim == 2 else y
    y = librosa.resample(y, orig_sr=sample_rate, target_sr=RATE)
    magnitude = np.abs(librosa.stft(y, n_fft=2048, hop_length=512))
    mel = 10 * np.log10(librosa.feature.melspectrogram(S=magnitude**2, sr=RATE, n_mels=96) + 1e-8)
    mel = np.maximum(mel, mel.max() - 80)  # dB
    octave = 12 * STEPS
    cqt = np.abs(librosa.cqt(y, sr=RATE, hop_length=HOP, n_bins=octave * OCTAVES, bins_per_octave=octave))  # from C1
    semitones = cqt.reshape(12 * OCTAVES, STEPS, -1)
    flux = np.maximum(0, np.diff(mel, axis=1)).mean(0)
    found = {
        "timbre": timbre(magnitude, mel),
        "chroma": chroma(semitones),
        "onsets": onsets(flux, semitones.max(1)),
    }
    return {name: np.nan_to_num(value).astype(np.float32) for name, value in found.items()}


def timbre(magnitude: np.ndarray, mel: np.ndarray) -> np.ndarray:
    """Means and deviations of MFCC 1 to 19 (0 is the level), of their change, of spectral contrast and flatness."""
    import librosa

    mfcc = librosa.feature.mfcc(S=mel, n_mfcc=20)
    contrast = librosa.feature.spectral_contrast(S=magnitude, sr=RATE)
    flatness = np.log(librosa.feature.spectral_flatness(S=magnitude))
    rolloff = np.log(librosa.feature.spectral_rolloff(S=magnitude, sr=RATE) + 1)
    deltas = np.diff(mfcc, axis=1).std(1)
    several = [mfcc[1:].mean(1), mfcc[1:].std(1), deltas, contrast.mean(1), contrast.std(1)]
    return np.concatenate([*several, [flatness.mean(), flatness.std(), rolloff.mean()]])


def chroma(semitones: np.ndarray) -> np.ndarray:
    """Four chroma vectors of CQT magnitudes (84, 3, T), each of unit length: (4, 12).

    Of square roots, of magnitudes, of log magnitudes where a semitone is louder than its neighbours, and of log
    magnitudes in the four lowest octaves.
    """
    s = 0.5 * semitones[:, 1] + 0.5 * semitones.max(1)
    log = np.log1p(100 * s / (np.percentile(s, 99) + 1e-9))
    peaks = log * ((log > np.roll(log, 1, 0)) & (log >= np.roll(log, -1, 0)))
    bass = np.where(np.arange(len(log))[:, None] < 48, log, 0)
    folded = np.stack([x.reshape(OCTAVES, 12, -1).sum(0).mean(1) for x in (np.sqrt(s), s, peaks, bass)])
    return folded / (np.linalg.norm(folded, axis=1, keepdims=True) + 1e-9)


def onsets(flux: np.ndarray, s: np.ndarray) -> np.ndarray:
    """Statistics of five onset envelopes: mel flux, and the rise of CQT magnitudes s (84, T) over 2 and 5 frames
    (93 and 232 ms: bowed and sung notes start slowly), in log and in square root; and how fast the spectrum turns.

    A rise is against the loudest of a band and its neighbours, since vibrato is no onset (SuperFlux: Boeck & Widmer
    2013).
    """
    import librosa

    s = s / (np.percentile(s, 99) + 1e-9)
    log = np.log1p(100 * s)
    values = envelope(flux, 43.07)
    for compressed in (log, np.sqrt(s)):
        for lag in (2, 5):
            rise = librosa.onset.onset_strength(S=compressed, lag=lag, max_size=3, center=False)
            values += envelope(rise, 21.53)
    direction = log / (np.linalg.norm(log, axis=0) + 1e-6)
    values += [float((direction[:, lag:] * direction[:, :-lag]).sum(0).mean()) for lag in (2, 4, 8, 16)]
    return np.array(values)


def envelope(e: np.ndarray, frame_rate: float) -> list[float]:
    """Peaks per second at five thresholds (log), mean, deviation, and the envelope's spectrum in 12 bands to 10 Hz."""
    import librosa

    e, seconds = e / (np.percentile(e, 98) + 1e-6), len(e) / frame_rate
    around = dict(pre_max=3, post_max=3, pre_avg=10, post_avg=10, wait=2)
    peaks = [len(librosa.util.peak_pick(e, delta=d, **around)) / seconds for d in (0.05, 0.1, 0.2, 0.3, 0.5)]
    power = np.abs(np.fft.rfft((e - e.mean()) * np.hanning(len(e))))
    hz, edges = np.arange(len(power)) / seconds, np.geomspace(0.5, 10, 13)
    power = power / (power.sum() + 1e-9)
    shares = [power[(hz >= low) & (hz < high)].sum() for low, high in zip(edges, edges[1:])]
    return [*np.log(0.1 + np.array(peaks)), e.mean(), e.std(), (e > 0.3).mean(), *np.log(1e-3 + np.array(shares))]


def onsets_and_timbre(found: Sequence[dict[str, np.ndarray]]) -> np.ndarray:
    """Onset statistics and timbre of several sounds, (n, E + D)."""
    return np.stack([np.concatenate([f["onsets"], f["timbre"]]) for f in found])


def standardised(found: Sequence[dict], reference: Sequence[dict]) -> np.ndarray:
    """Onsets and timbre (n, D) in standard deviations of the reference; 0 where the reference does not vary."""
    x, real = onsets_and_timbre(found), onsets_and_timbre(reference)
    deviation = real.std(0)
    varies = deviation > 1e-6
    return np.where(varies, (x - real.mean(0)) / np.where(varies, deviation, 1.0), 0.0)
