"""few-step: what fewer evaluations of Stage 2 cost. Bespoke solvers, plain ones on good grids, less guidance.

The teacher is Euler with 100 equal steps. All settings start from the same noise with the same embeddings, so each
piece is paired with the teacher's. A loss is given in % of the teacher's value, with its paired 95 % interval: at most
5 % at the interval's upper end is "kept", anything else "unresolved" (where even the lower end is above 5 %: "worse").

sweep     relative error of the latents, for solvers and grids that need no learning; picks the best for each budget
few-step  of the best ones: latents, sound, prompts
"""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load, save

from musekit.config import MuseError
from musekit.corpus.captions import evaluation_prompts
from musekit.evaluate.guidance import Ear
from musekit.evaluate.judge import ATTRIBUTES, value_of
from musekit.evaluate.obeyed import as_record
from musekit.evaluate.settings import Setting, euler, latents, plain
from musekit.evaluate.stretch import write_flac
from musekit.evaluate.subject import Subject, bar, table
from musekit.files import write_atomic
from musekit.inference import finish
from musekit.solve import learned
from musekit.statistics import mean_interval, paired_difference

BUDGETS, LEARNED = (4, 6, 8, 9, 12, 16), (4, 6, 8)
POWERS = ((1.0, 1.0), (1.5, 1.0), (2.0, 1.0), (2.5, 1.0), (1.5, 1.5))
SOLVERS = ("euler", "midpoint", "ab2")
REUSED = ((12, 2), (16, 2), (12, 3))  # evaluations, and for how many of them a guidance difference serves
INTERVALS = ((0.0, 0.5), (0.1, 0.6))
PIECES, CHOOSING, SECONDS, SEED = 48, 16, 6.0, 140_000
BAR = 5.0  # %


class Player(Ear):
    """Held-out clips to compare with, and the prompts' pieces by any setting; the last pieces only choose the grids."""

    @cached_property
    def prompts(self) -> list[dict]:
        return evaluation_prompts(6 if self.subject.quick else PIECES + CHOOSING)

    @property
    def played(self) -> int:
        """Pieces that are heard."""
        return 4 if self.subject.quick else PIECES

    def _folder(self, setting: Setting) -> Path:
        return self.subject.folder / "few-step" / f"{setting.key}-{len(self.prompts)}-{self.seconds:g}s"

    def latents(self, setting: Setting, choosing: bool = False) -> tuple[torch.Tensor, dict]:
        """Standardised latents (n, C, T) and what a piece cost; made where they are not there yet."""
        part = slice(self.played, None) if choosing else slice(0, self.played)
        path = self._folder(setting) / ("choosing.safetensors" if choosing else "latents.safetensors")
        if not path.exists():
            muse, seeds = self.subject.muse, [SEED + i for i in range(len(self.prompts))]
            x = torch.from_numpy(self.embeddings[part]).float()
            found, cost = latents(muse, setting, x, seeds[part], muse.frames(self.seconds))
            write_atomic(
                path, save({"latents": found.cpu().contiguous(), **{k: torch.tensor(v) for k, v in cost.items()}})
            )
        kept = load(path.read_bytes())
        return kept["latents"], {"nfe": int(kept["nfe"]), "rows": int(kept["rows"])}

    @torch.inference_mode()
    def sounds(self, setting: Setting) -> list[Path]:
        """The pieces' files, one after another, made where they are not there yet."""
        muse, folder = self.subject.muse, self._folder(setting)
        paths = [folder / f"{i:03d}.flac" for i in range(self.played)]
        missing = [i for i, path in enumerate(paths) if not path.exists()]
        x = muse.stage2.latents(self.latents(setting)[0].to(muse.device)) if missing else None
        for i in bar(missing, f"playing {setting.name}"):
            audio = muse.codec.decode(x[i : i + 1])[0, :, : round(self.seconds * muse.config.codec.sample_rate)]
            write_flac(paths[i], finish(audio.cpu()).numpy(), muse.config.codec.sample_rate)
        return paths

    def obeyed(self, paths: list[Path]) -> np.ndarray:
        """Whether the judge hears what was asked for, (n, 3) of 0 and 1: instrument, mode, speed."""
        said = self.subject.judge.judge(self.subject.hear_files(paths))
        records = [as_record(p["asks"]) for p in self.prompts[: len(paths)]]
        return np.array([[said[a][i] == value_of(r, a) for a in ATTRIBUTES] for i, r in enumerate(records)], float)


def errors(x: torch.Tensor, teacher: torch.Tensor) -> np.ndarray:
    """|x - teacher| / |teacher| of each piece, (n,)."""
    gap, whole = (y.double().flatten(1).norm(dim=1) for y in (x - teacher, teacher))
    return (gap / whole).numpy()


def candidates(quick: bool) -> list[Setting]:
    """Plain settings, and some that keep a guidance difference for two or three evaluations."""
    if quick:
        return [*(plain("euler", n, 1.5) for n in LEARNED), plain("euler", 4, 1.5, every=2)]
    some = [(solver, n) for solver in SOLVERS for n in BUDGETS if solver != "midpoint" or n % 2 == 0]
    wanted = [plain(solver, n, p, q) for solver, n in some for p, q in POWERS]
    return wanted + [plain("euler", n, p, every=k) for p in (1.5, 2.0) for n, k in REUSED]


