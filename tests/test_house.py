"""The house rules: imports go one way and in no circle, the tree stays small, and ruff sees all of it."""

import ast
import graphlib
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# From the bottom up, as in ARCHITECTURE.md: a module imports from its own line or from lines above it.
LAYERS = """
    config files claims prompts controls
    gpu
    distributed launch
    statistics
    show
    flow toy conditions
    harmony
    solve
    recipe
    convert
    stage1 stage2
    phase
    codec
    encoders
    oobleck
    inference
    lora pretrained
    distil
    edit
    muse
    runs
    cluster results
    corpus
    cache
    train
    heldout
    entry library
    tune
    generate
    lab
    evaluate bench
    commands cli __main__
"""
# Lines and files of Python, so that the tree does not grow back unnoticed.
BARS = {"musekit": (18_130, 125), "tests": (12_270, None), "scripts+poster": (1_650, None)}


def sources(package: Path) -> dict[str, ast.Module]:
    """{dotted name: syntax tree} of every module of a package, its own name left out of the keys."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        name = ".".join(path.relative_to(package).with_suffix("").parts).removesuffix("__init__").rstrip(".")
        found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


def imports(package: Path) -> dict[str, set[str]]:
    """{module: the modules of the same package that it imports}, imports inside functions counted."""
    trees, graph = sources(package), {}
    for name, tree in trees.items():
        wanted = set()
        here = (
            name.split(".") if (package.joinpath(*name.split(".")) / "__init__.py").exists() else name.split(".")[:-1]
        )
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                wanted |= {a.name.split(".", 1)[1] for a in node.names if a.name.startswith(f"{package.name}.")}
            elif isinstance(node, ast.ImportFrom):
                base = here[: len(here) + 1 - node.level] if node.level else []
                parts = base + (node.module.split(".") if node.module else [])
                if not node.level:
                    if parts[0] != package.name:
                        continue
                    parts = parts[1:]
                for alias in node.names:  # a name of the module, or a module of its own
                    full = ".".join([*parts, alias.name])
                    wanted.add(full if full in trees else ".".join(parts))
        graph[name] = {w for w in wanted if w in trees} - {name, ""}
    return graph


def circle(graph: dict[str, set[str]]) -> list[str]:
    """The modules of one import cycle, empty if there is none. The package's own lazy `__init__` does not count."""
    try:
        graphlib.TopologicalSorter({name: to for name, to in graph.items() if name}).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def upward(graph: dict[str, set[str]], layers: str) -> list[str]:
    """Imports from a higher layer, and modules that no layer names."""
    order = {name: i for i, line in enumerate(layers.strip().splitlines()) for name in line.split()}
    level = {name: order.get(name.split(".")[0]) for name in graph if name}
    found = [f"{name} is in no layer" for name, at in level.items() if at is None]
    for name, at in level.items():
        found += [
            f"{name} imports {to}" for to in sorted(graph[name]) if None not in (at, level[to]) and at < level[to]
        ]
    return found


def test_what_functions_import_late_exists():
    """An import inside a function is not run by importing its module: a benchmark for GPUs once kept a dead one."""
    for name, tree in sources(ROOT / "musekit").items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "musekit" and not node.level:
                module = importlib.import_module(node.module)
                for alias in node.names:
                    if not hasattr(module, alias.name):
                        assert importlib.util.find_spec(f"{node.module}.{alias.name}"), f"{name}: {alias.name}"


def test_imports_go_one_way():
    graph = imports(ROOT / "musekit")
    assert circle(graph) == []
    assert upward(graph, LAYERS) == []


@pytest.mark.parametrize(
    "files, cycle, up",
    [
        ({"a.py": "from house import b", "b.py": "def f():\n    from house.a import x"}, {"a", "b"}, ["a imports b"]),
        ({"a.py": "", "b.py": "from . import a", "c/__init__.py": "from .d import y", "c/d.py": "y = 1"}, set(), []),
        ({"a.py": "", "c/__init__.py": "from .d import y", "c/d.py": "from ..c import z"}, {"c", "c.d"}, []),
        ({"a.py": "import house.c.d", "c/__init__.py": "", "c/d.py": ""}, set(), ["a imports c.d"]),
        ({"e.py": "import torch"}, set(), ["e is in no layer"]),
    ],
)
def test_planted_failures_are_found(tmp_path, files, cycle, up):
    for name, text in ({"__init__.py": ""} | files).items():
        path = tmp_path / "house" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    graph = imports(tmp_path / "house")
    assert set(circle(graph)) == cycle and upward(graph, "a\nb\nc") == up


@pytest.mark.parametrize("what", BARS)
def test_the_tree_stays_small(what):
    lines, most = BARS[what]
    paths = [path for folder in what.split("+") for path in (ROOT / folder).rglob("*.py")]
    assert sum(len(path.read_text(encoding="utf-8").splitlines()) for path in paths) <= lines
    assert most is None or len(paths) <= most


def test_ruff_checks_every_folder():
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--show-files"], cwd=ROOT, capture_output=True, text=True
    )
    seen = {Path(line) for line in done.stdout.splitlines()}
    for folder in ("musekit", "tests", "scripts", "poster", "notebooks"):
        for kind in ("*.py", "*.ipynb"):
            missed = [path for path in (ROOT / folder).rglob(kind) if path not in seen and ".ipynb_" not in str(path)]
            assert not missed, f"ruff does not check {missed[:3]}: see .gitignore and pyproject.toml"
