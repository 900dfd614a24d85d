"""Execute notebooks in place and check what is committed.

    python scripts/run_notebooks.py notebooks/*.ipynb           execute, check, replace each file
    python scripts/run_notebooks.py --check notebooks/*.ipynb   check the files as they are

A notebook that fails keeps its old file. Widget views are dropped: they show "model not found" without their kernel.
"""

import argparse
import ast
import re
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

MAX_BYTES, MAX_CODE_LINES = 500_000, 20
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
ABSOLUTE_PATH = re.compile(
    r"(?<![\w.:/~}])/(?:home|root|work|tmp|Users|mnt|media|opt|var|usr|private|scratch|data)/[\w.-]+|(?<!\w)[A-Z]:\\\w"
)
DATA_URI = re.compile(r"data:[\w/+.;=-]+,[A-Za-z0-9+/=%]*")  # base64 may spell a path by chance


def problems(notebook: nbformat.NotebookNode, size: int) -> list[str]:
    """What keeps an executed notebook of `size` bytes from being committed; empty when nothing does."""
    found = [f"{size / 1000:.0f} kB, more than {MAX_BYTES // 1000}"] if size > MAX_BYTES else []
    code = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    if [cell.execution_count for cell in code] != list(range(1, len(code) + 1)):
        found.append(f"execution counts are not 1 to {len(code)} in order")
    if "widgets" in notebook.metadata or not code or "parameters" not in code[0].metadata.get("tags", []):
        found.append("holds widget state, or the first code cell is not tagged `parameters`")
    for number, cell in enumerate(notebook.cells):
        text = cell.source
        if cell.cell_type == "code" and len(text.splitlines()) > MAX_CODE_LINES:
            found.append(f"cell {number} has more than {MAX_CODE_LINES} lines")
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            text += output.get("text", "") + "".join(v for mime, v in data.items() if mime.startswith("text/"))
            if output.output_type == "error" or output.get("name") == "stderr" or WIDGET_VIEW in data:
                found.append(f"cell {number} keeps an error, a widget or a line on stderr: {str(output)[:150]}")
        found += [f"cell {number} names an absolute path: {p}" for p in ABSOLUTE_PATH.findall(DATA_URI.sub("", text))]
    heads = [i for i, cell in enumerate(notebook.cells) if re.search(r"^## Check\b", cell.source, re.MULTILINE)]
    last = [cell for cell in notebook.cells[heads[-1] :] if cell.cell_type == "code"] if heads else []
    if not any(isinstance(node, ast.Assert) for cell in last for node in ast.walk(ast.parse(cell.source))):
        found.append("no code cell below a heading `## Check` asserts what the notebook claims")
    return found


def set_parameters(notebook: nbformat.NotebookNode, values: dict[str, object]) -> None:
    """Change assignments in the cell tagged `parameters`. Raises KeyError for a name it does not assign."""
    [cell] = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    for name, value in values.items():
        line = f"{name} = {value!r}"
        cell.source, count = re.subn(rf"^{name}\s*=[^\n]*", lambda _, line=line: line, cell.source, flags=re.MULTILINE)
        if not count:
            raise KeyError(name)


def execute(notebook: nbformat.NotebookNode, folder: Path) -> None:
    """Run every cell in a new kernel, in `folder`, and drop widgets. Raises CellExecutionError."""
    client = NotebookClient(
        notebook, timeout=None, kernel_name="python3", store_widget_state=False, record_timing=False,
        extra_arguments=["--log-level=ERROR"],  # the kernel would warn that it talks over local TCP
        resources={"metadata": {"path": str(folder)}},
    )  # fmt: skip
    client.execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [out for out in cell.outputs if WIDGET_VIEW not in out.get("data", {})]


def run_one(path: Path, check_only: bool) -> bool:
    """Handle one notebook and print its line. True when it is fit to be committed."""
    began, notebook = time.monotonic(), nbformat.read(path, as_version=4)
    if not check_only:
        try:
            execute(notebook, path.parent)
        except CellExecutionError as error:
            print(f"{path}: a cell failed; file left as it was\n{error}", file=sys.stderr)
            return False
    text = nbformat.writes(notebook) + "\n"
    found = problems(notebook, len(text.encode()))
    for problem in found:
        print(f"{path}: {problem}", file=sys.stderr)
    if not check_only:  # even with problems, so that they can be looked at
        draft = path.with_name(path.name + ".part")
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    print(f"{path}  {time.monotonic() - began:6.1f} s  {len(text) / 1000:4.0f} kB  {'NOT OK' if found else 'ok'}")
    return not found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="+", type=Path)
    parser.add_argument("--check", action="store_true", help="only check, execute nothing")
    args = parser.parse_args()
    return 0 if all([run_one(path, args.check) for path in args.notebooks]) else 1


if __name__ == "__main__":
    sys.exit(main())
