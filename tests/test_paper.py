"""The paper preset on a CPU: its own classes, tiny and random, saved and loaded as the public models are."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fixtures import sinusoids, write_clips
from public_models import SECONDS, save_muq, save_oobleck, save_t5
from safetensors.torch import load_file

from musekit import cli, config, oobleck, pretrained
from musekit.config import CodecConfig, EmbedderConfig, MuseError, TextConfig, paper
from musekit.encoders import hub
from musekit.encoders.muq import MuQ
from musekit.encoders.text import text_encoder
from musekit.muse import Muse, Settings

TEXTS = ["a sad slow piano melody", "happy flute", ""]


def tiny_paper() -> config.MuseConfig:
    """`paper` with small numbers; every kind, flag and hub name is unchanged.

    Widths are multiples of 32: the last bits of narrower matrix products may depend on the position in the batch.
    """
    made = paper()
    return dataclasses.replace(
        made,
        name="tiny-paper",
        codec=dataclasses.replace(made.codec, latent_dim=32),
        text=dataclasses.replace(made.text, dim=32, max_tokens=12, lengths=(4, 8)),
        stage1=dataclasses.replace(made.stage1, text_dim=32, width=64, depth=2, heads=2, gaussian_rank=32),
        stage2=dataclasses.replace(
            made.stage2, latent_dim=32, condition_dim=32, width=64, depth=2, head_dim=32, kv_heads=1, time_dim=32,
            max_frames=40,
        ),
        sample=dataclasses.replace(made.sample, stage1_steps=3, stage2_steps=3, seconds=1.0, micro_batch=4),
    )  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A MUSEKIT_HOME whose models/ holds all public models under their hub names' last words."""
    path = tmp_path_factory.mktemp("home")
    save_t5(path / "models" / "flan-t5-base")
    save_muq(path / "models")
    save_oobleck(path / "models" / "stable-audio-open-1.0")
    return path


@pytest.fixture(autouse=True)
def at_home(home, monkeypatch):
    monkeypatch.setenv("MUSEKIT_HOME", str(home))


