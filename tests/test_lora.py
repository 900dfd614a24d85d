"""LoRA: merged weights are the network that was trained, and little memory trains it."""

import copy

import pytest
import torch
from networks import STABLE_AUDIO, STAGE1, STAGE2, conditions, stage1, stage2, state_at, texts

from musekit import lora, pretrained
from musekit.cli import main
from musekit.config import MuseError, paper
from musekit.muse import Muse


def adapted(network):
    """A copy with small matrices that are not zero."""
    network = copy.deepcopy(network).requires_grad_(True)
    for block in network.blocks:  # as the network itself freezes them
        for name in ("cross_query", "cross_key"):
            getattr(block, name, torch.nn.Identity()).requires_grad_(False)
    lora.adapt(network, 2)
    for name, p in network.named_parameters():
        if name.endswith(lora.ENDS):
            torch.nn.init.normal_(p, std=0.1)
    return network.double()


@pytest.mark.parametrize("stage", ["stage1", "stage2", "stable audio"])
@torch.no_grad()
def test_merged_weights_are_the_adapted_network(stage, tmp_path):
    network, config = (
        (stage1(), STAGE1) if stage == "stage1" else (stage2(c := {"stage2": STAGE2}.get(stage, STABLE_AUDIO)), c)
    )
    x, t = state_at((STAGE1.dim,) if stage == "stage1" else (STAGE2.latent_dim, 11))

    def velocity(of):
        inputs = of.context(*texts()) if stage == "stage1" else of.condition(*conditions(config))
        return of(x, t, inputs)

    before, tuned = velocity(network), adapted(network)
    trained = {name for name, p in tuned.named_parameters() if p.requires_grad}
    assert trained and all(name.startswith("blocks.") and name.endswith(lora.ENDS) for name in trained)
    lora.save(tmp_path / "x.safetensors", "stage1", tuned.state_dict(), {})
    part, small, _ = lora.read(tmp_path / "x.safetensors")
    assert part == "stage1" and small.keys() == trained
    lora.merge(network, {name: value.double() for name, value in small.items()})
    torch.testing.assert_close(velocity(network), velocity(tuned), atol=3e-3, rtol=3e-3)  # half precision
    assert (velocity(network) - before).abs().max() > 1e-3
    with pytest.raises(MuseError, match="of another network"):
        lora.merge(stage1(), {"blocks.9.qkv.lora_a": x, "blocks.9.qkv.lora_b": x})


def test_full_size_fits_into_24_gb():
    """Weights once (their average shares them), gradients, two moments and average of what is trained; and the weights
    in half precision for the backward pass."""
    with torch.device("meta"):
        for part in ("stage1", "stage2"):
            network = pretrained.build(part, paper())
            lora.adapt(network, 16)
            size = sum(p.numel() for p in network.parameters())
            trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
            assert 0.005 < trained / size < 0.03 and 6 * size + 16 * trained < 8e9


def test_fine_tuning_by_the_command_line(tiny, smoke_weights, tmp_path, capsys):
    words = ["train", "stage2", "--preset", "smoke", "--cache", str(tiny.cache), "--run-folder", str(tmp_path / "run")]
    words += ["--train.samples", "16", "--train.batch", "8", "--train.micro-batch", "8", "--train.lora", "2"]
    with pytest.raises(SystemExit):
        main(words)
    assert "give --init FOLDER" in capsys.readouterr().err
    main([*words, "--init", str(smoke_weights)])
    path = tmp_path / "run" / "weights" / "stage2.lora.safetensors"
    assert path.stat().st_size < (smoke_weights / "stage2.safetensors").stat().st_size
    plain, tuned = Muse.from_pretrained(smoke_weights), Muse.from_pretrained(smoke_weights, lora=path)
    one, other = (muse.generate("a piano", seed=3, seconds=0.5) for muse in (plain, tuned))
    assert torch.equal(one.embeddings, other.embeddings) and not torch.equal(one.audio, other.audio)
    assert one.recipes[0].weights != other.recipes[0].weights
    with pytest.raises(MuseError, match="holds no LoRA"):
        Muse.from_pretrained(smoke_weights, lora=smoke_weights / "stage2.safetensors")
