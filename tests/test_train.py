"""The training loop against answers: closed forms, exact algebra, the Gaussian floor."""

import contextlib
import copy
import dataclasses
import math
import threading

import pytest
import torch
from torch import nn

from musekit import pretrained
from musekit.config import MuseError, Stage1Config, TrainConfig, smoke
from musekit.runs import Run
from musekit.stage1 import Text2MuQFlow
from musekit.train import loop
from musekit.train.data import CodecData, Stage1Data, Stage2Data, fit_scale
from musekit.train.loop import learning_rate, update_ema

DATASETS = {"codec": CodecData, "stage1": Stage1Data, "stage2": Stage2Data}


def train(model, dataset, settings, folder, validation=None):
    """Train to the end; the records."""
    return list(loop.train(model, dataset, validation, settings, Run(folder)))


def test_learning_rate_is_a_trapezoid():
    settings = TrainConfig(samples=1000, batch=10, lr=2.0, warmup=100, decay=0.4)
    at = [learning_rate(settings, s) for s in range(0, 1001, 10)]
    assert at[0] == pytest.approx(0.2) and at[9] == at[60] == 2.0  # up in 10 steps, then flat until 600
    assert at[:10] == pytest.approx([0.2 * k for k in range(1, 11)])
    assert at[60:] == pytest.approx([2.0 * (40 - k) / 40 for k in range(41)])
    assert learning_rate(dataclasses.replace(settings, warmup=0, decay=0.0), 500) == 2.0
    assert learning_rate(settings, 2000) == 0.0


def test_the_moving_average_is_its_closed_form():
    """Constant increments: ema_n = sum over k of (1 - d_k) w_k times the product of the later d's."""
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).double()
    ema, decay = copy.deepcopy(model), 0.9
    history, first = [], copy.deepcopy(model.state_dict())
    for step in range(1, 200):
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn_like(p))
            model[1].running_mean.fill_(step)
        history.append(copy.deepcopy(model.state_dict()))
        update_ema(ema, model, decay, step)
    d = torch.tensor([min(decay, (1 + step) / (10 + step)) for step in range(1, 200)], dtype=torch.float64)
    for name in ("0.weight", "0.bias", "1.weight"):
        expected = first[name] * d.prod()
        for k, weights in enumerate(history):
            expected = expected + weights[name] * (1 - d[k]) * d[k + 1 :].prod()
        torch.testing.assert_close(ema.state_dict()[name], expected, atol=1e-10, rtol=0)
    assert (ema[1].running_mean == 199).all()  # buffers are copied


class Pairs:
    """Fixed random Stage 1 samples in float64."""

    config = Stage1Config(dim=6, text_dim=4, width=16, depth=2, heads=2, gaussian_rank=2)

    def __len__(self):
        return 24

    def sample(self, index, draws, batch_draws):
        rng = torch.Generator().manual_seed(index)
        return {
            "x_1": torch.randn(6, generator=rng, dtype=torch.float64),
            "x_0": draws.normal(6).double(),
            "t": torch.tensor(draws.uniform(), dtype=torch.float64),
            "tokens": torch.randn(3, 4, generator=rng, dtype=torch.float64),
            "mask": torch.tensor([True, True, index % 2 == 0]),
            "keep": torch.tensor(index % 5 > 0),
        }


def new_network(config=Pairs.config):
    torch.manual_seed(0)
    network = Text2MuQFlow(config)
    nn.init.normal_(network.proj_out.weight, std=0.1)  # starts at zero: gradients everywhere
    return network


PLAIN = TrainConfig(
    samples=48, batch=12, micro_batch=12, lr=0.3, weight_decay=0.0, warmup=0, clip=0.0, bf16=False, log_every=12
)