@pytest.fixture(scope="module")
def muse(home, tmp_path_factory):
    """The whole system with random stages."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MUSEKIT_HOME", str(home))
        return Muse.from_pretrained(
            pretrained.init_random(tmp_path_factory.mktemp("weights"), tiny_paper()), dtype="float32"
        )


@pytest.fixture(scope="module")
def muq(home):
    return MuQ(EmbedderConfig(kind="muq", name=str(home / "models" / "MuQ-MuLan-large"), sample_rate=24000))


def test_t5_gives_its_own_states_padded_and_masked(home):
    from transformers import AutoTokenizer, T5EncoderModel

    folder = str(home / "models" / "flan-t5-base")
    t5 = text_encoder(TextConfig(kind="t5", name=folder, dim=32, max_tokens=8))
    model, tokenizer = T5EncoderModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    tokens, mask = t5(TEXTS)
    assert tokens.shape == (3, 8, 32) and mask.tolist() == [[i < n for i in range(8)] for n in (6, 3, 1)]
    for text, states, kept in zip(TEXTS, tokens, mask, strict=True):
        ids = tokenizer(text, return_tensors="pt")["input_ids"]  # no padding at all
        with torch.no_grad():
            unpadded = model(ids).last_hidden_state[0]
        torch.testing.assert_close(states[kept], unpadded, atol=1e-5, rtol=1e-4)
    together = t5.encode_batch(TEXTS)
    torch.testing.assert_close(together[0][mask], tokens[mask], atol=1e-5, rtol=1e-4)
    assert torch.equal(t5(TEXTS[::-1])[0].flip(0), tokens)  # bits do not depend on mates
    assert t5.is_cut("slow " * 8) and not t5.is_cut("slow " * 7)
    assert t5(["slow " * 1000])[1].all()
    short = t5(TEXTS[1:], 4)
    assert short[0].shape == (2, 4, 32)
    torch.testing.assert_close(short[0][short[1]], tokens[1:][mask[1:]], atol=1e-5, rtol=1e-4)


def noise(seconds: float, rate: int, channels: int = 1, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(0.3 * rng.standard_normal((1, channels, round(seconds * rate)), dtype=np.float32))


def test_muq_of_one_clip_is_the_librarys_own_and_of_several_their_normalised_mean(muq):
    """A short clip is repeated, as in the library from half a clip on; the library does not normalise the mean."""
    for samples in (12000, 24000 * SECONDS):
        audio = noise(SECONDS, 24000)[..., :samples]
        with torch.no_grad():
            theirs = F.normalize(muq.network(wavs=audio[:, 0]), dim=-1)
        torch.testing.assert_close(muq.embed_audio(audio, 24000), theirs, atol=1e-5, rtol=0)
    assert muq.embed_audio(audio[..., :1], 24000).isfinite().all()
    t = torch.arange(24000 * SECONDS) / 24000
    clips = [noise(SECONDS, 24000)[0, 0], torch.zeros(24000 * SECONDS), 0.5 * torch.sin(2 * torch.pi * 440 * t)]
    audio = torch.cat(clips)[None, None]
    with torch.no_grad():
        parts = torch.cat([muq.network.mulan_module.get_audio_latents(c[None]) for c in clips])
        inside = muq.network(wavs=audio[:, 0]).norm()
    torch.testing.assert_close(parts.norm(dim=-1), torch.ones(3))
    assert inside < 0.9999
    ours = muq.embed_audio(audio, 24000)
    torch.testing.assert_close(ours[0], F.normalize(parts.mean(0), dim=0), atol=1e-5, rtol=0)
    torch.testing.assert_close(ours.norm(dim=-1), torch.ones(1))


def test_muq_reads_a_beginning_twice_as_published(muq):
    """Of 1.2 windows the end is spliced to the start."""
    length = 24000 * SECONDS
    audio = noise(2 * SECONDS, 24000)[..., : length * 6 // 5]
    spliced = torch.cat([audio[0, 0, length:], audio[0, 0, : 2 * length - audio.shape[-1]]])
    with torch.no_grad():
        both = [muq.network.mulan_module.get_audio_latents(w[None]) for w in (audio[0, 0, :length], spliced)]
    expected = F.normalize(torch.cat(both).mean(0, keepdim=True), dim=-1)
    torch.testing.assert_close(muq.embed_audio(audio, 24000), expected, atol=1e-5, rtol=0)


def test_muq_resamples_to_24_khz_mono(muq):
    """44.1 kHz stereo is averaged and resampled as librosa does it."""
    import librosa

    from musekit.encoders.mini import mono

    chord = sinusoids([440.0, 550.0], SECONDS)
    low = mono(torch.from_numpy(chord)[None], 44100, 24000)
    theirs = librosa.resample(chord.mean(0), orig_sr=44100, target_sr=24000, res_type="soxr_hq")
    assert low.shape == (1, 24000) and np.corrcoef(low[0].numpy(), theirs[:24000])[0, 1] > 0.9999
    ours = muq.embed_audio(torch.from_numpy(chord)[None], 44100)
    torch.testing.assert_close(ours, muq.embed_audio(low[:, None], 24000), atol=1e-6, rtol=0)


def test_muq_encodes_texts_of_any_length_one_at_a_time(muq):
    ours = muq.embed_text([*TEXTS, "slow piano " * 5000])
    assert ours.shape == (4, 512) and ours.isfinite().all()
    torch.testing.assert_close(ours.norm(dim=-1), torch.ones(4))
    assert torch.equal(muq.embed_text(TEXTS[1:2])[0], ours[1])
    with torch.no_grad():
        torch.testing.assert_close(muq.network(texts=TEXTS[:1]), ours[:1], atol=1e-5, rtol=0)
        padded = muq.network(texts=TEXTS[:2])[1]
    assert (padded - ours[1]).abs().max() > 1e-4  # in one batch, padding changes the shorter one


def test_oobleck_is_the_posteriors_mean_and_its_decoder(home):
    from diffusers import AutoencoderOobleck

    folder = home / "models" / "stable-audio-open-1.0"
    vae = AutoencoderOobleck.from_pretrained(folder / "vae")
    audio = noise(0.2, 44100, 2)[..., : 4 * 2048 - 5]
    with torch.no_grad():
        expected = vae.encode(F.pad(audio, (0, 5))).latent_dist.mean
    for name in ("stabilityai/stable-audio-open-1.0", str(folder), str(folder / "vae")):
        codec = oobleck.load(CodecConfig(kind="oobleck", name=name, latent_dim=32))
        latents = codec.encode(audio)
        assert codec.hop == 2048 and codec.sample_rate == 44100 and latents.shape == (1, 32, 4)
        torch.testing.assert_close(latents, expected, atol=1e-5, rtol=0)
        with torch.no_grad():
            torch.testing.assert_close(codec.decode(latents), vae.decode(latents).sample, atol=1e-5, rtol=0)


@pytest.fixture
def empty_home(monkeypatch, tmp_path):
    """No models anywhere, and the hub's cache is empty."""
    import huggingface_hub.constants

    monkeypatch.setenv("MUSEKIT_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path


LOADERS = {
    "google/flan-t5-base": lambda name: text_encoder(TextConfig(kind="t5", name=name, dim=32)),
    "OpenMuQ/MuQ-MuLan-large": lambda name: MuQ(EmbedderConfig(kind="muq", name=name, sample_rate=24000)),
    "stabilityai/stable-audio-open-1.0": lambda name: oobleck.load(CodecConfig("oobleck", name=name, latent_dim=32)),
}


@pytest.mark.parametrize("name", LOADERS)
def test_a_missing_or_gated_model_is_one_line_that_says_what_to_do(name, empty_home, monkeypatch):
    """Without a network, and with the error that the hub's client raises for a model with a licence to accept."""
    import huggingface_hub
    import requests
    from huggingface_hub.errors import GatedRepoError

    with pytest.raises(MuseError) as caught:
        LOADERS[name](name)
    for part in (name, hub.LICENCES[name], f"hf download {name}", str(empty_home / "home" / "models"), ".name"):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 700

    def refuse(*args, local_files_only=False, **kw):
        response = requests.Response()
        response.status_code = 403
        raise GatedRepoError("Access to this model is restricted.", response=response)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(MuseError, match="accept its licence on the Hugging Face hub, run `hf auth login`") as caught:
        LOADERS[name](name)
    assert hub.LICENCES[name] in str(caught.value) and "\n" not in str(caught.value)


def test_muq_mulan_is_read_as_it_is_published(home, empty_home, muq):
    """Only pytorch_model.bin, where its backbones have model.safetensors: in the hub's cache, and as a folder."""
    shutil.copytree(home / "models", empty_home / "home" / "models")
    folder = empty_home / "home" / "models" / "MuQ-MuLan-large"
    (folder / "model.safetensors").unlink()
    torch.save(muq.network.state_dict(), folder / "pytorch_model.bin")
    downloaded = empty_home / "hub" / "models--OpenMuQ--MuQ-MuLan-large"  # as `hf download` leaves it
    shutil.copytree(folder, downloaded / "snapshots" / "abc123")
    (downloaded / "refs").mkdir()
    (downloaded / "refs" / "main").write_text("abc123")
    for name in (str(folder), "OpenMuQ/MuQ-MuLan-large"):
        loaded = LOADERS["OpenMuQ/MuQ-MuLan-large"](name)
        assert hub.fingerprint(loaded.network) == hub.fingerprint(muq.network)
        assert torch.equal(loaded.embed_text(TEXTS), muq.embed_text(TEXTS))
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("name", LOADERS)
def test_a_folder_with_truncated_weights_is_one_line(name, home, empty_home):
    folder = shutil.copytree(home / "models", empty_home / "copies") / name.rpartition("/")[2]
    for path in folder.rglob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(MuseError) as caught:
        LOADERS[name](str(folder))
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value) and len(str(caught.value)) < 600


