"""The Lab's state, without widgets: maps, paths, mixes, sounds as prompts. Smoke weights: the sounds are noise."""

import io
import math
import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch
from fixtures import sinusoids

from musekit.config import MuseError
from musekit.entry import Entry
from musekit.lab import landscape, umap_worker
from musekit.lab.lab import Lab, Point, read_sound
from musekit.lab.landscape import Landscape, Peak
from musekit.lab.rendering import along, angle, blend, crossfade, render_again, slerp, unit
from musekit.lab.surface import ASPECT, SurfaceView
from musekit.library import Library
from musekit.muse import Muse
from musekit.recipe import Settings


@pytest.fixture(scope="module")
def muse(smoke_weights):
    return Muse.from_pretrained(smoke_weights)


@pytest.fixture
def lab(muse):
    return Lab(muse, seconds=0.5)


def blobs(n: int = 60, k: int = 3, dim: int = 32, noise: float = 0.05) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors around k directions, and the direction of each."""
    rng = np.random.default_rng(0)
    which = np.arange(n) % k
    x = np.eye(dim)[which] + noise * rng.standard_normal((n, dim))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32), which


# -- points and the map


def test_samples_are_those_of_the_sampler_and_few_of_them_make_a_map(lab, muse):
    lab.sample("a waltz", n=5, seed=3)
    assert [p.seed for p in lab.points] == [3, 4, 5, 6, 7]
    assert torch.allclose(lab.embeddings, muse.embed("a waltz", 5, 3), atol=1e-5)
    lab.sample("a jig", n=2)
    assert lab.groups() == {"a waltz": [0, 1, 2, 3, 4], "a jig": [5, 6]}
    lab.points.clear()
    with pytest.raises(MuseError, match="4 points or more"):
        lab.map()
    lab.sample("a waltz", n=8)
    land = lab.map()
    assert land.xy.shape == (8, 2) and land.density.max() == 1.0 and land.peaks[0].label


def test_diversity_is_the_mean_distance_and_angle_of_pairs(lab):
    x, which = blobs(30, 3, 512)
    lab.points = [Point(torch.from_numpy(row), str(k), f"blob {k}") for row, k in zip(x, which)]
    rows = {row["group"]: row for row in lab.diversity()}
    right = torch.pdist(torch.from_numpy(x[which == 0]).double())
    assert rows["blob 0"]["n"] == 10 and rows["blob 0"]["spread"] == pytest.approx(float(right.mean()))
    assert rows["blob 0"]["angle"] == pytest.approx(math.degrees(float((2 * (right / 2).arcsin()).mean())), rel=1e-6)


def test_umap_keeps_clusters_together_and_their_hills_apart():
    x, which = blobs()
    threads = torch.get_num_threads()
    land = landscape.landscape(x)
    assert torch.get_num_threads() == threads  # numba changes them
    assert np.array_equal(land.xy, landscape.landscape(x).xy)  # the same map each time
    [process] = umap_worker.get_reusable_executor(1, timeout=umap_worker.PATIENCE)._processes.values()
    os.kill(process.pid, signal.SIGKILL)
    assert np.array_equal(land.xy, landscape.landscape(x).xy)  # by another process
    with pytest.raises(ValueError, match="n_neighbors"):
        umap_worker.layout(x, n_neighbors=-3)
    centre = np.stack([land.xy[which == k].mean(0) for k in range(3)])
    nearest = np.linalg.norm(land.xy[:, None] - centre, axis=2).argmin(1)
    assert (nearest == which).mean() > 0.95
    assert {int(which[peak.points[0]]) for peak in land.peaks} == {0, 1, 2}


def test_hills_stand_where_points_are_dense():
    rng = np.random.default_rng(1)
    xy = np.concatenate([rng.normal((0, 0), 0.3, (200, 2)), rng.normal((5, 2), 0.3, (100, 2))])
    x, y, density = landscape.hills(xy)
    high, low = landscape.peaks(xy, x, y, density)
    assert math.dist((high.x, high.y), (0, 0)) < 0.4 and math.dist((low.x, low.y), (5, 2)) < 0.4
    assert all(k < 200 for k in high.points) and all(k >= 200 for k in low.points)
    assert landscape.hills(np.zeros((9, 2)))[2].max() == 0  # all in one place: flat, no error


def test_places_are_named_by_what_tells_them_apart():
    rows = unit(torch.tensor([[1.0, 0.2, 0, 0], [1, 0, 0.5, 0], [1, 0, 0.5, 0]]))
    words = dict(zip("abc", torch.eye(4)))
    flat = [np.zeros(1)] * 4
    one = Landscape(rows.numpy(), *flat, (Peak(0, 0, (0, 1, 2)),))
    assert landscape.named(one, words).peaks[0].label == "a, c, b"
    two = Landscape(rows.numpy(), *flat, (Peak(0, 0, (0,)), Peak(0, 0, (1, 2))))
    assert [peak.label[0] for peak in landscape.named(two, words).peaks] == ["b", "c"]


# -- the sphere


def test_paths_on_the_sphere_are_even_and_end_at_their_stops():
    x = unit(torch.randn(3, 512, generator=torch.Generator().manual_seed(0)))
    rows = along(x, 9)
    steps = angle(rows[:-1], rows[1:])
    assert torch.equal(rows[0], x[0]) and torch.equal(rows[-1], x[2])
    assert float(steps.sum()) == pytest.approx(float(angle(x[:-1], x[1:]).sum()), rel=0.02)
    assert rows.norm(dim=1) == pytest.approx(torch.ones(9), abs=1e-6)
    assert torch.allclose(along(x[:2], 5)[2], unit(x[0] + x[1]), atol=1e-6)
    with pytest.raises(MuseError, match="opposite"):
        slerp(x[0], -x[0], 0.5)


def test_a_blend_is_the_mean_on_the_sphere():
    x = unit(torch.randn(4, 512, generator=torch.Generator().manual_seed(0)))
    for share in (0.1, 0.5, 0.77):
        assert torch.allclose(blend(x[:2], torch.tensor([1 - share, share])), slerp(x[0], x[1], share), atol=1e-6)
    assert torch.allclose(blend(torch.eye(512)[:3], torch.ones(3) / 3)[:3], torch.full((3,), 3**-0.5))
    w = torch.tensor([0.1, 0.2, 0.3, 0.4])
    m = blend(x, w).double()
    towards = unit(x.double() - (x.double() @ m)[:, None] * m) * angle(m, x)[:, None]
    assert float((w.double() @ towards).norm()) < 1e-6 and float(m.norm()) == pytest.approx(1)  # it pulls to no side
    assert torch.equal(blend(x, torch.tensor([0.0, 0, 1, 0])), x[2])
    with pytest.raises(MuseError, match="cancel"):
        blend(torch.stack([x[0], -x[0]]), torch.tensor([0.5, 0.5]))


def test_a_finger_on_the_surface_weighs_marks_by_inverse_squared_distance(muse, tmp_path):
    kept = Library(tmp_path / "library")
    surface = SurfaceView(muse, (), kept, seconds=0.5)
    with pytest.raises(MuseError, match="plane is empty"):
        surface.touch(0.5, 0.5)
    a = surface.add_prompt("a waltz", 0.2, 0.2)
    surface.touch(0.9, 0.9)
    assert surface.job.wait(120) == "done" and surface.heard[2].seed == 0  # one mark alone is all of the blend
    entry = kept.add(surface.state.sound(surface.blend(0.2, 0.2)), name="mine")
    b = surface.add_piece(entry, 0.2, 0.8)
    c = surface.add_sound(wav(sinusoids([440], 1.0), 44100), "t.wav", 0.2 + 0.6 / ASPECT, 0.8)
    shares = surface.weights(0.2, 0.5)  # distances 0.3, 0.3 and 0.3 * 5 ** 0.5
    assert shares == pytest.approx({a: 5 / 11, b: 5 / 11, c: 1 / 11})
    first, tone = surface.blend(0.2, 0.2).embedding, surface.blend(0.2 + 0.6 / ASPECT, 0.8).embedding
    assert torch.equal(first, surface.state.draw("a waltz")[0].embedding) and not torch.equal(first, tone)
    assert torch.equal(surface.blend(0.2, 0.8).embedding, first)  # the kept piece was made from this embedding
    far = float(angle(first, surface.blend(0.2, 0.5).embedding)) / float(angle(first, tone))
    assert far == pytest.approx(1 / 11, rel=1e-3)  # two marks are one place, and so all are on a great circle
    surface.touch(0.2, 0.5)
    assert surface.job.wait(120) == "done" and surface.plane.finger == [0.2, 0.5]
    assert surface.heard[0] == "mix of 45 % a waltz (seed 0), 45 % mine, 9 % t.wav"
    surface._keep()
    again = render_again(muse, kept.search("mix of 45")[0])
    assert torch.equal(again.audio, surface.heard[1].audio)
    surface.remove(c)
    assert surface.weights(0.2, 0.5) == pytest.approx({a: 0.5, b: 0.5}) and len(surface.plane.marks) == 2
    with pytest.raises(MuseError, match="24 marks are on the plane"):
        [surface.add_prompt(f"<b>{i}") for i in range(30)]


# -- paths, mixes, sounds


def test_the_ends_of_a_path_sound_like_its_stops(lab):
    lab.sample("a waltz", n=1), lab.sample("a jig", n=1)
    way, alone = lab.path(lab.points, n=4), Lab(lab.muse, seconds=0.5)
    for end, point in ((0, lab.points[0]), (-1, lab.points[1])):
        assert torch.equal(alone.sound(point).audio, lab.sound(way[end]).audio)
    steps = [float(angle(a.embedding, b.embedding)) for a, b in zip(way, way[1:])]
    assert steps == pytest.approx([sum(steps) / 3] * 3, rel=1e-3)
    assert [p.label.rpartition(": ")[2] for p in way] == ["0%", "33%", "67%", "100%"]
    with pytest.raises(MuseError, match="2 or more places"):
        lab.path(lab.points[:1])
    with pytest.raises(MuseError, match="needs a place"):
        lab.mix([])


def test_a_sound_is_rendered_once_and_then_cached(lab, monkeypatch):
    lab.sample("a waltz", n=2)
    one, two = lab.points
    first = lab.sound(one)
    assert lab.sound(one) is first and first.recipe.micro_batch == 1 and first.audio.shape == (2, 22050)
    assert first.recipe.stage2_steps == 1  # a sixth of three: these weights have no student
    lab.steps = 2  # the smoke preset's are 3
    assert lab.sound(one) is not first
    monkeypatch.setattr("musekit.lab.lab.CACHED_SOUNDS", 1)
    lab.sound(two)
    assert len(lab._cache) == 1  # the newest


def test_sounds_of_the_lab_are_kept_and_rendered_again_bit_for_bit(lab, muse, tmp_path):
    lab.sample("a waltz", n=1), lab.sample("a jig", n=1)
    point = lab.mix(lab.points)
    assert point.label == "mix of a waltz (seed 0), a jig (seed 0)"
    assert torch.allclose(point.embedding, unit(lab.embeddings.sum(0)))
    piece = lab.sound(point)
    kept = Library(tmp_path / "library").add(piece, tags=["mix"])
    assert torch.equal(render_again(muse, kept).audio, piece.audio)


def test_a_path_is_kept_as_one_piece_and_made_again_bit_for_bit(lab, muse, tmp_path):
    lab.sample("a waltz at 90 bpm", n=1), lab.sample("a jig", n=1)
    piece, library = lab.sequence(lab.path(lab.points, n=3)), Library(tmp_path / "library")
    kept = library.add(piece)
    assert piece.embedding.shape == (3, 512) and len({r.prompt for r in kept.origin.recipes}) == 3
    assert torch.equal(render_again(muse, kept).audio, piece.audio)
    library.file(kept).with_suffix(".json").unlink()  # the sound's file alone is enough
    assert library.get(kept.id) == kept
    short = replace(kept, embedding=kept.embedding[:2048])
    with pytest.raises(MuseError, match="cannot be made again"):
        render_again(muse, short)


def test_a_piece_of_other_precision_is_rendered_again_bit_for_bit(smoke_weights, muse, tmp_path):
    other = Muse.from_pretrained(smoke_weights, dtype="bfloat16", stage1_dtype="bfloat16")
    [piece] = other.stream([other.recipe("a waltz", 0, Settings(seconds=0.5, steps=2, micro_batch=1))])
    assert torch.equal(render_again(muse, Library(tmp_path).add(piece)).audio, piece.audio)
    assert muse.stage1_dtype == "float32"


@pytest.mark.parametrize("name", ["threads", "micro_batch"])
def test_a_recipe_from_a_file_that_asks_for_too_much_is_refused(muse, name):
    recipe = muse.recipe("a waltz", 0, Settings(seconds=0.5, steps=2, micro_batch=1))
    with pytest.raises(MuseError, match=f"{name} = 9999; at most 256"):
        render_again(muse, Entry(recipe=replace(recipe, **{name: 9999})))


def test_a_sequence_fades_from_one_to_the_next(lab):
    lab.sample("a waltz", n=2)
    piece = lab.sequence(lab.path(lab.points, n=3))
    assert piece.audio.shape == (2, 2 * 22050) and float(piece.audio.abs().max()) <= 0.9901
    left, right = torch.randn(2, 2, 40_000, generator=torch.Generator().manual_seed(0)) * 0.1
    power = crossfade([left, right], 10_000, 2.0)[:, 22_000:38_000].square().mean()
    assert float(power) == pytest.approx(0.01, rel=0.05)  # unrelated sounds keep their loudness


# -- sounds that people bring


def wav(audio: np.ndarray, rate: int, **options) -> bytes:
    data = io.BytesIO()
    soundfile.write(data, audio.T, rate, format="WAV", **options)
    return data.getvalue()


def test_an_uploaded_sound_becomes_a_point(lab, muse):
    tone = wav(sinusoids([440], 1.0), 44100)
    point = lab.add_sound(tone, "../a <b>tune</b>.wav")
    embedding = muse.embedder.embed_audio(read_sound(tone, "x", 5.0, 44100)[None], 44100)[0]
    assert torch.equal(point.embedding, embedding) and lab.points == [point]
    piece = lab.sound(point)
    assert piece.recipe.prompt.startswith("like the sound") and piece.audio.shape == (2, 22050)


def test_a_file_that_is_no_sound_is_refused(lab):
    for source in (b"", b"<script>alert(1)</script>" * 99, "/nowhere/at all.wav", "a\0b.wav"):
        with pytest.raises(MuseError, match="cannot be read as sound"):
            lab.add_sound(source)
    for audio in (np.zeros((2, 44100)), np.ones((1, 10))):
        with pytest.raises(MuseError, match="are silent or shorter"):
            lab.add_sound(wav(audio, 44100))
    assert lab.points == []
