"""What the figures share: reading results, true size in millimetres, the stamp, and SVG whose bytes do not change."""

import io
import json
from collections.abc import Callable
from pathlib import Path

from musekit.config import MuseError
from musekit.show.style import MUTED, styled

ROOT = Path(__file__).resolve().parent.parent
STYLE = Path(__file__).with_name("sheet.mplstyle")
SMALLEST = 24  # pt, of any letter on the sheet
MM = 1 / 25.4  # inches
TESTS = {"ddp": "curves", "resume": "twenty_kills"}  # results that a test writes


def figure(size: tuple[float, float], alt: str, *inputs: str) -> Callable:
    """Say of `draw(figure, *contents)`: its size in mm on the sheet, its description, and the files it draws."""

    def describe(draw: Callable) -> Callable:
        draw.size, draw.alt, draw.inputs = size, alt, inputs
        return draw

    return describe


def command_for(path: str) -> str:
    """The command that makes an input: results/bench-stage1.json is made by `musekit bench stage1`."""
    name = Path(path).stem
    if name in TESTS:
        return f'make test-long ARGS="-k {TESTS[name]}"'
    if name.startswith("bench"):
        where = " on a machine with a GPU" if name.endswith("-gpu") else ""
        return f"musekit {name.removesuffix('-gpu').replace('-', ' ', 1)}{where}"
    split = "" if name in ("gallery", "reproducibility") else " --split test"
    name = {"diversity": "one-to-many", "regression": "one-to-many"}.get(name, name)
    return f"musekit eval {name}{split}" if path.startswith("results/") else "git checkout"


def read(path: str) -> dict:
    """The content of a file of the checkout. Raises MuseError that names the command which makes a missing one."""
    try:
        return json.loads((ROOT / path).read_text())
    except FileNotFoundError as error:
        raise MuseError(f"{path} is missing; make it: {command_for(path)}") from error


def rows(result: dict, **where) -> list[dict]:
    """The rows whose fields are as given."""
    return [r for r in result["rows"] if where.items() <= r.items()]


def row(result: dict, **where) -> dict:
    """The one row whose fields are as given. Raises MuseError unless there is exactly one."""
    found = rows(result, **where)
    if len(found) != 1:
        raise MuseError(f"results/{result['name']}.json has {len(found)} rows with {where}, not one")
    return found[0]


def stamp(draw: Callable) -> str:
    """The small print on a figure: its inputs, and the command that draws it."""
    sources = ", ".join(Path(path).name.removesuffix(".json") for path in draw.inputs)
    return f"{sources}  \N{RIGHTWARDS ARROW}  python -m poster {draw.__name__}"


def drawn(draw: Callable):
    """The figure at true size, with its stamp."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(draw.size[0] * MM, draw.size[1] * MM), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.05)
    draw(figure, *map(read, draw.inputs))
    figure.supxlabel(stamp(draw), x=0, ha="left", fontsize=SMALLEST, color=MUTED)
    for _ in range(3):  # axes of equal aspect move while they are drawn, until the layout settles
        figure.draw_without_rendering()
    return figure


drawn = styled(drawn, STYLE)


def svg(draw: Callable) -> bytes:
    """The figure as SVG without dates and random ids: the same inputs give the same bytes."""
    data = io.BytesIO()
    about = {"Title": f"MUSE poster: {draw.__name__}", "Description": stamp(draw), "Date": None, "Creator": None}
    drawn(draw).savefig(data, format="svg", metadata=about)
    return data.getvalue()


svg = styled(svg, STYLE)
