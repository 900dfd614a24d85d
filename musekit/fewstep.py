"""solver.json: the bespoke few-step solvers of a folder of weights.

    {"stage2": sha256, "guidance_scale": 3.0, "teacher": "euler, 100 steps",
     "solvers": {"8": {"times": [...], "weights": [[...], ...], "held_out_error": ...}, ...}}

They hold for one Stage 2 and one guidance scale. weights.json has the file's hash under "solver". A recipe names a
solver with the hash of its numbers (bespoke-8@1f0c9a77). mini's were learned by `musekit train solver` at af0e541.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from musekit.config import MuseError, suggest
from musekit.files import read_json, sha256
from musekit.pretrained import read_hashes
from musekit.solve.bespoke import NAME, Bespoke, evaluations

FILE, PART = "solver.json", "solver"


@dataclass(frozen=True)
class LearnedSolver(Bespoke):
    """A bespoke solver and the relative error of its latents on paths that it was not learned from."""

    held_out_error: float = float("nan")


@dataclass(frozen=True)
class SolverFile:
    """The content of solver.json."""

    stage2: str  # sha256 of the weights that the solvers were learned for
    guidance_scale: float
    teacher: str = ""
    solvers: dict[str, LearnedSolver] = field(default_factory=dict)


def read(folder: Path) -> SolverFile:
    """The folder's solvers. Raises MuseError where there are none, or the file is damaged or for other weights."""
    path = Path(folder) / FILE
    if not path.exists():
        raise MuseError(f"these weights have no bespoke solvers ({path} is missing); use another solver, such as euler")
    hashes = read_hashes(Path(folder))
    if sha256(path) != hashes.get(PART):
        raise MuseError(f"{path} is not the file that weights.json names (truncated or altered); restore it")
    content = read_json(path, SolverFile)
    if content.stage2 != hashes.get("stage2"):
        raise MuseError(f"{path} was learned for another Stage 2 than this folder's; use another solver, such as euler")
    return content


@dataclass(frozen=True)
class Offer:
    """A bespoke solver in a menu."""

    nfe: int  # its evaluations, which are its steps
    guidance_scale: float  # the only one that it was learned for
    error: float  # of its latents, relative to the teacher's
    teacher: str


def offered(folder: Path) -> dict[str, Offer]:
    """{"bespoke-4": ...} for a menu, fewest evaluations first; empty where the file is missing or cannot be used."""
    try:
        content = read(folder)
    except MuseError:
        return {}
    solvers = sorted(content.solvers.values(), key=lambda solver: solver.nfe)
    scale, teacher = content.guidance_scale, content.teacher
    return {f"bespoke-{s.nfe}": Offer(s.nfe, scale, s.held_out_error, teacher) for s in solvers}


def named(folder: Path, name: str) -> Bespoke:
    """The solver "bespoke-8" or "bespoke-8@hash". Raises MuseError where the folder has none of that name."""
    solvers = read(folder).solvers
    if str(evaluations(name)) not in solvers:
        raise suggest(name, [f"bespoke-{n}" for n in sorted(solvers)], "bespoke solver")
    solver = solvers[str(evaluations(name))]
    if NAME.fullmatch(name)[2] and solver.name != name:
        raise MuseError(f"{name} is another solver than this folder's {solver.name}: the weights have changed")
    return solver


def resolve(folder: Path, name: str, steps: int | None, guidance: tuple[float, float, float]) -> tuple[str, int]:
    """The complete name and the steps of the bespoke solver in a recipe.

    steps: as requested, or None. guidance: the scale, and the interval of t in which it acts. Raises MuseError where
    the solver was not learned for that.
    """
    solver, learned_scale = named(folder, name), read(folder).guidance_scale
    if steps not in (None, solver.nfe):
        raise MuseError(f"{name} has exactly {solver.nfe} steps; leave out the number of steps, or use another solver")
    if guidance != (learned_scale, 0.0, 1.0):
        raise MuseError(
            f"{name} was learned with guidance {learned_scale:g} at all times, not with {guidance[0]:g} from"
            f" t = {guidance[1]:g} to {guidance[2]:g}; use another solver, such as euler"
        )
    return solver.name, solver.nfe
