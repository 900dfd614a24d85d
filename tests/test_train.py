"""The one training loop against answers: closed forms, exact algebra, the Gaussian floor, bits after a kill."""

import copy
import dataclasses
import json
import math
import os
import signal
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from ranks import until
from test_config import run_with_only_the_needed
from torch import nn

from musekit import flow, pretrained
from musekit.cache import Shards
from musekit.config import MINI_TRAINING, MuseError, Stage1Config, TrainConfig
from musekit.runs import Run
from musekit.solve import solve
from musekit.stage1 import Text2MuQFlow, TextRegression
from musekit.train import command, loop
from musekit.train.loop import learning_rate, update_ema
from musekit.train.data import DATA, CodecData, Stage1Data, Stage2Data, fit_scale

PARTS = {"codec": CodecData, "stage1": Stage1Data, "stage2": Stage2Data}


def run_all(model, dataset, settings, folder, validation=None):
    """Train to the end; the records."""
    return list(loop.train(model, dataset, validation, settings, Run(folder)))


# ---------------------------------------------------------------- closed forms


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
    d = [min(decay, (1 + step) / (10 + step)) for step in range(1, 200)]
    for name in ("0.weight", "0.bias", "1.weight"):
        expected = first[name] * torch.tensor(d, dtype=torch.float64).prod()
        for k, weights in enumerate(history):
            expected = expected + weights[name] * (1 - d[k]) * torch.tensor(d[k + 1 :], dtype=torch.float64).prod()
        torch.testing.assert_close(ema.state_dict()[name], expected, atol=1e-10, rtol=0)
    assert (ema[1].running_mean == 199).all()  # buffers are copied


def test_only_matrices_decay():
    model = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2))
    model[0].weight.requires_grad_(True)
    matrices, rest = loop.parameter_groups(model, 0.5)
    assert [p.shape for p in matrices["params"]] == [(2, 3)] and matrices["weight_decay"] == 0.5
    assert len(rest["params"]) == 3 and rest["weight_decay"] == 0.0
    model[0].weight.requires_grad_(False)
    assert loop.parameter_groups(model, 0.5)[0]["params"] == []


