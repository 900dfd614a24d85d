"""The judge: which instrument, major or minor, slow or fast? It decides from librosa's features, not our embedder.

Linear classifiers are fitted on originals *and* codec round trips of training clips, so that what the codec does to a
sound is not mistaken for another instrument.

    instrument   linear discriminant analysis (shrunk) of MFCC and spectral-contrast statistics
    mode         24 learned key templates on chroma: one weight vector per mode, rotated to each tonic
    speed        onsets per second, by support vector regression of their logarithm on onset statistics and timbre
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from musekit.config import TONICS, MuseError
from musekit.evaluate.features import onsets_and_timbre
from musekit.evaluate.study import CLASSES, Study, value_of
from musekit.statistics import accuracy

ATTRIBUTES = tuple(CLASSES)
SPEED_LIMIT = 2.75  # onsets per second: between the corpus's slow (below 1.8) and fast (above 4.2)
FITTING = 1000  # training clips of single instruments that the judge is fitted on
FITTING_ROUND_TRIPS = 400  # of these, also through the codec


class KeyTemplates:
    """log p(tonic k, mode m | chroma) = w_m . (chroma turned down by k) + b_m + const: Krumhansl's method with
    learned profiles. Logistic regression on all twelve transpositions of each clip has this form at its optimum.
    """

    def __init__(self, penalty: float = 3e-3):
        self.penalty = penalty  # of |w|^2, beside the mean log likelihood

    def _flat(self, x: np.ndarray) -> np.ndarray:
        return ((x - x.mean(2, keepdims=True)) / self.scale).reshape(len(x), -1)

    def fit(self, x: np.ndarray, tonics: np.ndarray, modes: np.ndarray) -> KeyTemplates:
        """x (n, 4, 12), tonics 0 to 11, modes 0 (major) or 1 (minor)."""
        from sklearn.linear_model import LogisticRegression

        self.scale = (x - x.mean(2, keepdims=True)).std()
        turned = np.concatenate([self._flat(np.roll(x, k, axis=2)) for k in range(12)])
        keys = np.concatenate([2 * ((tonics + k) % 12) + modes for k in range(12)])
        self.model = LogisticRegression(C=1 / (2 * self.penalty * len(x)), max_iter=2000).fit(turned, keys)
        return self

    def probabilities(self, x: np.ndarray) -> np.ndarray:
        """(n, 12, 2): of every tonic and mode."""
        return self.model.predict_proba(self._flat(x)).reshape(-1, 12, 2)

    def predict(self, x: np.ndarray) -> np.ndarray:
        """'major' or 'minor' of each row, summed over tonics."""
        return np.array(["major", "minor"])[self.probabilities(x).sum(1).argmax(1)]


class Judge:
    """Fitted classifiers of the three attributes."""

    def fit(self, records: Sequence[dict], found: Sequence[dict[str, np.ndarray]]) -> Judge:
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
            return np.stack([h[name] for h, k in zip(found, known) if k]), truth[known]

        self.instruments = make_pipeline(StandardScaler(), LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto"))
        self.instruments.fit(*of("instrument", "timbre"))
        # fitted on all speeds, not only slow and fast; timbre, because a choir's beating looks like onsets
        self.rates = make_pipeline(StandardScaler(), SVR(C=3.0, epsilon=0.05, gamma=0.002))
        self.rates.fit(onsets_and_timbre(found), np.log([r["onset_rate"] for r in records]))
        x, modes = of("mode", "chroma")
        keyed = [r["key"] for r in records if value_of(r, "mode")]
        self.modes = KeyTemplates().fit(x, np.array([TONICS.index(k) for k in keyed]), (modes == "minor").astype(int))
        return self

    def onset_rates(self, found: Sequence[dict[str, np.ndarray]]) -> np.ndarray:
        """Estimated onsets per second, (n,)."""
        return np.exp(self.rates.predict(onsets_and_timbre(found)))

    def judge(self, found: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """{"instrument", "mode", "speed"}: the class of each clip, one array of words each."""

        def of(name: str) -> np.ndarray:
            return np.stack([f[name] for f in found])

        return {
            "instrument": self.instruments.predict(of("timbre")),
            "mode": self.modes.predict(of("chroma")),
            "speed": np.where(self.onset_rates(found) < SPEED_LIMIT, "slow", "fast"),
        }


@functools.lru_cache(maxsize=1)
def fitted(study: Study) -> Judge:
    """Fitted on originals of training clips, and on round trips of some of them."""
    clips = study.singles("train")[:FITTING]
    through_codec = clips[:FITTING_ROUND_TRIPS]
    found = study.features(clips) + study.features(study.round_trips(through_codec))
    return Judge().fit(clips + through_codec, found)


def as_record(asks: dict) -> dict:
    """The attributes that a prompt asks for, as the record of a clip that has them."""
    return {**asks, "instrumentation": asks.get("instrument")}


def accuracy_rows(study: Study, records: Sequence[dict], found: Sequence[dict], source: str) -> list[dict]:
    """The judge's accuracy on features of sounds, a row per attribute; `records` give the truth where it is known."""
    judged, rows = fitted(study).judge(found), []
    for attribute in ATTRIBUTES:
        truth = [value_of(r, attribute) for r in records]
        right = np.array([j == t for j, t in zip(judged[attribute], truth) if t is not None], bool)
        rows.append({"measure": "accuracy", "attribute": attribute, "source": source, **accuracy(right)})
    return rows


def ceiling_rows(study: Study) -> list[dict]:
    """The judge's accuracy on held-out originals and on their codec round trips: what generated clips can reach."""
    originals, clips = study.singles(study.on), study.prompt_like()
    rows = accuracy_rows(study, originals, study.features(originals), "held-out originals")
    return rows + accuracy_rows(study, clips, study.features(study.round_trips(clips)), "held-out round trips")


def ratio(rows: Sequence[dict], attribute: str, source: str, of: str) -> float | None:
    """Accuracy of an attribute from one source over that from another; None where either is unknown or zero."""
    accuracies = {
        r["source"]: r["accuracy"] for r in rows if r["measure"] == "accuracy" and r["attribute"] == attribute
    }
    value, other = accuracies.get(source), accuracies.get(of)
    return value / other if value is not None and other else None
