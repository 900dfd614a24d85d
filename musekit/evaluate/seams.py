"""Seams: can a classifier tell a second around a seam from a second at a random place of the same pieces?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from musekit.evaluate.features import features, onsets_and_timbre

FOLDS = 5
RANDOM = 2  # random places per seam


def row(audio: np.ndarray, rate: int, at: float) -> np.ndarray:
    """librosa's features of the second around a time, and how the log-mel spectrum changes across its middle."""
    import librosa

    start = round((at - 0.5) * rate)
    x = np.ascontiguousarray(audio[:, start : start + rate])
    mel = librosa.feature.melspectrogram(y=x.mean(0), sr=rate, n_mels=32, hop_length=rate // 100)
    db = librosa.power_to_db(mel, ref=np.max)
    jumps = np.abs(np.diff(db, axis=1)).mean(0)  # 100 a second
    sides = np.abs(db[:, 30:48].mean(1) - db[:, 53:71].mean(1))
    return np.r_[onsets_and_timbre([features(x, rate)])[0], sides, jumps[45:55].max() / (np.median(jumps) + 1e-6)]


def seam_auc(pieces: Sequence[tuple[np.ndarray, int, Sequence[float]]], seed: int = 0) -> float:
    """The area under the ROC curve, 0.5 where seams are not heard, of pieces (audio (2, N), rate, seams in s).

    A logistic regression on standardised features judges pieces that it was not fitted on. Random places keep 1 s from
    every seam. Raises ValueError for fewer than 5 pieces with a seam and room beside it.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import GroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rng, x, y, groups = np.random.default_rng(seed), [], [], []
    for number, (audio, rate, seams) in enumerate(pieces):
        seconds = audio.shape[1] / rate
        seams = [at for at in seams if 0.5 <= at <= seconds - 0.5]
        free = np.arange(0.5, seconds - 0.5, 0.05)
        free = free[(np.abs(free[:, None] - np.array(seams)[None]) > 1).all(1)] if seams else free[:0]
        places = [*seams, *rng.choice(free, min(len(free), RANDOM * len(seams)), replace=False)]
        x += [row(audio, rate, at) for at in places]
        y += [k < len(seams) for k in range(len(places))]
        groups += [number] * len(places)
    if len({*groups}) < FOLDS or len({*y}) < 2:
        raise ValueError(f"a judge of seams needs {FOLDS} pieces with a seam and 2 s beside it")
    judge = make_pipeline(StandardScaler(), LogisticRegression(C=0.03, max_iter=2000, class_weight="balanced"))
    scores = cross_val_predict(judge, np.stack(x), y, groups=groups, cv=GroupKFold(FOLDS), method="decision_function")
    return float(roc_auc_score(y, scores))
