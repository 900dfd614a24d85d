"""Stable Audio Open and our Stage 2: diffusers' own transformer, projection model and scheduler as the reference."""

import math
import shutil

import pytest
import torch
from networks import STABLE_AUDIO, STAGE2, B, T, randomise, state_at
from torch import nn

from musekit import convert, flow
from musekit.config import MuseError, paper
from musekit.stage2 import StableAudioMuQ


@pytest.fixture(scope="module")
def theirs():
    """diffusers' transformer and projection model in float64 with random weights."""
    from diffusers import StableAudioDiTModel
    from diffusers.pipelines.stable_audio.modeling_stable_audio import StableAudioProjectionModel

    transformer = StableAudioDiTModel(
        sample_size=19, in_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=4,
        num_key_value_attention_heads=2, out_channels=4, cross_attention_dim=12, time_proj_dim=6,
        global_states_input_dim=24, cross_attention_input_dim=12,
    )  # fmt: skip
    torch.manual_seed(0)
    projection = StableAudioProjectionModel(text_encoder_dim=10, conditioning_dim=12, min_value=0, max_value=64)
    return randomise(transformer, 0.2), projection.double().eval()


@pytest.fixture(scope="module")
def folder(theirs, tmp_path_factory):
    """Both as a pipeline's folder."""
    path = tmp_path_factory.mktemp("stable-audio")
    theirs[0].save_pretrained(path / "transformer")
    theirs[1].save_pretrained(path / "projection_model")
    (path / "model_index.json").write_text('{"_class_name": "StableAudioPipeline"}')
    return path


@pytest.fixture(scope="module")
def ours(folder):
    """Our network with those weights; it takes the embedding itself as the conditioning token."""
    torch.manual_seed(1)
    network = StableAudioMuQ(STABLE_AUDIO).double().eval().requires_grad_(False)
    new = [f"embedding_projection.{layer}.{kind}" for layer in (0, 2) for kind in ("weight", "bias")]
    assert convert.is_foreign(folder) and convert.initialise(network, folder) == new
    network.embedding_projection = nn.Identity()
    return network


