"""The poster's pictures show what the package generates."""

import base64
import io
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from musekit import flow, pretrained
from musekit.config import MuseError
from musekit.corpus.captions import prompts
from musekit.evaluate import evaluate
from musekit.evaluate.gallery import MOMENTS, SAMPLES, gallery
from musekit.heldout import build_reference, read_reference
from musekit.muse import Muse


def grey(text: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text)))) / 255


@pytest.fixture(scope="module")
def made(tiny, tmp_path_factory):
    """(weights, rows) of a gallery of random weights."""
    folder = tmp_path_factory.mktemp("gallery")
    weights = shutil.copytree(tiny.weights, folder / "weights")
    build_reference(tiny.cache, weights)
    evaluate("gallery", weights, tiny.cache, folder)
    return weights, json.loads((folder / "gallery.json").read_text())["rows"]


def of(rows: list[dict], measure: str) -> list[dict]:
    return [r for r in rows if r["measure"] == measure]


def test_the_map_shows_every_held_out_clip_and_every_sample(made):
    weights, rows = made
    (shown,), reference, prompt = of(rows, "map"), read_reference(weights), prompts("vague")[0]
    assert shown["prompt"] == prompt["text"] and len(shown["samples"]) == SAMPLES
    assert [c["instrumentation"] for c in shown["clips"]] == [c["instrumentation"] for c in reference.clips]
    assert [i for i, c in enumerate(shown["clips"]) if c["fits"]] == reference.matching(prompt["asks"])
    muse = Muse.from_pretrained(weights)
    answer = muse.regression.predict(*muse.text([prompt["text"]]))[0]
    answer = answer / answer.norm().clamp_min(1e-12)  # an untrained one says nothing: the origin
    for row, clip in zip(reference.embeddings, shown["clips"], strict=True):
        assert np.hypot(clip["x"], clip["y"]) == pytest.approx(float((row - answer).norm()), abs=2e-4)
    samples = muse.embed(prompt["text"], SAMPLES, 0, micro_batch=16)
    away = [float((x - answer).norm()) for x in samples]
    np.testing.assert_allclose(np.hypot(*np.array(shown["samples"]).T), away, atol=2e-4)


def test_the_last_moment_is_the_piece_and_the_first_is_noise(made):
    """The flow written out there ends where `Muse.render`'s own does."""
    weights, rows = made
    moments, piece = of(rows, "moment"), grey(of(rows, "piece")[0]["png"])
    assert tuple(r["t"] for r in moments) == MOMENTS
    last = grey(moments[-1]["png"])
    width = min(last.shape[1], piece.shape[1]) - 8  # the piece is cut to its length, and fades out
    assert np.abs(last[:, :width] - piece[:, :width]).mean() < 0.05
    assert {r["nearest"] for r in of(rows, "piece")} <= {c["instrumentation"] for c in of(rows, "map")[0]["clips"]}
    noise = grey(moments[0]["latents"])  # three deviations to either side of the middle
    x_0 = flow.noise(0, 2, 99, len(noise))[:, : noise.shape[1]].numpy()
    assert np.abs(noise - np.clip(x_0 / 6 + 0.5, 0, 1)).max() < 0.03


def test_sizes_are_those_of_the_networks(made):
    weights, rows = made
    told = {(r["preset"], r["part"]): r["parameters"] for r in of(rows, "size")}
    for part in ("stage1", "stage2"):
        network, _ = pretrained.load_part(weights, part)
        assert told["smoke", part] == sum(p.numel() for p in network.parameters())
    assert told["paper", "stage2"] == pytest.approx(1.05e9, rel=0.01)


def test_weights_without_the_baseline_are_refused(made, tmp_path):
    weights = shutil.copytree(made[0], tmp_path / "weights")
    hashes = json.loads((weights / "weights.json").read_text())
    del hashes["regression"]
    (weights / "weights.json").write_text(json.dumps(hashes))
    with pytest.raises(MuseError, match="musekit train regression"):
        gallery(weights, tmp_path)
    assert torch.get_default_device() == torch.device("cpu")  # counting sizes leaves no other default
