"""The student of Stage 2: its loss is zero where it takes the teacher's steps, and drafts are made again bit by bit."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from networks import STAGE2, stage2

from musekit import distil, flow, lora, solve
from musekit.bench.networks import training_batch
from musekit.cli import main
from musekit.config import MuseError, smoke
from musekit.entry import entry_of
from musekit.lab.lab import Lab
from musekit.lab.rendering import render_again
from musekit.lab.studio import Studio
from musekit.library import Library
from musekit.muse import Muse, Settings
from musekit.pretrained import STUDENT


@pytest.fixture
def student():
    """A network with controls and LoRA, and a batch; half of the frames of a sample are given."""
    network = stage2(replace(STAGE2, controls=True)).requires_grad_(True)
    lora.adapt(network, 2)
    network.double()
    batch = training_batch(network.config, 3, torch.device("cpu"), 12)
    batch = {name: x.double() if x.is_floating_point() else x for name, x in batch.items()}
    given = torch.arange(12) < torch.tensor([[0], [6], [0]])
    local = torch.zeros(3, 12, 47).index_fill_(2, torch.tensor([9]), 1.0)
    return network, batch | {"of_piece": torch.zeros(3, 44), "of_frames": local, "given": given}


def test_the_loss_of_the_teacher_as_its_own_student_is_zero(student):
    network, batch = student
    sample = replace(smoke().sample, stage2_steps=4, shift=3.0, guidance_scale=1.0)
    value, parts = distil.loss(network, batch, sample, 4)  # LoRA begins at zero, and each step is one of the teacher's
    assert value < 1e-10 and parts["first"] < 1e-10
    guided, _ = distil.loss(network, batch, replace(sample, guidance_scale=3.0), 4)
    longer, _ = distil.loss(network, batch, replace(sample, stage2_steps=16), 4)
    assert guided > 1e-4 and longer > 1e-6


def test_what_is_learned_is_the_average_velocity_of_the_teachers_solution(student):
    """Against a solution written out: a student whose velocity is zero is off by that velocity's mean square."""
    network, batch = student
    sample = replace(smoke().sample, stage2_steps=6, shift=3.0, guidance_scale=1.0)
    del batch["of_piece"], batch["of_frames"], batch["given"]
    condition = network.condition(batch["embedding"], batch["seconds"])
    x, times = batch["x_0"], solve.grid(6, 3.0)
    with torch.no_grad():
        states = [x]
        for t, end in zip(times, times[1:]):
            states.append(x := x + (end - t) * network(x, torch.full((3,), t).double(), condition))
        v = network(states[0], torch.zeros(3).double(), condition)
    u = (states[2] - states[0]) / (times[2] - times[0])
    _, parts = distil.loss(network, batch, sample, 3)
    expected = flow.loss(v, u, batch["mask"]) / flow.loss(0 * u, u, batch["mask"])
    torch.testing.assert_close(parts["first"], expected.mean(), rtol=1e-4, atol=0)


def test_only_the_small_matrices_learn_and_a_step_lowers_the_loss(student):
    network, batch = student
    sample = replace(smoke().sample, stage2_steps=8, guidance_scale=4.0)
    distil.begin(network, sample, 2)
    optimizer = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], 1e-2)
    losses = []
    for _ in range(25):
        losses.append(network.training_loss(batch)[0])
        losses[-1].backward()
        optimizer.step(), optimizer.zero_grad()
    assert losses[-1] < 0.5 * losses[0], losses
    with pytest.raises(MuseError, match="multiple of them by euler, not 8 steps"):
        distil.begin(network, sample, 3)


@pytest.fixture
def folder(tiny, smoke_weights, tmp_path, capsys):
    """Smoke weights with a student of one step."""
    words = ["train", "stage2", "--preset", "smoke", "--cache", str(tiny.cache), "--run-folder", str(tmp_path / "run")]
    words += ["--train.samples", "16", "--train.distil", "1", "--init", str(smoke_weights)]
    with pytest.raises(SystemExit):
        main(words)
    assert "give --train.lora RANK" in capsys.readouterr().err
    folder = shutil.copytree(smoke_weights, tmp_path / "weights")
    assert Muse.from_pretrained(folder).draft.is_draft is False
    main([*words, "--train.lora", "2", "--out", str(folder)])
    return folder