@pytest.mark.parametrize("batch", [1, 7, 48, 64, 500])
def test_crossed_sees_every_multiple_once(batch):
    for every in (10, 64, 100):
        seen = [s for s in range(batch, 5000, batch) if train.crossed(s, batch, every)]
        assert len(seen) == len({s // every for s in range(batch, 5000, batch)} - {0})


# ---------------------------------------------------------------- exact algebra


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


def new_network(kind=Text2MuQFlow, config=Pairs.config):
    torch.manual_seed(0)
    network = kind(config)
    nn.init.normal_(network.proj_out.weight, std=0.1)
    return network


def with_sgd(monkeypatch):
    """AdamW would amplify rounding where gradients are near zero."""
    monkeypatch.setattr(loop.torch.optim, "AdamW", lambda groups, lr, **options: torch.optim.SGD(groups, lr=lr))


PLAIN = TrainConfig(
    samples=48, batch=12, micro_batch=12, lr=0.3, weight_decay=0.0, warmup=0, clip=1e9, bf16=False, log_every=12
)


@pytest.mark.parametrize("micro_batch", [1, 4, 6, 5, 100])
def test_accumulated_gradients_are_one_big_batchs(tmp_path, monkeypatch, micro_batch):
    with_sgd(monkeypatch)
    networks = []
    for size in (12, micro_batch):
        network = new_network().double()
        settings = dataclasses.replace(PLAIN, micro_batch=size)
        records = run_all(network, Pairs(), settings, tmp_path / f"{len(networks)}")
        networks.append((network, records))
    (one, told), (many, also) = networks
    for name, weights in one.state_dict().items():
        torch.testing.assert_close(many.state_dict()[name], weights, atol=1e-10, rtol=0, msg=name)
    for a, b in zip(told, also):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-6) and a["floor"] == pytest.approx(b["floor"], abs=1e-6)
    assert not torch.equal(one.proj_out.weight, new_network().double().proj_out.weight)


def test_the_steps_are_those_of_a_loop_written_out(tmp_path, monkeypatch):
    """SGD with clipping and the trapezoid, by hand, and the EMA that the checkpoint keeps."""
    with_sgd(monkeypatch)
    settings = dataclasses.replace(PLAIN, warmup=24, decay=0.5, clip=0.05, ema=0.5)
    network = new_network().double()
    records = run_all(network, Pairs(), settings, tmp_path)

    from musekit.train import loader

    reference = new_network().double()
    ema = copy.deepcopy(reference)
    made = loader.batches(Pairs(), 12, 0, settings.seed)
    for step in range(4):
        reference.zero_grad()
        value, _ = reference.training_loss(next(made))
        value.backward()
        norm = torch.stack([p.grad.norm() for p in reference.parameters()]).norm()
        assert records[step]["gradient_norm"] == pytest.approx(norm.item(), rel=1e-5)
        assert norm > settings.clip  # clipping acts
        with torch.no_grad():
            for p in reference.parameters():
                p -= learning_rate(settings, 12 * step) * p.grad * settings.clip / (norm + 1e-6)
        update_ema(ema, reference, 0.5, step + 1)
        assert records[step]["loss"] == pytest.approx(value.item(), rel=1e-6)
    made.close()
    saved = Run(tmp_path).load()
    for name, weights in reference.state_dict().items():
        torch.testing.assert_close(saved["model"][name], weights, atol=1e-10, rtol=0)
        torch.testing.assert_close(saved["ema"][name], ema.state_dict()[name], atol=1e-10, rtol=0)
    assert saved["samples"] == 48 and saved["step"] == 4


@pytest.mark.parametrize(("batch", "micro_batch"), [(13, 4), (10, 4)])
def test_a_batch_that_cannot_be_split_evenly_is_refused(tmp_path, batch, micro_batch):
    settings = dataclasses.replace(PLAIN, batch=batch, micro_batch=micro_batch)
    with pytest.raises(MuseError, match=f"a batch of {batch} cannot be split evenly .* micro-batches of at most {micro_batch}"):
        run_all(new_network().double(), Pairs(), settings, tmp_path)


# ---------------------------------------------------------------- memory and work


def test_recomputed_activations_change_no_bit_and_take_less_memory(tiny):
    """What autograd keeps for the backward pass is counted as it is saved."""
    from musekit.config import smoke

    found = []
    for again in (False, True):
        torch.manual_seed(0)
        network = pretrained.build("stage2", smoke())
        nn.init.normal_(network.proj_out.weight, std=0.1)
        if again:
            loop.recompute(network)
        data = Stage2Data(tiny.cache, "train", smoke())
        batch = next(iter_batches(data))
        kept = 0

        def count(x):
            nonlocal kept
            kept += x.numel() * x.element_size()
            return x

        with torch.autograd.graph.saved_tensors_hooks(count, lambda x: x):
            value = network.training_loss(batch)[0]
        value.backward()
        found.append(({n: p.grad for n, p in network.named_parameters()}, value, kept, list(network.state_dict())))
    (plain, loss, much, names), (other, same, little, also) = found
    assert torch.equal(loss, same) and all(torch.equal(plain[n], other[n]) for n in plain) and names == also
    assert little < 0.5 * much


@pytest.mark.system("g++")
def test_compiled_blocks_have_the_same_gradients(tiny):
    """Really compiled, with and without activations computed again, in float64; once for all blocks."""
    network = pretrained.build("stage2", tiny.config).double()
    torch.manual_seed(0)
    nn.init.normal_(network.proj_out.weight, std=0.1)
    batch = next(iter_batches(Stage2Data(tiny.cache, "train", tiny.config)))
    batch = {k: v.double() if v.is_floating_point() else v for k, v in batch.items()}
    found, names = [], list(network.state_dict())
    for change in (lambda model: None, loop.compile_blocks, loop.recompute):  # each after the one before
        change(network)
        network.zero_grad()
        network.training_loss(batch)[0].backward()
        found.append(torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None]))
    assert names == list(network.state_dict()) and len(found[0]) and found[0].norm() > 0
    for other in found[1:]:
        assert (other - found[0]).abs().max() <= 1e-10 * found[0].abs().max()
    assert all(block.forward.args[0].fast is not None for block in network.blocks)  # it did not fall back


def iter_batches(dataset):
    """Batches of 8."""
    from musekit.train import loader

    return loader.batches(dataset, 8, 0, 0)


def test_training_work_is_three_times_the_forward_pass_counted_by_hand(tiny):
    """Against `bench.stage2_flops`, which leaves out the condition: counted here."""
    from musekit.bench import stage2_flops
    from musekit.train import flops

    config = tiny.config.stage2
    network = pretrained.build("stage2", tiny.config)
    count = flops.TrainingFlops(network)
    for batch, _ in zip(iter_batches(Stage2Data(tiny.cache, "train", tiny.config)), range(6)):
        rows, _, frames = batch["x_1"].shape
        wide, small = config.width, config.condition_dim
        condition = 2 * (config.embedding_dim * small + small * small + 2 * wide * wide + wide * wide + small * wide)
        condition += config.depth * 2 * (small * config.kv_heads * config.head_dim + wide * wide)
        # by hand the modulation is in the velocity's own work; here it is too
        assert count(batch) == 3 * (stage2_flops(config, rows, frames) + rows * condition)
    assert flops.TrainingFlops(Counting())({"x": torch.ones(3)}) == 0  # a loss that looks at values is not counted


