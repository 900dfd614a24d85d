"""Write constraints.txt: the exact versions, in the environment that runs this, of all that musekit[dev] needs.

The set is the closure of pyproject.toml's requirements over the installed packages' metadata. Packages that are merely
installed are not pinned, nor are pip and setuptools, which belong to the environment.
"""

import tomllib
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
LEFT_OUT = {"musekit", "pip", "setuptools", "wheel"}
HEADER = """\
# The tested set: exact versions of everything musekit[dev] needs (Python 3.11, Linux x86-64).
# `make constraints` writes this file from .venv; the ranges are in pyproject.toml. A pin for a package that a
# machine does not need (torch's CUDA libraries on a Mac, say) installs nothing there.
"""


def direct_requirements() -> list[Requirement]:
    """pyproject.toml's dependencies, those of the extras included."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    return [req for req in map(Requirement, lines) if req.name not in LEFT_OUT]


def closure(requirements: list[Requirement]) -> dict[str, str]:
    """Canonical name -> installed version of each requirement and of all that they need here."""
    versions: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    todo = [(req.name, extra) for req in requirements for extra in ["", *req.extras]]
    while todo:
        name, extra = todo.pop()
        key = canonicalize_name(name)
        if (key, extra) in seen or key in LEFT_OUT:
            continue
        seen.add((key, extra))
        package = distribution(name)
        versions[key] = package.version
        for req in map(Requirement, package.requires or []):
            if req.marker is None or req.marker.evaluate({"extra": extra}):
                todo += [(req.name, e) for e in ["", *req.extras]]
    return versions


def main() -> None:
    pins = closure(direct_requirements())
    lines = [f"{name}=={pins[name]}\n" for name in sorted(pins)]
    (ROOT / "constraints.txt").write_text(HEADER + "".join(lines), encoding="utf-8")
    print(f"constraints.txt: {len(lines)} packages")


if __name__ == "__main__":
    main()
