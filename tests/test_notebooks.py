"""The five notebooks: what is committed was executed in order and without a word of warning, and each still runs.

The smoke run is a run with tiny random weights, `smoke = True` where a notebook has that parameter, and **every code
cell executed twice in a row**: a reader who runs a cell again must not meet an error. Claims about quality are not
checked there (the notebooks say `if trained` and `if not smoke`); everything that holds for any weights is.
"""

import ast
import json
import os
import re
from pathlib import Path

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError

from run_notebooks import each_twice, execute, problems, set_parameters

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = {path.stem[:2]: path for path in sorted((ROOT / "notebooks").glob("*.ipynb"))}
SMOKE = {  # parameters beside `weights`
    "01": {"smoke": True},
    "02": {"smoke": True, "n_samples": 8},
    "03": {"smoke": True},
    "04": {"smoke": True},
    "05": {"n": 2, "seconds": 1.0, "steps": 2, "points": 12, "stops": 3},
}
TURNED = "takes[0].audio = takes[0].audio + 1e-6\n"  # said before the check of 05, it makes a claim of it false
each = pytest.mark.parametrize("number", sorted(NOTEBOOKS))
SOUNDS = re.compile(r'<audio [^>]*src="data:audio/[\w-]+;base64,[A-Za-z0-9+/]{1000,}')


def committed(number: str) -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOKS[number], as_version=4)


def code(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_there_are_five():
    assert sorted(NOTEBOOKS) == sorted(SMOKE)


@each
def test_what_is_committed_was_executed_cleanly(number: str):
    """In order, no error, nothing on stderr, no machine's path, cells of at most 20 lines, a check at the end."""
    content = NOTEBOOKS[number].read_bytes()
    assert problems(nbformat.reads(content.decode(), as_version=4), len(content)) == []


@each
def test_no_warning_is_printed(number: str):
    for cell in code(committed(number)):
        for output in cell.outputs:
            assert "Warning" not in output.get("text", ""), cell.source


@pytest.mark.parametrize("number", ["01", "02", "03", "05"])
def test_there_is_something_to_hear_without_a_kernel(number: str):
    html = [output.get("data", {}).get("text/html", "") for cell in code(committed(number)) for output in cell.outputs]
    assert any(SOUNDS.search(text) for text in html)


@each
def test_only_trained_weights_and_full_settings_are_asked_for_quality(number: str):
    """What is committed was run in full: `smoke` is off in the parameters, and the weights are the packaged ones."""
    values = {
        target.id: ast.literal_eval(node.value)
        for node in ast.parse(code(committed(number))[0].source).body
        for target in node.targets
    }
    assert values["weights"] == "mini" and not values.get("smoke", False)


@each
def test_links_lead_somewhere(number: str):
    for cell in committed(number).cells:
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


@pytest.fixture
def kernel(monkeypatch, tmp_path):
    """What a kernel inherits, beside the session's home: its own IPython folder."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))


def run(number: str, weights: Path) -> None:
    """The notebook, executed in smoke mode in a new kernel."""
    notebook = committed(number)
    set_parameters(notebook, {"weights": str(weights)} | SMOKE[number])
    execute(notebook, NOTEBOOKS[number].parent)


@pytest.fixture(scope="module")
def twice(weights):
    """number -> (the notebook, every code cell executed twice in a new kernel, what stopped it), executed once.

    Below 05 stands its check once more, with one of its facts turned round.
    """
    done = {}

    def executed(number: str) -> tuple[nbformat.NotebookNode, CellExecutionError | None]:
        if number not in done:
            notebook = committed(number)
            set_parameters(notebook, {"weights": str(weights)} | SMOKE[number])
            notebook, error = each_twice(notebook), None
            if number == "05":
                notebook.cells.append(nbformat.v4.new_code_cell(TURNED + code(notebook)[-1].source))
            try:
                execute(notebook, NOTEBOOKS[number].parent)
            except CellExecutionError as stopped:
                error = stopped
            done[number] = notebook, error
        return done[number]

    return executed


@each
def test_every_cell_runs_twice(number: str, twice, kernel):
    done, error = twice(number)
    assert error is None or (number == "05" and code(done)[-1].outputs), error
    cells = code(done)[: 2 * len(code(committed(number)))]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not [o for cell in cells for o in cell.outputs if o.output_type == "error"]
    said = [o.text for cell in cells for o in cell.outputs if o.get("name") == "stderr"]
    assert not said, said


def test_a_restarted_kernel_finds_what_the_last_one_left(weights: Path, kernel):
    """Notebook 1 keeps a corpus under MUSEKIT_HOME: a second kernel, which finds it there, runs through as well."""
    from musekit.config import home

    if not (home() / "caches" / "notebook-01").exists():  # this test alone was asked for
        run("01", weights)
    before = (home() / "caches" / "notebook-01" / "clips.jsonl").read_bytes()
    run("01", weights)
    assert (home() / "caches" / "notebook-01" / "clips.jsonl").read_bytes() == before
    left = [p.name for p in (home() / "caches").glob("notebook-01-*")]
    assert left == [], "the notebook tidies up"


def test_a_false_claim_stops_a_notebook(twice, kernel):
    """The check at the end is alive: with one of its facts turned round, execution ends in an AssertionError there."""
    done, error = twice("05")
    assert error is not None and error.ename == "AssertionError"
    check = code(done)[-1]
    assert check.source == TURNED + code(committed("05"))[-1].source
    assert json.loads(json.dumps(check))["outputs"][-1]["ename"] == "AssertionError"
