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

BOOKS = sorted((Path(__file__).resolve().parent.parent / "notebooks").glob("0[1-5]_*.ipynb"))
CELLS, LEAST, OPEN = 45, 3, 2  # cells at most; exercises with a check in each; open ones in all
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


def tagged(cell: nbformat.NotebookNode, tag: str) -> bool:
    return tag in cell.metadata.get("tags", [])


def exercises(cells: list[nbformat.NotebookNode]) -> list[tuple[int, dict[str, object]]]:
    """(index of the check cell, {"answer", "check", "solution", "wrong"}) of each exercise with a check."""
    found = []
    for i, cell in enumerate(cells):
        if tagged(cell, "exercise") and not tagged(cell, "open"):
            at = next(k for k in range(i, len(cells)) if tagged(cells[k], "answer"))  # behind inputs, if any
            answer, below = cells[at : at + 2]
            assert tagged(below, "check"), cell.source
            one = {"answer": answer.source, "check": below.source, "solution": SOLUTION.search(cell.source)[1]}
            found.append((at + 1, one | {"wrong": list(answer.metadata["wrong"])}))
    return found


def probed(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The notebook with a trial of its wrong answers and of its solution below each check."""
    for i, exercise in reversed(exercises(notebook.cells)):
        notebook.cells.insert(i + 1, new_code_cell(TRIAL.format(**exercise)))
    return notebook


def assigned(code: str) -> set[str]:
    nodes = list(ast.walk(ast.parse(code)))
    functions = {n.name for n in nodes if isinstance(n, ast.FunctionDef)}
    return functions | {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}


def test_the_notebooks_have_exercises_and_are_short():
    books = [nbformat.read(path, 4) for path in BOOKS]
    for book in books:
        found = exercises(book.cells)
        assert len(found) >= LEAST and len(book.cells) <= CELLS
        assert all(f"**{part}" in book.cells[0].source for part in ("At the end you will know", "It takes", "It needs"))
        for _, one in found:
            assert all(ast.unparse(node.value) == "..." for node in ast.parse(one["answer"]).body)
            assert len(one["wrong"]) >= 2 and assigned(one["answer"]) <= assigned(one["solution"])
    told = [c.source for book in books for c in book.cells if tagged(c, "open")]
    assert len(books) == 5 and len(told) >= OPEN and all(GOOD in text for text in told)


def tried(wrong: tuple[str, ...] = ("n = 3", "n = 'two'"), right: str = "n = 2") -> object:
    """What `n` is after a probed notebook of one exercise."""
    task = f"Two?\n\n<details><summary>Solution</summary>\n\n```python\n{right}\n```\n\nCount.\n</details>"
    cells = [new_markdown_cell(task, metadata={"tags": ["exercise"]})]
    cells.append(new_code_cell("n = ...", metadata={"tags": ["answer"], "wrong": list(wrong)}))
    cells.append(new_code_cell("check(n, 2.0, 'count')", metadata={"tags": ["check"]}))
    names = {"check": check}
    exec("\n".join(cell.source for cell in probed(new_notebook(cells=cells)).cells[1:]), names)
    return names["n"]


def test_a_trial_sees_what_is_accepted_wrongly_and_refused_wrongly(capsys):
    assert tried() is ... and capsys.readouterr().out == f"{UNANSWERED}\nright\n"
    with pytest.raises(AssertionError, match="taken for right: n = 2.01"):
        tried(("n = 3", "n = 2.01"))
    with pytest.raises(ValueError, match="not yet: count"):
        tried(right="n = 5")


def test_an_answer_is_a_number_a_value_or_a_function(capsys):
    for answer, right in ((..., 1.0), (1.01, 1.0)):
        check(answer, right, "", measured=3.0, unit="ms")
    check({"a"}, {"a"}, "")
    check(lambda x: 2 * x, lambda f: f(2) == 4, "")
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"{UNANSWERED}; measured: 3 ms", "right: 1.01 ms; measured: 3 ms", "right", "right"]
    wrong = ((1.03, 1.0), ("1", 1.0), ({"b"}, {"a"}), (lambda x: x, lambda f: f(2) == 4), (2, lambda f: f(2)))
    for answer, right in wrong:
        with pytest.raises(ValueError, match="look again"):
            check(answer, right, "look again")