def test_drafts_are_other_pieces_of_the_same_embedding_and_are_made_again(folder, tmp_path):
    muse = Muse.from_pretrained(folder)
    one, other = (m.generate("a piano", seed=3, seconds=0.5) for m in (muse, muse.draft))
    assert torch.equal(one.embeddings, other.embeddings) and not torch.equal(one.audio, other.audio)
    assert (one.nfe["stage2"], other.nfe["stage2"]) == ([3], [1]) and other.recipes[0].guidance_scale == 1.0
    lab = Lab(muse, seconds=0.5)
    lab.sample("a piano", n=1)
    assert lab.sound(lab.points[0]).nfe["stage2"] == 1
    [piece] = muse.draft.stream(other.recipes)
    again = render_again(Muse.from_pretrained(folder), entry_of(piece))
    assert torch.equal(again.audio, other.audio[0]) and again.recipe.weights != muse.weights
    for name, value in {"steps": 2, "guidance_scale": 3.0, "shift": 2.0}.items():
        with pytest.raises(MuseError, match="drafts have their own"):
            muse.draft.recipe("a piano", 0, Settings(**{name: value}))


def test_the_studio_varies_edits_and_remembers_drafts(folder, tmp_path):
    studio = Studio(folder, Library(tmp_path / "library"))
    studio.generate("a piano", n=1, seed=1, seconds=0.5, draft=True)
    studio.job.wait()
    studio.more_like(studio.results[0], n=1)
    studio.job.wait()
    studio.repaint(studio.results[0], 0.1, 0.4, draft=True)
    studio.job.wait()
    assert [result.piece.nfe["stage2"] for result in studio.results] == [1, 1, 1], studio.job.message
    later = Studio(folder, studio.library)
    later.bring_back([result.text for result in studio.results])
    later.job.wait()
    pairs = zip(studio.results, later.results, strict=True)
    assert all(torch.equal(a.piece.audio, b.piece.audio) for a, b in pairs)


def test_drafts_by_the_command_line(folder, smoke_weights, tmp_path, capsys):
    words = ["--draft", "--n", "1", "--out", str(tmp_path)]
    main(["generate", "a piano", *words, "--seconds", "1", "--weights", str(folder), "--negative-prompt", "an organ"])
    assert '"guidance_scale": 1.0' in (tmp_path / "a-piano-0.json").read_text()
    assert "only Stage 1 knows of it" in capsys.readouterr().err
    words += ["--seconds", "1", "--weights"]
    main(["generate", "--continue-from", str(tmp_path / "a-piano-0.wav"), *words, str(folder)])
    assert '"stage2": 1' in (tmp_path / "a-piano-0-continued-0.json").read_text()
    with pytest.raises(SystemExit):
        main(["generate", "a piano", *words, str(smoke_weights)])
    assert "--draft needs weights with a student" in capsys.readouterr().err


def test_a_student_of_other_weights_and_a_damaged_one_are_refused_where_drafts_are_wanted(folder):
    muse = Muse.from_pretrained(folder)
    recipe = muse.recipe("a piano", 0, Settings(seconds=0.5))
    path, hashes = folder / STUDENT, folder / "weights.json"
    told = hashes.read_text()
    hashes.write_text(told.replace(json.loads(told)["stage2"], 64 * "0"))
    with pytest.raises(MuseError, match="is not of .*'s Stage 2: train it again, or delete draft.safetensors"):
        Muse.from_pretrained(folder).draft  # noqa: B018
    hashes.write_text(told)
    path.write_bytes(path.read_bytes()[:100])
    damaged = Muse.from_pretrained(folder)
    assert damaged.of(recipe) is damaged  # what is no draft needs none
    with pytest.raises(MuseError, match="holds no LoRA"):
        damaged.draft  # noqa: B018