class Counting(nn.Module):
    """A loss that cannot be told from shapes."""

    def training_loss(self, batch):
        return batch["x"].sum() if bool(batch["x"].any()) else 0, {}


def test_speed_work_and_memory_are_recorded(tiny, tmp_path):
    model, dataset, validation = new_part("stage2", tiny.cache)
    settings = dataclasses.replace(RESUME, samples=16, peak_teraflops=0.5)
    record = run_all(model, dataset, settings, tmp_path, validation)[-1]
    assert record["mfu"] == pytest.approx(record["teraflops"] / 0.5)
    work = record["teraflops"] * record["seconds"] * 1e12 / BATCH  # a sample
    assert 1e6 < work < 1e9 and 0.05 < record["memory_gib"] < 50
    assert record["samples_per_second"] == pytest.approx(BATCH / record["seconds"])


def test_the_rate_of_matrix_products_is_a_rate():
    from musekit.train import flops

    rate = flops.matrix_rate(torch.device("cpu"), torch.float32, size=128, seconds=0.05)
    assert 1e8 < rate < 1e13


# ---------------------------------------------------------------- learning


class Answers:
    """Texts as one-hot tokens; text k has the answers `answers[k]` (n, D), each equally right."""

    def __init__(self, answers, config, spread=0.05):
        self.answers, self.config, self.spread = answers, config, spread
        self.tokens = torch.zeros(len(answers), 2, config.text_dim)
        self.tokens[range(len(answers)), 0, range(len(answers))] = 3.0
        self.mask = torch.tensor([True, False])

    def __len__(self):
        return 4096

    def sample(self, index, draws, batch_draws):
        text = index % len(self.answers)
        some = self.answers[text]
        return {
            "x_1": some[draws.integer(len(some))] + self.spread * draws.normal(self.config.dim),
            "x_0": draws.normal(self.config.dim),
            "t": torch.tensor(draws.uniform()),
            "tokens": self.tokens[text],
            "mask": self.mask,
            "keep": torch.tensor(draws.uniform() >= self.config.condition_dropout),
        }


TOY = Stage1Config(
    dim=6, text_dim=4, width=48, depth=2, heads=2, ff_mult=2, gaussian_rank=0, condition_dropout=0.1
)  # all is learned
LEARN = TrainConfig(
    samples=400 * 128, batch=128, micro_batch=128, lr=3e-3, warmup=1000, ema=0.99, bf16=False, log_every=50 * 128,
    checkpoint_minutes=60,
)  # fmt: skip


def answers():
    """Three texts with one answer each, and a fourth with two opposite ones."""
    axes = torch.eye(6)
    return [axes[:1], axes[1:2], axes[2:3], torch.stack([axes[3], -axes[3]])]


def texts(n):
    """Tokens and mask of each text, n times."""
    tokens = torch.zeros(4, 2, 4)
    tokens[range(4), 0, range(4)] = 3.0
    return tokens.repeat_interleave(n, 0), torch.tensor([[True, False]]).expand(4 * n, 2)


def learned(kind, tmp_path):
    dataset = Answers(answers(), TOY)
    network = new_network(kind, TOY)
    network.fit_scale(torch.stack([dataset.sample(i, flow.Draws(9, i), None)["x_1"] for i in range(800)]))
    records = run_all(network, dataset, LEARN, tmp_path)
    network.load_state_dict(Run(tmp_path).load()["ema"])
    return network.eval(), records


def test_a_flow_learns_many_right_answers_and_regression_their_mean(tmp_path):
    """Below the Gaussian floor; samples lie on the answers of their text, on both where there are two."""
    network, records = learned(Text2MuQFlow, tmp_path / "flow")
    assert records[-1]["loss"] < 0.7 * records[-1]["floor"] and records[-1]["loss"] < records[0]["loss"]
    n = 64
    tokens, mask = texts(n)
    with torch.no_grad():
        context = network.context(tokens, mask)
        x_0 = torch.stack([flow.noise(i, 1, 1, 6)[:, 0] for i in range(4 * n)])
        end = solve(lambda t, x: network(x, t, context), x_0, solver="heun", steps=25).x
    found = network.embedding(end).unflatten(0, (4, n))
    for text in range(3):
        assert (found[text, :, text] > 0.9).float().mean() > 0.95
    both = found[3, :, 3]
    assert (both.abs() > 0.9).float().mean() > 0.9
    assert 0.25 < (both > 0).float().mean() < 0.75

    network, _ = learned(TextRegression, tmp_path / "regression")
    with torch.no_grad():
        mean = network.predict(*texts(1))
    torch.testing.assert_close(mean[:3], torch.eye(6)[:3], atol=0.1, rtol=0)
    assert mean[3].norm() < 0.25  # the mean of two opposite answers is no answer


