"""Execute notebooks in place and check what is committed.

    python scripts/run_notebooks.py notebooks/*.ipynb           execute, check, replace each file
    python scripts/run_notebooks.py --check notebooks/*.ipynb   check the files as they are
    python scripts/run_notebooks.py --set n_steps=5 ...         with other values in the `parameters` cell

A notebook that fails keeps its old file. Widget state is never kept: a notebook saved with it shows "model
not found" in a new kernel, and plotly's alone is 5 MB; outputs that are only a widget's view go with it.
"""

import argparse
import ast
import copy
import os
import re
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

MAX_BYTES = 500_000
MAX_CODE_LINES = 20
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
# Someone's own folder: a POSIX path under a usual root, or a drive letter. Not after a word, a dot, a colon
# or a slash, so relative paths and the middle of an address do not match.
ABSOLUTE_PATH = re.compile(
    r"(?<![\w.:/~}])/(?:home|root|work|tmp|Users|mnt|media|opt|var|usr|private|scratch|data)/[\w.-]+"
    r"|(?<!\w)[A-Z]:\\\w"
)
DATA_URI = re.compile(r"data:[\w/+.;=-]+,[A-Za-z0-9+/=%]*")  # base64 may spell a path by chance


def texts(cell: nbformat.NotebookNode) -> list[str]:
    """What a reader sees of a cell as text: source, printed lines, text and HTML outputs, tracebacks."""
    found = [cell.source]
    for output in cell.get("outputs", []):
        found.append(output.get("text", ""))
        found += output.get("traceback", [])
        found += [value for mime, value in output.get("data", {}).items() if mime.startswith("text/")]
    return [DATA_URI.sub("", text) for text in found]


def problems(notebook: nbformat.NotebookNode, size: int) -> list[str]:
    """What keeps an executed notebook of `size` bytes from being committed; empty when nothing does."""
    found = []
    if size > MAX_BYTES:
        found.append(f"{size / 1000:.0f} kB, more than {MAX_BYTES // 1000}: smaller figures or clips")
    if "widgets" in notebook.metadata:
        found.append("holds widget state")
    code = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    counts = [cell.execution_count for cell in code]
    if counts != list(range(1, len(code) + 1)):
        found.append(f"execution counts are not 1 to {len(code)} in order")
    if code and "parameters" not in code[0].metadata.get("tags", []):
        found.append("the first code cell is not tagged `parameters`")
    for cell in code:
        where = f"cell [{cell.execution_count}]"
        if len(cell.source.splitlines()) > MAX_CODE_LINES:
            found.append(f"{where} has more than {MAX_CODE_LINES} lines")
        if re.search(r"^\s*class\s", cell.source, re.MULTILINE):
            found.append(f"{where} defines a class: it belongs in the package")
        for output in cell.outputs:
            if output.output_type == "error":
                found.append(f"{where} ended in {output.ename}: {output.evalue}")
            if output.get("name") == "stderr":  # warnings and progress bars, which a reader has no use for
                found.append(f"{where} wrote to stderr: {output.text.strip().splitlines()[-1][:100]}")
            if WIDGET_VIEW in output.get("data", {}):
                found.append(f"{where} keeps a widget's view, which is dead without its kernel")
    heads = [i for i, cell in enumerate(notebook.cells) if re.search(r"^## Check\b", cell.source, re.MULTILINE)]
    last = [cell for cell in notebook.cells[heads[-1] :] if cell.cell_type == "code"] if heads else []
    if not any(isinstance(node, ast.Assert) for cell in last for node in ast.walk(ast.parse(cell.source))):
        found.append("no code cell below a heading `## Check` asserts what the notebook claims")
    for number, cell in enumerate(notebook.cells):
        for path in sorted({match for text in texts(cell) for match in ABSOLUTE_PATH.findall(text)}):
            found.append(f"cell {number} of {len(notebook.cells)} names an absolute path: {path}")
    return found


def set_parameters(notebook: nbformat.NotebookNode, values: dict[str, object]) -> None:
    """Change assignments in the cell tagged `parameters`. Raises KeyError for a name it does not assign."""
    cells = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    for name, value in values.items():
        pattern = re.compile(rf"^{re.escape(name)}\s*=[^\n]*", re.MULTILINE)
        hits = [cell for cell in cells if pattern.search(cell.source)]
        if not hits:
            raise KeyError(name)
        hits[0].source = pattern.sub(lambda _, line=f"{name} = {value!r}": line, hits[0].source)


def each_twice(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """A notebook in which every code cell stands twice in a row: what a reader does who runs a cell again."""
    cells = [copy.deepcopy(c) for cell in notebook.cells for c in [cell] * (1 + (cell.cell_type == "code"))]
    for number, cell in enumerate(cells):
        cell["id"] = f"twice-{number}"
    return nbformat.v4.new_notebook(metadata=notebook.metadata, cells=cells)


def execute(notebook: nbformat.NotebookNode, folder: Path) -> None:
    """Run every cell in a new kernel, in `folder`, and drop widget state. Raises CellExecutionError."""
    client = NotebookClient(
        notebook,
        timeout=None,
        kernel_name="python3",
        store_widget_state=False,
        record_timing=False,
        extra_arguments=["--log-level=ERROR"],  # of the kernel itself, which warns that it talks over local TCP
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute()
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [out for out in cell.outputs if WIDGET_VIEW not in out.get("data", {})]
            cell.metadata.pop("execution", None)


def parse_value(text: str) -> tuple[str, object]:
    """`name=value`, the value a Python literal where it is one, else a string."""
    name, sign, value = text.partition("=")
    if not sign or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def run_one(path: Path, check_only: bool, values: dict[str, object]) -> bool:
    """Handle one notebook and print its line. True when it is fit to be committed."""
    started = time.monotonic()
    notebook = nbformat.read(path, as_version=4)
    if not check_only:
        try:
            set_parameters(notebook, values)
            execute(notebook, path.parent)
        except KeyError as error:
            print(f"{path}: its parameters cell does not set {error}; file left as it was", file=sys.stderr)
            return False
        except CellExecutionError as error:
            print(f"{path}: a cell failed; file left as it was\n{error}", file=sys.stderr)
            return False
    text = nbformat.writes(notebook) + "\n"
    size = len(text.encode("utf-8"))
    found = problems(notebook, size)
    for problem in found:
        print(f"{path}: {problem}", file=sys.stderr)
    if not check_only:
        # Written even with problems, so that they can be looked at; whole or not at all.
        draft = path.with_name(path.name + ".part")
        draft.write_text(text, encoding="utf-8")
        os.replace(draft, path)
    took = time.monotonic() - started
    print(f"{path}  {took:6.1f} s  {size / 1000:4.0f} kB  {'ok' if not found else 'NOT OK'}")
    return not found


def main() -> int:
    as_written = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    parser.add_argument("notebooks", nargs="*", type=Path)
    parser.add_argument("--check", action="store_true", help="only check, execute nothing")
    parser.add_argument("--set", action="append", default=[], type=parse_value, metavar="NAME=VALUE")
    args = parser.parse_args()
    if not args.notebooks:
        print("no notebooks given (notebooks/*.ipynb)", file=sys.stderr)
        return 0 if args.check else 2
    missing = [str(path) for path in args.notebooks if not path.is_file()]
    if missing:
        print(f"no such notebook: {', '.join(missing)}", file=sys.stderr)
        return 2
    fit = [run_one(path, args.check, dict(args.set)) for path in args.notebooks]
    return 0 if all(fit) else 1


if __name__ == "__main__":
    sys.exit(main())
