"""gallery: one prompt's many answers as pictures, for the poster. It needs the weights and their held-out embeddings.

map      held-out clips and samples of Stage 1 around the regression's answer, at their true distances
chain    how many held-out clips match as the prompt asks for more
piece    spectrograms of the first seeds' pieces, as small PNGs
moment   the first piece's latents at times of its flow, and their decoded sound
size     parameters of both stages, of the preset and of the full-size one
"""

import base64
import io
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import normalize

from musekit import flow, solve
from musekit.config import MuseError, preset
from musekit.corpus.captions import prompts
from musekit.heldout import Reference, read_reference
from musekit.inference import control_inputs, filled, finish
from musekit.muse import Muse, Settings
from musekit.pretrained import BASELINE, build, read_hashes
from musekit.results import write_result
from musekit.show.pictures import log_frequency
from musekit.stage2 import GuidedStage2

PROMPT = 0  # of the evaluation's vague prompts
SAMPLES, PIECES = 64, 4  # of Stage 1; of these, rendered
MOMENTS = (0.0, 0.5, 0.8, 1.0)  # of the flow's time
LOW, OCTAVES, BINS, COLUMNS, DEPTH = 65.4, 6, 20, 220, 50.0  # of a spectrogram: Hz (C2), bins per octave, dB shown


def gallery(weights: str | Path = "mini", results: Path = Path("results"), seed: int = 0) -> Path:
    """Write results/gallery.json; returns its path. The pieces are those of the first seeds, not chosen ones.

    Raises MuseError when the weights have no regression baseline or no held-out embeddings.
    """
    muse, prompt = Muse.from_pretrained(weights), prompts("vague")[PROMPT]
    hashes = {part: digest[:16] for part, digest in read_hashes(muse.folder).items()}
    if BASELINE not in hashes:
        raise MuseError(f"{muse.folder} has no {BASELINE}, which the map shows; train it: musekit train {BASELINE}")
    x, reference = muse.embed(prompt["text"], SAMPLES, seed, micro_batch=16), read_reference(muse.folder)
    rows = [map_row(muse, reference, prompt, x), *chain_rows(reference, prompt["asks"])]
    rows += [*piece_rows(muse, reference, prompt["text"], x, seed), *moment_rows(muse, x[:1], seed)]
    rows += size_rows(muse.config.name, "paper")
    return write_result("gallery", rows, results, __name__, weights=hashes, preset=muse.config.name, seed=seed)


@torch.inference_mode()
def map_row(muse: Muse, reference: Reference, prompt: dict, x: torch.Tensor) -> dict:
    """Held-out clips and samples x (n, 512) around the regression's answer, which is the origin.

    The length of a place is the true distance from the answer on the sphere. Directions divide the circle evenly among
    right answers and samples, in the angular order of their t-SNE map, so similar ones are adjacent; other clips take
    the direction of the nearest of these.
    """
    from sklearn.manifold import TSNE

    raw = muse.regression.predict(*(part.to(muse.device) for part in muse.text([prompt["text"]])))[0].cpu()
    real, right = reference.embeddings.double(), reference.matching(prompt["asks"])
    shown, everything = torch.cat([real[right], x.double()]), torch.cat([real, x.double()])
    flat = TSNE(init="pca", perplexity=min(20, (len(shown) - 1) / 3), random_state=0).fit_transform(shown.numpy())
    flat = flat - flat.mean(0)
    order = np.arctan2(flat[:, 1], flat[:, 0]).argsort(kind="stable").argsort(kind="stable")
    own = 2 * np.pi * order / len(order)
    angle = own[torch.cdist(real, shown).argmin(1).numpy()] + np.random.default_rng(0).normal(0, 0.08, len(real))
    angle[right] = own[: len(right)]
    angle = np.concatenate([angle, own[len(right) :]])
    distance = torch.linalg.vector_norm(everything - normalize(raw, dim=0).double(), dim=1).numpy()
    places = np.round(distance[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1), 4).tolist()
    clips = [
        {"x": place[0], "y": place[1], "fits": i in set(right), "instrumentation": clip["instrumentation"]}
        for i, (clip, place) in enumerate(zip(reference.clips, places))
    ]
    row = {"measure": "map", "method": "distance from the regression's answer, direction by t-SNE"}
    row |= {"prompt": prompt["text"], "asks": prompt["asks"], "fitting": len(right), "clips": clips}
    return row | {"samples": places[len(real) :], "regression": [0.0, 0.0]}


