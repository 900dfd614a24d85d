"""The lab as a person meets it: JupyterLab, a browser, notebook 05, Generate, sound. Random smoke weights: noise."""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest

from run_notebooks import set_parameters

NOTEBOOK = Path(__file__).resolve().parent.parent / "notebooks" / "05_latent_lab.ipynb"
PATIENCE = float(os.environ.get("MUSE_LAB_PATIENCE", "120"))  # seconds for any one thing; a busy machine is slow
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # proves that nothing is fetched
]
IDLE = """() => {
  const app = window.jupyterapp, panel = app && app.shell.currentWidget, session = panel && panel.sessionContext;
  const kernel = session && session.isReady && session.session && session.session.kernel;
  return !!kernel && kernel.status === 'idle' && kernel.connectionStatus === 'connected';
}"""
CELLS = """() => window.jupyterapp.shell.currentWidget.content.model.sharedModel.cells.map(
  c => ({type: c.cell_type, count: c.execution_count ?? null, outputs: c.outputs ? c.outputs.length : 0,
         errors: (c.outputs || []).filter(o => o.output_type === 'error').map(o => o.evalue)}))"""
SOUND = """async () => {
  const audio = document.querySelector('.muse-cards audio');
  if (!audio) return null;
  if (!Number.isFinite(audio.duration))
    await new Promise(done => { audio.onloadedmetadata = done; setTimeout(done, 5000); });
  const error = audio.error ? audio.error.message : null;
  return {duration: audio.duration, error, cards: document.querySelectorAll('.muse-card').length};
}"""


@pytest.fixture
def lab(tmp_path: Path, smoke_weights: Path):
    """A server of its own in a folder of its own, on a copy of the notebook with tiny settings: (url, token)."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    tiny = {"n": 1, "seconds": 1.0, "steps": 3, "points": 12, "stops": 3}
    set_parameters(notebook, {"weights": str(smoke_weights), **tiny})
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    root = tmp_path / "root"
    root.mkdir()
    nbformat.write(notebook, root / NOTEBOOK.name)
    settings = tmp_path / "settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    (settings / "notification.jupyterlab-settings").write_text(
        json.dumps({"fetchNews": "false", "checkForUpdates": False})
    )
    token = secrets.token_hex(16)
    places = {name: str(tmp_path / name) for name in ("config", "data", "runtime")}
    environment = os.environ | {f"JUPYTER_{name.upper()}_DIR": place for name, place in places.items()}
    environment |= {"JUPYTER_NO_CONFIG": "1", "IPYTHONDIR": str(tmp_path / "ipython")}
    options = {
        "ServerApp.root_dir": root,
        "ServerApp.ip": "127.0.0.1",
        "ServerApp.port": 0,
        "ServerApp.open_browser": False,
        "ServerApp.allow_root": True,
        "IdentityProvider.token": token,
        "LabApp.expose_app_in_browser": True,
        "LabApp.user_settings_dir": tmp_path / "settings",
        "LabApp.workspaces_dir": tmp_path / "workspaces",
    }
    log = open(tmp_path / "server.log", "wb")
    command = [sys.executable, "-m", "jupyterlab", *(f"--{name}={value}" for name, value in options.items())]
    server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        yield wait_for_server(server, Path(places["runtime"]), tmp_path / "server.log"), token
    finally:
        server.send_signal(signal.SIGTERM)  # it shuts its kernels down before it ends
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        log.close()


def wait_for_server(server: subprocess.Popen, runtime: Path, log: Path) -> str:
    """The address that the server wrote, once it answers."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        assert server.poll() is None, log.read_text()[-3000:]
        for path in runtime.glob("jpserver-*.json"):
            try:
                info = json.loads(path.read_text())
                with urllib.request.urlopen(f"{info['url']}api?token={info['token']}", timeout=10):
                    return info["url"]
            except (OSError, ValueError, KeyError):
                pass
        time.sleep(0.1)
    raise AssertionError(f"no server within {PATIENCE:.0f} s: {log.read_text()[-3000:]}")


@pytest.fixture
def page(tmp_path: Path):
    """A page of a real chromium that can reach this machine only; a picture of it is kept where a test fails."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.set_default_timeout(PATIENCE * 1000)
        try:
            yield page
        finally:
            page.screenshot(path=tmp_path / "page.png")
            browser.close()


@pytest.mark.system("chromium")
def test_a_person_presses_generate_and_hears_sound(lab, page):
    url, token = lab
    page.goto(f"{url}lab/tree/{NOTEBOOK.name}?token={token}&reset")
    page.wait_for_function(IDLE)
    # not awaited inside the page: evaluate has no time-out
    page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells'); }")
    page.wait_for_selector(".muse-generate")
    number = sum(1 for cell in page.evaluate(CELLS) if cell["type"] == "code")
    deadline = time.monotonic() + PATIENCE
    while len([c for c in page.evaluate(CELLS) if c["count"]]) < number and time.monotonic() < deadline:
        time.sleep(0.2)
    page.wait_for_function(IDLE)
    cells = [cell for cell in page.evaluate(CELLS) if cell["type"] == "code"]
    assert [error for cell in cells for error in cell["errors"]] == []
    assert sorted(cell["count"] for cell in cells) == list(range(1, number + 1))

    prompt = page.locator(".muse-prompt input")
    prompt.fill("<b>a waltz</b> & more")
    prompt.press("Tab")
    page.locator("button.muse-generate").click()
    page.wait_for_selector(".muse-card audio", state="attached")
    sound = page.evaluate(SOUND)
    assert sound["error"] is None and sound["cards"] == 1
    assert 0.9 < sound["duration"] < 1.1, sound
    assert page.locator(".muse-card figcaption").inner_text() == "<b>a waltz</b> & more"
    assert "similarity" in page.locator(".muse-card").inner_text()
    page.wait_for_function("() => !document.querySelector('button.muse-generate').disabled")
    assert "seed 0" in page.locator(".muse-label").inner_text()