class Gaussian:
    """x_1 ~ N(0, 1), independent of any text."""

    def __len__(self):
        return 4096

    def sample(self, index, draws, batch_draws):
        return {
            "x_1": draws.normal(6),
            "x_0": draws.normal(6),
            "t": torch.tensor(draws.uniform()),
            "tokens": torch.ones(1, 4),
            "mask": torch.tensor([True]),
            "keep": torch.tensor(True),
        }


def test_on_independent_gaussian_data_the_loss_comes_to_the_floor_and_not_below(tmp_path):
    """And the velocity that is learned is the exact one, (2 t - 1) / ((1 - t)^2 + t^2) x."""
    network = new_network(config=TOY)
    records = run_all(network, Gaussian(), LEARN, tmp_path, validation=Gaussian())
    assert 0.97 < records[-1]["loss"] / records[-1]["floor"] < 1.03
    assert 0.95 < records[-1]["valid_loss"] / records[-1]["valid_floor"] < 1.05
    network.load_state_dict(Run(tmp_path).load()["ema"])
    x, t = torch.randn(500, 6, generator=torch.Generator().manual_seed(0)), torch.linspace(0.05, 0.95, 500)
    x = x * ((1 - t) ** 2 + t**2).sqrt()[:, None]  # where the path is at time t
    with torch.no_grad():
        v = network(x, t, network.context(torch.ones(500, 1, 4), torch.ones(500, 1, dtype=torch.bool)))
    exact = ((2 * t - 1) / ((1 - t) ** 2 + t**2))[:, None] * x
    assert (v - exact).square().mean() < 0.02 < exact.square().mean() / 10


# ---------------------------------------------------------------- records and validation


def test_records_come_when_they_should(tmp_path):
    settings = TrainConfig(samples=500, batch=48, micro_batch=48, log_every=100, validate_every=200, bf16=False)
    records = run_all(new_network(config=TOY), Gaussian(), settings, tmp_path, validation=Gaussian())
    assert [r["samples"] for r in records] == [144, 240, 336, 432, 528]
    assert ["valid_loss" in r for r in records] == [False, True, False, True, True]
    assert records == Run(tmp_path).metrics()
    assert records[-1]["epoch"] == pytest.approx(528 / 4096) and records[-1]["lr"] == 0
    fine = dataclasses.replace(settings, samples=480, log_every=10)  # more often than there are steps
    records = run_all(new_network(config=TOY), Gaussian(), fine, tmp_path / "fine", validation=Gaussian())
    assert len(records) == 10 and sum("valid_loss" in r for r in records) == 3  # past 200, past 400, at the end


@pytest.mark.parametrize("part", PARTS)
def test_validation_is_fixed_and_disturbs_nothing(tiny, part):
    torch.manual_seed(3)
    network = pretrained.build(part, tiny.config).train()
    dataset = PARTS[part](tiny.cache, "valid", tiny.config)
    before = copy.deepcopy(network.state_dict())
    torch.manual_seed(4)
    expected = torch.rand(3)
    torch.manual_seed(4)
    first = loop.validate(network, dataset, TrainConfig(micro_batch=2))
    assert torch.equal(torch.rand(3), expected)
    assert network.training and first == loop.validate(network, dataset, TrainConfig(micro_batch=2))
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    assert all(p.grad is None for p in network.parameters())


def test_validation_sees_every_time_once_and_always_the_condition():
    seen = []

    class Network(nn.Module):
        def training_loss(self, batch):
            assert batch["keep"].all()
            seen.extend(batch["t"].tolist())
            return batch["t"].mean(), {"t": batch["t"].mean()}

    class Dropped(Gaussian):
        def __len__(self):
            return 37

        def sample(self, *arguments):
            return {**super().sample(*arguments), "keep": torch.tensor(False)}

    metrics = loop.validate(Network(), Dropped(), TrainConfig(micro_batch=10))
    assert sorted(seen) == pytest.approx([(k + 0.5) / 37 for k in range(37)])
    assert metrics["loss"] == metrics["t"] == pytest.approx(0.5, abs=1e-4)  # rows weigh the same, the last few too


# ---------------------------------------------------------------- the same bits after a kill

STEPS, BATCH = 20, 8
RESUME = TrainConfig(
    samples=STEPS * BATCH, batch=BATCH, micro_batch=4, lr=1e-2, warmup=32, log_every=BATCH, validate_every=5 * BATCH,
    checkpoint_minutes=0.0,
)  # fmt: skip


