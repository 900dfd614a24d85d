"""Our Stage 2 against diffusers' own Stable Audio Open transformer, projection model and scheduler, tiny and random."""

import dataclasses
import json
import math
import shutil

import pytest
import torch
from torch import nn

from musekit import flow, pretrained
from musekit.config import MuseError, Stage2Config, mini, paper
from musekit.stage2 import StableAudioMuQ, foreign, join, v_objective

CONFIG = Stage2Config(
    latent_dim=4, embedding_dim=12, condition_dim=12, width=32, depth=2, head_dim=8, kv_heads=2, ff_mult=4.0, patch=1,
    modulation=False, max_frames=19, stable_audio=True, time_dim=6, number_dim=256, max_seconds=64.0,
)  # fmt: skip
B, T = 3, 11


@pytest.fixture(scope="module")
def theirs():
    """diffusers' transformer and projection model in float64, every weight random."""
    from diffusers import StableAudioDiTModel
    from diffusers.pipelines.stable_audio.modeling_stable_audio import StableAudioProjectionModel

    torch.manual_seed(0)
    transformer = StableAudioDiTModel(
        sample_size=19, in_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=4,
        num_key_value_attention_heads=2, out_channels=4, cross_attention_dim=12, time_proj_dim=6,
        global_states_input_dim=24, cross_attention_input_dim=12,
    )  # fmt: skip
    projection = StableAudioProjectionModel(text_encoder_dim=10, conditioning_dim=12, min_value=0, max_value=64)
    for p in transformer.parameters():
        nn.init.normal_(p, std=0.2)
    return transformer.double().eval(), projection.double().eval()


@pytest.fixture(scope="module")
def folder(theirs, tmp_path_factory):
    """Both as a pipeline's folder on disk."""
    path = tmp_path_factory.mktemp("stable-audio")
    theirs[0].save_pretrained(path / "transformer")
    theirs[1].save_pretrained(path / "projection_model")
    (path / "model_index.json").write_text('{"_class_name": "StableAudioPipeline"}')
    return path


@pytest.fixture(scope="module")
def ours(folder):
    """Our network with those weights; its projection of the embedding gives the embedding itself as the token."""
    torch.manual_seed(1)
    network = StableAudioMuQ(CONFIG).double().eval()
    assert foreign.initialise(network, folder) == [
        f"embedding_projection.{layer}.{kind}" for layer in (0, 2) for kind in ("weight", "bias")
    ]
    network.embedding_projection = nn.Identity()
    return network


@pytest.fixture
def inputs():
    torch.manual_seed(2)
    return {
        "x": torch.randn(B, 4, T, dtype=torch.float64),
        "t": torch.tensor([0.2, 0.55, 0.9], dtype=torch.float64),
        "token": torch.randn(B, 12, dtype=torch.float64),
        "seconds": torch.tensor([[0.0, 12.5], [3.0, 64.0], [0.0, 99.0]], dtype=torch.float64),
    }


def their_v(theirs, z, tau, token, seconds):
    """diffusers' own forward pass, as its pipeline calls it."""
    from diffusers.models.embeddings import get_1d_rotary_pos_embed

    transformer, projection = theirs
    told = projection(start_seconds=seconds[:, 0], end_seconds=seconds[:, 1])
    globe = torch.cat([told.seconds_start_hidden_states, told.seconds_end_hidden_states], dim=2)
    turn = get_1d_rotary_pos_embed(4, z.shape[2] + 1, use_real=True, repeat_interleave_real=False)
    return transformer(
        z, tau, encoder_hidden_states=token[:, None], global_hidden_states=globe, rotary_embedding=turn
    ).sample


def condition(network, inputs):
    return network.condition(inputs["token"] / math.sqrt(CONFIG.embedding_dim), inputs["seconds"])


@torch.no_grad()
def test_the_transformer_says_what_diffusers_says(theirs, ours, inputs):
    """The same token, timing, time and state; diffusers turns queries and keys in float32, hence the tolerance."""
    tau = torch.tensor([0.05, 0.5, 0.97], dtype=torch.float64)
    expected = their_v(theirs, inputs["x"], tau, inputs["token"], inputs["seconds"])
    v = ours.transformer(inputs["x"], ours.time(tau), condition(ours, inputs))
    assert expected.std() > 0.1
    torch.testing.assert_close(v, expected, atol=2e-6, rtol=0)
    for name in ("token", "seconds"):  # each part of the condition reaches the output
        other = {**inputs, name: inputs[name].flip(0) + 1}
        moved = (ours.transformer(inputs["x"], ours.time(tau), condition(ours, other)) - v).abs().amax((1, 2))
        assert (moved > 1e-3).all()


