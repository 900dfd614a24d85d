"""The Makefile and .ci/run as a person meets them, in a copy of the checkout's top.

No target here installs anything: the stamp file says that .venv is up to date, and `.venv/bin/musekit` is a
script that writes its arguments to a file.
"""

import json
import os
import shutil
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAKE = shutil.which("make")
pytestmark = pytest.mark.skipif(MAKE is None, reason="GNU make is missing: install the package `make`")

NASTY = [
    "a sad piano melody",
    "$(touch made) `touch made` $$(touch made)",
    "$(shell touch made)",
    "\"quoted\" 'single' ; touch made # not a comment",
    "costs $5 \\ backslash %s \n second line",
    "--help",
    "-n 3",
    "音楽 🎹 {braces} *",
    "",
]


def script(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with our Makefile, an up-to-date .venv and a musekit that records what it was asked."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path / name)
    recorder = f"""\
        #!{sys.executable}
        import json, sys
        json.dump(sys.argv[1:], open("asked.json", "w"))
    """
    script(tmp_path / ".venv/bin/musekit", recorder)
    (tmp_path / ".venv/.musekit-installed").touch()
    return tmp_path


def make(folder: Path, *args: str, **env: str) -> subprocess.CompletedProcess:
    inherited = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL", "MAKEOVERRIDES")}
    return subprocess.run([MAKE, *args], cwd=folder, env=inherited | env, capture_output=True, text=True, timeout=60)


def demo(prompt: str, n: str = "4", seed: str = "0", seconds: str = "12", out: str = "demo") -> list[str]:
    return ["generate", "--n", n, "--seed", seed, "--seconds", seconds, "--out", out, "--", prompt]


def asked(folder: Path) -> list[str]:
    return json.loads((folder / "asked.json").read_text())


def test_help_is_the_default_and_lists_every_target(checkout: Path):
    done = make(checkout)
    assert done.returncode == 0, done.stderr
    listed = {line.split()[0] for line in done.stdout.splitlines() if line.startswith("  ")}
    phony = next(line for line in (ROOT / "Makefile").read_text().splitlines() if line.startswith(".PHONY:"))
    assert listed == set(phony.split()[1:])


@pytest.mark.parametrize("prompt", NASTY)
def test_demo_passes_the_prompt_untouched(checkout: Path, prompt: str):
    done = make(checkout, "demo", f"PROMPT={prompt}")
    assert done.returncode == 0, done.stderr
    assert asked(checkout) == demo(prompt)
    assert not (checkout / "made").exists()


@pytest.mark.parametrize("prompt", NASTY)
def test_a_dry_run_runs_nothing(checkout: Path, prompt: str):
    done = make(checkout, "-n", "demo", f"PROMPT={prompt}")
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in checkout.iterdir()) == [
        ".venv",
        "Makefile",
        "constraints.txt",
        "pyproject.toml",
    ]


def test_demo_defaults_and_overrides(checkout: Path):
    make(checkout, "demo")
    assert asked(checkout) == demo("a sad piano melody")
    code = "$(shell touch made)"
    make(checkout, "demo", "N=2", f"SEED={code}", "SECONDS=3.5", "OUT=my folder; touch made")
    assert asked(checkout) == demo("a sad piano melody", "2", code, "3.5", "my folder; touch made")
    make(checkout, "demo", PROMPT=f"from {code} the environment", SECONDS="7")
    assert asked(checkout) == demo(f"from {code} the environment", seconds="7")
    assert not (checkout / "made").exists()


def test_demo_fails_when_musekit_fails(checkout: Path):
    script(checkout / ".venv/bin/musekit", "#!/bin/sh\necho 'seconds must be positive' >&2; exit 2\n")
    done = make(checkout, "demo", "SECONDS=0")
    assert done.returncode == 2
    assert "seconds must be positive" in done.stderr


def test_only_system_packages_touches_the_system(checkout: Path):
    phony = next(line for line in (ROOT / "Makefile").read_text().splitlines() if line.startswith(".PHONY:"))
    for target in set(phony.split()[1:]) - {"system-packages", "help"}:
        done = make(checkout, "-n", target)
        assert done.returncode == 0, done.stderr
        assert "apt" not in done.stdout and "sudo" not in done.stdout, target
    assert "apt-get install" in make(checkout, "-n", "system-packages").stdout


def test_system_packages_off_debian_says_what_to_install(checkout: Path, tmp_path: Path):
    done = make(checkout, "system-packages", PATH=str(programs(tmp_path / "bin")))
    assert done.returncode == 2
    assert "not Debian" in done.stderr and "chromium" in done.stderr and "slurmctld" in done.stderr


def programs(folder: Path) -> Path:
    """A PATH of nothing but a few basic tools: no Python, no apt-get."""
    folder.mkdir()
    for name in ("sh", "awk", "touch", "rm"):
        (folder / name).symlink_to(shutil.which(name))
    return folder


