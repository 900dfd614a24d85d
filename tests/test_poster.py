"""The poster shows what the results say: inputs unchanged since it was built, the same bytes when built again."""

import json
import re
import shutil
from importlib import import_module
from pathlib import Path

import pytest
from matplotlib.text import Text

import poster.__main__ as poster
from musekit.config import MuseError
from poster import facts, sheet

MANIFEST = json.loads((poster.FOLDER / "manifest.json").read_text())
SCRIPTS = {p.stem for p in (poster.FOLDER / "figures").glob("*.py")} - {"__init__"}


def figure(name: str):
    module = import_module(f"poster.figures.{name}")
    return module, sheet.draw_figure(name, module, sheet.Inputs())


def test_nothing_changed_since_the_poster_was_built():
    found = poster.stale()
    assert not found, "run `make poster`: " + "; ".join(found)


def test_what_is_switched_off_has_no_result_yet():
    assert set(poster.OFF) <= set(poster.FIGURES) == SCRIPTS
    for name, path in poster.OFF.items():
        assert not (sheet.ROOT / path).exists(), f"{path} exists now: take {name} out of poster.OFF, run `make poster`"


@pytest.fixture(scope="module")
def rebuilt(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("poster")
    poster.build(sheet.Inputs(), out)
    return out


def files(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in MANIFEST["outputs"]}


def test_a_rebuild_has_the_same_bytes(rebuilt, tmp_path):
    """As those in the checkout where they were drawn by the same versions, and else as another rebuild."""
    if poster.versions() == MANIFEST["versions"] and not poster.stale():
        before = files(poster.FOLDER)
    else:
        poster.build(sheet.Inputs(), tmp_path)
        before = files(tmp_path)
    after = files(rebuilt)
    assert [name for name in before if before[name] != after[name]] == []


def test_the_sheet_is_one_page_of_a0(rebuilt):
    from PIL import Image

    pdf = (rebuilt / "poster.pdf").read_bytes()
    boxes = re.findall(rb"/MediaBox\s*\[\s*0 0 ([\d.]+) ([\d.]+)\s*\]", pdf)
    assert [tuple(round(float(x) / 72 * 25.4) for x in box) for box in boxes] == [(1189, 841)]
    with Image.open(rebuilt / "poster.png") as image:
        assert abs(image.width / image.height - 1189 / 841) < 1e-3 and image.width > 3000


def shown(figure) -> list[Text]:
    """The texts that are drawn: not empty, not hidden, and no label of a tick beyond its axis."""
    beyond = set()
    for axes in figure.axes:
        for k, (axis, limits) in enumerate(((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim()))):
            for label in axis.get_ticklabels(which="both"):
                if not min(limits) <= label.get_position()[k] <= max(limits):
                    beyond.add(label)
    return [t for t in figure.findobj(Text) if t.get_text().strip() and t.get_visible() and t not in beyond]


@pytest.mark.parametrize("name", poster.ON)
def test_letters_are_large_and_inside_their_figure(name):
    module, drawn = figure(name)
    drawn.draw_without_rendering()
    edge, texts = drawn.bbox, shown(drawn)
    assert sheet.stamp(name, module) in {t.get_text() for t in texts}  # its inputs and its command, on its face
    small = [t.get_text() for t in texts if t.get_fontsize() < sheet.SMALLEST]
    assert not small, f"under {sheet.SMALLEST} pt: {small}"
    for text in texts:
        box = text.get_window_extent()
        inside = box.x0 > edge.x0 - 2 and box.x1 < edge.x1 + 2 and box.y0 > edge.y0 - 2 and box.y1 < edge.y1 + 2
        assert inside, f"{text.get_text()!r} is cut: {box}"


def test_letters_of_the_sheet_are_large():
    sizes = [float(x) for x in re.findall(r"([\d.]+)pt\b", (poster.FOLDER / "poster.typ").read_text())]
    assert len(sizes) > 8 and min(sizes) >= sheet.SMALLEST


def test_the_sheet_has_every_figure_and_no_other():
    shown = re.findall(r'\bfig\("(\w+)"', (poster.FOLDER / "poster.typ").read_text())
    assert sorted(shown) == sorted(poster.FIGURES)


def test_every_fact_is_shown_and_every_number_is_a_fact():
    source = (poster.FOLDER / "poster.typ").read_text()
    told = facts.facts(sheet.Inputs().read, poster.ON)
    assert set(re.findall(r"\bfacts\.(\w+)", source)) == set(told)
    words = re.findall(r"\[([^\[\]#]*)\]", source)  # what is set as it is written
    typed = [number for text in words for number in re.findall(r"\b\d+(?:\.\d+)?\s?(?:%|×|x\b|s\b|h\b)", text)]
    assert typed == []


@pytest.fixture
def results(tmp_path) -> Path:
    """A copy of the results, to break."""
    return Path(shutil.copytree(sheet.ROOT / "results", tmp_path / "results"))


def test_a_missing_result_names_its_command(results, tmp_path, capsys):
    (results / "diversity.json").unlink()
    words = ["diversity", "--results", str(results), "--out", str(tmp_path / "out")]
    assert poster.main(words) == 2
    assert capsys.readouterr().err == "poster: results/diversity.json is missing; make it: musekit eval diversity\n"
    assert not list(tmp_path.glob("out/**/*.*"))


def test_a_sentence_that_the_results_no_longer_support_is_refused(results):
    path = results / "regression.json"
    content = json.loads(path.read_text())
    for row in content["rows"]:
        if row["measure"] == "mean" and row["name"] == "regression_to_nearest":
            row |= {"mean": 0.1, "low": 0.09, "high": 0.11}
    path.write_text(json.dumps(content))
    with pytest.raises(MuseError, match=r"regression.json does not say that .* regression"):
        facts.facts(sheet.Inputs(results).read)


def test_a_figure_reads_only_what_it_names(monkeypatch):
    module = import_module("poster.figures.diversity")
    monkeypatch.setattr(module, "INPUTS", ("results/regression.json",))
    with pytest.raises(MuseError, match="which its INPUTS do not name"):
        sheet.draw_figure("diversity", module, sheet.Inputs())


def test_an_unknown_figure_is_told_the_right_name(capsys):
    assert poster.main(["diversty"]) == 2
    assert "diversity" in capsys.readouterr().err


def test_a_changed_input_is_noticed(rebuilt, monkeypatch, capsys):
    assert poster.stale(rebuilt) == []
    content = json.loads((rebuilt / "manifest.json").read_text())
    content["inputs"]["results/diversity.json"] = "0" * 64
    (rebuilt / "manifest.json").write_text(json.dumps(content))
    assert poster.main(["--check", "--out", str(rebuilt)]) == 1
    assert "results/diversity.json has changed since the poster was built" in capsys.readouterr().out
