"""The poster shows what the results say, legibly, and refuses sentences that they no longer support."""

import json
import re
import shutil

import pytest
from matplotlib.text import Text

import poster.__main__ as poster
from musekit.config import MuseError
from poster import facts, sheet

SOURCE = (poster.FOLDER / "poster.typ").read_text()


def test_no_result_changed_since_the_poster_was_built(capsys):
    assert poster.main(["--check"]) == 0, capsys.readouterr().out


@pytest.mark.long
def test_a_rebuild_gives_the_same_figures_and_one_page_of_a0(tmp_path):
    from PIL import Image

    poster.build(tmp_path)
    for path in (tmp_path / "figures").iterdir():
        assert path.read_bytes() == (poster.FOLDER / "figures" / path.name).read_bytes(), f"{path.name}: make poster"
    box = re.search(rb"/MediaBox\s*\[\s*0 0 ([\d.]+) ([\d.]+)\s*\]", (tmp_path / "poster.pdf").read_bytes())
    assert [round(float(x) / 72 * 25.4) for x in box.groups()] == [1189, 841]
    with Image.open(tmp_path / "poster.png") as image:
        assert abs(image.width / image.height - 1189 / 841) < 1e-3 and image.width > 3000


def shown(figure) -> list[Text]:
    """The texts that are drawn: not empty, not hidden, and no tick label beyond its axis."""
    beyond = set()
    for axes in figure.axes:
        for k, (axis, limits) in enumerate(((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim()))):
            for label in axis.get_ticklabels(which="both"):
                if not min(limits) <= label.get_position()[k] <= max(limits):
                    beyond.add(label)
    return [t for t in figure.findobj(Text) if t.get_text().strip() and t.get_visible() and t not in beyond]


@pytest.mark.parametrize("name", poster.FIGURES)
def test_text_is_large_and_inside_its_figure(name):
    draw = poster.FIGURES[name]
    drawn = sheet.drawn(draw)
    drawn.draw_without_rendering()
    edge, texts = drawn.bbox, shown(drawn)
    assert sheet.stamp(draw) in {t.get_text() for t in texts}
    assert not [t.get_text() for t in texts if t.get_fontsize() < sheet.SMALLEST]
    for text in texts:
        box = text.get_window_extent()
        inside = box.x0 > edge.x0 - 2 and box.x1 < edge.x1 + 2 and box.y0 > edge.y0 - 2 and box.y1 < edge.y1 + 2
        assert inside, f"{text.get_text()!r} is cut: {box}"


def test_the_sheet_has_every_figure_every_fact_and_no_number_of_its_own():
    assert sorted(re.findall(r'\bfig\("(\w+)"', SOURCE)) == sorted(poster.FIGURES)
    assert set(re.findall(r"\bfacts\.(\w+)", SOURCE)) == set(facts.facts())
    words = re.findall(r"\[([^\[\]#]*)\]", SOURCE)  # set as it is written
    assert not [n for text in words for n in re.findall(r"\b\d+(?:\.\d+)?\s?(?:%|×|x\b|s\b|h\b)", text)]
    assert min(float(x) for x in re.findall(r"([\d.]+)pt\b", SOURCE)) >= sheet.SMALLEST


def test_missing_results_false_sentences_and_unknown_figures_are_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sheet, "ROOT", tmp_path)
    (tmp_path / "musekit").symlink_to(poster.FOLDER.parent / "musekit")
    results = shutil.copytree(poster.FOLDER.parent / "results", tmp_path / "results")
    path = results / "regression.json"
    content = json.loads(path.read_text())
    for row in content["rows"]:
        if row["measure"] == "mean" and row["name"] == "regression_to_nearest":
            row |= {"mean": 0.1, "low": 0.09, "high": 0.11}
    path.write_text(json.dumps(content))
    with pytest.raises(MuseError, match=r"regression.json does not say that .* regression"):
        facts.facts()
    assert poster.main(["--check"]) == 1 and "results/regression.json" in capsys.readouterr().out
    (results / "diversity.json").unlink()
    assert poster.main(["diversity", "--out", str(tmp_path / "out")]) == 2
    missing = "poster: results/diversity.json is missing; make it: musekit eval one-to-many --split test\n"
    assert capsys.readouterr().err == missing
    assert not list(tmp_path.glob("out/**/*.*")) and poster.main(["diversty"]) == 2
    assert "diversity" in capsys.readouterr().err
