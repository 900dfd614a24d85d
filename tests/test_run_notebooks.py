"""scripts/run_notebooks.py executes in place, keeps no widget state, and finds what may not be committed."""

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from run_notebooks import WIDGET_VIEW, each_twice, execute, parse_value, problems, run_one, set_parameters


def parameters(source: str = "n = 2") -> nbformat.NotebookNode:
    return new_code_cell(source, metadata={"tags": ["parameters"]}, execution_count=1)


def check(number: int | None = None) -> list[nbformat.NotebookNode]:
    return [new_markdown_cell("## Check\nWhat was claimed."), new_code_cell("assert n", execution_count=number)]


def notebook(*cells: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """A question, its parameters, these cells, and a check."""
    end = check(2 + sum(cell.cell_type == "code" for cell in cells))
    return new_notebook(cells=[new_markdown_cell("# A question"), parameters(), *cells, *end])


def test_a_clean_notebook_has_no_problems():
    shown = new_output("display_data", {"text/html": '<audio src="data:audio/ogg;base64,AA/tmp/xx==">'})
    cell = new_code_cell("print(1 / 2, 'runs/tmp/x')", execution_count=2, outputs=[shown])
    assert problems(notebook(cell), size=1000) == []


@pytest.mark.parametrize(
    "cell, problem",
    [
        (new_code_cell("x = 1", execution_count=7), "execution counts"),
        (new_code_cell("x = 1"), "execution counts"),
        (new_code_cell("\n".join("x = 1" for _ in range(21)), execution_count=2), "more than 20 lines"),
        (new_code_cell("class A:\n    pass", execution_count=2), "class"),
        (new_markdown_cell("saved in /home/me/runs"), "absolute path: /home/me"),
        (new_markdown_cell("saved in C:\\music"), "absolute path"),
        (
            new_code_cell("1", execution_count=2, outputs=[new_output("stream", text="wrote /tmp/x.wav")]),
            "absolute path: /tmp/x.wav",
        ),
        (
            new_code_cell("1", execution_count=2, outputs=[new_output("error", ename="E", evalue="why")]),
            "ended in E: why",
        ),
        (
            new_code_cell("1", execution_count=2, outputs=[new_output("display_data", {WIDGET_VIEW: {}})]),
            "widget's view",
        ),
        (
            new_code_cell(
                "1", execution_count=2, outputs=[new_output("stream", name="stderr", text="a\nUserWarning: b")]
            ),
            "stderr: UserWarning: b",
        ),
    ],
)
def test_each_problem_is_named(cell: nbformat.NotebookNode, problem: str):
    found = problems(notebook(cell), size=1000)
    assert len(found) == 1 and problem in found[0], found


@pytest.mark.parametrize("end", [[], check(2)[:1], [check(2)[0], new_code_cell("print(n)", execution_count=2)]])
def test_a_notebook_without_a_check_is_refused(end):
    book = new_notebook(cells=[parameters(), *end])
    assert any("asserts what the notebook claims" in problem for problem in problems(book, size=1000))


def test_each_cell_twice(tmp_path):
    """A cell that may run only once is found; one that may not is executed twice, prose once."""
    cells = [parameters(), new_markdown_cell("prose"), new_code_cell("n = n + 1\nprint(n)")]
    doubled = each_twice(new_notebook(cells=cells))
    assert [c.cell_type for c in doubled.cells] == ["code", "code", "markdown", "code", "code"]
    execute(doubled, tmp_path)
    assert [c.outputs[0].text for c in doubled.cells[3:]] == ["3\n", "4\n"]
    nbformat.validate(doubled)
    once = new_notebook(cells=[new_code_cell("del once"), *cells])
    once.cells[0].source = "once = 1 if 'n' not in dir() else once\nn = 0\ndel once"
    with pytest.raises(CellExecutionError, match="NameError"):
        execute(each_twice(once), tmp_path)


def test_size_state_and_parameters_are_checked():
    book = new_notebook(cells=[new_code_cell("x = 1", execution_count=1)], metadata={"widgets": {}})
    found = " | ".join(problems(book, size=600_000))
    assert "600 kB" in found and "widget state" in found and "tagged `parameters`" in found


def test_parameters_are_set_by_name():
    book = notebook()
    book.cells[1].source = "n = 2  # how many\nname = 'a'"
    set_parameters(book, dict(map(parse_value, ["n=3", "name=b c"])))
    assert book.cells[1].source == "n = 3\nname = 'b c'"
    with pytest.raises(KeyError, match="steps"):
        set_parameters(book, {"steps": 1})


def test_execution_in_place_drops_widgets_and_keeps_a_failing_file(tmp_path, capfd):
    book = new_notebook(
        cells=[
            parameters(),
            new_code_cell("import ipywidgets\nfrom pathlib import Path\nipywidgets.IntSlider(value=n)"),
            new_code_cell("print(n * 21, Path('beside.txt').exists())"),
            *check(),
        ]
    )
    path = tmp_path / "01.ipynb"
    (tmp_path / "beside.txt").touch()  # a notebook runs in its own folder
    nbformat.write(book, path)
    assert run_one(path, check_only=False, values={})
    assert capfd.readouterr().err == "", "a kernel has nothing to say but what the notebook prints"
    done = nbformat.read(path, as_version=4)
    assert "widgets" not in done.metadata and done.cells[1].outputs == []
    assert done.cells[2].outputs[0].text == "42 True\n"
    assert run_one(path, check_only=True, values={})

    before = path.read_bytes()
    assert not run_one(path, check_only=False, values={"n": None})
    assert path.read_bytes() == before
    assert "a cell failed" in capfd.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["01.ipynb", "beside.txt"]
