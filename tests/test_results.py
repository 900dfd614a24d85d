"""Results name the code and weights that made them; pages say so, and no two pages give two numbers for one thing."""

import json
import re
from pathlib import Path

import pytest

import tables
from musekit.config import MuseError
from musekit.evaluate.study import opened
from musekit.results import code_hash, faults, summary, write_result
from musekit.runs import provenance
from poster.facts import facts

ROOT = Path(__file__).resolve().parent.parent


def package(folder: Path, **files: str) -> Path:
    """A folder with a package `house` of these modules."""
    for name, text in {"__init__": "", "noise": "", **files}.items():
        path = folder / "house" / f"{name.replace('.', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


BASE = {"a": "from house.b import f\nx = f()", "b": "def f():\n    from house import c\n    return c.y", "c": "y = 1"}


@pytest.mark.parametrize(
    "change, same",
    [
        ({"c": "y = 2"}, False),  # imported in a function of an imported module
        ({"noise": "z = 1"}, True),  # never imported
        ({"c": "import json, torch\ny = 1"}, False),
        ({"c": '"""A note."""\n\n# why\ny = 1'}, True),
        ({"b": BASE["b"].replace("    return", '    """Doc."""\n    return')}, True),
        ({"c": "from . import d\ny = 1", "d": "w = 1"}, False),
    ],
)
def test_the_hash_of_code_is_that_of_what_is_imported(tmp_path, change, same):
    before = code_hash("house.a", package(tmp_path / "before", **BASE))
    after = code_hash("house.a", package(tmp_path / "after", **{**BASE, **change}))
    assert (before == after) is same and before and code_hash("house.none", tmp_path / "before") == ""


def test_stale_results_are_listed(tmp_path):
    weights, module = {"stage1": "a" * 64, "stage2": "b" * 64}, "musekit.evaluate.codec"
    good = {"time": "2026-01-02T00:00:00Z", "commit": "c" * 40, "dirty": False, "module": module}
    good |= {"code": code_hash(module), "weights": {"stage1": "a" * 16}}
    assert faults(good, weights) == []
    planted = {
        "made on a dirty tree": {"dirty": True},
        "the code has changed": {"code": "0" * 16},
        "made with other weights": {"weights": {"stage2": "0" * 16}},
        "names no code": {"code": ""},
    }
    for i, (said, fault) in enumerate(planted.items()):
        assert faults(good | fault, weights) == [said]
        (tmp_path / f"{i}.json").write_text(json.dumps({"name": str(i), "provenance": good | fault, "rows": []}))
    assert [row["state"] for row in summary(tmp_path, weights)] == list(planted)
    (tmp_path / "0.json").write_text('{"provenance": {"time": "2026-01-02", "dirty": false, "code": "0"}}')
    assert summary(tmp_path, weights)[0]["state"] == "the code has changed"
    for odd in ({}, {"provenance": 5}, {"provenance": {"time": 5}}, {"provenance": good | {"weights": {"stage1": 5}}}):
        (tmp_path / "0.json").write_text(json.dumps(odd))
        assert opened(tmp_path / "0.json") == 0
        with pytest.raises(MuseError, match="0.json cannot be read"):
            summary(tmp_path, weights)
    about = json.loads(write_result("codec", [{"x": 1}], tmp_path, module).read_text())["provenance"]
    assert about["code"] == code_hash(module) and "the code has changed" not in faults(about, weights)
    assert provenance().keys() >= {"command", "versions", "hardware", "time"}


# Of what pages may state one number only: {quantity: (patterns with the number as their group, the poster's name)}.
QUANTITIES = {
    "right answers to vague prompts inside the radius, %": (
        [r"of the samples holds (\d+) % and \d+ % of the right", r"to a vague prompt holds (\d+) % of the real clips"],
        "inside",
    ),
    "right answers to specific prompts inside the radius, %": ([r"(\d+) % of those to a specific"], None),
    "Stage 1's samples": ([r"as Stage 1 \(([\d,]+)\)", r"\| stage1 \| \d+ \| ([\d,]+) \|"], None),
    "speed with bfloat16": ([r"(\d+) times faster than it plays on two server cores"], "real_time"),
    "clips of the training split": (
        [r"\| clips \| ([\d,]+) \|", r"\| stage\d \| \d+ \| [\d,]+ \| \d+ \| ([\d,]+) \|"],
        None,
    ),
}


