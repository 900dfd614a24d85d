"""What single ranks are asked to do in the tests of distributed training; see `ranks`."""

import hashlib
import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from musekit import distributed, pretrained
from musekit.config import TrainConfig, smoke
from musekit.runs import Run
from musekit.train import loop
from musekit.train.data import DATA, Stage2Data, fit_scale


class Double:
    """A data set in float64 that remembers which samples were drawn, and what they held."""

    def __init__(self, dataset):
        self.dataset, self.drawn = dataset, []

    def __len__(self):
        return len(self.dataset)

    def sample(self, index, draws, batch_draws):
        sample = self.dataset.sample(index, draws, batch_draws)
        digest = hashlib.sha256(str(index).encode())
        for value in sample.values():
            digest.update(value.numpy().tobytes())
        self.drawn.append(digest.hexdigest()[:16])
        return {k: v.double() if v.is_floating_point() else v for k, v in sample.items()}


class Remembering(torch.optim.SGD):
    """Plain SGD that keeps the gradients of its last step; AdamW amplifies rounding where they are near zero."""

    def step(self, *arguments):
        self.last = [p.grad.clone() for group in self.param_groups for p in group["params"]]
        return super().step(*arguments)


def equivalence(cache: str, folder: str, micro_batch: int, steps: int = 20, batch: int = 8) -> None:
    """Train Stage 2 in float64 with SGD; each rank writes weights, moving average, gradients and draws."""
    optimizers = []

    def sgd(groups, lr, **_):
        optimizers.append(Remembering(groups, lr=lr))
        return optimizers[0]

    torch.optim.AdamW = sgd  # in this process only
    settings = TrainConfig(
        samples=steps * batch, batch=batch, micro_batch=micro_batch, lr=0.2, weight_decay=0.0, warmup=24, clip=0.5,
        ema=0.9, bf16=False, log_every=batch, validate_every=10 * batch, checkpoint_minutes=60,
    )  # fmt: skip
    with distributed.process_group():
        torch.manual_seed(0)
        network = pretrained.build("stage2", smoke())
        plain = Stage2Data(Path(cache), "train", smoke())
        fit_scale("stage2", network, plain)
        torch.nn.init.normal_(network.proj_out.weight, std=0.1)  # training starts it at zero: gradients everywhere
        data = Double(plain)
        records = list(loop.train(network.double(), data, None, settings, Run(Path(folder))))
        tensors = {f"weights.{k}": v.clone() for k, v in network.state_dict().items()}
        tensors |= {f"gradients.{i}": g for i, g in enumerate(optimizers[0].last)}
        if distributed.rank() == 0:
            tensors |= {f"ema.{k}": v.clone() for k, v in Run(Path(folder)).load()["ema"].items()}
        save_file(tensors, f"{folder}/rank{distributed.rank()}.safetensors")
        told = {"drawn": data.drawn[: steps * batch // distributed.world()], "losses": [r["loss"] for r in records]}
        told["norms"] = [r["gradient_norm"] for r in records]
        Path(f"{folder}/rank{distributed.rank()}.json").write_text(json.dumps(told))


def validation(cache: str, folder: str) -> None:
    """Every rank writes the validation metrics of each kind of network."""
    with distributed.process_group():
        told = {}
        for part, kind in DATA.items():
            torch.manual_seed(0)
            network, data = pretrained.build(part, smoke()), kind(Path(cache), "train", smoke())
            data.group_size = 4  # 13 clips: four groups to share
            told[part] = loop.validate(network, data, TrainConfig())
        Path(f"{folder}/rank{distributed.rank()}.json").write_text(json.dumps(told))
