"""prompts: do generated clips sound as their prompts ask?  embedder: does it place sounds near their words?

The judge says which instrument plays, major or minor, slow or fast, from librosa's features, not our embedder. It hears
generated clips, held-out originals and codec round trips, so the three accuracies compare. The embedder answers the
same questions zero-shot: a sound has the class whose held-out sentences are nearest.

Linear classifiers are fitted on originals *and* codec round trips of training clips, so that what the codec does to a
sound is not mistaken for another instrument.

    instrument   linear discriminant analysis (shrunk) of MFCC and spectral-contrast statistics
    mode         24 learned key templates on chroma: one weight vector per mode, rotated to each tonic
    speed        onsets per second, by support vector regression of their logarithm on onset statistics and timbre
"""

import functools
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from musekit.config import TONICS, MuseError
from musekit.corpus.captions import HELD_OUT, evaluation_prompts, fill
from musekit.corpus.captions import prompts as vague_prompts
from musekit.evaluate.features import onsets_and_timbre
from musekit.evaluate.study import CLASSES, Sound, Study, target, value_of
from musekit.muse import Settings
from musekit.statistics import accuracy

ATTRIBUTES = tuple(CLASSES)
SPEED_LIMIT = 2.75  # onsets per second: between the corpus's slow (below 1.8) and fast (above 4.2)
FITTING = 1000  # training clips of single instruments that the judge is fitted on
FITTING_ROUND_TRIPS = 400  # of these, also through the codec
PROMPT_SEED = 20_000  # piece i of the prompts has the seed 20,000 + i
WORDINGS = 12  # sentences per class, at most
ENSEMBLE_CLIPS, ENSEMBLE_PIECES = 40, 4  # of each duet, group or band: at most for training, and generated
ENSEMBLE_SECONDS, ENSEMBLE_SEED = 12.0, 30_000


class KeyTemplates:
    """log p(tonic k, mode m | chroma) = w_m . (chroma turned down by k) + b_m + const: Krumhansl's method with
    learned profiles. Logistic regression on all twelve transpositions of each clip has this form at its optimum.
    """

    PENALTY = 3e-3  # of |w|^2, beside the mean log likelihood

    def _flat(self, x: np.ndarray) -> np.ndarray:
        return ((x - x.mean(2, keepdims=True)) / self.scale).reshape(len(x), -1)

    def fit(self, x: np.ndarray, tonics: np.ndarray, modes: np.ndarray) -> "KeyTemplates":
        """x (n, 4, 12), tonics 0 to 11, modes 0 (major) or 1 (minor)."""
        from sklearn.linear_model import LogisticRegression

        self.scale = (x - x.mean(2, keepdims=True)).std()
        turned = np.concatenate([self._flat(np.roll(x, k, axis=2)) for k in range(12)])
        keys = np.concatenate([2 * ((tonics + k) % 12) + modes for k in range(12)])
        self.model = LogisticRegression(C=1 / (2 * self.PENALTY * len(x)), max_iter=2000).fit(turned, keys)
        return self

    def probabilities(self, x: np.ndarray) -> np.ndarray:
        """(n, 12, 2): of every tonic and mode."""
        return self.model.predict_proba(self._flat(x)).reshape(-1, 12, 2)

    def predict(self, x: np.ndarray) -> np.ndarray:
        """'major' or 'minor' of each row, summed over tonics."""
        return np.array(["major", "minor"])[self.probabilities(x).sum(1).argmax(1)]