def chain_rows(reference: Reference, asks: dict, instrument: str = "piano") -> list[dict]:
    """Matching held-out clips of no demand, of `asks`, with an instrument in addition, and with a key."""
    chain = [{}, asks, {**asks, "instrument": instrument}]
    if right := reference.matching(chain[-1]):
        chain.append({**chain[-1], "key": reference.clips[right[0]]["key"]})  # a key that some clip has
    clips = len(reference.clips)
    return [{"measure": "chain", "asks": a, "fitting": len(reference.matching(a)), "clips": clips} for a in chain]


def piece_rows(muse: Muse, reference: Reference, prompt: str, x: torch.Tensor, seed: int) -> list[dict]:
    """The first PIECES samples rendered; nearest: the instrumentation of the nearest held-out clip."""
    seconds, rows = muse.config.sample.seconds, []
    nearest = torch.cdist(x[:PIECES].float(), reference.embeddings.float()).argmin(1).tolist()
    for i, audio in enumerate(muse.render(x[:PIECES], seed, prompt, seconds=seconds)):
        row = {"measure": "piece", "prompt": prompt, "seed": seed + i, "seconds": seconds}
        row["nearest"] = reference.clips[nearest[i]]["instrumentation"]
        rows.append(row | spectrogram(audio.numpy(), muse.config.codec.sample_rate))
    return rows


@torch.inference_mode()
def moment_rows(muse: Muse, x: torch.Tensor, seed: int) -> list[dict]:
    """States of the first piece's flow at MOMENTS, latents and sound, for an embedding x (1, 512)."""
    codec, network, defaults = muse.config.codec, muse.stage2, muse.config.sample
    frames, steps = muse.frames(defaults.seconds), defaults.stage2_steps
    samples = round(defaults.seconds * codec.sample_rate)
    timing = torch.tensor([[0.0, frames * codec.hop / codec.sample_rate]], device=muse.device)
    controls = [filled(network, muse.recipe("an embedding", seed, Settings()), x[0])]
    inputs = control_inputs(network, controls, 0, frames, codec.hop / codec.sample_rate)
    condition = network.condition_pair(x.to(muse.device), timing, controls=inputs)
    velocity = GuidedStage2(muse.inference2, condition, defaults.guidance_scale)
    x_0 = flow.noise(seed, 2, frames, network.config.latent_dim)[None].to(muse.device)
    path = solve.solve(velocity, x_0, steps=steps, shift=defaults.shift, trajectory=True).trajectory[:, 0]
    times, rows = np.array(solve.grid(steps, defaults.shift)), []
    for t in MOMENTS:
        z = path[np.abs(times - t).argmin()][None]
        audio = finish(muse.codec.decode(network.latents(z))[0, :, :samples].cpu()).numpy()
        latents = png(np.clip(z[0].cpu().numpy()[:, : 2 * z.shape[1]] / 6 + 0.5, 0, 1))
        row = {"measure": "moment", "t": t, "seed": seed, "latents": latents, "latents_span": [-3.0, 3.0]}
        rows.append(row | spectrogram(audio, codec.sample_rate))
    return rows


def size_rows(*presets: str) -> list[dict]:
    """Parameters of both stages of these presets; no weights are allocated."""
    rows = []
    with torch.device("meta"):
        for name in dict.fromkeys(presets):
            for part in ("stage1", "stage2"):
                n = sum(p.numel() for p in build(part, preset(name)).parameters())
                rows.append({"measure": "size", "preset": name, "part": part, "parameters": n})
    return rows


def spectrogram(audio: np.ndarray, rate: int) -> dict:
    """Audio (2, N) over time and log frequency as a grey PNG: black is DEPTH dB below the peak, low notes first."""
    level = log_frequency(audio, rate, LOW, OCTAVES, BINS, COLUMNS)
    level = np.maximum(level - level.max(), -DEPTH)
    return {"png": png(level / DEPTH + 1), "low_hz": LOW, "octaves": OCTAVES, "depth_db": DEPTH}


def png(x: np.ndarray) -> str:
    """A picture x (rows, columns) of 0 to 1 as a PNG of 32 greys, first row on top, in base 64."""
    from PIL import Image

    grey, data = np.round(x * 31) * (255 / 31), io.BytesIO()
    Image.fromarray(grey.astype(np.uint8)).save(data, "PNG", optimize=True)
    return base64.b64encode(data.getvalue()).decode("ascii")
