"""Ablations: what each design decision is worth, on a named smaller model that trains in a minute or two.

ablation-guidance    dropping the condition in training: what guidance needs, and costs
ablation-solver      solver and number of evaluations against the error of the solution, both stages; trains nothing
ablation-ema         the weights' moving average against the last weights, with and without a falling learning rate
ablation-cache       cached embeddings against embeddings made on the fly: time, and result
ablation-noise       noise on the embeddings that Stage 2 learns from: what its own clips gain, what new ones lose
ablation-data        learning from a sixteenth, a quarter and all of the clips

Each writes results/<name>.json; runs are kept under MUSEKIT_HOME/eval/ablations and go on where they stopped.
"""

from __future__ import annotations

from musekit.config import MuseError
from musekit.evaluate.subject import Subject

ABLATIONS = (
    "ablation-guidance", "ablation-solver", "ablation-ema", "ablation-cache", "ablation-noise", "ablation-data",
)  # fmt: skip


def ablate(subject: Subject, name: str) -> None:
    """Make one ablation. Raises MuseError where the cache lacks what is learned from."""
    from musekit.evaluate.ablations import cached, condition, data_size, ema, noise, solver

    measures = {
        "ablation-guidance": condition.measure_guidance,
        "ablation-solver": solver.measure_solver,
        "ablation-ema": ema.measure_ema,
        "ablation-cache": cached.measure_cache,
        "ablation-noise": noise.measure_noise,
        "ablation-data": data_size.measure_data,
    }
    needs = {"ablation-solver": (), "ablation-noise": ("latents", "embeddings")}.get(name, ("tokens", "embeddings"))
    for kind in needs:
        if not (subject.cache / kind / "manifest.json").exists():
            raise MuseError(
                f"{subject.cache} holds no {kind}, which {name} learns from; run: musekit cache --kinds {kind}"
            )
    measures[name](subject)
