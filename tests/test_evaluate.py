"""Measurements against slow reference code, and each of them end to end on a tiny cache and random weights."""

import json
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from fixtures import sinusoids, write_clips

from musekit import evaluate as evaluation
from musekit import pretrained
from musekit.claims import matches
from musekit.config import CodecConfig, MuseError, smoke
from musekit.corpus.captions import TEMPLATES, evaluation_prompts, fill
from musekit.evaluate import conditional, controls, judge, memorisation, reproducibility, right_answers
from musekit.evaluate.codec import chroma_correlation, log_mel_l1, phase_alone
from musekit.evaluate.features import standardised
from musekit.evaluate.judge import wordings, zero_shot
from musekit.evaluate.memorisation import Nearest, normal
from musekit.evaluate.study import CLASSES, Study, target
from musekit.muse import Muse, Settings
from musekit.statistics import coverage

RATE = 44100


# -- codec


def test_a_sound_is_like_itself_and_less_like_another_chord():
    x, y = sinusoids([220, 277]), sinusoids([311, 392])
    assert chroma_correlation(x, x, RATE) == pytest.approx(1)
    assert chroma_correlation(x, 0.2 * x, RATE) > 0.99  # chroma has no level
    assert chroma_correlation(y, x, RATE) < 0.5
    assert chroma_correlation(np.zeros_like(x), x, RATE) == 0


def test_half_the_amplitude_is_six_decibels():
    noise = np.random.default_rng(0).normal(size=(2, RATE)).astype(np.float32)
    assert log_mel_l1(noise, noise, RATE) == 0
    assert log_mel_l1(noise / 2, noise, RATE) == pytest.approx(20 * np.log10(2), abs=1e-3)


def test_true_magnitudes_alone_keep_a_chord():
    x = sinusoids([220, 277])
    y = phase_alone(CodecConfig(), x)
    assert y.shape == x.shape
    assert chroma_correlation(y, x, RATE) > 0.97


# -- embedder


def test_wordings_assert_one_thing_in_words_held_out_of_training():
    for attribute, values in CLASSES.items():
        field = "instrumentation" if attribute == "instrument" else attribute
        for value in values:
            texts = wordings(attribute, value)
            assert texts and len(set(texts)) == len(texts)
            assert texts == wordings(attribute, value)
            rng = np.random.default_rng(0)
            trained = [t for level in TEMPLATES.values() for t in level]
            said = [fill(t, {field: value}, rng) for t in trained for _ in range(5)]
            assert not set(texts) & {c["text"] for c in said if c}


# -- memorisation


def slow_distance(a, b, least=0.5):
    """The definition: every transposition, every shift with half an overlap."""
    best = -np.inf
    for k in range(12):
        turned = np.roll(a, k, axis=0)
        for shift in range(-a.shape[1] + 1, b.shape[1]):
            start, stop = max(0, shift), min(b.shape[1], shift + a.shape[1])
            if stop - start >= least * min(a.shape[1], b.shape[1]):
                here = turned[:, start - shift : stop - shift]
                best = max(best, float((here * b[:, start:stop]).sum(0).mean()))
    return 1 - best


def test_nearest_is_the_definition():
    rng = np.random.default_rng(2)
    library = [normal(rng.random((12, n))) for n in (9, 14, 14, 11)]
    for steps in (5, 12, 14):
        query = normal(rng.random((12, steps)))
        expected = [slow_distance(query, b) for b in library]
        np.testing.assert_allclose(Nearest(library).distances(query), expected, atol=1e-5)


def test_a_transposed_and_shifted_copy_is_found():
    rng = np.random.default_rng(3)
    library = [normal(rng.random((12, 60))) for _ in range(5)]
    copy = np.roll(library[3], 5, axis=0)[:, 13:]
    found = Nearest(library).distances(copy)
    assert found.argmin() == 3 and found[3] == pytest.approx(0, abs=1e-5)
    assert np.delete(found, 3).min() > 0.3