@pytest.mark.parametrize("clip, micro_batch", [(0.05, 12), (0.0, 5), (0.05, 1)])
def test_the_steps_are_those_of_a_loop_written_out(tmp_path, monkeypatch, clip, micro_batch):
    """SGD with clipping (0: none) and the trapezoid, by hand, and the moving average of the checkpoint. Accumulated
    gradients are those of the whole batch. (AdamW would amplify rounding where gradients are near zero.)"""
    monkeypatch.setattr(loop.torch.optim, "AdamW", lambda groups, lr, **options: torch.optim.SGD(groups, lr=lr))
    settings = dataclasses.replace(PLAIN, warmup=24, decay=0.5, clip=clip, ema=0.5, micro_batch=micro_batch)
    records = train(new_network().double(), Pairs(), settings, tmp_path)
    reference = new_network().double()
    ema = copy.deepcopy(reference)
    with contextlib.closing(loop.batches(Pairs(), 12, 0, settings.seed)) as batches:
        some = [next(batches) for _ in range(4)]
    for step, batch in enumerate(some):
        reference.zero_grad()
        value, _ = reference.training_loss(batch)
        value.backward()
        norm = torch.stack([p.grad.norm() for p in reference.parameters()]).norm()
        assert records[step]["gradient_norm"] == pytest.approx(norm.item(), rel=1e-5)
        assert norm > settings.clip  # clipping acts
        with torch.no_grad():
            for p in reference.parameters():
                p -= learning_rate(settings, 12 * step) * p.grad * (clip / (norm + 1e-6) if clip else 1.0)
        update_ema(ema, reference, 0.5, step + 1)
        assert records[step]["loss"] == pytest.approx(value.item(), rel=1e-6)
    saved = Run(tmp_path).load()
    for name, weights in reference.state_dict().items():
        torch.testing.assert_close(saved["model"][name], weights, atol=1e-10, rtol=0)
        torch.testing.assert_close(saved["ema"][name], ema.state_dict()[name], atol=1e-10, rtol=0)
    assert saved["samples"] == 48 and saved["step"] == 4


def first_batch(config, cache):
    """8 samples of Stage 2."""
    with contextlib.closing(loop.batches(Stage2Data(cache, "train", config), 8, 0, 0)) as batches:
        return next(batches)


def stage2(config):
    torch.manual_seed(0)
    network = pretrained.build("stage2", config)
    nn.init.normal_(network.proj_out.weight, std=0.1)
    return network


def test_recomputed_activations_change_no_bit_and_take_less_memory(tiny):
    """Bytes that autograd keeps for the backward pass."""
    found = []
    for changes in ({}, {"recompute": True}):
        network, kept = stage2(tiny.config), []
        loop.change_blocks(network, TrainConfig(**changes))
        count = lambda x, kept=kept: kept.append(x.nbytes) or x  # noqa: E731
        with torch.autograd.graph.saved_tensors_hooks(count, lambda x: x):
            value = network.training_loss(first_batch(tiny.config, tiny.cache))[0]
        value.backward()
        found.append(({n: p.grad for n, p in network.named_parameters()}, value, sum(kept)))
    (plain, loss, much), (other, same, little) = found
    assert torch.equal(loss, same) and all(torch.equal(plain[n], other[n]) for n in plain)
    assert little < 0.5 * much


@pytest.mark.long
@pytest.mark.system("g++")
def test_compiled_blocks_have_the_same_gradients(tiny):
    """With and without recomputed activations, in float64."""
    network, batch = stage2(tiny.config).double(), first_batch(tiny.config, tiny.cache)
    batch = {k: v.double() if torch.is_tensor(v) and v.is_floating_point() else v for k, v in batch.items()}
    found, names = [], list(network.state_dict())
    for change in ({}, {"compile": True}, {"recompute": True}):  # each after the one before
        loop.change_blocks(network, TrainConfig(**change))
        network.zero_grad()
        network.training_loss(batch)[0].backward()
        found.append(torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None]))
    assert names == list(network.state_dict()) and found[0].norm() > 0
    for other in found[1:]:
        assert (other - found[0]).abs().max() <= 1e-10 * found[0].abs().max()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0  # it did not fall back