def new_part(part, cache):
    """A new network and its data, as `musekit train` makes them."""
    from musekit.config import smoke

    torch.manual_seed(0)
    model, dataset = pretrained.build(part, smoke()), PARTS[part](cache, "train", smoke())
    fit_scale(part, model, dataset)
    return model, dataset, PARTS[part](cache, "valid", smoke())


@pytest.mark.parametrize("part", PARTS)
def test_a_killed_run_resumes_with_the_same_bits(ranks, tiny, tmp_path, part):
    """20 steps at once, against 10, SIGKILL, and the same command again."""
    model, dataset, validation = new_part(part, tiny.cache)
    whole = list(loop.train(model, dataset, validation, RESUME, Run(tmp_path / "whole")))
    expected = Run(tmp_path / "whole").load()

    folder = tmp_path / "killed"
    job = {"task": "train_and_wait", "part": part, "cache": str(tiny.cache), "folder": str(folder)}
    process = ranks.start(1, {**job, "steps": 11, "threads": torch.get_num_threads()}, folder.with_suffix(".log"))
    until(lambda: len(Run(folder).metrics()) > 10)
    process.kill(0)
    assert process.wait() == [-signal.SIGKILL]
    assert Run(folder).load()["step"] == 10

    model, dataset, validation = new_part(part, tiny.cache)
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(7.0)  # what a resumed run starts from does not matter
    resumed = list(loop.train(model, dataset, validation, RESUME, Run(folder)))
    state = Run(folder).load()
    for key in ("model", "ema"):
        for name, weights in expected[key].items():
            assert torch.equal(state[key][name], weights), name
    assert state["step"] == STEPS and state["samples"] == STEPS * BATCH
    moments, reference = state["optimizer"]["state"], expected["optimizer"]["state"]
    assert all(torch.equal(moments[i][k], reference[i][k]) for i in reference for k in reference[i])
    timed = ("seconds", "samples_per_second", "memory_gib", "teraflops", "mfu")
    timeless = [{k: v for k, v in r.items() if k not in timed} for r in whole[10:]]
    assert timeless == [{k: r[k] for k in t} for t, r in zip(timeless, resumed)] and len(resumed) == 10


def test_a_damaged_newest_checkpoint_costs_only_its_steps(tiny, tmp_path, capsys):
    model, dataset, _ = new_part("stage1", tiny.cache)
    list(loop.train(model, dataset, None, RESUME, Run(tmp_path)))
    expected = Run(tmp_path).load()
    newest = Run(tmp_path).checkpoints()[-1]
    newest.write_bytes(newest.read_bytes()[:-1])
    model, dataset, _ = new_part("stage1", tiny.cache)
    assert len(list(loop.train(model, dataset, None, RESUME, Run(tmp_path)))) == 1
    assert f"{newest.name} is damaged" in capsys.readouterr().out
    again = Run(tmp_path).load()
    assert all(torch.equal(again["ema"][k], v) for k, v in expected["ema"].items())


def test_a_damaged_best_checkpoint_is_found_again(tiny, tmp_path):
    """It was the newest: the run goes on behind it, comes to the same loss, and saves that again."""

    def train_until(samples, minutes):
        model, dataset, validation = new_part("stage1", tiny.cache)
        settings, run = dataclasses.replace(RESUME, checkpoint_minutes=minutes), Run(tmp_path)
        with pytest.raises(SystemExit):
            list(loop.train(model, dataset, validation, settings, run, lambda: 75 * (run.metrics()[-1]["samples"] >= samples)))
        return run.best()

    best = train_until(5 * BATCH, minutes=0.0)
    path = tmp_path / best["checkpoint"]
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    assert best["samples"] == 5 * BATCH == train_until(7 * BATCH, minutes=60.0)["samples"]
    assert len(path.read_bytes()) == len(whole)


def test_a_run_that_goes_on_has_the_settings_that_it_is_given(tmp_path):
    """Not those of the checkpoint: a smaller weight decay is heard, as a smaller learning rate is."""
    run_all(new_network().double(), Pairs(), PLAIN, tmp_path)
    more = dataclasses.replace(PLAIN, samples=60, weight_decay=0.5, fused=False)
    run_all(new_network().double(), Pairs(), more, tmp_path)
    groups = Run(tmp_path).load()["optimizer"]["param_groups"]
    assert [(g["weight_decay"], g["fused"]) for g in groups] == [(0.5, False), (0.0, False)]


class Endless(nn.Module):
    """Its gradient is finite for four steps, and no number afterwards."""

    def __init__(self):
        super().__init__()
        self.w, self.steps = nn.Parameter(torch.ones(2, 2)), 0

    def training_loss(self, batch):
        self.steps += 1
        return (self.w * (1.0 if self.steps < 5 else math.nan)).sum(), {}