def test_no_python_is_one_clear_line(checkout: Path, tmp_path: Path):
    shutil.rmtree(checkout / ".venv")
    done = make(checkout, "demo", PATH=str(programs(tmp_path / "bin")))
    assert done.returncode == 2
    assert "error: no Python 3.11 or 3.12" in done.stderr and "PYTHON=" in done.stderr
    assert not (checkout / ".venv").exists()


def test_a_python_of_another_version_is_refused(checkout: Path):
    old = '#!/bin/sh\ncase "$*" in *version_info*) exit 1;; --version) echo Python 3.9.18;; esac\n'
    script(checkout / "old-python", old)
    shutil.rmtree(checkout / ".venv")
    done = make(checkout, ".venv", "PYTHON=./old-python")
    assert done.returncode == 2 and "error: no Python 3.11 or 3.12 among: ./old-python" in done.stderr
    script(checkout / ".venv/bin/python", old)
    done = make(checkout, ".venv")
    assert done.returncode == 2 and ".venv holds Python 3.9.18" in done.stderr
    assert not (checkout / ".venv/.musekit-installed").exists()


def test_a_venv_made_by_hand_is_kept_and_installed_into(checkout: Path):
    (checkout / ".venv/.musekit-installed").unlink()
    script(checkout / ".venv/bin/python", '#!/bin/sh\necho "$@" >>calls\n')
    done = make(checkout, ".venv")
    assert done.returncode == 0, done.stderr
    last = (checkout / "calls").read_text().splitlines()[-1]
    assert last.startswith("-m pip install") and last.endswith("-e .[dev] -c constraints.txt")
    assert (checkout / ".venv/bin/musekit").exists(), "the folder was not made anew"
    (checkout / "calls").unlink()
    make(checkout, ".venv")
    assert not (checkout / "calls").exists(), "the stamp says that nothing is to do"
    later = (checkout / ".venv/.musekit-installed").stat().st_mtime + 10
    os.utime(checkout / "constraints.txt", (later, later))
    make(checkout, ".venv")
    assert (checkout / "calls").exists(), "constraints.txt changed"


def test_a_failed_install_leaves_no_stamp(checkout: Path):
    (checkout / ".venv/.musekit-installed").unlink()
    script(checkout / ".venv/bin/python", '#!/bin/sh\ncase "$*" in *install*) exit 1;; esac\n')
    assert make(checkout, "demo").returncode == 2
    assert not (checkout / ".venv/.musekit-installed").exists()
    assert not (checkout / "asked.json").exists()


def test_ci_run_installs_then_requires_the_system(tmp_path: Path):
    """.ci/run with a make that records its targets and the mode it was called in."""
    assert os.access(ROOT / ".ci/run", os.X_OK)
    shutil.copytree(ROOT / ".ci", tmp_path / ".ci")
    script(tmp_path / "bin/make", '#!/bin/sh\necho "$PWD $* ${MUSE_REQUIRE_SYSTEM:-unset}" >>"$LOG"\n')
    env = {k: v for k, v in os.environ.items() if k != "MUSE_REQUIRE_SYSTEM"}
    env |= {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "LOG": str(tmp_path / "log")}
    subprocess.run(["bash", str(tmp_path / ".ci/run")], cwd="/", env=env, check=True, timeout=60)
    assert (tmp_path / "log").read_text().splitlines() == [
        f"{tmp_path} system-packages unset",
        f"{tmp_path} test 1",
    ]


MARKED = """
    import os
    import pytest

    @pytest.mark.system("no-such-program", "sh")
    def test_absent():
        raise AssertionError("must not run")

    @pytest.mark.system("sh")
    def test_present():
        assert os.environ["HF_HUB_OFFLINE"] == "1" and "musekit-home" in os.environ["MUSEKIT_HOME"]

    @pytest.mark.system("sh")
    def test_skips_itself():
        pytest.skip("its own reason")

    def test_ordinary_skip():
        pytest.skip("no system test")
"""


@pytest.mark.parametrize(
    "required, counts", [("0", "1 passed, 3 skipped"), ("1", "1 failed, 1 passed, 1 skipped, 1 error")]
)
def test_system_tests_skip_with_the_command_or_fail_when_required(tmp_path: Path, required: str, counts: str):
    (tmp_path / "tests").mkdir()
    for path in (ROOT / "tests").glob("*.py"):
        if not path.name.startswith("test_"):  # conftest.py and what it imports
            shutil.copy(path, tmp_path / "tests" / path.name)
    shutil.copy(ROOT / "pyproject.toml", tmp_path / "pyproject.toml")
    (tmp_path / "tests/test_marked.py").write_text(textwrap.dedent(MARKED))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        capture_output=True,
        env=os.environ | {"MUSE_REQUIRE_SYSTEM": required},
        text=True,
        timeout=60,
    )
    assert counts in done.stdout, done.stdout
    assert "no-such-program is missing: run `make system-packages`" in done.stdout
