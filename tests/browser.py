"""A real JupyterLab and a real browser that reaches this machine only, and what a person does in them."""

import contextlib
import functools
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import ranks

from run_notebooks import set_parameters

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "notebooks" / "05_latent_lab.ipynb"
PATIENCE = float(os.environ.get("MUSE_LAB_PATIENCE", "120"))  # seconds for any one thing; a busy machine is slow
until = functools.partial(ranks.until, seconds=PATIENCE)
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
    "--autoplay-policy=no-user-gesture-required",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # proves that nothing is fetched
]  # fmt: skip
IDLE = """() => {
  const app = window.jupyterapp, panel = app && app.shell.currentWidget, session = panel && panel.sessionContext;
  const kernel = session && session.isReady && session.session && session.session.kernel;
  return !!kernel && kernel.status === 'idle' && kernel.connectionStatus === 'connected';
}"""
CELLS = """() => window.jupyterapp.shell.currentWidget.content.model.sharedModel.cells.map(
  c => ({type: c.cell_type, count: c.execution_count ?? null, outputs: c.outputs ? c.outputs.length : 0,
         errors: (c.outputs || []).filter(o => o.output_type === 'error').map(o => o.evalue)}))"""
# What an <audio> element plays, decoded by the browser itself: seconds, loudness, and a digest of its samples
# (not of its bytes: an OGG stream has a random number)
HEARD = """async (audio) => {
  const bytes = await (await fetch(audio.src)).arrayBuffer();
  const sound = await new OfflineAudioContext(1, 1, 44100).decodeAudioData(bytes);
  let power = 0, broken = 0, digest = '';
  for (let c = 0; c < sound.numberOfChannels; c++) {
    const samples = sound.getChannelData(c);
    for (const x of samples) { power += x * x; broken += !Number.isFinite(x); }
    digest += Array.from(new Uint8Array(await crypto.subtle.digest('SHA-256', samples))).slice(0, 8).join('-') + ' ';
  }
  if (!Number.isFinite(audio.duration))
    await new Promise(done => { audio.addEventListener('loadedmetadata', done); setTimeout(done, 5000); });
  return {duration: audio.duration, decoded: sound.duration, channels: sound.numberOfChannels, broken, digest,
          rms: Math.sqrt(power / sound.length / sound.numberOfChannels), error: audio.error && audio.error.message};
}"""


def write_notebook(place: Path, **values) -> None:
    """A copy of notebook 05 with these parameters and without outputs."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    set_parameters(notebook, values)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    nbformat.write(notebook, place)


def surroundings(folder: Path) -> dict[str, str]:
    """An environment in which Jupyter reads and writes nothing outside of `folder`."""
    places = {f"JUPYTER_{name.upper()}_DIR": str(folder / name) for name in ("config", "data", "runtime")}
    return os.environ | places | {"JUPYTER_NO_CONFIG": "1", "IPYTHONDIR": str(folder / "ipython")}


@contextlib.contextmanager
def serving(command: list[str], environment: dict[str, str], log: Path, ready: Callable[[], str | None], cwd=None):
    """A server while the block runs: `ready()` is its address once it answers; yields that."""
    with open(log, "wb") as file:
        server = subprocess.Popen(command, env=environment, stdout=file, stderr=file, cwd=cwd, start_new_session=True)
        try:

            def answer() -> str | None:
                assert server.poll() is None, log.read_text()[-3000:]
                with contextlib.suppress(OSError, ValueError, KeyError):
                    return ready()
                return None

            yield until(f"server ({log})", answer)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGTERM)  # it shuts its kernels down before it ends
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(server.pid, signal.SIGKILL)
                server.wait()


@contextlib.contextmanager
def jupyterlab(folder: Path, root: Path, home: Path) -> Iterator[Callable[[str], str]]:
    """JupyterLab on the notebooks of `root`, all else of it in `folder`; yields f(notebook's name) -> its address."""
    settings = folder / "settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    (settings / "notification.jupyterlab-settings").write_text(
        json.dumps({"fetchNews": "false", "checkForUpdates": False})
    )
    token = secrets.token_hex(16)
    options = {
        "ServerApp.root_dir": root,
        "ServerApp.ip": "127.0.0.1",
        "ServerApp.port": 0,
        "ServerApp.open_browser": False,
        "ServerApp.allow_root": True,
        "IdentityProvider.token": token,
        "LabApp.expose_app_in_browser": True,
        "LabApp.user_settings_dir": folder / "settings",
        "LabApp.workspaces_dir": folder / "workspaces",
    }
    command = [sys.executable, "-m", "jupyterlab", *(f"--{name}={value}" for name, value in options.items())]

    def ready() -> str | None:
        for path in (folder / "runtime").glob("jpserver-*.json"):
            info = json.loads(path.read_text())
            with urllib.request.urlopen(f"{info['url']}api?token={info['token']}", timeout=10):
                return info["url"]
        return None

    environment = surroundings(folder) | {"MUSEKIT_HOME": str(home)}
    with serving(command, environment, folder / "server.log", ready) as url:
        yield lambda name, workspace="a": f"{url}lab/workspaces/{workspace}/tree/{name}?token={token}&reset"