def test_weights_that_are_no_numbers_are_never_saved(tmp_path):
    """Between two lines of the log the loss is not looked at, and a checkpoint of NaN would go on for ever."""
    settings = dataclasses.replace(PLAIN, samples=1200, lr=1e-3, log_every=1200, checkpoint_minutes=0.0)
    with pytest.raises(MuseError, match=r"the weights are not finite at sample 60; try a smaller --train\.lr"):
        run_all(Endless(), Pairs(), settings, tmp_path)
    state = Run(tmp_path).load(pytest.fail)
    assert state["samples"] == 48 and state["model"]["w"].isfinite().all()


# ---------------------------------------------------------------- musekit train


def options(tiny, tmp_path, part, **changes):
    """What the command line hands to `train_part`."""
    settings = TrainConfig(samples=24, batch=8, micro_batch=8, log_every=8, warmup=8)
    settings = dataclasses.replace(settings, **changes)
    folders = {"cache": tiny.cache, "run_folder": tmp_path / "run", "out": tmp_path / "weights"}
    return SimpleNamespace(part=part, preset="smoke", train=settings, **folders)


@pytest.mark.parametrize("part", DATA)
def test_every_part_trains_and_its_weights_load(tiny, tmp_path, part):
    path = command.train_part(options(tiny, tmp_path, part))
    assert path == tmp_path / "weights" / f"{part}.safetensors"
    network, _ = pretrained.load_part(tmp_path / "weights", part)
    ema = Run(tmp_path / "run").load()["ema"]
    for name, value in network.state_dict().items():
        stored = ema[name].half().float() if ema[name].dim() > 1 else ema[name]
        assert torch.equal(value, stored), name
    summary = json.loads((tmp_path / "weights" / f"{part}.train.json").read_text())
    assert summary["samples"] == 24 and summary["clips"] == 13 and summary["last"]["valid_loss"] > 0
    assert summary["settings"]["batch"] == 8 and "command" in summary["provenance"]


def test_a_training_from_weights_tells_of_the_trainings_before_it(tiny, tmp_path):
    """Three runs, each from the last one's weights: their samples add up, each is told once, in order."""
    init = None
    for k in range(3):
        given = options(tiny, tmp_path / str(k), "stage1", samples=8 * (k + 1))
        given.init = init
        init = command.train_part(given).parent
    told = json.loads((init / "stage1.train.json").read_text())
    assert [run["samples"] for run in told["before"]] == [8, 16] and told["samples"] == 8 + 16 + 24
    assert all("command" in run["provenance"] and "metrics" not in run for run in told["before"])
    assert told["metrics"][-1]["samples"] == 48 and told["settings"]["samples"] == 24
    shown = [row["samples"] for row in told["metrics"]]
    assert shown == sorted(shown)


def test_the_same_command_resumes_and_another_network_is_refused(tiny, tmp_path):
    path = command.train_part(options(tiny, tmp_path, "stage1"))
    first = path.read_bytes()
    command.train_part(options(tiny, tmp_path, "stage1"))
    assert path.read_bytes() == first and len(Run(tmp_path / "run").metrics()) == 3
    command.train_part(options(tiny, tmp_path, "stage1", samples=40))  # more samples go on from there
    assert [r["samples"] for r in Run(tmp_path / "run").metrics()] == [8, 16, 24, 32, 40]
    assert path.read_bytes() != first
    with pytest.raises(MuseError, match="another configuration"):
        command.train_part(options(tiny, tmp_path, "regression"))


def test_a_cache_made_by_other_weights_is_refused(tiny, tmp_path):
    """The run goes on with the embeddings that it began with, or not at all."""
    import shutil

    from musekit.cache.precompute import precompute

    given = options(tiny, tmp_path, "stage2")
    command.train_part(given)
    given.cache = shutil.copytree(tiny.cache, tmp_path / "cache")
    other = pretrained.init_random(tmp_path / "other", tiny.config, seed=1)
    precompute("embeddings", given.cache, tiny.config, other, show=False)
    with pytest.raises(MuseError, match=r"another configuration \(made_by\.embeddings is 'embeddings .* there and"):
        command.train_part(given)


def test_weights_can_be_exported_while_a_run_goes_on(tiny, tmp_path):
    given = options(tiny, tmp_path, "stage2")
    with pytest.raises(MuseError, match="no checkpoint yet"):
        command.export(given.run_folder, "stage2", tiny.config, tmp_path / "early")
    command.train_part(given)
    path = command.export(given.run_folder, "stage2", tiny.config, tmp_path / "early")
    assert path.read_bytes() == (tmp_path / "weights" / "stage2.safetensors").read_bytes()


