"""The student of Stage 2: its loss is zero where it takes the teacher's steps, and drafts are made again bit by bit."""

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
from musekit.lab.rendering import render_again
from musekit.muse import Muse
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
    torch.testing.assert_close(parts["first"], flow.loss(v, u, batch["mask"]).mean(), rtol=1e-4, atol=0)


def test_only_the_small_matrices_learn_and_a_step_lowers_the_loss(student):
    network, batch = student
    sample = replace(smoke().sample, stage2_steps=8, guidance_scale=4.0, guidance="apg")
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


def test_drafts_by_the_command_line(tiny, smoke_weights, tmp_path, capsys):
    words = ["train", "stage2", "--preset", "smoke", "--cache", str(tiny.cache), "--run-folder", str(tmp_path / "run")]
    words += ["--train.samples", "16", "--train.batch", "8", "--train.micro-batch", "8", "--train.distil", "1"]
    with pytest.raises(SystemExit):
        main([*words, "--init", str(smoke_weights)])
    assert "give --train.lora RANK" in capsys.readouterr().err
    main([*words, "--init", str(smoke_weights), "--train.lora", "2"])
    folder = shutil.copytree(smoke_weights, tmp_path / "weights")
    muse = Muse.from_pretrained(folder)
    assert muse.draft is muse
    shutil.copy(tmp_path / "run" / "weights" / STUDENT, folder)
    muse = Muse.from_pretrained(folder)
    one, other = (m.generate("a piano", seed=3, seconds=0.5) for m in (muse, muse.draft))
    assert torch.equal(one.embeddings, other.embeddings) and not torch.equal(one.audio, other.audio)
    assert (one.nfe["stage2"], other.nfe["stage2"]) == ([3], [1]) and other.recipes[0].guidance_scale == 1.0
    [piece] = muse.draft.stream(other.recipes)
    again = render_again(muse, entry_of(piece))
    assert torch.equal(again.audio, other.audio[0]) and again.recipe.weights != muse.weights
    words = ["--weights", str(folder), "--draft", "--n", "1", "--seconds", "1", "--out", str(tmp_path)]
    main(["generate", "a piano", *words])
    assert '"guidance_scale": 1.0' in (tmp_path / "a-piano-0.json").read_text()
