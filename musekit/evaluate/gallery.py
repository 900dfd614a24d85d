"""gallery: one prompt's many answers as pictures, for the poster: a map, a few pieces, and one piece on its way.

Nothing here is a measure of quality. It needs the weights and their reference, and no cache.

    map      held-out clips and samples of Stage 1 around the regression's answer, at their true distances
    chain    how many held-out clips are right answers, as the sentence says more
    piece    what the first seeds sound like: level over time and log frequency, as a small PNG
    moment   the first piece's latents on their way from noise, and what the codec makes of them
    size     parameters of each part, of the preset and of the full-size one
"""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import torch

from musekit.config import MuseError
from musekit.corpus.captions import prompts
from musekit.heldout import Reference, read_reference
from musekit.muse import Muse

PROMPT = 0  # of the evaluation's vague prompts
SAMPLES, PIECES = 64, 4  # of Stage 1; of these, played
MOMENTS = (0.0, 0.5, 0.8, 1.0)  # of the flow's time
LOW, OCTAVES, ROWS, COLUMNS = 65.4, 6, 20, 220  # Hz (C2); rows an octave; columns of a picture
DEPTH = 50.0  # dB below a picture's peak that are shown
PERPLEXITY = 20


def gallery(weights: str | Path = "mini", results: Path = Path("results"), seed: int = 0) -> Path:
    """Write results/gallery.json; returns its path. The pieces are those of the first seeds, not chosen ones.

    Raises MuseError when the weights have no regression baseline or no reference.
    """
    from musekit.pretrained import BASELINE, read_hashes
    from musekit.results import write_result

    muse, prompt = Muse.from_pretrained(weights), prompts("vague")[PROMPT]
    hashes = {part: digest[:16] for part, digest in read_hashes(muse.folder).items()}
    if BASELINE not in hashes:
        raise MuseError(f"{muse.folder} has no {BASELINE}, which the map shows; train it: musekit train {BASELINE}")
    x = muse.embed(prompt["text"], SAMPLES, seed, micro_batch=16)
    rows = [draw_map(muse, prompt, x), *chain(read_reference(muse.folder), prompt["asks"])]
    rows += [*pieces(muse, prompt["text"], x, seed), *moments(muse, x[:1], seed), *sizes(muse.config.name)]
    return write_result("gallery", rows, results, weights=hashes, preset=muse.config.name, seed=seed)


def draw_map(muse: Muse, prompt: dict, x: torch.Tensor) -> dict:
    """Held-out clips and samples x (n, 512) as the regression's answer sees them, which lies at the origin.

    A place's length is the true distance from the answer, put on the sphere. Its direction is evenly used by the
    right answers and samples in the order of their t-SNE map, so that what sounds alike shares one; other clips lie
    in the direction of the nearest of these.
    """
    from sklearn.manifold import TSNE

    reference = read_reference(muse.folder)
    with torch.inference_mode():
        raw = muse.regression.predict(*(part.to(muse.device) for part in muse.text([prompt["text"]])))[0].cpu()
    real, fitting = reference.embeddings.double(), reference.fitting(prompt["asks"])
    shown = torch.cat([real[fitting], x.double()])
    perplexity = min(PERPLEXITY, (len(shown) - 1) / 3)
    flat = TSNE(init="pca", perplexity=perplexity, random_state=0).fit_transform(shown.numpy())
    flat = flat - flat.mean(0)
    order = np.arctan2(flat[:, 1], flat[:, 0]).argsort(kind="stable").argsort(kind="stable")
    own = 2 * np.pi * order / len(order)
    angle = own[torch.cdist(real, shown).argmin(1).numpy()] + np.random.default_rng(0).normal(0, 0.08, len(real))
    angle[fitting] = own[: len(fitting)]
    angle, together = np.concatenate([angle, own[len(fitting) :]]), torch.cat([real, x.double()])
    answer = torch.nn.functional.normalize(raw, dim=0).double()
    away = torch.linalg.vector_norm(together - answer, dim=1).numpy()
    places = np.round(away[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1), 4).tolist()
    n, apart = len(real), torch.cdist(real, real).fill_diagonal_(torch.inf).min(1).values
    clips = [
        {"x": px, "y": py, "fits": i in set(fitting), "instrumentation": clip["instrumentation"]}
        for i, (clip, (px, py)) in enumerate(zip(reference.clips, places[:n], strict=True))
    ]
    row = {"measure": "map", "method": "distance from the regression's answer, direction by t-SNE"}
    row |= {"prompt": prompt["text"], "asks": prompt["asks"], "fitting": len(fitting), "clips": clips}
    row |= {"samples": places[n:], "regression": [0.0, 0.0], "regression_length": float(raw.norm())}
    return row | {"real_to_next": float((apart[fitting] if fitting else apart).mean())}


