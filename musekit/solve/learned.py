"""solver.json: the bespoke solvers beside a folder's weights, and what they were learned for.

    {"format": 1, "stage2": sha256, "guidance_scale": 3.0, "teacher": "euler, 100 steps",
     "solvers": {"8": {"times": [...], "weights": [[...], ...], "error": ..., ...}, ...}, "provenance": {...}}

weights.json holds the file's hash under "solver", as it does for the parts. A recipe names a solver with the hash of
its numbers (bespoke-8@1f0c9a77), so a recipe stays complete while other solvers' bits do not depend on this file.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from musekit.config import MuseError, suggest
from musekit.files import sha256, write_atomic
from musekit.pretrained import read_hashes

from .bespoke import NAME, Bespoke, evaluations

FILE, PART = "solver.json", "solver"
TRAIN = "musekit train solver"


def identity(table: Bespoke) -> str:
    """8 hex digits of a table's numbers."""
    return hashlib.sha256(json.dumps([table.times, table.weights]).encode()).hexdigest()[:8]


def read(folder: Path) -> dict:
    """The content of the folder's solver.json, its tables as `Bespoke` under "tables" (n -> table).

    Raises MuseError, in one line, where there is none, where it was altered, or where it belongs to other weights.
    """
    path = Path(folder) / FILE
    if not path.exists():
        raise MuseError(f"these weights have no bespoke solvers ({path} is missing); learn them: {TRAIN}")
    hashes = read_hashes(Path(folder))
    if sha256(path) != hashes.get(PART):
        raise MuseError(f"{path} is not the file that weights.json names (truncated or altered); restore it")
    try:
        content = json.loads(path.read_text())
        tables = {int(n): Bespoke.of(s["times"], s["weights"]) for n, s in content["solvers"].items()}
        learned_for, content["guidance_scale"] = content["stage2"], float(content["guidance_scale"])
    except (ValueError, KeyError, TypeError, AttributeError, MuseError) as error:
        raise MuseError(f"{path} holds no bespoke solvers ({error}); learn them again: {TRAIN}") from error
    if learned_for != hashes.get("stage2"):
        raise MuseError(f"{path} was learned for another Stage 2 than the one beside it; learn it again: {TRAIN}")
    if any(n != table.nfe for n, table in tables.items()):
        raise MuseError(f"{path}: a solver has another number of steps than its name says; learn it again: {TRAIN}")
    return {**content, "tables": tables}


@dataclass(frozen=True)
class Offer:
    """A bespoke solver as a menu tells of it."""

    nfe: int  # its evaluations, and its steps: it has no other number
    guidance_scale: float  # the only one that it was learned for
    error: float  # of its latents, relative to the teacher's, on paths that it was not learned from
    teacher: str


def offered(folder: Path) -> dict[str, Offer]:
    """What a menu may offer, {"bespoke-4": ...}, fewest evaluations first; nothing where the file is missing or bad."""
    try:
        content = read(folder)
        w, teacher = content["guidance_scale"], str(content["teacher"])
        errors = {n: float(content["solvers"][str(n)]["held_out_error"]) for n in sorted(content["tables"])}
    except (MuseError, KeyError, TypeError, ValueError):
        return {}  # who names such a solver in a recipe is told why
    return {f"bespoke-{n}": Offer(n, w, error, teacher) for n, error in errors.items()}


def write(folder: Path, content: dict) -> Path:
    """Write solver.json and its hash in weights.json; the parts stay as they are."""
    folder = Path(folder)
    path = folder / FILE
    write_atomic(path, json.dumps(content, indent=1) + "\n")
    hashes = read_hashes(folder) if (folder / "weights.json").exists() else {}
    write_atomic(folder / "weights.json", json.dumps({**hashes, PART: sha256(path)}, indent=1) + "\n")
    return path


def named(folder: Path, name: str) -> tuple[Bespoke, str, dict]:
    """The table of "bespoke-8" or "bespoke-8@hash", its name with the hash, and the file's content.

    Raises MuseError where the folder has none of that name.
    """
    content, n = read(folder), evaluations(name)
    tables = content["tables"]
    if n not in tables:
        raise suggest(name, [f"bespoke-{k}" for k in sorted(tables)], "bespoke solver")
    whole, wanted = f"bespoke-{n}@{identity(tables[n])}", NAME.fullmatch(name)[2]
    if wanted and whole != name:
        raise MuseError(f"{name} was another solver than this folder's {whole}: the weights have been learned again")
    return tables[n], whole, content


def chosen(folder: Path, name: str, steps: int | None, guidance: tuple[float, float, float]) -> tuple[str, int]:
    """The whole name and the steps of a bespoke solver that a recipe asks for.

    steps: what was asked, None where nothing was. guidance: the scale, and from where to where it acts. Raises
    MuseError where the solver was not learned for that.
    """
    table, whole, content = named(folder, name)
    if steps not in (None, table.nfe):
        raise MuseError(f"{name} has {table.nfe} steps and no other number; leave steps out, or take another solver")
    learned = (content["guidance_scale"], 0.0, 1.0)
    if guidance != learned:
        raise MuseError(
            f"{name} was learned with guidance {learned[0]:g} at all times, not with {guidance[0]:g} from"
            f" t = {guidance[1]:g} to {guidance[2]:g}; for that take another solver, such as euler"
        )
    return whole, table.nfe