def test_numbers_that_were_typed_into_prose_are_those_of_the_files():
    near = "memorisation, beside held-out originals: pieces within 0.15 of a training clip"
    copies = tables.one("memorisation", name=near)
    continued, repainted, *without = (r["auc"] for r in tables.rows("music", measure="seams"))
    groups = [r["accuracy"] for r in tables.rows("prompts", source="generated") if r.get("of")]
    long = [r for r in tables.rows("music", measure="music") if r["source"].endswith("in controls, 47.55 s")]
    long = [r["mean"] for r in long if r["name"].startswith(("chords: root", "melody"))]
    for page, pattern, values in (
        ("README.md", r"(\d+) of (\d+) pieces lies as near", [copies["value"], copies["n"]]),
        ("docs/results.md", r"(\d+) of (\d+) pieces lies within 0.15", [copies["value"], copies["n"]]),
        ("docs/results.md", r"area under the curve ([\d.]+); .* repainted ones \(([\d.]+)\)", [continued, repainted]),
        ("docs/results.md", r"without training for it, ([\d.]+) and ([\d.]+)\.", without),
        ("docs/results.md", r"named in ([\d.]+) of 96 pieces, both instruments of a duet in ([\d.]+) of 40", groups),
        ("docs/results.md", r"chords in ([\d.]+); tunes \(([\d.]+)\) .* only \(([\d.]+)\)\.", long),
    ):
        [found] = re.findall(pattern, re.sub(r"\s+", " ", (ROOT / page).read_text()))
        found = [found] if isinstance(found, str) else found
        assert [float(x) for x in found] == [round(v, len(x.partition(".")[2])) for x, v in zip(found, values)], pattern


def said(text: str) -> dict[str, set[str]]:
    """{quantity: the numbers that a text states for it}."""
    text = re.sub(r"\s+", " ", re.sub(r"[*_]", "", text))
    return {name: {n for p in patterns for n in re.findall(p, text)} for name, (patterns, _) in QUANTITIES.items()}


def notebook(path: Path) -> str:
    """The prose and the printed outputs of a notebook."""
    text = []
    for cell in json.loads(path.read_text())["cells"]:
        text += cell["source"] if cell["cell_type"] == "markdown" else []
        for output in cell.get("outputs", []):
            text += output.get("text", []) + output.get("data", {}).get("text/plain", [])
    return " ".join(text)


def test_no_two_pages_state_two_numbers_for_one_quantity():
    texts = {path: path.read_text() for path in tables.PAGES}
    texts |= {path: notebook(path) for path in (ROOT / "notebooks").glob("*.ipynb")}
    pages = {str(path.relative_to(ROOT)): said(text) for path, text in texts.items()}
    pages["poster"] = {name: {facts()[fact]} if fact else set() for name, (_, fact) in QUANTITIES.items()}
    found = {name: {page: numbers[name] for page, numbers in pages.items() if numbers[name]} for name in QUANTITIES}
    assert all(found.values()), "a pattern finds nothing: did its sentence change?"
    assert not {name: by for name, by in found.items() if len(set().union(*by.values())) > 1}
    assert said("9 times faster than it plays on two\nserver *cores*")["speed with bfloat16"] == {"9"}


def test_every_timed_row_says_what_ran():
    """Of results that name their code; older files are listed as stale."""
    for path in (ROOT / "results").glob("bench*.json"):
        content = json.loads(path.read_text())
        if content["provenance"].get("code"):
            for row in content["rows"]:
                assert {"steps", "nfe", "dtype", "instructions", "load"} <= row.keys(), (path.name, row)