@contextlib.contextmanager
def chromium(*flags: str) -> Iterator:
    """A real browser that can reach this machine only."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=[*FLAGS, *flags])
        try:
            yield browser
        finally:
            browser.close()


def new_page(browser, width: int = 1400, height: int = 1000):
    """A page in a context of its own, whose errors are collected in `page.errors`."""
    page = browser.new_context(viewport={"width": width, "height": height}).new_page()
    page.set_default_timeout(PATIENCE * 1000)
    page.errors, page.asked = [], []
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.on("request", lambda request: page.asked.append(request.url))
    return page


def strangers(page) -> list[str]:
    """What the page asked of other machines than this one."""
    ours = ("http://127.0.0.1:", "ws://127.0.0.1:", "data:", "blob:")
    return [url for url in page.asked if not url.startswith(ours)]


def run_all(page) -> None:
    """All cells of the notebook that is open, once its kernel is ready; fails where one fails."""
    page.wait_for_function(IDLE)
    # not awaited inside the page: evaluate has no time-out
    page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells'); }")
    number = sum(1 for cell in page.evaluate(CELLS) if cell["type"] == "code")

    def ended() -> bool:
        cells = page.evaluate(CELLS)
        assert [error for cell in cells for error in cell["errors"]] == []
        return sum(1 for cell in cells if cell["count"]) == number

    until("end of the notebook", ended, seconds=3 * PATIENCE)
    page.wait_for_function(IDLE)


def heard(page, selector: str) -> dict:
    """The sound of the first player there, decoded in the page; fails where it is broken or silent."""
    sound = page.wait_for_selector(f"{selector}[src]", state="attached").evaluate(HEARD)
    assert sound["error"] is None and sound["broken"] == 0 and sound["rms"] > 1e-3, sound
    assert abs(sound["duration"] - sound["decoded"]) < 0.1, sound
    return sound


def new_sound(page, view: str, act: Callable[[], object]) -> dict:
    """The sound that the player of a view (`muse-view`, ...) gets by `act()`."""
    audio = f".{view} .muse-player-audio"
    page.wait_for_selector(f".{view}:not(.muse-busy)")
    before = page.locator(audio).get_attribute("src")
    act()
    until(f"new sound in {view}", lambda: page.locator(audio).get_attribute("src") not in (None, before))
    return heard(page, audio)


# -- what a person does with the three panels

STUDIO, LAB, SURFACE, LIBRARY = (f"muse-{name}-view" for name in ("studio", "lab", "surface", "library"))
LINES = f".{LIBRARY} .muse-library-list option"
# Where point i of the map's first group is on the screen
PLACE = """(i) => {
  const plot = document.querySelector('.muse-lab-map .js-plotly-plot');
  const {xaxis, yaxis} = plot._fullLayout, {x, y} = plot._fullData[1], at = plot.getBoundingClientRect();
  return [at.left + xaxis._offset + xaxis.d2p(x[i]), at.top + yaxis._offset + yaxis.d2p(y[i])];
}"""


def says(page, name: str, text: str) -> None:
    """Wait until the line of a view holds a text."""
    page.locator(f".{name} .muse-say", has_text=text).wait_for()


def new_card(page, act: Callable[[], object]):
    """The card that comes by `act()`: the last one, which stands first."""
    before = page.locator(".muse-card").count()
    act()
    until("card", lambda: page.locator(".muse-card").count() > before)
    page.wait_for_selector(f".{STUDIO}:not(.muse-busy)")
    return page.locator(".muse-cards [data-piece]").last


def generate(page, prompt: str, seed: int = 0):
    """Press Generate and wait for the new card: that card."""
    page.locator(".muse-prompt input").fill(prompt)
    page.locator(".muse-seed input").fill(str(seed))
    page.keyboard.press("Tab")
    return new_card(page, page.locator("button.muse-generate").click)


def kept(page, name: str) -> None:
    """Generate a piece of that name, keep it, and see it in the Library."""
    generate(page, name)
    page.locator("button.muse-keep").click()
    page.locator(LINES, has_text=name).wait_for(state="attached")


def choose(page, name: str) -> None:
    """Choose a piece of the Library."""
    index = [name in text.replace("\xa0", " ") for text in page.locator(LINES).all_text_contents()].index(True)
    page.locator(f".{LIBRARY} .muse-library-list select").select_option(index=index)
    until(f"choice of {name}", lambda: page.locator(".muse-library-text input").input_value() == name)


def mapped(page) -> None:
    """A map, sampled anew where there is none."""
    page.locator("button.muse-lab-sample").scroll_into_view_if_needed()
    if not page.locator(".muse-lab-map .scatterlayer .point").count():
        page.locator("button.muse-lab-sample").click()
        says(page, LAB, "click a point to hear it")
    page.locator(".muse-lab-map .scatterlayer .point").first.wait_for(state="attached")


def click_point(page, i: int) -> None:
    """Click point i of the map's first group."""
    page.locator(".muse-lab-map").scroll_into_view_if_needed()
    x, y = page.evaluate(PLACE, i)
    page.mouse.move(x, y)
    page.mouse.click(x, y)
