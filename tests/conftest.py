"""What every test shares: two threads, no network, its own cache folder, markers for what a machine may lack.

`system("chromium")` skips where the program is missing and says which command installs it. With MUSE_REQUIRE_SYSTEM=1
(CI, after `make system-packages`) such a test that does not run is a failure.
"""

import os
import shutil
from pathlib import Path

import pytest

# Read by torch and the Hugging Face libraries when they are imported, so set before any test module is. Bits
# depend on the number of threads: two, unless the caller says otherwise. Subprocesses inherit all of it.
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # a waiting thread must not spin on a core that others need
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads and forked workers do not mix
os.environ.setdefault("MPLBACKEND", "Agg")

from fixtures import minilm, tiny  # noqa: E402, F401 - the environment above comes first
from ranks import ranks  # noqa: E402, F401
from slurm_cluster import cluster, submit  # noqa: E402, F401

FIRST = ("test_notebooks", "test_slurm", "test_resume", "test_train", "test_lab", "test_app", "test_instrument")
TOGETHER = {"test_slurm": "slurm", "test_lab": "browser", "test_app": "browser", "test_instrument": "browser"}
SBIN = ":/usr/local/sbin:/usr/sbin:/sbin"  # where slurmd is, off a plain user's PATH


@pytest.fixture(scope="session", autouse=True)
def musekit_home(tmp_path_factory: pytest.TempPathFactory):
    """MUSEKIT_HOME for the whole session, subprocesses included: nothing reaches the user's own caches.

    TimGM, which pretty_midi ships, stands in for the SoundFonts that Debian packages have, its steel guitar for their
    mandolin.
    """
    import pretty_midi

    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("musekit-home")
        patch.setenv("MUSEKIT_HOME", str(home))
        data = bytearray(Path(pretty_midi.__file__).with_name("TimGM6mb.sf2").read_bytes())
        data[data.index(b"Steel Guitar") + 22] = 16  # the bank
        for font in ("musescore", "fluid"):
            (home / f"{font}.sf2").write_bytes(data)
        patch.setenv("MUSEKIT_FONTS", str(home))
        yield home


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch):
    """A function: the file of a SoundFont itself, not of its stand-in; skips where its package is missing."""
    from musekit.config import MuseError
    from musekit.corpus import fonts

    def find(font: str) -> Path:
        try:
            return fonts.located(font)
        except MuseError as error:
            pytest.skip(str(error))

    monkeypatch.delenv("MUSEKIT_FONTS")
    fonts.ready.cache_clear()
    yield find
    fonts.ready.cache_clear()


@pytest.fixture
def results_folder(tmp_path: Path) -> Path:
    """Where tests that measure write: a folder that is thrown away, or $MUSE_RESULTS (`make results`)."""
    return Path(os.environ.get("MUSE_RESULTS") or tmp_path)


@pytest.fixture
def one_thread():
    """One CPU thread: with more, some CPUs round a piece by its position in the batch (`musekit.inference`)."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def smoke_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of random weights of the smoke preset, the real classes throughout. Read only: copy it to change it."""
    from musekit.config import smoke
    from musekit.pretrained import init_random

    return init_random(tmp_path_factory.mktemp("weights") / "smoke", smoke())


@pytest.fixture(scope="session")
def muse(smoke_weights: Path):
    """The system of those weights, loaded once for all that change nothing of it."""
    from musekit.muse import Muse

    return Muse.from_pretrained(smoke_weights)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In pytest-xdist's workers the longest files begin first."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: FIRST.index(item.path.stem) if item.path.stem in FIRST else len(FIRST))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log):
    """Under `-n 2` a file stays with one worker, as its fixtures are made once; so do files that share a Slurm or a
    browser. (`--dist loadgroup` does not group under pytest 9.2: pytest-xdist #1386.)
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.split("::")[0]
            return TOGETHER.get(Path(file).stem, file)

    config.option.loadscopereorder = False  # ours is the order of `FIRST`
    return ByFile(config, log)


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("system"):
        path = os.environ.get("PATH", os.defpath) + SBIN
        missing = [program for program in mark.args if shutil.which(program, path=path) is None]
        if missing:  # a failure where the system is required: see pytest_runtest_makereport
            pytest.skip(f"missing: {', '.join(missing)}; run `make system-packages`")
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo):
    """Where the system is required, a system test that skips for any reason but a missing GPU has failed."""
    report = yield
    required = os.environ.get("MUSE_REQUIRE_SYSTEM", "") not in ("", "0")
    if required and report.skipped and not hasattr(report, "wasxfail") and item.get_closest_marker("system"):
        reason = report.longrepr[-1] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if "needs a CUDA device" not in reason:
            report.outcome = "failed"
            report.longrepr = f"MUSE_REQUIRE_SYSTEM=1, and this system test did not run. {reason}"
    return report