TOY = Stage1Config(dim=6, text_dim=4, width=48, depth=2, heads=2, ff_mult=2, gaussian_rank=0, condition_dropout=0.1)
LEARN = TrainConfig(
    samples=400 * 128, batch=128, micro_batch=128, lr=3e-3, warmup=1000, ema=0.99, bf16=False, log_every=50 * 128,
    checkpoint_minutes=60,
)  # fmt: skip


class Gaussian:
    """x_1 ~ N(0, 1), independent of any text."""

    def __init__(self, length=4096):
        self.length = length

    def __len__(self):
        return self.length

    def sample(self, index, draws, batch_draws):
        sample = {"x_1": draws.normal(6), "x_0": draws.normal(6), "t": torch.tensor(draws.uniform())}
        return sample | {"tokens": torch.ones(1, 4), "mask": torch.tensor([True]), "keep": torch.tensor(index % 2 == 0)}


def test_on_independent_gaussian_data_the_loss_reaches_the_floor_and_the_velocity_is_exact(tmp_path):
    """v = (2 t - 1) / ((1 - t)^2 + t^2) x."""
    network = new_network(config=TOY)
    records = train(network, Gaussian(), LEARN, tmp_path, validation=Gaussian())
    assert 0.97 < records[-1]["loss"] / records[-1]["floor"] < 1.03
    assert 0.95 < records[-1]["valid_loss"] / records[-1]["valid_floor"] < 1.05
    network.load_state_dict(Run(tmp_path).load()["ema"])
    x, t = torch.randn(500, 6, generator=torch.Generator().manual_seed(0)), torch.linspace(0.05, 0.95, 500)
    x = x * ((1 - t) ** 2 + t**2).sqrt()[:, None]  # where the path is at time t
    with torch.no_grad():
        v = network(x, t, network.context(torch.ones(500, 1, 4), torch.ones(500, 1, dtype=torch.bool)))
    exact = ((2 * t - 1) / ((1 - t) ** 2 + t**2))[:, None] * x
    assert (v - exact).square().mean() < 0.02 < exact.square().mean() / 10


@pytest.mark.parametrize("part", DATASETS)
def test_validation_is_fixed_and_disturbs_nothing(tiny, part):
    """Neither the micro-batch nor global random numbers change a bit of it."""
    torch.manual_seed(3)
    network = pretrained.build(part, tiny.config).train()
    dataset, before = DATASETS[part](tiny.cache, "valid", tiny.config), copy.deepcopy(network.state_dict())
    torch.manual_seed(4)
    expected = torch.rand(3)
    torch.manual_seed(4)
    first = loop.validate(network, dataset, TrainConfig(micro_batch=2))
    assert torch.equal(torch.rand(3), expected) and network.training
    assert first == loop.validate(network, dataset, TrainConfig(micro_batch=64))
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    assert all(p.grad is None for p in network.parameters())


def test_validation_sees_every_noise_level_once_and_never_drops_the_condition():
    seen = []

    class Network(nn.Module):
        def training_loss(self, batch):
            assert batch["keep"].all()
            seen.extend(batch["t"].tolist())
            return batch["t"].mean(), {"t": batch["t"].mean()}

    metrics = loop.validate(Network(), Gaussian(37), TrainConfig())
    assert sorted(seen) == pytest.approx([(k + 0.5) / 37 for k in range(37)])
    assert metrics["loss"] == metrics["t"] == pytest.approx(0.5, abs=1e-4)  # the last, smaller group counts less


