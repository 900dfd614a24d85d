"""pyproject.toml, constraints.txt and environment.yml agree, and the base package works without the extras."""

import re
import subprocess
import sys
import textwrap
import tomllib
from collections import Counter
from importlib.metadata import packages_distributions, version
from pathlib import Path

import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from freeze_constraints import LEFT_OUT, closure, direct_requirements
from musekit.cli import EXTRAS, advice

ROOT = Path(__file__).resolve().parent.parent
CONDA_NAMES = {"pysoundfile": "soundfile", "soxr-python": "soxr"}
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]
DIRECT = {canonicalize_name(req.name): req for req in direct_requirements()}
PINS = dict(
    line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")
)


def test_every_dependency_has_a_range_and_a_tested_version_in_it():
    for name, req in DIRECT.items():
        operators = {spec.operator for spec in req.specifier}
        assert ">=" in operators and ("<" in operators or name == "packaging"), f"{name}: give both ends of its range"
        assert req.specifier.contains(PINS[name]), f"constraints.txt: {name}=={PINS[name]} is outside {req.specifier}"
        assert req.specifier.contains(version(name)), f"{name} {version(name)} is installed: run `make test`"


def test_constraints_pin_everything_that_is_needed_and_name_no_host():
    assert set(closure(direct_requirements())) <= set(PINS) and list(PINS) == sorted(PINS)
    assert not set(PINS) & LEFT_OUT and PINS["torch"] == PINS["torchaudio"]
    for file in ("constraints.txt", "environment.yml", "pyproject.toml", "Makefile"):
        found = re.search(r"https?://|--index|--find-links|file:|\s@\s", (ROOT / file).read_text(encoding="utf-8"))
        assert not found, f"{file} names a host or a path: {found}"


def test_environment_yml_lists_the_same_ranges():
    loaded = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    assert loaded["name"] == "muse" and loaded["channels"] == ["conda-forge", "nodefaults"]
    *conda, pip = loaded["dependencies"]
    assert pip["pip"].pop() == "-e ."
    lines = [re.fullmatch(r"([\w.-]+)(.*)", line).groups() for line in conda + pip["pip"]]
    listed = [Requirement(CONDA_NAMES.get(name, name) + spec) for name, spec in lines]
    assert max(Counter(canonicalize_name(req.name) for req in listed).values()) == 1
    ranges = {canonicalize_name(req.name): req.specifier for req in listed if req.name != "pip"}
    assert ranges.pop("python") == SpecifierSet(PROJECT["requires-python"])
    assert ranges == {name: req.specifier for name, req in DIRECT.items()}


def test_the_wheel_carries_every_file_of_the_package():
    patterns = PYPROJECT["tool"]["setuptools"]["package-data"]["musekit"]
    files = [path for path in (ROOT / "musekit").rglob("*") if path.is_file() and path.suffix != ".py"]
    files = [path for path in files if path.parent.name != "__pycache__"]
    assert not [path for path in files if not any(path.match(pattern) for pattern in patterns)]


def test_extras_know_the_modules_that_their_packages_bring():
    brought = packages_distributions()
    for extra, modules in EXTRAS.items():
        wanted = closure([Requirement(line) for line in PROJECT["optional-dependencies"][extra]])
        for module in modules:
            assert any(canonicalize_name(name) in wanted for name in brought[module]), f"{module} is not of [{extra}]"
    assert advice(ModuleNotFoundError(name="umap.plot")) == "this needs the package umap: pip install 'musekit[lab]'"
    assert advice(ModuleNotFoundError(name="musekit.gone")) is None


WITHOUT_EXTRAS = """
    import sys
    from importlib.machinery import PathFinder

    class Without(PathFinder):
        @classmethod
        def find_spec(cls, name, path=None, target=None):
            return None if name.partition(".")[0] in BLOCKED else super().find_spec(name, path, target)

    sys.meta_path[sys.meta_path.index(PathFinder)] = Without
    from musekit.cli import main
    main(sys.argv[1:])
"""


def without_extras(folder: Path, *words: str) -> subprocess.CompletedProcess:
    """The command line where no package of an extra can be imported, not even those that the base brings along."""
    needed = {"scipy", "huggingface_hub"}  # by torchdiffeq and tokenizers
    blocked = {module for modules in EXTRAS.values() for module in modules} - needed
    code = textwrap.dedent(WITHOUT_EXTRAS).replace("BLOCKED", repr(blocked))
    call = [sys.executable, "-c", code, *words]
    return subprocess.run(call, cwd=folder, capture_output=True, text=True, timeout=300)


def test_the_base_samples_and_trains_without_the_extras(tiny, tmp_path):
    sampled = without_extras(tmp_path, "generate", "a piano", f"--weights={tiny.weights}", "--n=2", "--seconds=0.2")
    assert sampled.returncode == 0, sampled.stderr
    train = ["train", "stage1", f"--cache={tiny.cache}", "--preset=smoke", "--out=w", "--train.samples=64"]
    trained = without_extras(tmp_path, *train)
    assert trained.returncode == 0 and (tmp_path / "w" / "stage1.safetensors").exists(), trained.stderr


def test_a_command_that_needs_an_extra_names_it_in_one_line(tmp_path):
    done = without_extras(tmp_path, "cache", "--corpus=scores", "--kinds=clips", "--n=2", "--out=c")
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.endswith("pip install 'musekit[corpus]'\n")
