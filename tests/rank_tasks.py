"""What single ranks are asked to do in the tests of distributed training; see `ranks`."""

import contextlib
import json
import os
from pathlib import Path

import torch
from safetensors.torch import save_file

from musekit import distributed, pretrained
from musekit.config import TrainConfig, smoke
from musekit.runs import Run
from musekit.train import loop
from musekit.train.data import DATA, Stage2Data, fit_scale


class Double:
    """A dataset in float64."""

    def __init__(self, dataset):
        self.dataset = dataset

    def __len__(self):
        return len(self.dataset)

    def sample(self, index, draws, batch_draws):
        sample = self.dataset.sample(index, draws, batch_draws)
        return {k: v.double() if torch.is_tensor(v) and v.is_floating_point() else v for k, v in sample.items()}


class Remembering(torch.optim.SGD):
    """SGD that keeps the gradients of its last step; AdamW amplifies rounding where they are near zero."""

    def step(self, *arguments):
        self.last = [distributed.whole(p.grad).clone() for group in self.param_groups for p in group["params"]]
        return super().step(*arguments)


def equivalence(
    cache: str, folder: str, micro_batch: int, shard: bool = False, machines: int = 1, steps: int = 20
) -> None:
    """Train Stage 2 in float64 with SGD, 20 steps of 8 samples, or fewer until a signal; each rank writes weights,
    moving average, gradients and losses, and the validation metrics of each kind of network."""
    optimizers = []

    def sgd(groups, lr, **_):
        optimizers.append(Remembering(groups, lr=lr, momentum=0.5))
        return optimizers[0]

    torch.optim.AdamW = sgd  # in this process only
    settings = TrainConfig(
        samples=160, batch=8, micro_batch=micro_batch, lr=0.2, weight_decay=0.0, warmup=24, clip=0.5, ema=0.9,
        bf16=False, log_every=8, checkpoint_minutes=60, shard=shard,
    )  # fmt: skip
    os.environ["LOCAL_WORLD_SIZE"] = str(distributed.world() // machines)
    name = f"{folder}/rank{distributed.rank()}"
    with distributed.process_group():
        torch.manual_seed(0)
        network, data = pretrained.build("stage2", smoke()), Stage2Data(Path(cache), "train", smoke())
        fit_scale("stage2", network, data)
        torch.nn.init.normal_(network.proj_out.weight, std=0.1)  # training starts it at zero: gradients everywhere
        left, records = iter(range(1, steps)), []
        with contextlib.suppress(distributed.Stopped):
            stop = lambda: 0 if steps == 20 or next(left, 0) else 75  # noqa: E731
            records += loop.train(network.double(), Double(data), None, settings, Run(Path(folder)), stop)
        tensors = {f"weights.{k}": distributed.whole(v).clone() for k, v in network.state_dict().items()}
        tensors |= {f"gradients.{i}": g for i, g in enumerate(optimizers[0].last)}
        if distributed.rank() == 0:
            tensors |= {f"ema.{k}": v.clone() for k, v in Run(Path(folder)).load()["ema"].items()}
        save_file(tensors, f"{name}.safetensors")
        metrics = {"losses": [r["loss"] for r in records], "norms": [r["gradient_norm"] for r in records]}
        metrics["validation"] = {}
        for part, kind in DATA.items():
            torch.manual_seed(0)
            network, data = pretrained.build(part, smoke()), kind(Path(cache), "train", smoke())
            data.group_size = 4  # 13 clips: four groups to share
            metrics["validation"][part] = loop.validate(network, data, TrainConfig())
        Path(f"{name}.json").write_text(json.dumps(metrics))