def test_honest_distances_meet_the_bars_and_planted_copies_and_nearness_do_not():
    rng = np.random.default_rng(0)
    real, honest = (np.clip(rng.normal(0.40, 0.09, size=240), 0.16, 1) for _ in range(2))
    most = memorisation.margins(real)

    def missed(x):
        return [bar["name"] for bar in memorisation.bars(x, real, "here", most) if not bar["met"]]

    assert missed(honest) == []
    copies = rng.uniform(0.005, 0.04, size=24)
    for share in (0.01, 0.02, 0.05):
        n = round(share * 240)
        assert missed(np.concatenate([honest[n:], copies[:n]])) == [
            "memorisation, here: pieces within 0.15 of a training clip"
        ]
    assert len(missed(honest - 0.08)) >= 2  # every piece is nearer, and none is a copy
    share = memorisation.smallest_share(copies, 240)
    seen = np.mean([(rng.random(240) < share).any() for _ in range(4000)])
    assert share < 0.01 and seen == pytest.approx(0.9, abs=0.02)
    assert memorisation.smallest_share(np.array([0.2]), 240) is None  # such copies are not seen at all


def test_the_honest_control_passes_when_most_halves_do():
    for low, expected in ((-1.0, True), (0.5, False)):
        found = controls.honest("", np.arange(10) / 10, lambda x, y, low=low: [{"name": "a", "met": bool(x[0] > low)}])
        assert found["as_expected"] is expected and found["missed"] == ([] if expected else ["a"])


