"""What is kept of a recording keeps its bits; regions are filled window by window; recipes carry controls and edits."""

import dataclasses

import pytest
import torch

from musekit import edit, inference
from musekit.config import MuseError
from musekit.muse import Controls, Muse, Settings, micro_batches
from musekit.recipe import Edit, Recipe

FAST = {"steps": 2, "stage1_steps": 2}


@pytest.fixture
def muse(smoke_weights):
    return Muse.from_pretrained(smoke_weights, dtype="float32")


def test_windows_fill_a_region_and_see_what_is_known():
    calls, latents = [], torch.arange(20.0).repeat(2, 1)

    def sample(start, part):
        calls.append((start, part[0].isnan().nonzero()[:, 0].tolist()))
        return torch.arange(start, start + 8.0).repeat(2, 1)

    for region in (slice(5, 17), slice(10, 12)):  # the second one is in the middle of its window
        holed = latents.clone()
        holed[:, region] = torch.nan
        assert torch.equal(edit.fill(holed, 8, sample), latents)
    assert calls == [(3, [2, 3, 4, 5, 6, 7]), (9, [2, 3, 4, 5, 6, 7]), (7, [3, 4])]


def test_a_repainted_and_a_continued_piece_keep_the_samples_of_their_source(muse):
    piece = next(muse.stream([muse.recipe("a flute", 0, Settings(seconds=2.0, bpm=100, chords="C G", **FAST))]))
    hop = muse.config.codec.hop
    for trained in (True, False):
        found = muse.repaint(piece, 0.7, 1.2, seed=5, trained=trained, **FAST)
        changed = (found.audio != piece.audio).any(0).nonzero()[:, 0]
        first, last = round(0.7 * 44100 / hop) * hop, round(1.2 * 44100 / hop) * hop
        assert first - edit.FADE <= changed[0] < first - 0.9 * edit.FADE
        assert last + 0.9 * edit.FADE < changed[-1] < last + edit.FADE
        again = muse.repaint(piece, 0.7, 1.2, seed=5, trained=trained, **FAST)
        assert torch.equal(again.audio, found.audio) and again.recipe == found.recipe
        assert found.controls == piece.controls == Controls(bpm=100, key="C", mode="major", chords="C G")
    longer = muse.continue_(piece.audio, 14.0, **FAST)  # beyond the window
    kept = (piece.audio.shape[1] // hop - 1) * hop - edit.FADE
    assert longer.audio.shape == (2, 16 * 44100) and torch.equal(longer.audio[:, :kept], piece.audio[:, :kept])
    assert longer.nfe["stage2"] == 4 and longer.audio[:, -44100:].abs().max() > 0
    for impossible in ((1.5, 3.0), (1.0, 0.5), (-1.0, 1.0), (1.0, 1.01)):
        with pytest.raises(MuseError, match="cannot repaint from .* the sound lasts 2.00 s"):
            muse.repaint(piece, *impossible)


def test_controls_change_the_music_and_are_part_of_the_recipe(muse):
    options = {"seconds": 1.0, "seed": 3, **FAST}
    plain, controlled = (muse.generate("a flute", controls=c, **options) for c in (None, Controls(key="Dm", bpm=90)))
    assert controlled.recipes[0].controls == Controls(key="D", mode="minor", bpm=90)
    assert not torch.equal(plain.audio, controlled.audio)
    assert not torch.equal(plain.embeddings, controlled.embeddings)  # a key joins the sentence, a tempo does not
    assert torch.equal(muse.generate("a flute", controls=Controls(bpm=90), **options).embeddings, plain.embeddings)
    assert '"controls"' not in plain.recipes[0].to_json()
    edited = dataclasses.replace(controlled.recipes[0], edit=Edit("a hash", 0.3, 0.6))
    assert all(Recipe.from_json(recipe.to_json()) == recipe for recipe in (plain.recipes[0], edited))
    both = list(muse.stream([*plain.recipes, *controlled.recipes]))  # they share a micro-batch
    assert torch.equal(both[0].audio, plain.audio[0]) and torch.equal(both[1].audio, controlled.audio[0])
    old = dataclasses.replace(muse.config, stage2=dataclasses.replace(muse.config.stage2, controls=False))
    with pytest.raises(MuseError, match="knows no tempo, key"):
        dataclasses.replace(muse, config=old).recipe("a flute", 0, Settings(bpm=90))


def test_a_piece_ends_unless_it_is_to_go_on():
    """The last fifth of a second, in dB of the whole piece."""
    muse, found = Muse.from_pretrained("mini"), {}
    for ends in (None, False):
        pieces = [muse.generate(p, seconds=6.0, ends=ends).audio[0] for p in ("a jazz trio", "a folk band")]
        levels = [audio[:, -8820:].square().mean() / audio.square().mean() for audio in pieces]
        found[ends] = [float(10 * level.log10()) for level in levels]
    assert max(found[None]) < -20 and min(found[False]) > -12, found
    recipes = [muse.recipe("a flute", 0, Settings(ends=ends)) for ends in (None, True, False)]
    assert [len(batch) for batch in micro_batches(recipes)] == [2, 1]


def test_a_tempo_is_drawn_by_the_seed_around_what_the_embedding_tells(muse):
    with torch.inference_mode():
        muse.stage2.readout[0, -1], muse.stage2.readout[3, -1] = 0.5, 1.0  # 120 sqrt(2) BPM in three
        muse.stage2.tempo_spread.fill_(0.1)
    pieces = list(muse.stream(muse.recipes("a flute", 4, 0, Settings(seconds=0.5, **FAST))))
    drawn = [piece.controls.bpm for piece in pieces]
    assert len(set(drawn)) == 4 and all(120 < bpm < 240 for bpm in drawn)
    assert {piece.controls.metre for piece in pieces} == {3} and pieces[0].recipe.controls is None
    told = muse.generate("a flute", seed=2, seconds=0.5, bpm=drawn[2], metre=3, **FAST)
    assert torch.equal(told.audio[0], pieces[2].audio)


def test_stage_1_is_sampled_again_until_the_asked_key_is_read(muse, monkeypatch):
    """With a planted read-out: a direction of the embeddings is D minor, its opposite C major."""
    with torch.inference_mode():
        muse.stage2.readout[13, 3], muse.stage2.readout[13 + 14, 3] = -1.0, 1.0
    free = muse.recipes("a flute", 8, 0, Settings(seconds=0.5, **FAST))
    asked = muse.recipes("a flute in D minor", 8, 0, Settings(seconds=0.5, **FAST))
    embed = inference.sample_stage1
    first = torch.cat([embed(muse.inference1, muse.text, batch)[0] for batch in micro_batches(asked)])
    found = [muse.embed_batch(batch) for batch in micro_batches(asked)]
    x, nfe = torch.cat([e for e, _ in found]), torch.cat([n for _, n in found])
    right = first[:, 3] > 0
    assert 0 < right.sum() < 8 and (x[:, 3] > 0).all()
    assert torch.equal(x[right], first[right]) and (nfe > nfe.min()).equal(~right)
    alone = muse.embed_batch([asked[int(right.int().argmin())]])[0]  # not the others decide what it is
    assert torch.equal(alone[0], x[right.int().argmin()])
    plain = embed(muse.inference1, muse.text, inference.padded(free[:1]))[0]
    assert torch.equal(muse.embed_batch(free[:1])[0], plain[:1])
    monkeypatch.setattr(inference, "TRIES", 1)
    assert torch.equal(torch.cat([muse.embed_batch(batch)[0] for batch in micro_batches(asked)]), first)


def test_the_prompt_fills_the_controls_that_are_not_asked_for(muse):
    recipe = muse.recipe("a jig in 6/8 in D minor at 150 BPM, without piano", 0, Settings(chords="Dm Gm"))
    assert recipe.controls == Controls(bpm=150, metre=2, key="D", mode="minor", chords="Dm Gm")
    assert recipe.negative_prompt == "piano" and recipe.stage1_guidance_scale == 2.0
    assert muse.recipe("a jig", 0, Settings()).stage1_guidance_scale == 1.0
    for text, asked, says in (
        ("a waltz at 150 BPM", {"bpm": 90}, "bpm = 150.*, and the option 90: leave"),
        ("a jig in 6/8", {"metre": 6}, "metre = 6/8, and the option 6"),
        ("a song in D minor", {"key": "D"}, "key = D minor, and the option D major"),
    ):
        with pytest.raises(MuseError, match=f"the prompt says {says}"):
            muse.recipe(text, 0, Settings(**asked))
