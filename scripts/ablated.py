"""What each design decision is worth, for the README: results/ablation-*.json as one table.

A line is (what was changed, what was measured, value, its 95 % interval or None).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

Line = tuple[str, str, float, tuple[float, float] | None]
BUDGETS = (8, 16, 64)  # evaluations at which the solvers are shown


def distance(row: dict) -> tuple[str, float, tuple[float, float]]:
    """Kernel distance of Stage 1's samples to held-out clips."""
    return "kernel distance", row["kernel_distance"], (row["low"], row["high"])


def guidance(rows: list[dict]) -> Iterator[Line]:
    """Dropping the condition in training."""
    for r in rows:
        if r["guidance_scale"] in (1.0, 3.0):
            yield f"condition dropped in {r['condition_dropout']:.0%}, guidance {r['guidance_scale']:g}", *distance(r)


def solver(rows: list[dict]) -> Iterator[Line]:
    """The error of Euler and of the best fixed-grid solver at a few budgets, for both stages."""
    for stage, what in (("stage1", "distance of embeddings to the solution"), ("stage2", "r.m.s. error of latents")):
        steps = [r for r in rows if r["measure"] == stage and r["steps"] and not r.get("reference")]
        for budget in BUDGETS:
            found = sorted((r["error"], r["solver"]) for r in steps if r["nfe"] == budget)
            for error, name in found:
                if name == "euler" or name == found[0][1]:
                    yield f"{stage}: {name}, {budget} evaluations", what, error, None


def ema(rows: list[dict]) -> Iterator[Line]:
    """The moving average of the weights."""
    for r in rows:
        weights = "last weights" if r["ema"] is None else "moving average"
        yield f"{weights}, learning rate falls over the last {r['lr_decay']:.0%}", *distance(r)
        if r["ema"] is not None:
            gap = r["against_default"], (r["against_low"], r["against_high"])
            yield "the same", "its kernel distance less that of the last weights", *gap


def cache(rows: list[dict]) -> Iterator[Line]:
    """Cached embeddings and latents against those made on the fly."""
    for r in rows:
        if r["measure"] == "time":
            yield f"{r['part']}: {r['what']} made on the fly", "times the time of reading them", r["times"], None
        elif r["embeddings"] != "cached":
            gap = r["against_default"], (r["against_low"], r["against_high"])
            yield "learned from embeddings on the fly", "kernel distance less that of cached ones", *gap


def noise(rows: list[dict]) -> Iterator[Line]:
    """Noise on the embeddings that Stage 2 learns from."""
    without = next(r for r in rows if r["noise"] == 0)
    for r in rows:
        name = f"noise {r['noise']:g}"
        yield name, "held-out loss less training clips'", r["gap"], None
        if r is without:
            continue
        for what, key in (("held-out clips", "loss_held_out"), ("embeddings a little off", "loss_held_out_off")):
            yield name, f"loss, {what}, less that without noise", r[key] - without[key], None


def data(rows: list[dict]) -> Iterator[Line]:
    """Fewer clips to learn from."""
    for r in rows:
        yield f"{r['clips']:,} clips", *distance(r)
        gap = r["copies_difference"], (r["copies_low"], r["copies_high"])
        yield (
            f"{r['clips']:,} clips",
            "5th percentile of the distance to a clip it learned from, less held-out clips'",
            *gap,
        )


LINES = {"guidance": guidance, "solver": solver, "ema": ema, "cache": cache, "noise": noise, "data": data}


def table(result: Callable[[str], list[dict]]) -> tuple[list[dict], list[str]]:
    """The table's rows, and the names of the results that are not there. `result(name)` gives a file's rows."""
    rows, missing = [], []
    for name, lines in LINES.items():
        try:
            found = list(lines(result(f"ablation-{name}")))
        except FileNotFoundError:
            missing.append(f"ablation-{name}")
            continue
        keys = ("setting", "measure", "value", "95 % interval")
        told = (dict(zip(keys, (*line[:3], list(line[3]) if line[3] else None))) for line in found)
        rows += [{"ablation": name, **row} for row in told]
    return rows, missing