@torch.no_grad()
def test_our_velocity_is_that_of_diffusers_scheduler(theirs, ours, inputs):
    """u = x_1 - x_0 with x_1 as denoised by diffusers' EDM preconditioning of its own transformer.

    Stable Audio Open's settings: sigma_data 1, v-prediction; its scheduler (which wants torchsde) differs from this
    one in the time that it tells the network, 2 atan(sigma) / pi.
    """
    from diffusers import EDMDPMSolverMultistepScheduler

    scheduler = EDMDPMSolverMultistepScheduler(sigma_data=1.0, prediction_type="v_prediction")
    x, t = inputs["x"], inputs["t"]
    u = ours(x, t, condition(ours, inputs))
    for i in range(B):
        sigma, y = (1 - t[i]) / t[i], x[i : i + 1] / t[i]  # x_t / t = x_1 + sigma x_0
        tau = sigma.atan().reshape(1) / math.pi * 2
        row = slice(i, i + 1)
        v = their_v(theirs, scheduler.precondition_inputs(y, sigma), tau, inputs["token"][row], inputs["seconds"][row])
        x_1 = scheduler.precondition_outputs(y, v, sigma)
        x_0 = (x[row] - t[i] * x_1) / (1 - t[i])
        torch.testing.assert_close(u[row], x_1 - x_0, atol=2e-5, rtol=0)


@pytest.mark.parametrize("deviation", [0.3, 1.0, 2.0])
def test_gaussian_data_has_the_exact_velocity(deviation):
    """x_1 ~ N(0, d^2): the best v is known on the circle, the best u on the chord; also at t = 0 and t = 1."""
    t = torch.tensor([0.0, 0.1, 0.5, 0.8, 1.0], dtype=torch.float64)
    x_t = torch.randn(5, 2, 3, dtype=torch.float64)
    z, tau = v_objective.foreign_input(x_t, t)
    cos, sin = (f(tau * math.pi / 2)[:, None, None] for f in (torch.cos, torch.sin))
    best_v = cos * sin * (1 - deviation**2) / ((deviation * cos) ** 2 + sin**2) * z  # E[cos x_0 - sin x_1 | z]
    s = flow.expand(t, x_t)
    best_u = (deviation**2 * s - (1 - s)) / ((deviation * s) ** 2 + (1 - s) ** 2) * x_t  # E[x_1 - x_0 | x_t]
    torch.testing.assert_close(v_objective.velocity(x_t, t, best_v), best_u, atol=1e-12, rtol=0)
    assert tau[0] == 1 and tau[-1] == 0  # their noise is at 1, ours at 0
    if deviation == 1.0:
        assert not best_v.any()


def test_a_known_pair_gives_its_own_velocity():
    """From the true v of given noise and data comes u = x_1 - x_0 itself."""
    torch.manual_seed(0)
    x_0, x_1, t = torch.randn(4, 2, 3).double(), torch.randn(4, 2, 3).double(), torch.rand(4).double()
    x_t, u = flow.path(x_0, x_1, t)
    z, tau = v_objective.foreign_input(x_t, t)
    theta = flow.expand(tau, x_t) * math.pi / 2
    torch.testing.assert_close(z, theta.cos() * x_1 + theta.sin() * x_0, atol=1e-12, rtol=0)
    torch.testing.assert_close(v_objective.velocity(x_t, t, theta.cos() * x_0 - theta.sin() * x_1), u)


@torch.no_grad()
def test_guidance_of_u_is_guidance_of_v(ours, inputs):
    """As the foreign pipeline does it: w (v_cond - v_uncond), unconditional with a zero token."""
    cond = condition(ours, inputs)
    dropped = ours.condition(inputs["token"], inputs["seconds"], torch.zeros(B, dtype=torch.bool))
    assert not torch.stack(dropped.cross).any()  # no bias anywhere: the zero token adds nothing
    both, t = join(cond, dropped), inputs["t"]
    u = flow.guided(*ours(torch.cat([inputs["x"]] * 2), torch.cat([t, t]), both).chunk(2), 3.0)
    z, tau = v_objective.foreign_input(inputs["x"], t)
    v = [ours.transformer(z, ours.time(tau), c) for c in (cond, dropped)]
    guided = v_objective.velocity(inputs["x"], t, flow.guided(*v, 3.0))
    torch.testing.assert_close(u, guided, atol=1e-10, rtol=0)


def test_weights_go_back_unchanged(theirs, ours):
    network = StableAudioMuQ(CONFIG).double()
    network.load_state_dict(ours.state_dict(), strict=False)
    back, sent = foreign.to_theirs(network.state_dict()), {**theirs[0].state_dict(), **theirs[1].state_dict()}
    assert set(sent) - set(back) == {"text_projection.weight", "text_projection.bias"}
    assert set(back) <= set(sent)
    for name, value in back.items():
        assert torch.equal(value, sent[name]), name
    theirs[0].load_state_dict({k: v for k, v in back.items() if k in theirs[0].state_dict()})


def test_gradients_reach_every_weight_that_is_not_idle(inputs):
    torch.manual_seed(0)
    network = StableAudioMuQ(CONFIG).double()
    for p in network.parameters():
        nn.init.normal_(p, std=0.2)
    batch = {
        "x_0": inputs["x"].flip(0), "x_1": inputs["x"], "t": inputs["t"], "embedding": inputs["token"],
        "seconds": inputs["seconds"] / 3, "keep": torch.tensor([True, True, False]), "mask": torch.ones(B, T).bool(),
    }  # fmt: skip
    network.training_loss(batch)[0].backward()
    idle = {n for n, p in network.named_parameters() if not p.requires_grad}
    assert {n.split(".")[2] for n in idle} == {"norm_cross", "cross_query", "cross_key"}
    for name, p in network.named_parameters():
        assert name in idle or (p.grad.isfinite().all() and p.grad.abs().max() > 0), name