def test_a_melody_on_another_instrument_with_other_chords_is_found():
    """Tones with partials: each tune against itself in another key, an octave higher, without its bass."""
    rng, t = np.random.default_rng(1), np.arange(RATE // 4) / RATE
    hz = 440 * 2 ** ((np.arange(128) - 69) / 12)

    def tone(pitch, partials):
        return sum(np.sin(2 * np.pi * hz[pitch] * h * t) * 0.5**h for h in range(1, partials + 1))

    def played(tune, partials, bass):
        return np.concatenate(
            [tone(p, partials) + (0.5 * tone(bass[i // 8], 6) if bass else 0) for i, p in enumerate(tune)]
        )

    tunes = [60 + np.array([0, 2, 4, 5, 7, 9, 11, 12])[rng.integers(8, size=32)] for _ in range(8)]
    library = [memorisation.melody(np.stack([played(x, 6, [48, 53, 55, 48])] * 2), RATE) for x in tunes]
    for i, tune in enumerate(tunes):
        found = Nearest(library).distances(memorisation.melody(np.stack([played(tune + 5, 3, None)] * 2), RATE))
        assert found.argmin() == i and found[i] < 0.4 < np.delete(found, i).min()


# -- distances


def test_features_that_do_not_vary_in_the_reference_are_0():
    found = [{"onsets": np.array([float(i), 7.0]), "timbre": np.array([2.0 * i])} for i in range(5)]
    x = standardised(found, found)
    np.testing.assert_allclose(x.mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(x.std(0), [1, 0, 1])


# -- one to many


def curve(scale: float, shift: float = 0.0) -> dict[float, float]:
    """Calibration of samples against right answers that are `scale` times as wide."""
    rng, u = np.random.default_rng(0), []
    for _ in range(60):
        x, right = rng.normal(size=(32, 10)), rng.normal(shift, scale, size=(20, 10))
        u.append(conditional.ranks(x, right))
    return {r["nominal"]: r["inside"] for r in conditional.calibration(u, 32)}


def test_samples_of_the_right_distribution_are_calibrated():
    for nominal, inside in curve(1.0).items():
        assert inside == pytest.approx(nominal, abs=0.035)


def test_too_narrow_too_wide_and_misplaced_samples_are_seen():
    for scale, shift in ((1.5, 0.0), (1.0, 1.0)):  # right answers outside the samples' radii
        assert all(inside < nominal - 0.05 for nominal, inside in curve(scale, shift).items())
    assert all(inside > nominal + 0.03 for nominal, inside in curve(0.6).items() if nominal < 0.9)


# -- prompts against their right answers


def world(seed: int = 0, prompts: int = 12, m: int = 32, n: int = 64):
    """Right answers (m, 24) of each prompt around a centre of its own, and a sampler of the same distribution."""
    rng = np.random.default_rng(seed)
    centres, widths = 1.2 * rng.normal(size=(prompts, 24)), rng.uniform(0.6, 1.2, size=prompts)

    def draw(count):
        x = [c + w * rng.normal(size=(count, 24)) for c, w in zip(centres, widths)]
        return [some / np.linalg.norm(some, axis=1, keepdims=True) for some in x]

    return draw(m), draw(n)


def test_samples_like_right_answers_meet_every_bar_and_planted_faults_do_not():
    right, samples = world()
    margins = conditional.margins(right, times=40)  # before any sample is looked at
    found = conditional.compare(samples, right)
    met = {bar["name"]: bar["met"] for bar in conditional.bars(found, "vague", margins)}
    assert all(met.values()), met
    assert all({"value", "low", "high"} <= row.keys() for row in found.values()) and found["distance"]["p"] > 0.01
    for name, fault in controls.FAULTS.items():
        found = conditional.compare(fault(samples), right)
        assert not all(bar["met"] for bar in conditional.bars(found, "vague", margins)), name
        assert found["distance"]["p"] < 0.01
    assert not any(bar["met"] for bar in conditional.bars(found, "vague", conditional.margins(right[:1])))


def test_coverage_of_the_same_distribution_is_its_closed_form():
    rng, n, m = np.random.default_rng(4), 12, 15
    found = [coverage(rng.normal(size=(n, 3)), rng.normal(size=(m, 3))) for _ in range(400)]
    expected = 1 - np.prod([(m - i) / (n + m - i) for i in (1, 2, 3)])
    assert np.mean(found, axis=0)[0] == pytest.approx(expected, abs=0.02)
    x = rng.normal(size=(9, 3))
    assert coverage(x, x) == (1, 1) and coverage(x + 100, x) == (0, 0)


# -- bars, tables, records


def test_a_bar_is_met_inside_its_bounds_and_by_the_whole_interval():
    assert target("x", 0.9, at_least=0.9)["met"] and not target("x", 0.89, at_least=0.9)["met"]
    assert target("x", 1.0, 0.8, 1.2)["met"] and not target("x", 1.3, 0.8, 1.2)["met"]
    assert not target("x", None, at_least=0)["met"]
    assert target("x", 1.0, 0.8, 1.2)["bar"] == ">= 0.8 and <= 1.2"
    assert not target("x", 0.9, at_least=0.8, low=0.7, high=1.1)["met"] and target("x", 0.9, 0.8, low=0.8)["met"]


def test_renderings_match_their_prompt_and_come_from_held_out_works(tmp_path):
    """Scores written by hand: a folk tune in each family; only held-out ones are played, in the key asked for."""
    from musekit.corpus import scores
    from musekit.corpus.families import split_of

    rng, written = np.random.default_rng(0), []
    for i in range(60):
        degrees = np.abs(np.cumsum(rng.integers(-2, 3, size=96))) % 8
        degrees[::8] = 0
        rows = [[0.5 * n, 0.5, 62 + (0, 2, 4, 5, 7, 9, 11, 12)[d]] for n, d in enumerate(degrees)]
        rows.append([48.0, 2.0, 62])
        bars = [float(b) for b in range(0, 50, 4)]
        written.append(
            scores.Score(
                work=f"hand/tune{i}", title=f"tune {i}", composer="traditional", era="folk", form="jig", kind="tune",
                family=f"hand/tune{i}", source="hand", licence="none", metre="4/4", key="D", mode="major",
                key_confidence=0.9, key_gap=0.1, length=50.0, bars=bars, parts=[rows],
            )
        )  # fmt: skip
    (tmp_path / "scores").mkdir()
    (tmp_path / "scores" / "hand.jsonl").write_text("".join(json.dumps(asdict(s)) + "\n" for s in written))
    assert {split_of(s.family) for s in right_answers.held_out_scores(tmp_path, "valid")} == {"valid"}
    asks = {"instrument": "flute", "mode": "major", "speed": "fast", "form": "jig", "key": "G", "dynamic": "soft"}
    made = list(right_answers.renderings(tmp_path, "valid", asks, 2))
    assert made == list(right_answers.renderings(tmp_path, "valid", asks, 2)) and len(made) == 2
    for record, notes, how in made:
        assert matches(asks, record) and record["split"] == "valid" and notes and how["dynamic"] == "soft"
    one, two = (record["family"] for record, _, _ in made)  # two renderings of one work would be one answer
    (other,) = right_answers.renderings(tmp_path, "valid", asks, 1, {one})
    assert one != two and other[0]["family"] != one
    assert list(right_answers.renderings(tmp_path, "valid", {**asks, "form": "waltz"}, 1)) == []


# -- end to end


@pytest.fixture(scope="module")
def small(tmp_path_factory, musekit_home) -> tuple[Path, Path]:
    """A cache of 16 two-second clips with two speeds, and random smoke weights: (cache, weights)."""
    folder = tmp_path_factory.mktemp("evaluate")
    records = write_clips(folder / "cache", "rrrrrrrrrrvvvvvvvve")
    for i, record in enumerate(records):
        speed = ("slow", "fast")[i % 4 // 2]
        record |= {"speed": speed, "onset_rate": {"slow": 1.0, "fast": 6.0}[speed], "texture": "chordal"}
    (folder / "cache" / "clips.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    torch.manual_seed(0)
    for part in (*pretrained.PARTS, pretrained.BASELINE):
        pretrained.save_part(folder / "weights", part, pretrained.build(part, smoke()), smoke())
    return folder / "cache", folder / "weights"


def run(what, small, results):
    cache, weights = small
    evaluation.evaluate(what, weights, cache, results, quick=True)
    return recorded(what, results)


def recorded(what, results):
    """The result of a measurement on the valid split."""
    valid = results / f"{what}-valid.json"
    return json.loads((valid if valid.exists() else results / f"{what}.json").read_text())


def test_every_measurement_runs_and_says_what_it_measured(small, tmp_path, monkeypatch, capsys):
    missing = set() if find_spec("basic_pitch") else {"codec", "guidance", "music"}  # not among the dependencies
    for what in {*evaluation.MEASUREMENTS} - missing:
        run(what, small, tmp_path)
    rows = {what: recorded(what, tmp_path)["rows"] for what in {*evaluation.MEASUREMENTS} - missing}
    bars = {what: [r["met"] for r in some if r["measure"] == "bar"] for what, some in rows.items()}
    barred = {"codec", "embedder", "prompts", "one-to-many", "memorisation", "reproducibility"}
    assert {what for what in bars if bars[what]} == barred - missing and all(bars["reproducibility"])
    assert all(isinstance(met, bool) for some in bars.values() for met in some)
    for what, (place, needs, *_) in evaluation.MEASUREMENTS.items():
        if what in missing:
            continue
        about = recorded(what, tmp_path)["provenance"]
        assert about["preset"] == "smoke" and "noise" in about["note"]
        assert list(about["weights"]) == needs.split() and place.startswith(about["module"].rpartition(".")[2])
    told = {(r["group"], r["control"]): r["as_expected"] for r in rows["controls"] if r["measure"] == "control"}
    for group in ("reproducibility", "memorisation"):
        assert len([control for of, control in told if of == group]) > 1
    assert told["reproducibility", "a renderer that adds noise"] and told["reproducibility", "the renderer"]
    steps = [r for r in rows.get("guidance", ()) if r["measure"] == "stage1 steps"]
    assert bool(steps) == ("guidance" not in missing) and all(r["nfe"] == r["value"] for r in steps)
    judged = [r for r in rows["prompts"] if r["measure"] == "accuracy" and r["source"] == "generated"]
    assert {r["n"] for r in judged} == {evaluation.QUICK} and "== prompts" in capsys.readouterr().out
    monkeypatch.setattr(Muse, "render_batch", lambda *a, **b: pytest.fail("it was rendered before"))
    for what in ("prompts", "distances"):
        assert run(what, small, tmp_path)["rows"] == rows[what]


def test_which_band_or_duet_plays_is_heard_among_all_of_them(small, tmp_path):
    """Three whose clips lie octaves apart; what random weights make is none of them in particular."""
    names, cache = ("rock", "lo-fi", "flute and guitar"), tmp_path / "cache"
    records = write_clips(cache, "rrrrrrrrrrrrvvvvvv")
    for i, record in enumerate(records):
        tone = sinusoids([110.0 * 4 ** (i % 3) * 2 ** (i / 99)])
        soundfile.write(cache / record["path"], tone.T, 44100)
        record["instrumentation"] = names[i % 3]
    (cache / "clips.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    rows = judge.ensemble_rows(Study(small[1], cache, tmp_path, 2, quick=True))
    found = {(r["source"], r["attribute"]): r for r in rows}
    sources = ("held-out originals", "held-out round trips", "generated")
    assert found.keys() == {(source, kind) for source in sources for kind in ("ensemble", "two instruments")}
    assert all(found["held-out originals", kind]["accuracy"] == 1.0 for kind in ("ensemble", "two instruments"))
    assert found["generated", "ensemble"]["n"] == 2 * found["generated", "two instruments"]["n"] == 2
    assert {r["of"] for r in rows} == {3} and found["generated", "ensemble"]["correct"] < 2


@pytest.mark.long
def test_two_ranks_and_a_killed_run_write_the_same_files(small):
    rows = reproducibility.files(small[1], [p["text"] for p in evaluation_prompts(6)])
    assert len({row["sha256"] for row in rows}) == 6
    assert all(bar["met"] for bar in reproducibility.bars(rows, ("by two ranks", "after a kill")))
    rows[2]["after a kill"] = False
    assert [bar["met"] for bar in reproducibility.bars(rows, ("by two ranks", "after a kill"))] == [True, False]


def test_results_of_valid_leave_those_of_test_alone_and_openings_are_counted(small, tmp_path):
    cache, weights = small
    study = Study(weights, cache, tmp_path, 2)
    for split in ("test", "test", "valid"):  # of the one clip of test, and of eight
        study.on = split
        study.write("codec", [{"measure": "clip", "split": c["split"]} for c in study.split(study.on)])
    written = [json.loads((tmp_path / f"{name}.json").read_text()) for name in ("codec-valid", "codec")]
    assert [{r["split"] for r in result["rows"]} for result in written] == [{"valid"}, {"test"}]
    valid, test = (result["provenance"] for result in written)
    assert (valid["split"], valid["test_opened"], test["split"], test["test_opened"]) == ("valid", 2, "test", 2)
    with pytest.raises(MuseError, match="valid split only"):
        evaluation.evaluate("guidance", weights, cache, tmp_path, quick=True, split="test")


def test_generation_goes_on_where_it_stopped_and_other_settings_are_other_pieces(small):
    study, texts = Study(small[1], small[0], Path("nowhere"), 6), [p["text"] for p in evaluation_prompts(6)]

    def generate(n, **settings):
        recipes = study.recipes(texts[:n], 7, Settings(seconds=1.0, **settings))
        return study.render(study.sample(recipes)[0], recipes)

    paths = generate(5)
    before = [p.read_bytes() for p in paths]
    paths[4].unlink()
    times = [p.stat().st_mtime_ns for p in paths[:4]]
    again = generate(6)
    assert [p.read_bytes() for p in again[:5]] == before  # the same bits, beside other pieces
    assert [p.stat().st_mtime_ns for p in again[:4]] == times and len(set(again)) == 6
    for other in ({"steps": 5}, {"stage1_guidance_scale": 2.5}):
        assert not set(generate(6, **other)) & set(again)


def test_zero_shot_names_the_class_whose_sentences_are_nearest(small):
    study = Study(small[1], small[0], Path("nowhere"), 1)
    records = [{"instrumentation": "flute", "mode": "minor", "speed": None}]
    rows = zero_shot(study, records, study.embed_text(wordings("instrument", "flute")).mean(0)[None], "words")
    assert rows[0]["correct"] == 1 and rows[2]["n"] == 0 and rows[2]["accuracy"] is None
    assert judge.ratio(rows, "speed", "words", of="words") is None


def test_mistakes_are_one_line(small, tmp_path):
    cache, weights = small
    for arguments, said in (
        (("memorization", weights, cache), "did you mean 'memorisation'"),
        (("codec", weights, tmp_path / "nothing"), "make the cache first"),
        (("codec", tmp_path / "none", cache), "no weights at"),
    ):
        with pytest.raises(MuseError, match=said):
            evaluation.evaluate(*arguments, results=tmp_path)
    with pytest.raises(MuseError, match="must be 2 or more"):
        evaluation.evaluate("prompts", weights, cache, tmp_path, 1)
    part = tmp_path / "part"
    pretrained.save_part(part, "codec", pretrained.build("codec", smoke()), smoke())
    with pytest.raises(MuseError, match="musekit train embedder"):
        evaluation.evaluate("embedder", part, cache, tmp_path)