def test_training_needs_only_torch_numpy_soundfile_safetensors(tiny, tmp_path):
    """All five parts, where no other third-party package can be imported (tqdm draws the progress bar)."""
    code = f"""
from pathlib import Path
from types import SimpleNamespace
from musekit.train.command import DATA, train_part
from musekit.config import TrainConfig
for part in DATA:
    train_part(SimpleNamespace(
        part=part, preset="smoke", cache=Path({str(tiny.cache)!r}), run_folder=Path({str(tmp_path)!r}) / part,
        out=Path({str(tmp_path)!r}) / "weights", train=TrainConfig(samples=8, batch=8, micro_batch=8, bf16=False),
    ))
"""
    out = run_with_only_the_needed(code, extra=("tqdm",))
    assert [line.split(":")[0] for line in out.splitlines()] == list(DATA)


def test_a_stage_2_in_training_can_be_heard(tiny, tmp_path):
    """Four held-out clips (here there are two): their own sound once, and what the moving average makes of them."""
    import soundfile

    given = options(tiny, tmp_path, "stage2", samples_every=16, samples=32)
    given.codec = str(tiny.weights)
    command.train_part(given)
    names = sorted(p.name for p in (tmp_path / "run" / "samples").iterdir())
    assert names == sorted(f"{k}-{i}.flac" for k in ("true", f"{16:012d}", f"{32:012d}") for i in range(2))
    for name in names:
        audio, rate = soundfile.read(tmp_path / "run" / "samples" / name)
        assert rate == 44100 and audio.shape == (44 * 2048, 2) and 0 < abs(audio).max() < 1
    with pytest.raises(MuseError, match="no other part makes sound"):
        command.train_part(options(tiny, tmp_path / "other", "stage1", samples_every=16))


def test_the_best_checkpoint_is_that_of_the_least_validation_loss(tiny, tmp_path):
    given = options(tiny, tmp_path, "stage1", samples=48, validate_every=8, checkpoint_minutes=60.0, ema=0.5)
    command.train_part(given)
    run = Run(tmp_path / "run")
    losses = {r["samples"]: r["valid_loss"] for r in run.metrics()}
    assert len(losses) == 6 and run.best()["samples"] == min(losses, key=losses.get)
    assert run.best()["valid_loss"] == min(losses.values())


def test_listening_is_no_training_and_counts_in_no_speed(tmp_path):
    """A pause in the middle of a line's steps is not of their seconds, and the steps before it are."""
    settings = dataclasses.replace(PLAIN, samples=120, log_every=120, samples_every=60)
    network, paused = new_network().double(), []

    def slow(batch):
        time.sleep(0.04)
        return type(network).training_loss(network, batch)

    def listen(ema, samples):
        paused.append(samples)
        time.sleep(0.3)

    network.training_loss, began = slow, time.monotonic()
    (record,) = loop.train(network, Pairs(), None, settings, Run(tmp_path), preview=listen)
    assert paused == [60, 120] and 10 * 0.04 < record["seconds"] < time.monotonic() - began - 0.6


def test_what_pads_a_short_clip_counts_in_no_scale(tiny, tmp_path):
    """Rows of a shard are as long as its longest clip; a scale is of the frames that exist."""
    from musekit.cache import build_shards
    from musekit.cache.precompute import each_clip

    data = Stage2Data(tiny.cache, "train", tiny.config)
    rows = {c["id"]: torch.randn(8 * (1 + i % 5), 8) + 3 for i, c in enumerate(data.clips)}
    compute = each_clip({i: i for i in rows}, lambda i: rows[i], lambda x: x)
    build_shards(tmp_path / "latents", rows, "maker", compute)
    data.shards = Shards(tmp_path / "latents")
    model = pretrained.build("stage2", tiny.config)
    fit_scale("stage2", model, data)
    every = torch.cat([rows[c["id"]][::8] for c in data.clips])
    torch.testing.assert_close(model.mean[:, 0], every.mean(0), atol=2e-3, rtol=0)
    torch.testing.assert_close(model.std[:, 0], every.std(0), atol=2e-3, rtol=0)