TOKEN = torch.randn(B, 12, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
SECONDS = torch.tensor([[0.0, 12.5], [3.0, 64.0], [0.0, 99.0]], dtype=torch.float64)


@torch.no_grad()
def their_v(theirs, z, tau, token, seconds):
    """diffusers' forward pass, as its pipeline calls it."""
    from diffusers.models.embeddings import get_1d_rotary_pos_embed

    transformer, projection = theirs
    timing = projection(start_seconds=seconds[:, 0], end_seconds=seconds[:, 1])
    timing = torch.cat([timing.seconds_start_hidden_states, timing.seconds_end_hidden_states], dim=2)
    positions = get_1d_rotary_pos_embed(4, z.shape[2] + 1, use_real=True, repeat_interleave_real=False)
    options = {"global_hidden_states": timing, "rotary_embedding": positions}
    return transformer(z, tau, encoder_hidden_states=token[:, None], **options).sample


def condition(network, token=TOKEN, keep=None):
    return network.condition(token / math.sqrt(STABLE_AUDIO.embedding_dim), SECONDS, keep)


def test_our_velocity_is_that_of_diffusers_scheduler_and_transformer(theirs, ours):
    """u = x_1 - x_0 with x_1 as denoised by diffusers' EDM preconditioning, with Stable Audio Open's settings.

    Its own scheduler wants torchsde and differs in the time that it gives the network: 2 atan(sigma) / pi.
    """
    from diffusers import EDMDPMSolverMultistepScheduler

    scheduler = EDMDPMSolverMultistepScheduler(sigma_data=1.0, prediction_type="v_prediction")
    x, t = state_at((4, T))
    u = ours(x, t, condition(ours))
    for i in range(B):
        sample, sigma = slice(i, i + 1), (1 - t[i]) / t[i]
        y = x[sample] / t[i]  # x_1 + sigma x_0
        tau = sigma.atan().reshape(1) / math.pi * 2
        v = their_v(theirs, scheduler.precondition_inputs(y, sigma), tau, TOKEN[sample], SECONDS[sample])
        assert v.std() > 0.1
        x_1 = scheduler.precondition_outputs(y, v, sigma)
        x_0 = (x[sample] - t[i] * x_1) / (1 - t[i])
        torch.testing.assert_close(u[sample], x_1 - x_0, atol=2e-5, rtol=0)  # they rotate queries and keys in float32


@pytest.mark.parametrize("std", [0.3, 1.0, 2.0])
def test_gaussian_data_has_the_exact_velocity(std):
    """x_1 ~ N(0, d^2): the best v on the circle and the best u on the chord are known; also at t = 0 and t = 1."""
    t = torch.tensor([0.0, 0.1, 0.5, 0.8, 1.0], dtype=torch.float64)
    x_t, tau = torch.randn(5, 2, 3, dtype=torch.float64), convert.foreign_time(t)
    a, b, c = (flow.match_dims(part, x_t) for part in convert.affine(t))
    cos, sin = (f(tau * math.pi / 2)[:, None, None] for f in (torch.cos, torch.sin))
    v = cos * sin * (1 - std**2) / ((std * cos) ** 2 + sin**2) * a * x_t  # E[cos x_0 - sin x_1 | z]
    s = flow.match_dims(t, x_t)
    u = (std**2 * s - (1 - s)) / ((std * s) ** 2 + (1 - s) ** 2) * x_t  # E[x_1 - x_0 | x_t]
    torch.testing.assert_close(b * x_t + c * v, u, atol=1e-12, rtol=0)
    assert tau[0] == 1 and tau[-1] == 0  # their noise is at 1, ours at 0


def test_weights_go_back_to_diffusers_unchanged(theirs, ours):
    back, sent = convert.to_theirs(ours.state_dict()), {**theirs[0].state_dict(), **theirs[1].state_dict()}
    assert set(sent) - set(back) == {"text_projection.weight", "text_projection.bias"}
    assert set(back) <= set(sent) and all(torch.equal(value, sent[name]) for name, value in back.items())
    theirs[0].load_state_dict({k: v for k, v in back.items() if k in theirs[0].state_dict()})


DAMAGE = {  # the error: how to spoil transformer/config.json and the weights beside it
    "is damaged or incomplete": lambda config, weights: weights.write_bytes(weights.read_bytes()[:-100]),
    "holds no .safetensors": lambda config, weights: weights.unlink(),
    "UNet2DModel, not Stable Audio Open's": lambda config, weights: config.write_text('{"_class_name": "UNet2DModel"}'),
    "another shape .*cross_attention_proj": lambda config, weights: shutil.copy(
        next((config.parents[1] / "projection_model").glob("*.safetensors")), weights
    ),
}


@pytest.mark.parametrize("message", DAMAGE)
def test_a_damaged_folder_is_refused_in_one_line(folder, tmp_path, message):
    inside = shutil.copytree(folder, tmp_path / "copy") / "transformer"
    DAMAGE[message](inside / "config.json", next(inside.glob("*.safetensors")))
    with pytest.raises(MuseError, match=message) as caught:
        convert.initialise(StableAudioMuQ(STABLE_AUDIO), inside.parent)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_another_network_refuses_them(folder):
    with pytest.raises(MuseError, match="use paper"):
        convert.initialise(StableAudioMuQ(STAGE2), folder)


def test_the_paper_preset_is_diffusers_default_transformer_array_for_array():
    from diffusers import StableAudioDiTModel

    with torch.device("meta"):
        network, theirs = StableAudioMuQ(paper().stage2), StableAudioDiTModel()
    assert abs(sum(p.numel() for p in network.parameters()) / 1.05e9 - 1) < 0.01
    timing = tuple(convert.TIMING)
    back = convert.to_theirs({k: v for k, v in network.state_dict().items() if not k.startswith(timing)})
    assert {k: v.shape for k, v in back.items()} == {k: v.shape for k, v in theirs.state_dict().items()}
    assert [network.embedding_projection[i].weight.shape for i in (0, 2)] == [(768, 512), (768, 768)]
