"""The Studio's state and its job: results as they are ready, variations at an exact distance, the solver menu."""

import json
import math
import shutil
import threading
import time

import pytest
import soundfile
import torch

from musekit import fewstep
from musekit.config import MuseError, mini
from musekit.files import sha256
from musekit.lab import sphere
from musekit.lab.job import Job
from musekit.lab.rendering import render_again
from musekit.lab.studio import Knobs, Studio
from musekit.lab.studio_view import StudioView
from musekit.library import Library
from musekit.library.sounds import read_entry
from musekit.muse import Muse
from musekit.solve import SOLVERS

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
    solvers = {}
    for n in (3, 2):
        weights = [[1.0, *[1 / n] * (i + 1)] for i in range(n)]
        solvers[str(n)] = {"times": [i / n for i in range(n + 1)], "weights": weights, "held_out_error": 0.6 / n}
    hashes = json.loads((folder / "weights.json").read_text())
    content = {"stage2": hashes["stage2"], "guidance_scale": 3.0, "teacher": "euler, 10 steps", "solvers": solvers}
    (folder / fewstep.FILE).write_text(json.dumps(content))
    hashes[fewstep.PART] = sha256(folder / fewstep.FILE)
    (folder / "weights.json").write_text(json.dumps(hashes))
    return folder


def finish(studio, status: str = "done") -> None:
    assert studio.job.wait(PATIENCE) == status, studio.job.message


def made(studio, *args, **knobs) -> list:
    """The results that one call adds."""
    before = len(studio.results)
    studio.generate(*args, **knobs)
    finish(studio)
    return studio.results[before:]


# -- the job


def test_a_job_runs_one_piece_of_work_and_reports_its_end():
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
    for error, message in (
        (ValueError("odd"), "ValueError: odd"),
        (MuseError("said"), "said"),
        (MemoryError(), "memory"),
    ):

        def fail(error=error):
            raise error

        job.start(fail)
        assert job.wait(5) == "failed" and message in job.message


def test_a_cancel_ends_with_its_job():
    job, end = Job(), threading.Event()
    job.cancel()  # nothing is at work: nothing is cancelled
    job.check()
    job.start(lambda: end.wait(5) and job.check() or "")
    job.cancel()
    end.set()
    assert job.wait(5) == "cancelled"
    job.check()  # what a cell asks for next


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
    assert [r.piece.recipe.seed for r in first] == [3, 4, 5, 6, 7] and [r.number for r in first] == [1, 2, 3, 4, 5]
    assert ("running", 4) in seen and studio.job.message == "5 pieces, seeds 3 to 7"  # the first micro-batch was there
    assert [r.piece.recipe.seed for r in made(studio, "a jig", seed=None, n=1)] != [3]
    assert len(studio.results) == 6 and all(-1 <= r.piece.similarity <= 1 for r in studio.results)


def test_qualities_are_multiples_of_the_presets_steps():
    config = mini()
    draft, good, best = (Knobs(quality=name).settings(config) for name in ("draft", "good", "best"))
    assert (draft.steps, good.steps, best.steps) == (12, 50, 100) and draft.stage1_steps == 25
    assert Knobs(quality="draft", steps=7).settings(config).steps == 7 and Knobs(n=1).settings(config).micro_batch == 1
    with pytest.raises(MuseError, match="did you mean 'draft'"):
        Knobs(quality="drafft").settings(config)


