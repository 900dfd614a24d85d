"""The judge: which instrument, major or minor, slow or fast, heard without our embedder.

librosa hears (timbre, chroma, onsets), linear classifiers decide. They are fitted on originals *and* codec round
trips of training clips, so what the codec does to a sound is not taken for another instrument.

    instrument   linear discriminant analysis (shrunk) of MFCC and spectral-contrast statistics
    mode         24 key templates on chroma, learned: one weight vector a mode, turned to each tonic
    speed        onsets a second, by support vector regression of their logarithm on onset statistics and timbre
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from musekit.config import TONICS, MuseError
from musekit.statistics import hoyer

VERSION = 1  # of `hear`; features kept on disk are named by it
RATE, HOP, OCTAVES, STEPS = 22050, 1024, 7, 3  # Hz, samples, octaves from C1, CQT bins a semitone
ATTRIBUTES = ("instrument", "mode", "speed")
BETWEEN = 2.75  # onsets a second: between what the corpus calls slow (below 1.8) and fast (above 4.2)


def hear(audio: np.ndarray, sample_rate: int) -> dict[str, np.ndarray]:
    """Features of audio (N,) or (channels, N), all float32:

    timbre (D,), chroma (4, 12), onsets (E,) and texture (4,), see the functions of these names. Raises MuseError
    for less than a second of sound, or a sound that is no number.
    """
    import librosa

    y = np.asarray(audio, np.float32)
    y = y.mean(0) if y.ndim == 2 else y
    if len(y) < sample_rate or not np.isfinite(y).all():
        raise MuseError(f"the judge needs at least a second of finite sound, not {len(y) / sample_rate:.2f} s")
    y = librosa.resample(y, orig_sr=sample_rate, target_sr=RATE)
    magnitude = np.abs(librosa.stft(y, n_fft=2048, hop_length=512))
    mel = 10 * np.log10(librosa.feature.melspectrogram(S=magnitude**2, sr=RATE, n_mels=96) + 1e-8)
    mel = np.maximum(mel, mel.max() - 80)  # dB
    octave = 12 * STEPS
    cqt = np.abs(librosa.cqt(y, sr=RATE, hop_length=HOP, n_bins=octave * OCTAVES, bins_per_octave=octave))  # from C1
    semitones = cqt.reshape(12 * OCTAVES, STEPS, -1)
    flux = np.maximum(0, np.diff(mel, axis=1)).mean(0)
    heard = {
        "timbre": timbre(magnitude, mel),
        "chroma": chroma(semitones),
        "onsets": onsets(flux, semitones.max(1)),
        "texture": texture(flux, cqt, magnitude),
    }
    return {name: np.nan_to_num(value).astype(np.float32) for name, value in heard.items()}


def timbre(magnitude: np.ndarray, mel: np.ndarray) -> np.ndarray:
    """Means and deviations of MFCC 1 to 19 (level left out), of their change, of spectral contrast and flatness."""
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
    """
    s = s / (np.percentile(s, 99) + 1e-9)
    log = np.log1p(100 * s)
    values = envelope(flux, 43.07)
    for compressed in (log, np.sqrt(s)):
        for lag in (2, 5):
            values += envelope(rise(compressed, lag), 21.53)
    direction = log / (np.linalg.norm(log, axis=0) + 1e-6)
    values += [float((direction[:, lag:] * direction[:, :-lag]).sum(0).mean()) for lag in (2, 4, 8, 16)]
    return np.array(values)


def rise(s: np.ndarray, lag: int) -> np.ndarray:
    """Summed rise of bands (F, T) over `lag` frames, against the loudest of a band and its neighbours (T - lag,).

    Vibrato moves energy between neighbours and so is no onset (SuperFlux: Boeck & Widmer 2013).
    """
    wide = np.maximum.reduce([s, np.pad(s, ((1, 0), (0, 0)))[:-1], np.pad(s, ((0, 1), (0, 0)))[1:]])
    return np.maximum(0, s[:, lag:] - wide[:, :-lag]).sum(0)


