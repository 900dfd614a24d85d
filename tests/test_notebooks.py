"""The five notebooks: executed in order and cleanly as committed, and each still runs with tiny random weights.

Claims about quality hold for trained weights only: the notebooks check them `if trained` or `if not smoke`.
"""

import ast
import os
import re
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from test_exercises import probed

from run_notebooks import WIDGET_VIEW, execute, problems, run_one, set_parameters

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = {path.stem[:2]: path for path in sorted((ROOT / "notebooks").glob("*.ipynb"))}
SMOKE = {  # parameters beside `weights`
    "01": {"smoke": True},
    "02": {"smoke": True, "n_samples": 8},
    "03": {"smoke": True},
    "04": {"smoke": True},
    "05": {"n": 2, "seconds": 1.0, "steps": 2, "points": 12, "stops": 3},
}
each = pytest.mark.parametrize("number", sorted(SMOKE))
SOUNDS = re.compile(r'<audio [^>]*src="data:audio/[\w-]+;base64,[A-Za-z0-9+/]{1000,}')


def committed(number: str) -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOKS[number], as_version=4)


@each
def test_what_is_committed_was_executed_cleanly_in_full(number: str):
    content, notebook = NOTEBOOKS[number].read_bytes(), committed(number)
    assert problems(notebook, len(content)) == [] and "Warning:" not in content.decode()
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    nodes = ast.parse(code[0].source).body
    values = {target.id: ast.literal_eval(node.value) for node in nodes for target in node.targets}
    assert values["weights"] == "mini" and not values.get("smoke", False)
    html = [output.get("data", {}).get("text/html", "") for cell in code for output in cell.outputs]
    assert number == "04" or any(SOUNDS.search(text) for text in html), "nothing to hear without a kernel"
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            for target in re.findall(r"\]\((?!https?:|#|attachment:)([^)#\s]+)", cell.source):
                assert (NOTEBOOKS[number].parent / target).exists(), target


@pytest.fixture(scope="module")
def weights(smoke_weights, tmp_path_factory) -> Path:
    """Random smoke weights with a reference: the packaged clips' records and embeddings under this embedder's name."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    from musekit.heldout import FILE
    from musekit.pretrained import WEIGHTS, read_hashes

    folder = tmp_path_factory.mktemp("notebooks") / "smoke"
    folder.mkdir()
    for path in smoke_weights.iterdir():
        os.link(path, folder / path.name)
    with safe_open(WEIGHTS / "mini" / FILE, framework="pt") as file:
        tensors, about = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    save_file(tensors, folder / FILE, metadata=about | {"embedder": read_hashes(folder)["embedder"]})
    return folder


@each
def test_a_notebook_runs(number: str, weights: Path, monkeypatch, tmp_path):
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    notebook = committed(number)
    set_parameters(notebook, {"weights": str(weights)} | SMOKE[number])
    notebook = probed(notebook)
    execute(notebook, NOTEBOOKS[number].parent)
    printed = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not [output.text for output in printed if output.get("name") == "stderr"]


def book(*cells: nbformat.NotebookNode, check: str = "assert n") -> nbformat.NotebookNode:
    """Its parameters, these cells, and a check."""
    code = [cell for cell in cells if cell.cell_type == "code"]
    first = new_code_cell("n = 2  # how many", metadata={"tags": ["parameters"]}, execution_count=1)
    end = [new_markdown_cell("## Check"), new_code_cell(check, execution_count=2 + len(code))]
    return new_notebook(cells=[first, *cells, *end])


def cell(source: str, *outputs: nbformat.NotebookNode) -> nbformat.NotebookNode:
    return new_code_cell(source, execution_count=2, outputs=list(outputs))


@pytest.mark.parametrize(
    "notebook, problem",
    [
        (book(new_code_cell("x = 1", execution_count=7)), "execution counts"),
        (book(cell("\n".join("x = 1" for _ in range(21)))), "more than 20 lines"),
        (book(new_markdown_cell("saved in /home/me/runs")), "absolute path: /home/me"),
        (book(cell("1", new_output("error", ename="E", evalue="why"))), "why"),
        (book(cell("1", new_output("display_data", {WIDGET_VIEW: {}}))), "a widget"),
        (book(cell("1", new_output("stream", name="stderr", text="UserWarning: b"))), "UserWarning: b"),
        (book(check="print(n)"), "asserts what the notebook claims"),
        (new_notebook(cells=book().cells[1:]), "tagged `parameters`"),
    ],
)
def test_each_problem_is_named(notebook, problem: str):
    assert problem in " ".join(problems(notebook, size=1000))
    fine = cell(
        "print(1 / 2)", new_output("display_data", {"text/html": '<audio src="data:audio/ogg;base64,AA/tmp/xx==">'})
    )
    assert problems(book(fine), size=1000) == [] and "600 kB" in problems(book(), size=600_000)[0]


def test_execution_in_place_drops_widgets_and_keeps_a_failing_file(tmp_path, capfd):
    path = tmp_path / "01.ipynb"
    (tmp_path / "beside.txt").touch()  # a notebook runs in its own folder
    slider = cell("import ipywidgets\nfrom pathlib import Path\nipywidgets.IntSlider(value=n)")
    notebook = book(slider, cell("print(n * 21, Path('beside.txt').exists())"))
    set_parameters(notebook, {"n": 3})
    with pytest.raises(KeyError, match="steps"):
        set_parameters(notebook, {"steps": 1})
    nbformat.write(notebook, path)
    assert run_one(path, check_only=False) and capfd.readouterr().err == ""
    done = nbformat.read(path, as_version=4)
    assert "widgets" not in done.metadata and done.cells[1].outputs == []
    assert done.cells[2].outputs[0].text == "63 True\n" and run_one(path, check_only=True)
    done.cells[0].source = "n = None"
    nbformat.write(done, path)
    before = path.read_bytes()
    assert not run_one(path, check_only=False) and "a cell failed" in capfd.readouterr().err
    assert path.read_bytes() == before and sorted(p.name for p in tmp_path.iterdir()) == ["01.ipynb", "beside.txt"]