def test_few_step_solvers_are_offered_where_the_weights_have_them(studio, few_weights, tmp_path):
    assert studio.solvers == SOLVERS and fewstep.offered(tmp_path) == {}
    few = Studio(Muse.from_pretrained(few_weights), Library(tmp_path / "library"))
    assert few.solvers == (*SOLVERS, "bespoke-2", "bespoke-3")
    offer = few.few_step["bespoke-3"]
    assert (offer.nfe, offer.guidance_scale, offer.teacher) == (3, 3.0, "euler, 10 steps")
    assert offer.held_out_error == pytest.approx(0.2)
    [result] = made(few, "a waltz", n=1, seconds=0.5, quality="best", solver="bespoke-3")
    recipe = result.piece.recipe  # the solver's steps, not the quality's
    assert recipe.stage2_solver.startswith("bespoke-3@") and recipe.stage2_steps == 3
    few.versus(n=1, solver="euler", steps=3)
    finish(few)
    a, b = few.results[1:]
    assert torch.equal(a.piece.embedding, b.piece.embedding) and torch.allclose(a.piece.audio, b.piece.audio, atol=2e-3)
    few.generate(steps=7)
    finish(few, "failed")
    assert "has exactly 3 steps" in few.job.message


def test_a_damaged_file_of_solvers_is_left_out_of_the_menu(few_weights, tmp_path):
    folder = shutil.copytree(few_weights, tmp_path / "weights")
    path = folder / fewstep.FILE
    path.write_text(path.read_text().replace("0.", "1.", 1))
    assert Studio(Muse.from_pretrained(folder), Library(tmp_path / "library")).solvers == SOLVERS


def test_the_solver_menu_shows_the_cost_of_few_steps(few_weights, tmp_path):
    view = StudioView(few_weights, library=Library(tmp_path / "library"), n=1, seconds=0.5, steps=9, guidance_scale=2.0)
    assert view.solver.options == (*SOLVERS, "bespoke-2", "bespoke-3")
    view.solver.value = "bespoke-3"
    assert view.steps.disabled and view.guidance.disabled
    for text in ("3 evaluations instead of 9", "guidance 3 only", "less exact", "20% off", "euler, 10 steps"):
        assert text in view.label.value
    view.generate.click()
    finish(view)
    recipe = view.state.results[0].piece.recipe
    assert (recipe.stage2_steps, recipe.guidance_scale) == (3, 3.0) and recipe.stage2_solver.startswith("bespoke-3@")
    view.solver.value = "euler"
    assert not view.steps.disabled and view._knobs()["steps"] == 9
    view.guidance.value, view.what.value, view.value.value = 3.0, "solver", "bespoke-2"
    view.compare.click()
    finish(view)
    assert [r.piece.recipe.stage2_steps for r in view.state.results[1:]] == [9, 2]


def test_unknown_knobs_and_empty_prompts_are_refused(studio):
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
    assert [r.piece.recipe.seed for r in a] == [r.piece.recipe.seed for r in b] == [11, 12]
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
    vary, seed = studio.results[1:], source.piece.recipe.seed
    for result in vary:
        angle = math.degrees(sphere.angle(result.piece.embedding, source.piece.embedding))
        assert angle == pytest.approx(degrees, abs=0.01) and "no. 1" in result.note
        assert (result.piece.recipe.seed, result.piece.recipe.prompt) == (seed, "a waltz")
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


def test_variations_are_kept_and_rendered_again_bit_for_bit(studio):
    [source] = made(studio, "a waltz", n=1)
    studio.more_like(source, n=2, degrees=20, noise=0.5)
    finish(studio)
    result = studio.results[2]
    kept = studio.keep(result, tags=["odd"], star=True)
    assert (kept.tags, kept.star) == (("odd",), True) and studio.keep(result).id == kept.id
    back = render_again(studio.muse, kept)
    assert torch.equal(back.audio, result.piece.audio) and studio.library.same_sound(kept.id, back)
    studio.unstar(result)
    assert not result.kept.star and [e.id for e in studio.library.search("waltz", tags=["odd"])] == [kept.id]


def test_a_download_is_a_flac_file_with_its_recipe(studio, tmp_path):
    [result] = made(studio, "<b>../waltz</b>", n=1)
    name, data = studio.download(result)
    assert name.endswith("-0.flac") and not set(name) & set("<>/\\ ") and ".." not in name
    (tmp_path / name).write_bytes(data)
    assert read_entry(tmp_path / name).recipe == result.piece.recipe
    x, rate = soundfile.read(tmp_path / name)
    assert rate == 44100 and x.shape == (22050, 2)