def test_validation_hears_every_clip_once_whatever_the_micro_batch(tiny):
    torch.manual_seed(3)
    network, data = pretrained.build("stage2", tiny.config), Stage2Data(tiny.cache, "train", tiny.config)
    data.group_size = 4
    found = [loop.validate(network, data, TrainConfig(micro_batch=m)) for m in (1, 5, 64)]
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("what", ["cache", "preset", "gpus", "batch", "tensorboard", "seen", "split"])
def test_what_cannot_work_is_refused_before_any_work(tiny, tmp_path, monkeypatch, what):
    given = options(tiny, tmp_path, "stage2")
    if what == "cache":
        given.cache, told = tmp_path / "nowhere", "there is no cache at .*nowhere: give --cache FOLDER"
    elif what == "preset":  # the full size, without its own cache
        given.preset, told = "paper", "latents holds 8 values a frame and the paper preset's Stage 2 wants 64"
    elif what == "gpus":
        given.require_gpus, told = 4096, "4096 GPUs are required and torch sees"
    elif what == "batch":
        given.train, told = dataclasses.replace(given.train, batch=7, micro_batch=3), "cannot be split evenly"
    elif what == "tensorboard":
        monkeypatch.setitem(sys.modules, "tensorboard", None)
        given.train, told = dataclasses.replace(given.train, tensorboard=True), "pip install tensorboard"
    elif what == "seen":
        monkeypatch.setenv("WORLD_SIZE", "3")  # 3 ranks, a batch of 8
        told = r"a batch of 8 cannot be split evenly over 3 rank\(s\)"
    else:
        given.train, told = dataclasses.replace(given.train, samples=0), "must be 1 or more"
    monkeypatch.setattr(pretrained, "build", lambda *_: pytest.fail("work began"))
    with pytest.raises(MuseError, match=told):
        command.train_part(given)
    assert not (tmp_path / "run" / "config.json").exists()


NOT_BELOW = {"log_every": 0, "validate_every": 0, "micro_batch": 0, "lr": math.nan, "weight_decay": -0.1}
NOT_BELOW |= {"clip": -1.0, "samples_every": -1, "workers": -1}


@pytest.mark.parametrize("name", NOT_BELOW)
def test_a_number_that_trains_nothing_is_named(tiny, tmp_path, monkeypatch, name):
    monkeypatch.setattr(pretrained, "build", lambda *_: pytest.fail("work began"))
    option = f"--train.{name.replace('_', '-')} must be"
    with pytest.raises(MuseError, match=f"{option} [01] or more, not {NOT_BELOW[name]}"):
        command.train_part(options(tiny, tmp_path, "stage2", **{name: NOT_BELOW[name]}))


def test_an_option_that_says_what_the_plain_default_says_is_heard():
    """`--train.samples 100000` is not the part's own 106,000, though it is TrainConfig's."""
    from musekit import arguments, cli

    def parsed(*words):
        return arguments.parse(cli.COMMANDS, "musekit", cli.ABOUT, ["train", *words]).train

    plain = TrainConfig()
    assert parsed("stage2") == MINI_TRAINING["stage2"] != plain
    assert parsed("stage2", "--train.samples", str(plain.samples)).samples == plain.samples
    assert parsed("--out", "codec", "stage1") == MINI_TRAINING["stage1"]  # a folder may have a part's name
    assert parsed("--train.no-bf16", "codec") == dataclasses.replace(MINI_TRAINING["codec"], bf16=False)
    with pytest.raises(MuseError, match="Missing|required"):
        parsed("--out", "codec")


def test_ports_and_gpus_are_checked_before_a_launch(tiny):
    import socket

    from musekit.launch import launch

    with socket.socket() as held:
        held.bind(("", 0))
        held.listen()
        with pytest.raises(MuseError, match=f"port {held.getsockname()[1]} cannot be used .*choose another"):
            launch(["train", "stage2"], processes=2, port=held.getsockname()[1])
    with pytest.raises(MuseError, match="did you mean --train.samples"):
        launch(["train", "stage2", "--train.smaples", "3"])
    with pytest.raises(MuseError, match="1 or more"):
        launch(["train", "stage2"], processes=0)


def test_a_port_in_use_is_one_line_where_ranks_meet(monkeypatch):
    import socket

    from musekit import distributed

    with socket.socket() as held:
        held.bind(("", 0))
        held.listen()
        place = {"RANK": 0, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": held.getsockname()[1]}
        for name, value in place.items():
            monkeypatch.setenv(name, str(value))
        with pytest.raises(MuseError, match=f"port {place['MASTER_PORT']} is in use"), distributed.process_group():
            pytest.fail("there is no group")


def test_what_a_failed_run_said_becomes_one_line():
    from musekit.launch import failure

    words = ["train", "stage2"]
    lost = "musekit: rank 1 lost another rank; its error is above or below this line"
    said = [lost, "musekit: note: a note", "musekit: cannot write checkpoint x: disk full", "torchrun: rank 1 ended"]
    assert failure(words, 2, said) == "`musekit train stage2` failed: cannot write checkpoint x: disk full"
    trace = ["[rank1]: Traceback (most recent call last):", "[rank1]:   File", "[rank1]: ValueError: odd", lost]
    assert "lost another" in failure(words, 1, [lost]) and "stopped by a signal" in failure(words, os.EX_TEMPFAIL, said)
    assert failure(words, 1, trace[:3]) == "`musekit train stage2` failed with 1: ValueError: odd"
    assert failure(words, -11, ["a", "b"]).endswith("failed with -11:\na\nb")
