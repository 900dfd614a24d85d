"""Decoding in overlapping pieces against decoding in one piece, with diffusers' own Oobleck in float64."""

import warnings

import pytest
import torch

from musekit import oobleck


@pytest.fixture(scope="module")
def vae():
    """The published strides with few channels, every weight random."""
    from diffusers import AutoencoderOobleck

    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return AutoencoderOobleck(encoder_hidden_size=16, decoder_channels=2, decoder_input_channels=8).double().eval()


def whole(vae, latents):
    with torch.no_grad():
        return vae.decode(latents).sample


def test_the_reach_is_what_the_output_depends_on_and_no_more(vae):
    """Asked of autograd: which latents have a gradient in the middle frame's samples."""
    found = oobleck.decoder_reach(vae.decoder, vae.hop_length)
    latents = torch.randn(1, 8, 2 * found + 9, dtype=torch.float64, requires_grad=True)
    middle = found + 4
    hop = vae.hop_length
    vae.decode(latents).sample[..., middle * hop : (middle + 1) * hop].square().sum().backward()
    seen = latents.grad.abs().amax((0, 1)).nonzero().flatten()
    assert max(middle - int(seen.min()), int(seen.max()) - middle) == found
    assert 5 < found < 20


@pytest.mark.parametrize("length, frames", [(40, 5), (41, 8), (23, 1), (60, 60)])
def test_pieces_have_the_samples_of_the_whole(vae, length, frames):
    calls = []

    def call(z):
        calls.append(z.shape[-1])
        return whole(vae, z)

    latents = torch.randn(2, 8, length, dtype=torch.float64)
    reach = oobleck.decoder_reach(vae.decoder, vae.hop_length)
    found = oobleck.decode_overlapping(call, latents, vae.hop_length, reach, frames)
    torch.testing.assert_close(found, whole(vae, latents), atol=1e-10, rtol=1e-10)
    assert max(calls) <= frames + 2 * reach and len(calls) == (
        1 if length <= frames + 2 * reach else -(-length // frames)
    )


def test_less_than_the_reach_would_be_heard(vae):
    latents, reach = torch.randn(1, 8, 40, dtype=torch.float64), oobleck.decoder_reach(vae.decoder, vae.hop_length)
    found = oobleck.decode_overlapping(lambda z: whole(vae, z), latents, vae.hop_length, reach - 2, 8)
    assert (found - whole(vae, latents)).abs().max() > 1e-10
