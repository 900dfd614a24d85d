"""pyproject.toml, constraints.txt and environment.yml agree, and what is installed is what they say."""

import re
import sys
import tomllib
from collections import Counter
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from freeze_constraints import LEFT_OUT, closure, direct_requirements

ROOT = Path(__file__).resolve().parent.parent
CONDA_NAMES = {"pysoundfile": "soundfile", "soxr-python": "soxr", "pytorch": "torch"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DIRECT = {canonicalize_name(req.name): req for req in direct_requirements()}


def constraints() -> dict[str, str]:
    """Canonical name -> pinned version; every line must be an exact pin."""
    pins = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            name, sign, pin = line.partition("==")
            assert sign and Version(pin), f"not an exact pin: {line!r}"
            assert canonicalize_name(name) not in pins, f"{name} is pinned twice"
            pins[canonicalize_name(name)] = pin
    return pins


def environment() -> tuple[dict, list[Requirement], list[str]]:
    """environment.yml, its conda and pip requirements by PyPI's names, and its other pip lines."""
    loaded = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    requirements, others = [], []
    for entry in loaded["dependencies"]:
        for line in [entry] if isinstance(entry, str) else entry["pip"]:
            if line.startswith("-"):
                others.append(line)
            else:
                name, spec = re.fullmatch(r"([A-Za-z0-9_.-]+)(.*)", line).groups()
                requirements.append(Requirement(CONDA_NAMES.get(name, name) + spec))
    return loaded, requirements, others


def test_every_dependency_is_a_range():
    for name, req in DIRECT.items():
        operators = {spec.operator for spec in req.specifier}
        assert ">=" in operators, f"{name}: say which version it needs at least"
        if name != "packaging":  # numbered by year: a new major breaks nothing
            assert "<" in operators, f"{name}: say where it ends"


def test_constraints_pin_every_dependency_within_its_range():
    pins = constraints()
    for name, req in DIRECT.items():
        assert name in pins, f"{name} is not pinned"
        assert req.specifier.contains(pins[name]), f"{name}=={pins[name]} is outside {req.specifier}"


def test_constraints_are_sorted_and_name_nothing_of_the_machine():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    names = [line.partition("==")[0] for line in lines if not line.startswith("#")]
    assert names == sorted(names)
    assert not set(names) & LEFT_OUT
    for file in ("constraints.txt", "environment.yml", "pyproject.toml", "Makefile"):
        text = (ROOT / file).read_text(encoding="utf-8")
        found = re.search(r"https?://|--index|--find-links|file:|\s@\s", text)
        assert not found, f"{file} names a host or a path: {found}"


def test_constraints_cover_all_that_is_needed():
    """Nothing that musekit[dev] pulls in, at any depth, is left to chance."""
    assert set(closure(direct_requirements())) <= set(constraints())


def test_versions_that_must_move_together():
    pins = constraints()
    assert pins["torch"] == pins["torchaudio"]
    assert Version(pins["transformers"]) < Version("5"), "muq 0.1 fails under transformers 5"
    together = {"muq": "0.1.0", "x-clip": "0.14.4", "nnaudio": "0.3.4"}
    assert together.items() <= pins.items()


def test_installed_packages_are_in_range():
    for name, req in DIRECT.items():
        try:
            installed = version(req.name)
        except PackageNotFoundError:
            pytest.fail(f"{name} is not installed: run `make .venv`")
        fits = req.specifier.contains(installed)
        assert fits, f"{name} {installed} is outside {req.specifier}: run `make .venv`"


def test_environment_yml_agrees_with_pyproject():
    loaded, requirements, others = environment()
    assert loaded["name"] == "muse"
    assert loaded["channels"] == ["conda-forge", "nodefaults"]
    assert others == ["-e ."]
    names = Counter(canonicalize_name(req.name) for req in requirements)
    assert not [name for name, count in names.items() if count > 1], "listed twice"
    listed = {canonicalize_name(req.name): req for req in requirements}
    python = listed.pop("python")
    assert python.specifier == SpecifierSet(PROJECT["requires-python"])
    listed.pop("pip")
    assert set(listed) == set(DIRECT)
    for name, req in listed.items():
        assert req.specifier == DIRECT[name].specifier, name


def test_this_python_is_supported():
    assert SpecifierSet(PROJECT["requires-python"]).contains("{}.{}.{}".format(*sys.version_info[:3]))