def sweep(player: Player, teacher: Setting, others: list[Setting]) -> tuple[list[dict], dict[int, Setting]]:
    """A row for each candidate and each of `others`, and the best plain one at each budget; on pieces for this only."""
    exact, _ = player.latents(teacher, choosing=True)
    rows, best = [], {}
    for setting in bar(candidates(player.subject.quick) + others, "solvers and grids"):
        x, cost = player.latents(setting, choosing=True)
        row = {"measure": "sweep", "kind": setting.kind, "solver": setting.solver, "grid": setting.grid, **cost}
        rows.append(row | {"every": setting.every, "relative_error": float(errors(x, exact).mean()), "n": len(x)})
        if setting.kind == "plain" and rows[-1]["relative_error"] < best.get(cost["nfe"], (np.inf, None))[0]:
            best[cost["nfe"]] = rows[-1]["relative_error"], setting
    for row in (r for r in rows if r["kind"] == "reused"):  # does it pay? against what costs as many rows
        equal = best.get(row["rows"] // 2) if row["rows"] % 2 == 0 else None
        row["best_plain_of_equal_rows"] = equal[0] if equal else None
    return rows, {n: setting for n, (_, setting) in best.items()}


def bespoke(player: Player) -> list[Setting]:
    """The folder's learned solvers."""
    muse = player.subject.muse
    found = learned.read(muse.folder)
    if found["guidance_scale"] != muse.config.sample.guidance_scale:
        raise MuseError(f"{muse.folder / learned.FILE} was learned at another guidance than the preset's")
    return [Setting(f"bespoke {n}", "bespoke", t.times, "bespoke", "learned", t) for n, t in found["tables"].items()]


def verdict(name: str, gap: dict, whole: float | None) -> dict:
    """A loss against the teacher, in % of its value too, with intervals, and whether at most 5 % is sure.

    A distance that is estimated at 0 or below has no percentages: unresolved.
    """
    keys = ("difference", "low", "high")
    found = [gap[k] for k in keys]
    loss = [100 * x / whole if whole and whole > 0 else None for x in found]
    row = {f"{name}_{what}{end}": x for what, some in (("gap", found), ("loss", loss))
           for end, x in zip(("", "_low", "_high"), some)}  # fmt: skip
    low, high = loss[1:]
    said = "unresolved" if high is None else "kept" if high <= BAR else "worse" if low > BAR else "unresolved"
    return row | {f"{name}_verdict": said}


def measured(player: Player, setting: Setting, teacher: Setting) -> dict:
    """The row of a setting."""
    subject, n = player.subject, player.played
    (x, cost), (exact, _) = player.latents(setting), player.latents(teacher)
    error = errors(x, exact)
    row = {"measure": "few-step", "name": setting.name, "kind": setting.kind, "solver": setting.solver}
    row |= {"grid": setting.grid, "guidance_low": setting.interval[0], "guidance_high": setting.interval[1], **cost}
    found = mean_interval(error)
    row |= {"relative_error": found["mean"], "relative_error_low": found["low"], "relative_error_high": found["high"]}
    row["snr_db"] = float(-20 * np.log10(error.mean())) if error.all() else None
    paths, base = player.sounds(setting), player.sounds(teacher)
    a, b = subject.embed_files(paths), subject.embed_files(base)
    row |= {"kernel_distance": player.kernel.of(a), "m": len(player.real), "n": n, "seconds": player.seconds}
    row |= verdict("kernel", player.kernel.paired_difference(a, b), player.kernel.of(b))
    close = [(y * player.told[:n]).sum(1) for y in (a, b)]
    row |= {"similarity": float(close[0].mean())}
    row |= verdict("similarity", paired_difference(close[1], close[0]), float(close[1].mean()))
    heard, said = player.obeyed(paths), player.obeyed(base)
    row |= {f"heard_{name}": float(heard[:, i].mean()) for i, name in enumerate(ATTRIBUTES)}
    row |= {"heard": float(heard.mean())}
    return row | verdict("heard", paired_difference(said.mean(1), heard.mean(1)), float(said.mean()))


def measure_few_step(subject: Subject) -> None:
    """Writes results/few-step.json."""
    defaults = subject.muse.config.sample
    player = Player(subject, min(SECONDS, defaults.seconds))
    teacher = euler("teacher", 8 if subject.quick else 100)
    solvers = bespoke(player)
    swept, best = sweep(player, teacher, [euler("default", defaults.stage2_steps), *solvers])
    settings = [teacher, euler("default", defaults.stage2_steps)]
    settings += [best[n] for n in LEARNED if n in best] + solvers
    for low, high in INTERVALS[: 1 if subject.quick else 2]:
        name = f"guidance from {low:g} to {high:g}"
        settings.append(Setting(name, "interval", settings[1].times, interval=(low, high)))
    rows = []
    for setting in settings:
        rows.append(measured(player, setting, teacher))
        print(json.dumps({k: rows[-1][k] for k in ("name", "nfe", "relative_error", "kernel_distance", "heard")}))
    table(swept, "solver", "grid", "every", "nfe", "rows", "relative_error", "best_plain_of_equal_rows")
    columns = ("kernel_distance", "kernel_gap_high", "similarity", "similarity_loss_high", "heard", "heard_loss_high")
    table(rows, "name", "nfe", "rows", "relative_error", *columns)
    about = {"embedding": subject.embedding_name, "guidance_scale": defaults.guidance_scale, "bar": BAR}
    subject.write("few-step", swept + rows, seed=SEED, **about)