STEPS, BATCH = 20, 8
RESUME = TrainConfig(
    samples=STEPS * BATCH, batch=BATCH, micro_batch=4, lr=1e-2, warmup=32, log_every=BATCH, validate_every=5 * BATCH,
    checkpoint_minutes=0.0,
)  # fmt: skip


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path):
    """The file holds the weights of its own step, and an error of the write ends the run."""
    steps, written = threading.Event(), []

    class Slow(Run):
        def save(self, samples, state):
            assert samples == RESUME.samples or steps.wait(60)
            written.append((samples, state["model"]["proj_out.bias"].clone()))
            if samples == 2 * BATCH:
                raise MuseError("the disk is full")

    network, settings = new_network(config=TOY), dataclasses.replace(RESUME, validate_every=10**6)
    seen = {}
    with pytest.raises(MuseError, match="the disk is full"):
        for record in loop.train(network, Gaussian(), None, settings, Slow(tmp_path)):
            seen[record["samples"]] = network.proj_out.bias.detach().clone()
            if len(seen) == 2:
                steps.set()  # the second step is done, and the first one's checkpoint is not
    assert [samples for samples, _ in written] == [BATCH, 2 * BATCH]
    assert all(torch.equal(bias, seen[samples]) for samples, bias in written)
    assert not torch.equal(written[0][1], written[1][1])


def new_part(part, cache):
    """A new network and its data, as `musekit train` builds them."""
    torch.manual_seed(0)
    model, dataset = pretrained.build(part, smoke()), DATASETS[part](cache, "train", smoke())
    fit_scale(part, model, dataset)
    return model, dataset, DATASETS[part](cache, "valid", smoke())


@pytest.mark.parametrize("part", DATASETS)
def test_a_stopped_run_resumes_with_the_same_bits(tiny, tmp_path, part):
    """20 steps at once, against 10 and the same again. (`test_resume` kills real processes.)"""
    whole = train(*new_part(part, tiny.cache)[:2], RESUME, tmp_path / "whole", new_part(part, tiny.cache)[2])
    model, dataset, validation = new_part(part, tiny.cache)
    run, steps = Run(tmp_path / "stopped"), iter(range(1, 100))
    with pytest.raises(SystemExit):
        list(loop.train(model, dataset, validation, RESUME, run, lambda: 75 * (next(steps) == 10)))
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(7.0)  # what a resumed run starts from does not matter
    resumed = train(model, dataset, RESUME, run.folder, validation)
    state, expected = run.load(), Run(tmp_path / "whole").load()
    for key in ("model", "ema"):
        assert all(torch.equal(state[key][name], weights) for name, weights in expected[key].items())
    moments, reference = state["optimizer"]["state"], expected["optimizer"]["state"]
    assert all(torch.equal(moments[i][k], reference[i][k]) for i in reference for k in reference[i])
    assert (state["step"], state["samples"]) == (STEPS, STEPS * BATCH)
    timed = ("seconds", "samples_per_second")
    timeless = [{k: v for k, v in r.items() if k not in timed} for r in whole[10:]]
    assert timeless == [{k: r[k] for k in t} for t, r in zip(timeless, resumed)] and len(resumed) == 10


def test_a_resumed_run_is_not_initialised_and_has_the_settings_that_it_is_given(tmp_path):
    train(new_network().double(), Pairs(), PLAIN, tmp_path)
    more = dataclasses.replace(PLAIN, samples=60, weight_decay=0.5)
    run = Run(tmp_path)
    list(loop.train(new_network().double(), Pairs(), None, more, run, initialise=lambda: pytest.fail("initialised")))
    groups = run.load()["optimizer"]["param_groups"]
    assert [g["weight_decay"] for g in groups] == [0.5, 0.0]


class Endless(nn.Module):
    """Its gradient is finite for four steps, then NaN."""

    def __init__(self):
        super().__init__()
        self.w, self.steps = nn.Parameter(torch.ones(2, 2)), 0

    def training_loss(self, batch):
        self.steps += 1
        return (self.w * (1.0 if self.steps < 5 else math.nan)).sum(), {}


def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    """The loss is not looked at between two records, and a run could not continue from NaN."""
    settings = dataclasses.replace(PLAIN, samples=1200, lr=1e-3, clip=1e9, log_every=1200, checkpoint_minutes=0.0)
    with pytest.raises(MuseError, match=r"the weights are not finite at sample 60; try a smaller --train\.lr"):
        train(Endless(), Pairs(), settings, tmp_path)
    state = Run(tmp_path).load(pytest.fail)
    assert state["samples"] == 48 and state["model"]["w"].isfinite().all()
