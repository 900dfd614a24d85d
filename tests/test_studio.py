"""The Studio's state: answers as they are ready, variations at an exact distance, kept, made again; its solver menu."""

import io
import math
import shutil
import threading
import time

import pytest
import soundfile
import torch

from musekit.config import MuseError, mini
from musekit.explore import sphere
from musekit.explore.job import Job
from musekit.explore.studio import Knobs, Studio
from musekit.library import Library
from musekit.muse import Muse
from musekit.pretrained import read_hashes
from musekit.recipe import Recipe
from musekit.solve import SOLVERS, learned
from musekit.solve.bespoke import Bespoke, power
from musekit.view import Studio as View

PATIENCE = 120  # seconds; a busy machine is slow


@pytest.fixture(scope="module")
def muse(smoke_weights):
    return Muse.from_pretrained(smoke_weights)


@pytest.fixture
def studio(muse, tmp_path):
    studio = Studio(muse, Library(tmp_path / "library"))
    studio.set(seconds=0.5, steps=2, n=2)
    return studio


@pytest.fixture(scope="module")
def few_weights(smoke_weights, tmp_path_factory):
    """The weights with a solver of 2 and one of 3 evaluations, which are Euler's."""
    folder = shutil.copytree(smoke_weights, tmp_path_factory.mktemp("few") / "weights")
    tables = {n: Bespoke.euler(power(n)) for n in (3, 2)}
    solvers = {str(n): {"times": t.times, "weights": t.weights, "held_out_error": 0.6 / n} for n, t in tables.items()}
    about = {"stage2": read_hashes(folder)["stage2"], "guidance_scale": 3.0, "teacher": "euler, 10 steps"}
    learned.write(folder, {"format": 1, **about, "solvers": solvers})
    return folder


def finish(studio, status: str = "done") -> None:
    assert studio.job.wait(PATIENCE) == status, studio.job.message


def made(studio, *args, **knobs) -> list:
    """What one call adds to the results."""
    before = len(studio.results)
    studio.generate(*args, **knobs)
    finish(studio)
    return studio.results[before:]


# -- the job


def test_a_job_runs_one_thing_and_tells_how_it_ended():
    job = Job()
    job.start(lambda: time.sleep(0.2) or "finished")
    with pytest.raises(MuseError, match="still at work"):
        job.start(lambda: "")
    assert job.wait(5) == "done" and job.message == "finished" and job.fraction == 1.0

    def work():
        while True:
            job.check()

    job.start(work)
    job.cancel()
    assert job.wait(5) == "cancelled"
    for error, told in ((ValueError("odd"), "ValueError: odd"), (MuseError("said"), "said"), (MemoryError(), "memory")):

        def fail(error=error):
            raise error

        job.start(fail)
        assert job.wait(5) == "failed" and told in job.message


def test_a_cancel_is_over_when_its_job_is():
    job, end = Job(), threading.Event()
    job.cancel()  # nothing is at work: nothing is cancelled
    job.check()
    job.start(lambda: end.wait(5) and job.check() or "")
    job.cancel()
    end.set()
    assert job.wait(5) == "cancelled"
    job.check()  # what a cell asks for next