def envelope(e: np.ndarray, frames_a_second: float) -> list[float]:
    """Peaks a second at five thresholds (log), mean, deviation, and the envelope's spectrum in 12 bands to 10 Hz."""
    import librosa

    e, seconds = e / (np.percentile(e, 98) + 1e-6), len(e) / frames_a_second
    around = dict(pre_max=3, post_max=3, pre_avg=10, post_avg=10, wait=2)
    peaks = [len(librosa.util.peak_pick(e, delta=d, **around)) / seconds for d in (0.05, 0.1, 0.2, 0.3, 0.5)]
    power = np.abs(np.fft.rfft((e - e.mean()) * np.hanning(len(e))))
    hz, edges = np.arange(len(power)) / seconds, np.geomspace(0.5, 10, 13)
    power = power / (power.sum() + 1e-9)
    shares = [power[(hz >= low) & (hz < high)].sum() for low, high in zip(edges, edges[1:])]
    return [*np.log(0.1 + np.array(peaks)), e.mean(), e.std(), (e > 0.3).mean(), *np.log(1e-3 + np.array(shares))]


TEXTURE = ("onset_sparsity", "onset_strength_db", "pitch_sparsity", "flatness_db")


def texture(flux: np.ndarray, cqt: np.ndarray, magnitude: np.ndarray) -> np.ndarray:
    """Notes or texture? Hoyer sparsity of the onset envelope, its 98th percentile in dB, mean Hoyer sparsity of
    the CQT's frames, and median spectral flatness in dB. Notes are sparse in time and in pitch, and not flat.
    """
    import librosa

    loud = cqt[:, cqt.sum(0) >= 0.05 * cqt.sum(0).max()]
    flatness = 10 * np.log10(np.median(librosa.feature.spectral_flatness(S=magnitude)) + 1e-12)
    return np.array([hoyer(flux), np.percentile(flux, 98), hoyer(loud, axis=0).mean(), flatness])


def in_scale(chroma: np.ndarray) -> float:
    """Share of the chroma (4, 12) of spectral peaks in the major or natural minor scale that holds most of it.

    7/12 for a flat chroma; music in a key has more, notes without a key have less.
    """
    scale = np.isin(np.arange(12), (0, 2, 4, 5, 7, 9, 11))
    peaks = chroma[2] / max(chroma[2].sum(), 1e-9)
    return float(max(peaks[np.roll(scale, k)].sum() for k in range(12)))


def pace(heard: Sequence[dict[str, np.ndarray]]) -> np.ndarray:
    """What the onset rate is read from: onset statistics and timbre, (n, E + D)."""
    return np.stack([np.concatenate([h["onsets"], h["timbre"]]) for h in heard])