def chain(reference: Reference, asks: dict, instrument: str = "piano") -> list[dict]:
    """Right answers among the held-out clips: of no sentence, of what `asks` says, with an instrument, with a key."""
    told = [{}, asks, {**asks, "instrument": instrument}]
    if fitting := reference.fitting(told[-1]):
        told.append({**told[-1], "key": reference.clips[fitting[0]]["key"]})  # one that some clip has
    clips = len(reference.clips)
    return [{"measure": "chain", "asks": a, "fitting": len(reference.fitting(a)), "clips": clips} for a in told]


def pieces(muse: Muse, prompt: str, x: torch.Tensor, seed: int) -> list[dict]:
    """The first PIECES samples rendered; each named by the held-out clip that its embedding lies nearest to."""
    reference, rows = read_reference(muse.folder), []
    nearest = torch.cdist(x[:PIECES], reference.embeddings).argmin(1).tolist()
    seconds, rate = muse.config.sample.seconds, muse.config.codec.sample_rate
    audio = muse.render(x[:PIECES], seed, prompt, seconds=seconds)
    for i, (sound, clip) in enumerate(zip(audio, (reference.clips[k] for k in nearest), strict=True)):
        row = {"measure": "piece", "prompt": prompt, "seed": seed + i, "seconds": seconds}
        rows.append(row | {"nearest": clip["instrumentation"], **picture(sound.numpy(), rate)})
    return rows


@torch.inference_mode()
def moments(muse: Muse, x: torch.Tensor, seed: int) -> list[dict]:
    """States of the first piece's flow at MOMENTS, latents and sound, for an embedding x (1, 512)."""
    from musekit import flow, solve

    sample, codec = muse.config.sample, muse.config.codec
    frames = muse.frames(sample.seconds)
    timing = torch.tensor([[0.0, frames * codec.hop / codec.sample_rate]], device=muse.device)
    condition = muse.stage2.condition_pair(x.to(muse.device), timing)

    def velocity(t: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        v = muse.stage2(torch.cat([z, z]), torch.cat([t, t]), condition)
        return flow.guided(*v.chunk(2), sample.guidance_scale)

    x_0 = flow.noise(seed, 2, frames, muse.config.stage2.latent_dim)[None].to(muse.device)
    steps = sample.stage2_steps
    path = solve.solve(velocity, x_0, steps=steps, trajectory=True).trajectory[:, 0]
    rows = []
    for t in MOMENTS:
        z = path[round(t * steps)][None]
        sound = muse.codec.decode(muse.stage2.latents(z))[0].cpu().numpy()
        shown = png(np.clip(z[0].cpu().numpy()[:, : 2 * z.shape[1]] / 6 + 0.5, 0, 1))
        row = {"measure": "moment", "t": t, "seed": seed, "latents": shown, "latents_span": [-3.0, 3.0]}
        rows.append(row | picture(sound, codec.sample_rate))
    return rows


def picture(audio: np.ndarray, rate: int) -> dict:
    """Audio (2, N) over time and log frequency as a grey PNG: black is DEPTH dB below the peak, low notes first."""
    from musekit.show.pictures import decibels, magnitudes

    n_fft = 8192
    m = magnitudes(audio, n_fft, max(512, audio.shape[1] // COLUMNS))
    hz = LOW * 2 ** (np.arange(OCTAVES * ROWS) / ROWS)
    level = decibels(np.stack([np.interp(hz, np.arange(len(m)) * rate / n_fft, frame) for frame in m.T], axis=1))
    about = {"low_hz": LOW, "octaves": OCTAVES, "depth_db": DEPTH}
    return {"png": png(np.clip((level - level.max()) / DEPTH + 1, 0, 1)), **about}


def png(x: np.ndarray) -> str:
    """A picture x (rows, columns) of 0 to 1 as a PNG of 32 greys, first row on top, in base 64."""
    from PIL import Image

    grey, data = np.round(x * 31) * (255 / 31), io.BytesIO()
    Image.fromarray(grey.astype(np.uint8)).save(data, "PNG", optimize=True)
    return base64.b64encode(data.getvalue()).decode("ascii")


def sizes(*presets: str) -> list[dict]:
    """Parameters of both stages, of these presets and of the full-size one; no weights are made."""
    from musekit.config import preset
    from musekit.pretrained import build

    rows = []
    with torch.device("meta"):
        for name in dict.fromkeys((*presets, "paper")):
            for part in ("stage1", "stage2"):
                n = sum(p.numel() for p in build(part, preset(name)).parameters())
                rows.append({"measure": "size", "preset": name, "part": part, "parameters": n})
    return rows