def test_a_model_that_muse_does_not_know_is_not_fetched(tmp_path, monkeypatch):
    monkeypatch.setenv("MUSEKIT_HOME", str(tmp_path))
    with pytest.raises(MuseError, match="not fetched; if you trust it: hf download someone/model"):
        hub.folder("someone/model", "text.name")
    with pytest.raises(MuseError, match="neither a folder here nor a model's hub name"):
        hub.folder("../nothing", "text.name")
    (tmp_path / "models" / "model").mkdir(parents=True)
    (tmp_path / "models" / "model" / "config.json").write_text("{}")
    assert hub.folder("someone/model", "text.name") == tmp_path / "models" / "model"


def test_identity_depends_on_the_content_of_a_folder_not_on_its_place(home, tmp_path):
    here = home / "models" / "flan-t5-base"
    copy = shutil.copytree(here, tmp_path / "elsewhere")
    (copy / "pytorch_model.bin").write_bytes(b"`hf download` fetches it too, and nothing reads it beside safetensors")
    assert hub.identity(copy) == hub.identity(here) != hub.identity(home / "models" / "xlm-roberta-base")
    path, data = copy / "model.safetensors", bytearray((copy / "model.safetensors").read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert hub.identity(copy) != hub.identity(here)


def test_text_becomes_audio(muse):
    """T5 -> Stage 1 -> Stage 2 -> Oobleck -> MuQ's similarity, all of the paper preset's classes."""
    made = muse.generate(TEXTS[0], n=3, seed=5, negative_prompt="fast violin")
    assert made.audio.shape == (3, 2, 44100) and made.sample_rate == 44100
    assert made.audio.isfinite().all() and (made.audio.abs().amax((1, 2)) > 0).all()
    torch.testing.assert_close(made.embeddings.norm(dim=-1), torch.ones(3))
    first = made.recipes[0]
    assert (first.preset, first.stage1_solver, first.stage1_dtype) == ("tiny-paper", "euler", muse.stage1_dtype)
    assert (first.max_tokens, muse.recipe("slow " * 9, 0, Settings()).max_tokens) == (8, 12)  # padded to the next
    audio = muse.embedder.embed_audio(made.audio, 44100)
    text = muse.embedder.embed_text([TEXTS[0]])
    np.testing.assert_allclose(made.similarity, (audio @ text.T)[:, 0].numpy(), atol=1e-5)
    assert isinstance(muse.codec, oobleck.Oobleck) and isinstance(muse.embedder, MuQ)
    single = muse.generate(TEXTS[0], n=1, seed=6, negative_prompt="fast violin")
    assert torch.equal(single.audio[0], made.audio[1])
    assert not torch.equal(made.audio[0], made.audio[1])


def test_public_models_are_named_not_copied(muse, home, tmp_path, monkeypatch):
    written = {p.name for p in muse.folder.iterdir()}
    assert "stage1.safetensors" in written and not {"codec.safetensors", "embedder.safetensors"} & written
    assert set(json.loads((muse.folder / "weights.json").read_text())) == {"stage1", "stage2", "regression"}
    assert json.loads((muse.folder / "config.json").read_text())["codec"]["name"] == paper().codec.name
    before = pretrained.weights_hash(muse.folder)
    shutil.copytree(home / "models", tmp_path / "models")
    monkeypatch.setenv("MUSEKIT_HOME", str(tmp_path))
    assert pretrained.weights_hash(muse.folder) == before  # the same content elsewhere
    save_oobleck(tmp_path / "models" / "stable-audio-open-1.0", channels=9)
    assert pretrained.weights_hash(muse.folder) != before  # another codec
    for part in ("codec", "embedder"):
        with pytest.raises(MuseError, match="frozen"):
            pretrained.build(part, muse.config)


def test_info_prints_both_sizes(capsys):
    cli.main(["info", "paper"])
    lines = capsys.readouterr().out.splitlines()
    sizes = {line.split()[0]: line for line in lines if " M parameters" in line or "frozen" in line}
    stage1, stage2 = (float(sizes[part].split()[1]) for part in ("stage1", "stage2"))
    assert abs(stage1 / 238.4 - 1) < 0.001 and abs(stage2 / 1058.3 - 1) < 0.001
    assert "156.113" in sizes["codec"] and "CC-BY-NC" in sizes["embedder"] and "Apache-2.0" in sizes["text"]


def test_stage2_starts_from_stable_audio_open(home, tmp_path, monkeypatch, capsys):
    """`musekit train stage2 --init`: their folder's weights are the run's, and latents keep their own scale."""
    from diffusers import StableAudioDiTModel
    from diffusers.pipelines.stable_audio.modeling_stable_audio import StableAudioProjectionModel

    from musekit.cache.precompute import precompute

    torch.manual_seed(3)
    theirs, made = tmp_path / "theirs", tiny_paper()
    monkeypatch.setitem(config.PRESETS, "tiny-paper", tiny_paper())
    StableAudioDiTModel(
        in_channels=32, out_channels=32, num_layers=2, attention_head_dim=32, num_attention_heads=2,
        num_key_value_attention_heads=1, cross_attention_dim=32, cross_attention_input_dim=32, time_proj_dim=32,
        global_states_input_dim=64,
    ).save_pretrained(theirs / "transformer")  # fmt: skip
    StableAudioProjectionModel(32, 32, 0, 512).save_pretrained(theirs / "projection_model")
    cache = tmp_path / "cache"
    write_clips(cache, "rrrrv")
    for kind in ("tokens", "latents", "embeddings"):
        precompute(kind, cache, made, None, show=False)
    places = ["--cache", str(cache), "--run-folder", str(tmp_path / "run"), "--out", str(tmp_path / "out")]
    short = {"samples": 4, "batch": 4, "micro-batch": 4, "lr": 1e-9}
    how = [word for name, value in short.items() for word in (f"--train.{name}", str(value))]
    command = ["train", "stage2", "--preset", "tiny-paper", *places, *how, "--train.no-bf16"]
    cli.main([*command, "--init", str(theirs)])
    network = load_file(tmp_path / "out" / "stage2.safetensors")
    sent = load_file(theirs / "transformer" / "diffusion_pytorch_model.safetensors")
    torch.testing.assert_close(
        network["blocks.1.down.weight"].float(), sent["transformer_blocks.1.ff.net.2.weight"], atol=1e-3, rtol=1e-3
    )
    assert not network["mean"].any() and torch.equal(network["std"], torch.ones_like(network["std"]))
    with pytest.raises(SystemExit) as caught:
        cli.main(["train", "stage1", *command[2:], "--run-folder", str(tmp_path / "other"), "--init", str(theirs)])
    assert caught.value.code == 2 and "only Stage 2 starts from one" in capsys.readouterr().err
