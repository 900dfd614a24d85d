"""Distillation of Stage 2: a student takes a few long steps without guidance where the teacher takes many with it.

The student is the teacher with LoRA (`musekit.lora`). At each time of its own grid it learns the average velocity of
the teacher's guided solution over its step, from points of that very solution (the idea of IntMeanFlow, Wang et al.
2025, arXiv 2510.07979, on a fixed grid as in progressive distillation, Salimans & Ho 2022, arXiv 2202.00512). So its
Euler steps are exact where it is, and it needs no derivatives and no second network.
"""

import dataclasses
import functools
from pathlib import Path

import torch
from torch import Tensor

from musekit import flow, lora, solve
from musekit.config import MuseError, SampleConfig
from musekit.files import checked
from musekit.pretrained import STUDENT, read_hashes
from musekit.stage2 import Condition, GuidedStage2, StableAudioMuQ, Stage2Inference


class Teacher(GuidedStage2):
    """Guidance without recorded CUDA graphs, since the weights and shapes change."""

    def _graph(self, t, x: Tensor) -> Tensor:
        return self._velocity(x, t, self.condition)


def about(folder: Path, sample: SampleConfig, steps: int) -> dict[str, str]:
    """What a student's file says of it: its grid, and the hash of its teacher, the Stage 2 of a folder of weights."""
    return {"steps": str(steps), "shift": str(sample.shift), "teacher": read_hashes(folder)["stage2"]}


def of_student(sample: SampleConfig, found: lora.LoRA, folder: Path) -> SampleConfig:
    """How a student is sampled. Raises MuseError for a file that is none, or of another Stage 2 than the folder's."""
    try:
        steps, shift, teacher = int(found.about["steps"]), float(found.about["shift"]), found.about["teacher"]
    except (KeyError, ValueError) as error:
        raise MuseError(f"this student does not say how it is sampled ({error}): train it again") from error
    if found.part != "stage2" or teacher != read_hashes(folder).get("stage2") or not 1 <= steps <= 64:
        raise MuseError(f"the student for drafts is not of {folder}'s Stage 2: train it again, or delete {STUDENT}")
    grid = {"stage2_steps": steps, "shift": shift, "stage2_solver": "euler"}
    return checked(dataclasses.asdict(sample) | grid | {"guidance_scale": 1.0, "control_guidance": 0.0}, SampleConfig)


def begin(network: StableAudioMuQ, sample: SampleConfig, steps: int) -> None:
    """Make a network with LoRA learn to be a student of so many steps of itself without LoRA, sampled by `sample`.

    Raises MuseError where the teacher's steps are no multiple of the student's.
    """
    if sample.stage2_steps % steps or sample.stage2_solver != "euler":
        why = f"{sample.stage2_steps} steps of {sample.stage2_solver}"
        raise MuseError(f"a student of {steps} steps needs a teacher of a multiple of them by euler, not {why}")
    network.training_loss = functools.partial(loss, network, sample=sample, steps=steps)  # a copy has its own


def loss(network: StableAudioMuQ, batch: dict, sample: SampleConfig, steps: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Squared error of the student's velocities on the teacher's solution, each as a share of the teacher's square.

    batch: of `StableAudioMuQ.training_loss`; all `steps` steps of each of its samples are learned at once.
    """
    x_0, x_1, mask, controls = network.inputs(batch)
    known = None if controls is None else (controls.given[:, None], x_1 - x_0)
    prompts, n = (batch["embedding"], batch["seconds"]), len(x_1)
    with torch.no_grad(), lora.off(network):
        pair = network.condition_pair(*prompts, None, controls)
        inference = Stage2Inference(network, compile=False)
        teacher = Teacher(inference, pair, sample.guidance_scale, known)
        found = solve.solve(teacher, x_0, steps=sample.stage2_steps, shift=sample.shift, trajectory=True)
    path = found.trajectory[:: sample.stage2_steps // steps]
    times = torch.tensor(solve.grid(steps, sample.shift), dtype=x_1.dtype, device=x_1.device)
    average = (path[1:] - path[:-1]) / flow.match_dims(times.diff(), path[1:])
    condition = Condition.stack(*[network.condition(*prompts, None, controls)] * steps)
    v = network(path[:-1].flatten(0, 1), times[:-1].repeat_interleave(n), condition)
    v, u = v * network.emphasis, average.flatten(0, 1) * network.emphasis
    every = mask.repeat(steps, 1)
    error, size = flow.loss(v, u, every), flow.loss(torch.zeros_like(u), u, every)
    share = error / size.clamp_min(1e-3)
    return share.mean(), {"first": share[:n].mean(), "last": share[-n:].mean()}