class KeyTemplates:
    """log p(tonic k, mode m | chroma) = w_m . (chroma turned down by k) + b_m + const: Krumhansl's method with
    learned profiles, fitted by maximum likelihood with a penalty on |w|^2.
    """

    def __init__(self, penalty: float = 3e-3):
        self.penalty = penalty

    def _turned(self, x: np.ndarray) -> np.ndarray:
        """Chroma (n, 4, 12) -> every tonic first (n, 12, 48)."""
        x = (x - x.mean(2, keepdims=True)) / self.scale
        return np.stack([np.roll(x, -k, axis=2).reshape(len(x), -1) for k in range(12)], axis=1)

    def fit(self, x: np.ndarray, tonics: np.ndarray, modes: np.ndarray) -> KeyTemplates:
        """x (n, 4, 12), tonics 0 to 11, modes 0 (major) or 1 (minor)."""
        from scipy.optimize import minimize

        self.scale = (x - x.mean(2, keepdims=True)).std()
        turned, truth = self._turned(x), np.eye(24)[2 * tonics + modes]  # (n, 12, 48), (n, 24)
        width = turned.shape[2]

        def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
            w = flat.reshape(2, width + 1)
            scores = (turned @ w[:, :-1].T + w[:, -1]).reshape(len(x), 24)
            scores -= scores.max(1, keepdims=True)
            log_p = scores - np.log(np.exp(scores).sum(1, keepdims=True))
            error = ((np.exp(log_p) - truth) / len(x)).reshape(len(x), 12, 2)
            gradient = np.concatenate([np.einsum("nkm,nkd->md", error, turned), error.sum((0, 1))[:, None]], axis=1)
            value = -(log_p * truth).sum() / len(x) + self.penalty * (flat**2).sum()
            return value, gradient.ravel() + 2 * self.penalty * flat

        self.w = minimize(objective, np.zeros(2 * (width + 1)), jac=True, method="L-BFGS-B").x.reshape(2, -1)
        return self

    def probabilities(self, x: np.ndarray) -> np.ndarray:
        """(n, 12, 2): of every tonic and mode."""
        scores = self._turned(x) @ self.w[:, :-1].T + self.w[:, -1]
        p = np.exp(scores - scores.max((1, 2), keepdims=True))
        return p / p.sum((1, 2), keepdims=True)

    def predict(self, x: np.ndarray) -> np.ndarray:
        """'major' or 'minor' of each row, summed over tonics."""
        return np.array(["major", "minor"])[self.probabilities(x).sum(1).argmax(1)]


class Judge:
    """Fitted classifiers of the three attributes."""

    def fit(self, records: Sequence[dict], heard: Sequence[dict[str, np.ndarray]]) -> Judge:
        """Fit on clip records and their features. Raises MuseError when an attribute has fewer than two values."""
        from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
        from sklearn.svm import SVR

        def of(attribute: str, name: str) -> tuple[np.ndarray, np.ndarray]:
            truth = np.array([str(value_of(r, attribute)) for r in records])
            known = truth != "None"
            if len(set(truth[known])) < 2:
                raise MuseError(f"the judge cannot learn {attribute!r} from clips with fewer than two values of it")
            return np.stack([h[name] for h, k in zip(heard, known) if k]), truth[known]

        self.instruments = make_pipeline(StandardScaler(), LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto"))
        self.instruments.fit(*of("instrument", "timbre"))
        # all speeds teach the rate, not only slow and fast; a choir's beating is no onset, hence the timbre
        self.rates = make_pipeline(StandardScaler(), SVR(C=3.0, epsilon=0.05, gamma=0.002))
        self.rates.fit(pace(heard), np.log([r["onset_rate"] for r in records]))
        x, modes = of("mode", "chroma")
        keyed = [r["key"] for r in records if value_of(r, "mode")]
        self.modes = KeyTemplates().fit(x, np.array([TONICS.index(k) for k in keyed]), (modes == "minor").astype(int))
        return self

    def onset_rates(self, heard: Sequence[dict[str, np.ndarray]]) -> np.ndarray:
        """Onsets a second as heard, (n,)."""
        return np.exp(self.rates.predict(pace(heard)))

    def judge(self, heard: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """{"instrument", "mode", "speed"}: what each clip sounds like, one array of words each."""

        def of(name: str) -> np.ndarray:
            return np.stack([h[name] for h in heard])

        return {
            "instrument": self.instruments.predict(of("timbre")),
            "mode": self.modes.predict(of("chroma")),
            "speed": np.where(self.onset_rates(heard) < BETWEEN, "slow", "fast"),
        }


def value_of(record: dict, attribute: str) -> str | None:
    """The record's value where it can be judged: one of the 12 single instruments, major or minor, slow or fast."""
    from musekit.corpus.instruments import SINGLE

    value = record.get("instrumentation" if attribute == "instrument" else attribute)
    judged = {"instrument": SINGLE, "mode": ("major", "minor"), "speed": ("slow", "fast")}[attribute]
    return value if value in judged else None
