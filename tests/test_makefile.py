"""The Makefile and the system markers, in a copy of the checkout's top where `musekit` and `pip` only record calls."""

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAKE = shutil.which("make")
pytestmark = pytest.mark.skipif(MAKE is None, reason="GNU make is missing: install the package `make`")
NASTY = "$(shell touch made) `touch made` $$(touch made) \"quoted\" 'single' ; touch made # \\ %s \n 音楽 --help"


def script(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    path.chmod(0o755)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path / name)
    recorder = f"#!{sys.executable}\nimport json, sys\njson.dump(sys.argv[1:], open('asked.json', 'w'))\n"
    script(tmp_path / ".venv/bin/musekit", recorder)
    script(tmp_path / ".venv/bin/python", '#!/bin/sh\necho "$@" >>calls\n')
    return tmp_path


def make(folder: Path, *args: str, **env: str) -> subprocess.CompletedProcess:
    inherited = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL", "MAKEOVERRIDES")}
    return subprocess.run([MAKE, *args], cwd=folder, env=inherited | env, capture_output=True, text=True, timeout=60)


def installed(folder: Path) -> str:
    return (folder / "calls").read_text().splitlines()[-1] if (folder / "calls").exists() else ""


def test_help_lists_every_target_and_only_one_touches_the_system(checkout: Path):
    done = make(checkout)
    listed = {line.split()[0] for line in done.stdout.splitlines() if line.startswith("  ")}
    targets = set(re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split())
    assert done.returncode == 0 and listed == targets
    said = make(checkout, "-n", *sorted(targets - {"system-packages", "help"})).stdout
    assert "ruff check" in said and "apt" not in said.replace("apt install python3-venv", "") and "sudo" not in said
    assert "apt-get install" in make(checkout, "-n", "system-packages").stdout


def test_demo_passes_any_text_untouched_and_installs_the_base_only(checkout: Path):
    assert make(checkout, "demo").returncode == 0
    words = ["generate", "--n", "4", "--seed", "0", "--seconds", "12", "--out", "demo", "--", "a sad piano melody"]
    assert json.loads((checkout / "asked.json").read_text()) == words
    assert installed(checkout).endswith("-e . -c constraints.txt")
    make(checkout, "demo", f"PROMPT={NASTY}", "N=2", "SEED=$(shell touch made)", "OUT=my folder; touch made")
    words = ["generate", "--n", "2", "--seed", "$(shell touch made)", "--seconds", "12", "--out"]
    assert json.loads((checkout / "asked.json").read_text()) == [*words, "my folder; touch made", "--", NASTY]
    assert not (checkout / "made").exists()
    script(checkout / ".venv/bin/musekit", "#!/bin/sh\nexit 2\n")
    assert make(checkout, "demo").returncode == 2


def test_tests_install_everything_once_and_a_failed_install_leaves_no_stamp(checkout: Path):
    script(checkout / ".venv/bin/ruff", "#!/bin/sh\n")
    make(checkout, "lint")
    assert installed(checkout).endswith("-e .[dev] -c constraints.txt")
    (checkout / "calls").unlink()
    make(checkout, "lint", "demo")
    assert not installed(checkout), "both are up to date"
    script(checkout / ".venv/bin/python", '#!/bin/sh\ncase "$*" in *install*) exit 1;; esac\n')
    (checkout / ".venv/.musekit-installed").unlink()
    assert make(checkout, "lint").returncode == 2
    assert not (checkout / ".venv/.musekit-installed").exists()
    script(checkout / ".venv/bin/python", '#!/bin/sh\ncase "$*" in *version_info*) exit 1;; esac\n')
    done = make(checkout, "lint", "PYTHON=./none")
    assert done.returncode == 2 and "error: no Python 3.11 or 3.12" in done.stderr and "PYTHON=" in done.stderr
