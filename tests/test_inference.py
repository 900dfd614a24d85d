"""Sampling of micro-batches: bits that depend on the recipe only, negative prompts, threads, graphs, compilation."""

import dataclasses
import itertools
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from networks import STABLE_AUDIO, STAGE1_WIDE, STAGE2, STAGE2_WIDE, B, T, conditions, randomise, stage1, stage2, texts
from test_library import RECIPE as KEPT

from musekit import flow, gpu, solve
from musekit.config import smoke
from musekit.controls import Controls
from musekit.inference import control_inputs, finish, micro_batches, padded, sample_stage1, sample_stage2
from musekit.recipe import Recipe
from musekit.stage1 import GuidedStage1, Stage1Inference, Text2MuQFlow
from musekit.stage2 import ControlInputs, GuidedStage2, StableAudioMuQ, Stage2Inference

RECIPE = dataclasses.replace(KEPT, stage1_steps=3, stage1_guidance_scale=3.0, stage2_steps=3)
SIZES = pytest.mark.parametrize("size", [1, 2, 4, 8])
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])


def recipes(*negatives, **changes) -> list[Recipe]:
    """One recipe per negative prompt, each with its own seed."""
    return [dataclasses.replace(RECIPE, negative_prompt=n, seed=i, **changes) for i, n in enumerate(negatives)]


def test_the_end_fades_and_nothing_clips():
    audio = 2 * torch.ones(2, 1000)
    done = finish(audio)
    assert (audio == 2).all() and done.abs().max() == pytest.approx(0.99)
    torch.testing.assert_close(done[:, -441:], 0.99 * torch.linspace(1, 0, 441).expand(2, 441))
    assert torch.equal(finish(audio / 4)[:, :-441], audio[:, :-441] / 4)
    assert finish(torch.ones(2, 100))[0, -1] == 0


def assert_independent(run, size: int) -> None:
    """run(order) -> (B, ...): a sample's bits are the same in any order and beside any others."""
    first = run(list(range(size)))
    assert torch.equal(run(list(range(size))[::-1]), first.flip(0))
    assert torch.equal(run([size - 1] * size), first[[size - 1] * size])


@DTYPES
@SIZES
@pytest.mark.parametrize("merge", [False, True])
def test_bits_of_stage_1_depend_on_neither_position_nor_batch_mates(dtype, size, merge):
    inference, rng = Stage1Inference(stage1(STAGE1_WIDE, torch.float32, std=0.05), dtype), torch.Generator()
    tokens, mask = torch.randn(size, 7, STAGE1_WIDE.text_dim, generator=rng), torch.ones(size, 7, dtype=torch.bool)
    x_0 = torch.randn(size, STAGE1_WIDE.dim, generator=rng)

    def run(order):
        velocity = GuidedStage1(inference, inference.text(tokens[order], mask[order], merge=merge), 3.0)
        return solve.solve(velocity, x_0[order], solver="euler", steps=3).x

    assert_independent(run, size)


@DTYPES
@SIZES
def test_bits_of_stage_2_depend_on_neither_position_nor_batch_mates(dtype, size):
    network = stage2(STAGE2_WIDE, torch.float32, std=0.08)
    inference, (embedding, seconds) = Stage2Inference(network, dtype), conditions(STAGE2_WIDE, torch.float32, size)
    x_0 = torch.randn(size, 4, T, generator=torch.Generator())

    def run(order):
        velocity = GuidedStage2(inference, network.condition_pair(embedding[order], seconds[order]), 3.0)
        return solve.solve(velocity, x_0[order], solver="euler", steps=3).x

    assert_independent(run, size)


@pytest.fixture(scope="module")
def networks():
    """Both stages of the smoke preset with random weights."""
    config = smoke()
    return (
        Stage1Inference(randomise(Text2MuQFlow(config.stage1), 0.1, torch.float32).requires_grad_(False)),
        Stage2Inference(randomise(StableAudioMuQ(config.stage2), 0.1, torch.float32).requires_grad_(False)),
    )


@pytest.mark.parametrize("solver", ["euler", "dopri5"])
@torch.no_grad()
def test_pieces_with_and_without_negative_prompts_share_no_micro_batch(networks, minilm, solver):
    """Stage 1 computes both kinds in different ways; within a kind all keep their bits."""
    mixed = recipes(None, None, "slow", "fast", None, stage1_solver=solver)
    batches = list(micro_batches(mixed))
    assert batches == [mixed[:2], mixed[2:4], mixed[4:]]
    found = []
    for batch in batches:
        together, nfe = sample_stage1(networks[0], minilm, padded(batch))
        torch.testing.assert_close(together.norm(dim=1), torch.ones(4))
        for i, recipe in enumerate(batch):
            single, count = sample_stage1(networks[0], minilm, padded([recipe]))
            assert torch.equal(single[0], together[i]) and count[0] == nfe[i]
            found.append(tuple(single[0].tolist()))
    assert len(set(found)) == 5
    unguided = [sample_stage1(networks[0], minilm, recipes(n, stage1_guidance_scale=1.0))[0] for n in (None, "slow")]
    assert torch.equal(*unguided)  # without guidance a negative prompt changes nothing


