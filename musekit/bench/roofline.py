"""The roofline: a lower bound of a call's time from its bytes and its operations.

    floor = max(bytes / bandwidth, FLOPs / rate)        (Williams, Waterman & Patterson 2009)

Both ceilings are measured on the machine. Operations and bytes are counted from the networks' shapes: two operations
per multiply-add of every matrix; the bytes of the weights and of the prompt's keys and values. Norms, gates,
activations and rotations are not counted, so a share of 100 % cannot quite be reached.
"""

import itertools

import torch
from torch.utils.flop_counter import FlopCounterMode

from musekit.bench.measure import Work, timed
from musekit.config import Stage1Config, Stage2Config
from musekit.gpu import matrix_units
from musekit.stage2 import StableAudioMuQ


def ceilings(device: torch.device | str = "cpu", quick: bool = False) -> dict[str, float]:
    """{"bandwidth": bytes/s, "triad": bytes/s, "read": bytes/s, "float32": FLOP/s, "bfloat16": FLOP/s}, measured."""
    size = 2**22 if quick else 2**28  # numbers: 1 GiB per array, larger than any CPU cache
    read, triad = read_rate(device, size), triad_rate(device, size)
    found = {"bandwidth": max(read, triad), "read": read, "triad": triad}
    for dtype in (torch.float32, torch.bfloat16):
        n = 256 if quick else 8192 if torch.device(device).type == "cuda" else side(dtype)
        found[str(dtype)[6:]] = matrix_rate(device, dtype, n, n, n, 1 if quick else 15)
    return found


def side(dtype: torch.dtype) -> int:
    """Rows of the square product that measures a CPU's rate: fewer where half precision is emulated, which is slow."""
    return 2048 if dtype == torch.float32 else 4096 if matrix_units() else 512


def triad_rate(device: torch.device | str, size: int) -> float:
    """Bytes per second of a = b + s c (McCalpin's STREAM): two arrays read, one written."""
    b, c = torch.ones(size, device=device), torch.ones(size, device=device)
    a = torch.empty_like(b)
    return 12 * size / min(timed(lambda: torch.add(b, c, alpha=0.5, out=a), device, 5))


def read_rate(device: torch.device | str, size: int) -> float:
    """Bytes per second of a matrix times a vector: an array read once, as weights are."""
    matrix = torch.ones(size // 4096, 4096, device=device)
    vector = torch.ones(4096, device=device)
    return 4 * matrix.numel() / min(timed(lambda: matrix @ vector, device, 5))


def matrix_rate(device: torch.device | str, dtype: torch.dtype, m: int, k: int, n: int, runs: int = 5) -> float:
    """Operations per second of (m, k) @ (k, n) at best: a ceiling for what the networks reach."""
    x, weight = torch.randn(m, k, device=device).to(dtype), torch.randn(n, k, device=device).to(dtype)
    repeats = max(1, int(4e9 / (2 * m * k * n)))  # tens of ms: the clock does not count

    def multiply() -> None:
        for _ in itertools.repeat(None, repeats):
            torch.nn.functional.linear(x, weight)

    with torch.inference_mode():
        return 2 * m * k * n * repeats / min(timed(multiply, device, runs))


def stage1_work(config: Stage1Config, batch: int, tokens: int, dtype: torch.dtype, merged: bool) -> Work:
    """One guided evaluation of the prepared network. The time's network is not counted: it runs once per grid.

    A layer's matrices: self-attention D^2, feed-forward 2 m D^2, and either query and output 2 D^2 beside keys and
    values 2 L D a row, or, merged into them, 2 H L D a row. Rows without text have no cross-attention.
    """
    D, rows, text = config.width, 2 * batch, batch * tokens * config.width
    shared = D * D * (1 + 2 * config.ff_mult)
    if merged:
        numbers, flops = 2 * config.heads * text, 2 * 2 * config.heads * text
    else:
        numbers, flops = 2 * D * D + 2 * text, 2 * (2 * D * D * batch + 2 * text)
    ends = 2 * config.dim * D
    size = torch.finfo(dtype).bits // 8
    return Work(
        config.depth * (2 * rows * shared + flops) + 2 * rows * ends, size * (config.depth * (shared + numbers) + ends)
    )


def stage2_flops(config: Stage2Config, rows: int, frames: int) -> int:
    """Operations of one evaluation of the velocity by the trained network, counted by torch from shapes alone."""
    with torch.device("meta"):
        network = StableAudioMuQ(config)
        condition = network.condition(torch.zeros(rows, config.embedding_dim), torch.zeros(rows, 2))
        x, t = torch.zeros(rows, config.latent_dim, frames), torch.zeros(rows)
    with FlopCounterMode(display=False) as counter:
        network(x, t, condition)
    return counter.get_total_flops()


def stage2_work(config: Stage2Config, batch: int, frames: int, dtype: torch.dtype) -> Work:
    """One guided evaluation."""
    D, inner = config.width, int(config.ff_mult * config.width)
    weights = config.depth * (4 * D * D + 3 * D * inner) + 2 * D * config.latent_dim * config.patch
    return Work(stage2_flops(config, 2 * batch, frames), weights * torch.finfo(dtype).bits / 8)
