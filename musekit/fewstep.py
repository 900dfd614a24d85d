"""solver.json: the bespoke few-step solvers of a folder of weights.

    {"stage2": sha256, "guidance_scale": 3.0, "teacher": "euler, 100 steps",
     "solvers": {"8": {"times": [...], "weights": [[...], ...], "held_out_error": ...}, ...}}

They hold for one Stage 2 and one guidance scale. weights.json has the file's hash under "solver". A recipe names a
solver with the hash of its numbers (bespoke-8@1f0c9a77). mini's were learned by `musekit train solver` at af0e541.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from musekit.config import MuseError, suggest
from musekit.files import read_json, sha256
from musekit.pretrained import read_hashes
from musekit.solve.bespoke import NAME, Bespoke, evaluations

FILE, PART = "solver.json", "solver"


@dataclass(frozen=True)
class LearnedSolver(Bespoke):
    """A bespoke solver and how it was learned. The last two fields are the same for all solvers of a file."""

    held_out_error: float = float("nan")  # of latents relative to the teacher's, on paths that it was not learned from
    guidance_scale: float = 1.0  # the only one that it was learned for
    teacher: str = ""


@dataclass(frozen=True)
class SolverFile:
    """The content of solver.json."""

    stage2: str  # sha256 of the weights that the solvers were learned for
    guidance_scale: float
    solvers: dict[str, LearnedSolver]
    teacher: str = ""


def read(folder: Path) -> dict[str, LearnedSolver]:
    """The folder's solvers {"bespoke-4": ...}, fewest evaluations first.

    Raises MuseError where there are none, or the file is damaged or for other weights.
    """
    path = Path(folder) / FILE
    if not path.exists():
        raise MuseError(f"these weights have no bespoke solvers ({path} is missing); use another solver, such as euler")
    hashes = read_hashes(Path(folder))
    if sha256(path) != hashes.get(PART):
        raise MuseError(f"{path} is not the file that weights.json names (truncated or altered); restore it")
    content = read_json(path, SolverFile)
    if content.stage2 != hashes.get("stage2"):
        raise MuseError(f"{path} was learned for another Stage 2 than this folder's; use another solver, such as euler")
    about = {"guidance_scale": content.guidance_scale, "teacher": content.teacher}
    solvers = sorted(content.solvers.values(), key=lambda solver: solver.nfe)
    return {f"bespoke-{solver.nfe}": dataclasses.replace(solver, **about) for solver in solvers}


def offered(folder: Path) -> dict[str, LearnedSolver]:
    """The solvers for a menu; empty where the file is missing or cannot be used."""
    try:
        return read(folder)
    except MuseError:
        return {}


def named(folder: Path, name: str) -> LearnedSolver:
    """The solver "bespoke-8" or "bespoke-8@hash". Raises MuseError where the folder has none of that name."""
    solvers = read(folder)
    if (known := f"bespoke-{evaluations(name)}") not in solvers:
        raise suggest(name, solvers, "bespoke solver")
    if NAME.fullmatch(name)[2] and solvers[known].name != name:
        raise MuseError(f"{name} is another solver than this folder's {solvers[known].name}: the weights have changed")
    return solvers[known]


def resolve(folder: Path, name: str, steps: int | None, guidance: tuple[float, float, float]) -> tuple[str, int]:
    """The complete name and the steps of the bespoke solver in a recipe.

    steps: as requested, or None. guidance: the scale, and the interval of t in which it acts. Raises MuseError where
    the solver was not learned for that.
    """
    solver = named(folder, name)
    if steps not in (None, solver.nfe) or guidance != (solver.guidance_scale, 0.0, 1.0):
        raise MuseError(
            f"{name} has exactly {solver.nfe} steps, and guidance {solver.guidance_scale:g} at all times; leave out"
            " other settings, or use another solver, such as euler"
        )
    return solver.name, solver.nfe