@pytest.mark.parametrize(
    ("solver", "negative", "k"), [("euler", None, 0.0), ("euler", "slow", 0.5), ("heun", None, 0.0)]
)
@torch.no_grad()
def test_latents_start_from_the_seeds_noise_and_end_where_the_network_leads(networks, solver, negative, k):
    """The solver on the training network, one sample at a time, with guidance written out; k: that by controls."""
    inference, network, frames = networks[1], networks[1].network, 10
    batch = recipes(*[negative] * 4, stage2_solver=solver, control_guidance=k)
    asked = control_inputs(network, [Controls(bpm=100, metre=4, chords="Am F")] * 4, 0, frames, 0.05)
    embeddings = F.normalize(torch.randn(2, 4, 512, generator=torch.Generator().manual_seed(0)), dim=-1)
    negatives = embeddings[1] if negative else None
    latents, _ = sample_stage2(inference, embeddings[0], negatives, batch, frames, 0.5, controls=asked)
    for i, recipe in enumerate(batch):
        sample, seconds = slice(i, i + 1), torch.tensor([[0.0, 0.5]])
        told = ControlInputs(*(part[sample] for part in asked))
        yes, plain = (network.condition(embeddings[0, sample], seconds, None, one) for one in (told, told.unguided))
        no = network.condition(embeddings[1, sample], seconds, torch.tensor([negative is not None]))
        x_0 = flow.noise(recipe.seed, 2, frames, inference.config.latent_dim)[None]

        def velocity(t, x, yes=yes, no=no, plain=plain):
            v = network(x, t, yes)
            return flow.guided(v, network(x, t, no), 3.0) + k * (v - network(x, t, plain))

        expected = solve.solve(velocity, x_0, solver=solver, steps=3)
        torch.testing.assert_close(latents[sample], network.latents(expected.x), atol=1e-3, rtol=1e-3)
    given = torch.stack([flow.noise(r.seed, 2, frames, inference.config.latent_dim) for r in batch])
    again, _ = sample_stage2(inference, embeddings[0], negatives, batch, frames, 0.5, x_0=given, controls=asked)
    assert torch.equal(again, latents)


def test_two_threads_sample_at_the_same_time(networks, minilm):
    """Studio and Lab share the networks, each with its own batch size and length."""
    batches = [recipes(None, None, micro_batch=2), recipes("slower", "slow", "loud", "fast")]

    @torch.inference_mode()
    def sample(batch, frames):
        assert minilm.is_cut("slow " * 60)  # truncation is a setting of the shared tokenizer
        embeddings, _ = sample_stage1(networks[0], minilm, batch)
        negatives = None if batch[0].negative_prompt is None else embeddings.flip(0)
        return sample_stage2(networks[1], embeddings, negatives, batch, frames, 0.5)[0]

    alone = [sample(batch, frames) for batch, frames in zip(batches, (11, 30))]
    with ThreadPoolExecutor(2) as threads:
        for _ in range(5):
            assert all(map(torch.equal, threads.map(sample, batches, (11, 30)), alone))


def test_without_a_compiler_the_block_itself_runs():
    import torch._inductor.config

    x = torch.randn(7)
    with torch._inductor.config.patch({"cpp.cxx": ("no-such-compiler",)}):
        assert torch.equal(gpu.compile_block(lambda x: x.sin() * 2)(x), x.sin() * 2)
    small = stage2()
    assert gpu.compiled(small.blocks[0], small) is small.blocks[0]  # too small, and not on a GPU


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["stage 1", "stage 1 merged", "modulation", "stable audio"])
def test_a_cuda_graph_replays_the_velocity_it_recorded(kind):
    """For two prompts, two times and two states, so that each input is seen to be copied in."""
    if kind.startswith("stage 1"):
        inference = Stage1Inference(stage1(STAGE1_WIDE, torch.float32, std=0.05).cuda())
        tokens, mask = (part.cuda() for part in texts(STAGE1_WIDE, torch.float32))
        merge, shape = kind.endswith("merged"), (STAGE1_WIDE.dim,)
        prompts = [inference.text(said, mask, merge=merge) for said in (tokens, tokens.flip(0))]
        velocities = [GuidedStage1(inference, text, 3.0) for text in prompts]
        plain = [lambda x, now, v=v: v._velocity(x, now, v.text) for v in velocities]
    else:
        config = STAGE2 if kind == "modulation" else STABLE_AUDIO
        network, shape = stage2(config, torch.float32).cuda(), (config.latent_dim, T)
        inference = Stage2Inference(network)
        embedding, seconds = (c.cuda() for c in conditions(config, torch.float32))
        pairs = [network.condition_pair(prompt, seconds) for prompt in (embedding, embedding.flip(0))]
        velocities = [GuidedStage2(inference, pair, 3.0) for pair in pairs]
        plain = [lambda x, now, v=v: v._velocity(x, now, v.condition) for v in velocities]
    for velocity, expected in zip(velocities, plain):
        for now, x in itertools.product(velocity.at(torch.tensor([0.1, 0.6])), torch.randn(2, B, *shape).cuda()):
            torch.testing.assert_close(velocity(now, x), expected(x, now), atol=1e-4, rtol=1e-4)
    assert len(inference.graphs) == 1
