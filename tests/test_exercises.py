"""The notebooks' exercises: each solution passes its check, each planted wrong answer fails, `...` does neither.

`probed` adds these trials to a notebook that `test_notebooks` runs anyway.
"""

import ast
import re
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from musekit.show.exercise import UNANSWERED, check

ROOT = Path(__file__).resolve().parent.parent
BOOKS = ("01", "02", "03", "04")  # notebooks with exercises
CELLS, LEAST, OPEN = 45, 3, 1  # cells at most; exercises with a check in each; open ones in all, at least
SOLUTION = re.compile(r"<details><summary>Solution</summary>\n\n```python\n(.*?)```\n.*</details>", re.DOTALL)
GOOD = "<details><summary>What a good answer looks like</summary>"
# Run below an exercise's check: in the notebook's own names, then `...` again, so that the rest runs as committed.
TRIAL = """
for _wrong in {wrong!r}:
    exec(_wrong, globals())
    try:
        exec({check!r}, globals())
    except ValueError:
        continue
    raise AssertionError("taken for right: " + _wrong)
exec({solution!r}, globals())
exec({check!r}, globals())
exec({answer!r}, globals())
"""


def tags(cell: nbformat.NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


def exercises(notebook: nbformat.NotebookNode) -> list[tuple[int, dict[str, object]]]:
    """(index of the check cell, {"answer", "check", "solution", "wrong"}) of each exercise with a check."""
    found, cells = [], notebook.cells
    for i, cell in enumerate(cells):
        if "exercise" in tags(cell) and "open" not in tags(cell):
            # between them may stand cells with the inputs
            at = next(k for k in range(i, len(cells)) if "answer" in tags(cells[k]))
            answer, below = cells[at : at + 2]
            assert "check" in tags(below), cell.source
            solution = SOLUTION.search(cell.source)
            assert solution, f"no folded solution: {cell.source}"
            one = {"answer": answer.source, "check": below.source, "solution": solution[1]}
            found.append((at + 1, one | {"wrong": list(answer.metadata["wrong"])}))
    return found


def probed(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The notebook with a trial of its wrong answers and of its solution below each check."""
    for i, exercise in reversed(exercises(notebook)):
        notebook.cells.insert(i + 1, new_code_cell(TRIAL.format(**exercise)))
    return notebook


def assigned(code: str) -> set[str]:
    targets = [t for node in ast.parse(code).body if isinstance(node, ast.Assign) for t in node.targets]
    return {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}


def sound(notebook: nbformat.NotebookNode, at_least: int) -> None:
    """Assert the form of a notebook's exercises."""
    found = exercises(notebook)
    assert len(found) >= at_least
    for _, one in found:
        blanks = ast.parse(one["answer"]).body
        assert all(isinstance(node, ast.Assign) and ast.unparse(node.value) == "..." for node in blanks)
        assert len(one["wrong"]) >= 2 and all(assigned(wrong) for wrong in one["wrong"])
        assert assigned(one["answer"]) <= assigned(one["solution"]), "the solution leaves a blank"
    for cell in notebook.cells:
        assert "open" not in tags(cell) or GOOD in cell.source


def test_the_notebooks_have_exercises_and_are_short():
    books = [nbformat.read(path, 4) for n in BOOKS for path in (ROOT / "notebooks").glob(f"{n}_*.ipynb")]
    for book in books:
        sound(book, LEAST)
        assert len(book.cells) <= CELLS and "At the end you will know" in book.cells[0].source
    assert len(books) == len(BOOKS) and sum("open" in tags(c) for book in books for c in book.cells) >= OPEN


def small(wrong: tuple[str, ...] = ("n = 3", "n = 'two'"), right: str = "n = 2") -> nbformat.NotebookNode:
    task = f"Two?\n\n<details><summary>Solution</summary>\n\n```python\n{right}\n```\n\nCount.\n</details>"
    told = "check(n, 2.0, 'count')"
    cells = [
        new_markdown_cell(task, metadata={"tags": ["exercise"]}),
        new_code_cell("n = ...", metadata={"tags": ["answer"], "wrong": list(wrong)}),
        new_code_cell(told, metadata={"tags": ["check"]}),
    ]
    return new_notebook(cells=cells)


def run(notebook: nbformat.NotebookNode) -> dict:
    names = {"check": check}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            exec(cell.source, names)
    return names


def test_a_trial_sees_what_is_accepted_wrongly_and_refused_wrongly(capsys):
    good = small()
    sound(good, 1)
    assert run(probed(good))["n"] is ... and capsys.readouterr().out == f"{UNANSWERED}\nright\n"
    with pytest.raises(AssertionError, match="taken for right: n = 2.01"):
        run(probed(small(("n = 3", "n = 2.01"))))
    with pytest.raises(ValueError, match="not yet: count"):
        run(probed(small(right="n = 5")))
    with pytest.raises(AssertionError, match="leaves a blank"):
        sound(small(right="m = 2"), 1)


def test_an_answer_is_a_number_a_value_or_a_function(capsys):
    check(..., 1.0, "", measured=3.0, unit="ms")
    check(1.01, 1.0, "", measured=3.0, unit="ms")
    check({"a"}, {"a"}, "")
    check(lambda x: 2 * x, lambda f: f(2) == 4, "")
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"{UNANSWERED}; measured: 3 ms", "right: 1.01 ms; measured: 3 ms", "right", "right"]
    wrong = ((1.03, 1.0), ("1", 1.0), ({"b"}, {"a"}), (lambda x: x, lambda f: f(2) == 4), (2, lambda f: f(2)))
    for answer, right in wrong:
        with pytest.raises(ValueError, match="look again"):
            check(answer, right, "look again")