def discriminant():
    """Linear discriminant analysis (shrunk) of standardised features, to be fitted."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto"))


class Judge:
    """Fitted classifiers of the three attributes."""

    def fit(self, records: Sequence[dict], found: Sequence[dict[str, np.ndarray]]) -> "Judge":
        """Fit on clip records and their features. Raises MuseError when an attribute has fewer than two values."""
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
        from sklearn.svm import SVR

        def of(attribute: str, name: str) -> tuple[np.ndarray, np.ndarray]:
            truth = np.array([str(value_of(r, attribute)) for r in records])
            known = truth != "None"
            if len(set(truth[known])) < 2:
                raise MuseError(f"the judge cannot learn {attribute!r} from clips with fewer than two values of it")
            return np.stack([h[name] for h, k in zip(found, known) if k]), truth[known]

        self.instruments = discriminant().fit(*of("instrument", "timbre"))
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
def fitted(study: Study) -> "Judge":
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


# -- what it measures


def evaluation_pieces(study: Study) -> tuple[list[dict], list[Path], np.ndarray]:
    """The n evaluation prompts, a piece for each with the preset's defaults, and Stage 1's embeddings (n, 512)."""
    prompts = evaluation_prompts(study.n)
    recipes = study.recipes([p["text"] for p in prompts], PROMPT_SEED, Settings())
    x, _ = study.sample(recipes)
    return prompts, study.render(x, recipes), x


def ensemble_rows(study: Study) -> list[dict]:
    """How often a judge of 12 s hears which duet, group or band plays, among all that have enough training clips: in
    held-out clips, their round trips, and pieces for prompts that name one. A duet is right where both are heard.
    """
    counts = Counter(c["instrumentation"] for c in study.split("train"))
    least, each = (1, 1) if study.quick else (30, ENSEMBLE_PIECES)
    names = sorted(name for name, n in counts.items() if n >= least and name not in CLASSES["instrument"])
    if len(names) < 2:
        return []

    def some(split: str, most: int) -> list[dict]:
        clips = study.split(split)
        return [c for name in names for c in [c for c in clips if c["instrumentation"] == name][:most]]

    def heard(sounds: Sequence[Sound]) -> np.ndarray:
        return onsets_and_timbre(study.features(sounds, ENSEMBLE_SECONDS))

    clips, again = some("train", ENSEMBLE_CLIPS), some("train", ENSEMBLE_CLIPS // 4)
    x = np.concatenate([heard(clips), heard(study.round_trips(again))])
    judge = discriminant().fit(x, [c["instrumentation"] for c in clips + again])
    asked, held_out = [name for name in names for _ in range(each)], some(study.on, ENSEMBLE_CLIPS)
    recipes = study.recipes([f"{name} music" for name in asked], ENSEMBLE_SEED, Settings(seconds=ENSEMBLE_SECONDS))
    known, rows = [c["instrumentation"] for c in held_out], []
    for source, sounds, truth in (
        ("held-out originals", held_out, known),
        ("held-out round trips", study.round_trips(held_out), known),
        ("generated", study.render(study.sample(recipes)[0], recipes), asked),
    ):
        right, duet = judge.predict(heard(sounds)) == truth, np.array([" and " in name for name in truth])
        for attribute, which in (("ensemble", ~duet), ("two instruments", duet)):
            rows.append({"measure": "accuracy", "attribute": attribute, "source": source, **accuracy(right[which])})
    return [{**row, "of": len(names)} for row in rows]


def measure_prompts(study: Study) -> None:
    """Writes results/prompts.json."""
    prompts, paths, sampled = evaluation_pieces(study)
    records = [as_record(p["asks"]) for p in prompts]
    rows = obedience(study, records, paths)
    rows += zero_shot(study, records, sampled, "embedder, of Stage 1's embeddings")
    vague = [p["text"] for p in vague_prompts("vague") if "instrument" not in p["asks"]] * 4
    vague = vague[: min(len(vague), study.n)]
    for said in ("", ", no piano"):
        recipes = study.recipes([text + said for text in vague], PROMPT_SEED, Settings())
        judged = fitted(study).judge(study.features(study.render(study.sample(recipes)[0], recipes)))
        about = {"measure": "accuracy", "attribute": "another instrument than a piano", "source": f"generated{said}"}
        rows.append({**about, **accuracy(judged["instrument"] != "piano")})
    study.write("prompts", rows + ensemble_rows(study), seed=PROMPT_SEED)


def obedience(study: Study, records: Sequence[dict], pieces: Sequence[Sound]) -> list[dict]:
    """The judge's accuracy on pieces and on held-out clips, and the bars on their ratio; records: what was wanted."""
    rows = ceiling_rows(study) + accuracy_rows(study, records, study.features(pieces), "generated")
    for attribute in ATTRIBUTES:
        found = next(r for r in rows if (r["source"], r["attribute"]) == ("generated", attribute))
        value = ratio(rows, attribute, "generated", of="held-out round trips")
        share = value / found["accuracy"] if value else 0.0
        ends = {"low": share * found["low"], "high": share * found["high"]} if value else {}
        rows.append(target(f"prompts are obeyed, {attribute}: generated / round trips", value, at_least=0.9, **ends))
    return rows


@functools.cache
def wordings(attribute: str, value: str, n: int = WORDINGS, seed: int = 0) -> list[str]:
    """Up to n held-out sentences that assert only {attribute: value}."""
    about = {"instrumentation" if attribute == "instrument" else attribute: value}
    rng, found = np.random.default_rng(seed), {}
    templates = [t for level in HELD_OUT.values() for t in level]
    for _ in range(40):
        for template in templates:
            caption = fill(template, about, rng, held_out=True)
            if caption and caption["asks"] == {attribute: value}:
                found[caption["text"]] = None
    return list(rng.permutation(sorted(found)))[:n]


def zero_shot(study: Study, records: Sequence[dict], x: np.ndarray, source: str) -> list[dict]:
    """Accuracy per attribute: each embedding of x (n, 512) gets the class whose sentences are nearest.

    A class is the mean text embedding of its wordings, of unit length.
    """
    rows = []
    for attribute in ATTRIBUTES:
        words = study.unit([study.embed_text(wordings(attribute, v)).mean(0) for v in CLASSES[attribute]])
        truth = [value_of(r, attribute) for r in records]
        known = [i for i, t in enumerate(truth) if t is not None]
        guess = (x[known] @ words.T).argmax(1)
        right = np.array([CLASSES[attribute][g] == truth[i] for g, i in zip(guess, known)], bool)
        rows.append({"measure": "accuracy", "attribute": attribute, "source": source, **accuracy(right)})
    return rows


def measure_embedder(study: Study) -> None:
    """Writes results/embedder.json: zero-shot attributes of held-out clips, in held-out wordings."""
    clips, source = study.split(study.on), "embedder, of held-out clips"
    rows = zero_shot(study, clips, study.embed(clips), source) + ceiling_rows(study)
    instrument, _, speed = (row["accuracy"] for row in rows[: len(ATTRIBUTES)])
    mode = ratio(rows, "mode", source, of="held-out originals")
    bars = [
        target("embedder, zero-shot instrument", instrument, at_least=0.95),
        target("embedder, zero-shot speed", speed, at_least=0.90),
        target("embedder, zero-shot mode / the judge's ceiling", mode, at_least=0.85),
    ]
    study.write("embedder", rows + bars)