def test_a_new_network_is_exact_for_standard_normal_data(inputs):
    network = StableAudioMuQ(CONFIG).double()
    u = network(inputs["x"], inputs["t"], network.condition(inputs["token"], inputs["seconds"]))
    t = flow.expand(inputs["t"], u)
    torch.testing.assert_close(u, (2 * t - 1) / (t**2 + (1 - t) ** 2) * inputs["x"])


def test_without_projection_model_the_timing_stays_new(folder, tmp_path):
    alone = shutil.copytree(folder / "transformer", tmp_path / "transformer")
    network = StableAudioMuQ(CONFIG)
    new = foreign.initialise(network, alone)
    assert {n.rpartition(".")[0] for n in new if n.startswith("timing")} >= {"timing.start", "timing.total"}
    assert not any(n.startswith(("blocks", "enter", "timing.network")) for n in new)


def test_weights_in_several_files(folder, theirs, tmp_path):
    theirs[0].save_pretrained(tmp_path / "transformer", max_shard_size="20KB")
    assert len(list((tmp_path / "transformer").glob("*.safetensors"))) > 2
    one, many = StableAudioMuQ(CONFIG), StableAudioMuQ(CONFIG)
    foreign.initialise(one, folder / "transformer")
    foreign.initialise(many, tmp_path)
    assert torch.equal(one.blocks[1].qkv.weight, many.blocks[1].qkv.weight)


def spoil(folder, how):
    """A copy of the folder with one thing wrong."""
    inside = folder / "transformer"
    about = json.loads((inside / "config.json").read_text())
    weights = next(inside.glob("*.safetensors"))
    if how == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif how == "no weights":
        weights.unlink()
    elif how == "another class":
        (inside / "config.json").write_text(json.dumps({**about, "_class_name": "UNet2DModel"}))
    elif how == "another shape":
        (inside / "config.json").write_text(json.dumps({**about, "num_layers": 24}))
    elif how == "no shape":
        (inside / "config.json").write_text('{"_class_name": "StableAudioDiTModel"}')
    elif how == "no config":
        (inside / "config.json").unlink()
    elif how == "damaged config":
        (inside / "config.json").write_text("{")
    elif how == "other weights":
        shutil.copy(next((folder / "projection_model").glob("*.safetensors")), weights)


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("truncated", "damaged"),
        ("no weights", "holds no .safetensors"),
        ("another class", "UNet2DModel, not Stable Audio Open's"),
        ("another shape", r"another shape .*num_layers 24 \(ours 2\)"),
        ("no shape", "does not tell"),
        ("no config", "missing or damaged"),
        ("damaged config", "missing or damaged"),
        ("other weights", "does not hold what its config.json promises"),
    ],
)
def test_a_folder_that_is_not_one_is_one_clear_line(folder, tmp_path, how, says):
    spoilt = shutil.copytree(folder, tmp_path / "copy")
    spoil(spoilt, how)
    with pytest.raises(MuseError, match=says) as caught:
        foreign.initialise(StableAudioMuQ(CONFIG), spoilt)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_only_the_paper_preset_takes_them(folder):
    with pytest.raises(MuseError, match="use paper"):
        foreign.initialise(StableAudioMuQ(dataclasses.replace(CONFIG, stable_audio=False)), folder)


def test_sizes_of_the_paper_preset():
    """271M within 0.5 %; 1.05B within 1 %, of which the transformer is diffusers' default, array for array."""
    from diffusers import StableAudioDiTModel

    with torch.device("meta"):
        network, theirs = StableAudioMuQ(paper().stage2), StableAudioDiTModel()
    count = sum(p.numel() for p in network.parameters())
    assert abs(count / 1.05e9 - 1) < 0.01
    numbers = tuple(foreign.NUMBERS)
    mapped = {k: v for k, v in network.state_dict().items() if not k.startswith(numbers)}
    back = foreign.to_theirs(mapped)
    assert {k: v.shape for k, v in back.items()} == {k: v.shape for k, v in theirs.state_dict().items()}
    assert network.embedding_projection[0].weight.shape == (768, 512)
    assert network.embedding_projection[2].weight.shape == (768, 768)


def test_mini_keeps_its_names_and_size():
    """The packaged weights' arrays, no more and no fewer."""
    from safetensors import safe_open

    with torch.device("meta"):
        network = StableAudioMuQ(mini().stage2)
    with safe_open(pretrained.find("mini") / "stage2.safetensors", "pt") as file:
        assert {k: tuple(file.get_slice(k).get_shape()) for k in file.keys()} == {  # noqa: SIM118
            k: tuple(v.shape) for k, v in network.state_dict().items()
        }