def test_a_job_that_cannot_begin_is_not_at_work(monkeypatch):
    job = Job()
    monkeypatch.setattr(threading.Thread, "start", lambda thread: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        job.start(lambda: "")
    assert not job.running
    monkeypatch.undo()
    job.start(lambda: "finished")
    assert job.wait(5) == "done"


def test_progress_of_several_micro_batches_rises_through_all_stages():
    job, seen = Job(), []
    job.on_change = lambda: seen.append(job.fraction)
    follow = job.follow(2, 0.5, 1.0)
    for _ in range(2):
        for stage, n in (("stage1", 2), ("stage2", 4), ("codec", 2)):
            for i in range(n + (stage != "codec")):
                follow(stage, i, n)
    assert seen == sorted(seen) and len(seen) > 12 and seen[0] == 0.5 and 0.9 < seen[-1] <= 1.0


# -- answers


def test_results_come_as_they_are_ready_and_stay(studio):
    seen = []
    studio.job.on_change = lambda: seen.append((studio.job.status, len(studio.results)))
    first = made(studio, "a waltz", n=5, seed=3)
    assert [r.seed for r in first] == [3, 4, 5, 6, 7] and [r.number for r in first] == [1, 2, 3, 4, 5]
    assert ("running", 4) in seen and studio.job.message == "5 pieces, seeds 3 to 7"  # the first micro-batch was there
    assert [r.seed for r in made(studio, "a jig", seed=None, n=1)] != [3]
    assert len(studio.results) == 6 and all(-1 <= r.piece.similarity <= 1 for r in studio.results)


def test_qualities_are_multiples_of_the_presets_steps():
    config = mini()
    draft, good, best = (Knobs(quality=name).settings(config) for name in ("draft", "good", "best"))
    assert (draft.steps, good.steps, best.steps) == (12, 50, 100) and draft.stage1_steps == 25
    assert Knobs(quality="draft", steps=7).settings(config).steps == 7 and Knobs(n=1).settings(config).micro_batch == 1
    with pytest.raises(MuseError, match="did you mean 'draft'"):
        Knobs(quality="drafft").settings(config)


def test_few_step_solvers_are_offered_where_the_weights_have_them(studio, few_weights, tmp_path):
    assert studio.solvers == SOLVERS and learned.offered(tmp_path) == {}
    few = Studio(Muse.from_pretrained(few_weights), Library(tmp_path / "library"))
    assert few.solvers == (*SOLVERS, "bespoke-2", "bespoke-3")
    offer = few.few_step["bespoke-3"]
    assert (offer.nfe, offer.guidance_scale, offer.teacher) == (3, 3.0, "euler, 10 steps")
    assert offer.error == pytest.approx(0.2)
    [result] = made(few, "a waltz", n=1, seconds=0.5, quality="best", solver="bespoke-3")
    recipe = result.piece.recipe  # the solver's steps, not the quality's
    assert recipe.stage2_solver.startswith("bespoke-3@") and recipe.stage2_steps == 3
    few.versus(n=1, solver="euler", steps=3)
    finish(few)
    a, b = few.results[1:]
    assert torch.equal(a.piece.embedding, b.piece.embedding) and torch.allclose(a.piece.audio, b.piece.audio, atol=2e-3)
    few.generate(steps=7)
    finish(few, "failed")
    assert "has 3 steps" in few.job.message


def test_a_menu_does_without_a_file_of_solvers_that_does_not_fit(few_weights, tmp_path):
    folder = shutil.copytree(few_weights, tmp_path / "weights")
    path = folder / learned.FILE
    path.write_text(path.read_text().replace("0.", "1.", 1))
    assert Studio(Muse.from_pretrained(folder), Library(tmp_path / "library")).solvers == SOLVERS


def test_the_solver_menu_says_what_few_steps_cost_and_gives_the_knobs_back(few_weights, tmp_path):
    seen = View(few_weights, library=Library(tmp_path / "library"), n=1, seconds=0.5, steps=9, guidance_scale=2.0)
    assert seen.solver.options == (*SOLVERS, "bespoke-2", "bespoke-3")
    seen.solver.value = "bespoke-3"
    assert (seen.steps.value, seen.guidance.value, seen.steps.disabled, seen.guidance.disabled) == (3, 3.0, True, True)
    for told in ("3 evaluations instead of 9", "guidance 3 only", "less exact", "20% off", "euler, 10 steps"):
        assert told in seen.label.value
    seen.solver.value = "bespoke-2"
    assert seen.steps.value == 2 and "30% off" in seen.label.value
    seen.quality.value = "draft"
    assert seen.steps.value == 2  # the solver's own; the quality's steps come with the next plain solver
    seen.generate.click()
    finish(seen)
    assert seen.state.results[0].piece.recipe.stage2_solver.startswith("bespoke-2@")
    seen.solver.value = "euler"
    assert seen.steps.value == seen._steps_of["draft"] and seen.guidance.value == 2.0
    assert not seen.steps.disabled and not seen.guidance.disabled
    seen.guidance.value, seen.what.value, seen.value.value = 3.0, "solver", "bespoke-3"
    seen.versus.click()
    finish(seen)
    assert [r.piece.recipe.stage2_steps for r in seen.state.results[1:]] == [seen.steps.value, 3]


def test_unknown_knobs_and_empty_prompts_are_told(studio):
    with pytest.raises(MuseError, match="did you mean 'seconds'"):
        studio.generate("x", secnods=3)
    studio.generate("  ")
    finish(studio, "failed")
    assert "the prompt is empty" in studio.job.message
    studio.generate("slow " * 3000, n=1)
    finish(studio)
    assert "only the first 2,000" in studio.job.notice and "tokens" in studio.job.notice


def test_cancel_keeps_what_was_finished(studio):
    studio.job.on_change = lambda: studio.results and studio.job.cancel()
    studio.generate("a waltz", n=8)
    finish(studio, "cancelled")
    assert 1 <= len(studio.results) < 8 and f"{len(studio.results)} of 8 pieces were finished" in studio.job.message


def test_a_and_b_share_their_seeds(studio):
    studio.set(prompt="a waltz", seed=11)
    studio.versus(n=2, guidance_scale=1.0)
    finish(studio)
    a, b = studio.results[:2], studio.results[2:]
    assert [r.seed for r in a] == [r.seed for r in b] == [11, 12]
    assert {r.note for r in a} == {"A"} and {r.note for r in b} == {"B: guidance_scale = 1.0"}
    assert torch.equal(a[0].piece.embedding, b[0].piece.embedding)  # Stage 1 has its own guidance
    assert b[0].piece.recipe.guidance_scale == 1.0 and studio.knobs.guidance_scale is None
    with pytest.raises(MuseError, match="did you mean 'prompt'"):
        studio.versus(promt="x")


# -- variations


@pytest.mark.parametrize("degrees", [5.0, 60.0])
def test_variations_lie_at_exactly_the_distance(studio, degrees):
    [source] = made(studio, "a waltz", n=1)
    studio.more_like(source, n=3, degrees=degrees)
    finish(studio)
    vary = studio.results[1:]
    for result in vary:
        assert math.degrees(sphere.angle(result.piece.embedding, source.piece.embedding)) == pytest.approx(
            degrees, abs=0.01
        )
        assert result.seed == source.seed and "no. 1" in result.note and result.piece.recipe.prompt == "a waltz"
    assert not torch.equal(vary[0].piece.embedding, vary[1].piece.embedding)


def test_variations_of_noise_alone_keep_the_embedding_and_chain(studio):
    [source] = made(studio, "a waltz", n=1)
    studio.more_like(source, n=2, degrees=0, noise=0.4)
    finish(studio)
    studio.more_like(studio.results[1], n=1, degrees=0, noise=1.0)
    finish(studio)
    one, two, chained = (r.piece for r in studio.results[1:])
    assert torch.equal(one.embedding, source.piece.embedding) and not torch.equal(one.audio, two.audio)
    assert len(chained.origin.noise) == 2 and chained.origin.noise[0] == one.origin.noise[0]
    for arguments in ({"degrees": 0, "noise": 0}, {"degrees": 200}, {"noise": -1}):
        with pytest.raises(MuseError, match="degrees go from"):
            studio.more_like(source, **arguments)


def test_variations_are_kept_and_made_again_to_the_bit(studio):
    [source] = made(studio, "a waltz", n=1)
    studio.more_like(source, n=2, degrees=20, noise=0.5)
    finish(studio)
    take = studio.results[2]
    kept = studio.keep(take, tags=["odd"], star=True)
    assert (kept.tags, kept.star) == (("odd",), True) and studio.keep(take).id == kept.id
    back = studio.library.again(kept.id, studio.muse)
    assert torch.equal(back.audio, take.piece.audio) and studio.library.same_bits(kept.id, back)
    studio.unstar(take)
    assert not take.kept.star and [e.id for e in studio.library.search("waltz", tags=["odd"])] == [kept.id]


def test_downloads_are_files_with_their_recipe(studio):
    [result] = made(studio, "<b>../waltz</b>", n=1)
    for kind in ("wav", "flac"):
        name, data = studio.download(result, kind)
        assert name.endswith(f"-0.{kind}") and not set(name) & set("<>/\\ ") and ".." not in name
        x, rate = soundfile.read(io.BytesIO(data))
        assert rate == 44100 and x.shape == (22050, 2)
    with soundfile.SoundFile(io.BytesIO(studio.download(result, "wav")[1])) as file:
        assert Recipe.from_json(file.comment) == result.piece.recipe
    with pytest.raises(MuseError, match="kind of file"):
        studio.download(result, "mp4")


# -- the sphere


def test_paths_on_the_sphere_are_even_and_end_where_they_should():
    x = sphere.unit(torch.randn(3, 512, generator=torch.Generator().manual_seed(0)))
    rows, positions = sphere.along(x, 9)
    steps = sphere.angle(rows[:-1], rows[1:])
    assert (
        torch.equal(rows[0], x[0]) and torch.equal(rows[-1], x[2]) and positions.tolist() == sorted(positions.tolist())
    )
    assert float(steps.sum()) == pytest.approx(float(sphere.angle(x[:-1], x[1:]).sum()), rel=0.02)
    assert rows.norm(dim=1) == pytest.approx(torch.ones(9), abs=1e-6)
    assert torch.allclose(sphere.along(x[:2], 5)[0][2], sphere.unit(x[0] + x[1]), atol=1e-6)
    with pytest.raises(MuseError, match="opposite"):
        sphere.slerp(x[0], -x[0], 0.5)


def test_a_mix_is_the_mean_direction():
    x = torch.eye(4)[:3]
    assert torch.allclose(sphere.mean(x, [1, 1, 0]), torch.tensor([0.5**0.5, 0.5**0.5, 0, 0]))
    assert torch.equal(sphere.mean(x, [0, 3, 0]), x[1])
    for weights in ([0, 0, 0], [1, -1, 0], [1, 1], [1, float("nan"), 0]):
        with pytest.raises(MuseError, match="weight"):
            sphere.mean(x, weights)
    with pytest.raises(MuseError, match="cancel"):
        sphere.mean(torch.stack([x[0], -x[0]]), [1, 1])


def test_picks_are_spread_out_or_central():
    angles = torch.tensor([0.0, 0.02, 0.04, 1.0, 1.02, 1.04, 2.0, 2.02, 2.04])
    rows = torch.stack([angles.cos(), angles.sin()], dim=1)
    assert {i // 3 for i in sphere.spread_out(rows, 3)} == {0, 1, 2}
    assert sorted(sphere.medoids(rows, 3)) == [1, 4, 7]
    assert sorted(sphere.spread_out(rows, 99)) == list(range(9)) and sphere.medoids(rows, 99) == list(range(9))
    assert sphere.spread_out(rows[:0], 3) == []
    many = torch.nn.functional.normalize(torch.randn(1500, 512, generator=torch.Generator().manual_seed(0)), dim=1)
    assert len(set(sphere.medoids(many, 4))) == 4  # (n, n) angles, not (n, n, D) differences: 18 MB, not 9 GB
