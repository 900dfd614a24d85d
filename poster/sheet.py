"""What the figures share: reading results, true size in millimetres, the stamp, and files whose bytes do not change.

A figure is a module of `poster/figures` with

    INPUTS   the result files it reads, relative to the checkout; nothing else may decide what it shows
    SIZE     (width, height) in mm on the sheet
    ALT      what is to be seen, for those who cannot see it
    draw(read, figure)   `read(path)` gives a result's content
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from musekit.config import MuseError
from musekit.show.style import MUTED, SHEET

ROOT = Path(__file__).resolve().parent.parent
FORMATS = ("pdf", "svg", "png")
PNG_DPI = 100
SMALLEST = 24  # pt, of any letter on the sheet
MM = 1 / 25.4  # inches
SALT = "muse"  # of the ids in an SVG, which are random otherwise
TESTS = {"ddp": "curves", "resume": "twenty_kills"}  # results that a test reports
EPOCH = 946_684_800  # 1 January 2000: the date of every file, so that a rebuild has the same bytes


def command_for(path: str) -> str:
    """The command that makes an input: results/bench-stage1.json is made by `musekit bench stage1`."""
    name = Path(path).stem
    if name in TESTS:
        return f'make test-long ARGS="-k {TESTS[name]}"'
    if name.startswith("bench"):
        where = " on a machine with a GPU" if name.endswith("-gpu") else ""
        return f"musekit {name.removesuffix('-gpu').replace('-', ' ', 1)}{where}"
    if path.startswith("results/"):
        return f"musekit eval {name}"
    return f"musekit train {name.removesuffix('.train')}" if name.endswith(".train") else "git checkout"


class Inputs:
    """Files of the checkout; results may lie in another folder. Remembers which were read."""

    def __init__(self, results: Path | None = None):
        self.results, self.used = results, {}

    def place(self, path: str) -> Path:
        """Where the input lies."""
        redirected = self.results is not None and path.startswith("results/")
        return self.results / Path(path).name if redirected else ROOT / path

    def data(self, path: str) -> bytes:
        """The input's bytes. Raises MuseError that names the command which makes a missing one."""
        try:
            data = self.place(path).read_bytes()
        except FileNotFoundError as error:
            raise MuseError(f"{path} is missing; make it: {command_for(path)}") from error
        self.used[path] = hashlib.sha256(data).hexdigest()
        return data

    def read(self, path: str):
        """The input's content. Raises MuseError when it is missing or damaged."""
        try:
            return json.loads(self.data(path))
        except ValueError as error:
            raise MuseError(f"{path} is damaged ({error}); make it again: {command_for(path)}") from error


def rows(result: dict, **where) -> list[dict]:
    """The rows whose fields are as given."""
    return [r for r in result["rows"] if all(r.get(k) == v for k, v in where.items())]


def row(result: dict, **where) -> dict:
    """The one row whose fields are as given. Raises MuseError unless there is exactly one."""
    found = rows(result, **where)
    if len(found) != 1:
        name = f"results/{result['name']}.json"
        raise MuseError(f"{name} has {len(found)} rows with {where}, not one; make it again: {command_for(name)}")
    return found[0]


def stamp(name: str, module: ModuleType) -> str:
    """The small print on a figure: what it was made from, and by which command."""
    sources = ", ".join(Path(path).name.removesuffix(".json") for path in module.INPUTS)
    return f"{sources}  \N{RIGHTWARDS ARROW}  python -m poster {name}"


def under_house_style(call: Callable) -> Callable:
    """Draw and save under the sheet's style, whatever the caller's rcParams are, and leave those as they were."""

    @functools.wraps(call)
    def wrapper(*args):
        from matplotlib import rc_context, rcParamsDefault

        plain = {k: v for k, v in rcParamsDefault.items() if not k.startswith(("backend", "webagg"))}
        fixed = {"svg.hashsalt": SALT, "svg.fonttype": "path", "pdf.fonttype": 42}
        with rc_context({**plain, **SHEET, **fixed}):
            return call(*args)

    return wrapper


@under_house_style
def draw_figure(name: str, module: ModuleType, inputs: Inputs):
    """The figure, stamped. Raises MuseError when an input is missing or not named by the module."""
    from matplotlib.figure import Figure

    def read(path: str):
        if path not in module.INPUTS:
            raise MuseError(f"poster/figures/{name}.py reads {path}, which its INPUTS do not name; add it there")
        return inputs.read(path)

    figure = Figure(figsize=(module.SIZE[0] * MM, module.SIZE[1] * MM), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.05)
    module.draw(read, figure)
    figure.supxlabel(stamp(name, module), x=0, ha="left", fontsize=SMALLEST, color=MUTED)
    for _ in range(3):  # axes of equal aspect move while they are drawn: the layout settles
        figure.draw_without_rendering()
    return figure


@under_house_style
def figure_files(name: str, module: ModuleType, inputs: Inputs) -> dict[str, bytes]:
    """{"pdf": bytes, "svg": bytes, "png": bytes} of a figure; the same inputs give the same bytes."""
    figure = draw_figure(name, module, inputs)
    told = {"Title": f"MUSE poster: {name}", "Subject": stamp(name, module)}
    return {kind: save(figure, kind, told) for kind in FORMATS}


def save(figure, kind: str, told: dict[str, str]) -> bytes:
    """The figure as a file without dates and random ids."""
    data = io.BytesIO()
    if kind == "pdf":
        about = {**told, "CreationDate": None, "ModDate": None, "Producer": None, "Creator": None}
    elif kind == "svg":
        about = {"Title": told["Title"], "Description": told["Subject"], "Date": None, "Creator": None}
    else:
        about = {**told, "Software": None}
    figure.savefig(data, format=kind, metadata=about, dpi=PNG_DPI)
    return data.getvalue()
