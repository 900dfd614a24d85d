"""The web page in Firefox, driven by WebDriver BiDi: the four views come up, and are heard and seen."""

import asyncio
import base64
import itertools
import json
import shutil
import subprocess
import sys

import browser as ui
import pytest
from ranks import free_ports
from test_app import served
from tornado.websocket import websocket_connect

FIREFOX = shutil.which("firefox-esr") or shutil.which("firefox")
PREFERENCES = {  # nothing but this machine can be reached; sound starts without a click
    "network.proxy.type": 1, "network.proxy.http": "127.0.0.1", "network.proxy.http_port": 9,
    "network.proxy.ssl": "127.0.0.1", "network.proxy.ssl_port": 9, "network.proxy.no_proxies_on": "127.0.0.1",
    "media.autoplay.default": 0, "app.update.enabled": False, "datareporting.policy.dataSubmissionEnabled": False,
}  # fmt: skip


async def visit(url: str, port: int, shot) -> dict:
    """Press what a visitor presses; what each view answers, or the script's error."""
    socket = await websocket_connect(f"ws://127.0.0.1:{port}/session", max_message_size=2**28)
    number = itertools.count()

    async def send(method: str, **parameters) -> dict:
        sent = next(number)
        await socket.write_message(json.dumps({"id": sent, "method": method, "params": parameters}))
        while (answer := json.loads(await asyncio.wait_for(socket.read_message(), 3 * ui.PATIENCE))).get("id") != sent:
            pass
        assert answer["type"] == "success", answer
        return answer["result"]

    await send("session.new", capabilities={})
    page = (await send("browsingContext.create", type="tab"))["context"]
    await send("browsingContext.setViewport", context=page, viewport={"width": 1300, "height": 900})
    await send("browsingContext.navigate", context=page, url=url, wait="complete")
    target = {"context": page}
    found = await send("script.evaluate", expression=PLAY, awaitPromise=True, target=target)
    await send("browsingContext.setViewport", context=page, viewport={"width": 1300, "height": 4200})
    picture = await send("browsingContext.captureScreenshot", context=page)
    shot.write_bytes(base64.b64decode(picture["data"]))
    await socket.write_message(json.dumps({"id": 10**6, "method": "browser.close", "params": {}}))
    return json.loads(found["result"]["value"]) if found["type"] == "success" else found


PLAY = """(async () => {
  const until = async (find, what) => {
    for (let i = 0; i < 10 * PATIENCE; i++) {
      const found = find();
      if (found) return found;
      await new Promise(done => setTimeout(done, 100));
    }
    throw new Error("no " + what);
  };
  const one = selector => document.querySelector(selector), heard = {};
  const seconds = async (view) => {
    const audio = await until(() => one(view + " audio[src]"), "sound in " + view);
    await until(() => audio.duration > 0, "length in " + view);
    return audio.duration;
  };
  (await until(() => one("button.muse-generate"), "Studio")).click();
  heard.studio = await seconds(".muse-card");
  one("button.muse-keep").click();
  await until(() => one(".muse-library-list option"), "kept piece");
  one("button.muse-lab-sample").click();
  heard.points = (await until(() => one(".muse-lab-map .scatterlayer .point") && document.querySelectorAll(
    ".muse-lab-map .scatterlayer .point"), "map")).length;
  const mark = await until(() => one(".muse-mark"), "mark");
  for (const kind of ["pointerdown", "pointerup"]) {
    const box = mark.parentElement.getBoundingClientRect();
    mark.parentElement.setPointerCapture = () => {};  // of a pointer that is real
    mark.parentElement.dispatchEvent(new PointerEvent(kind, {
      bubbles: true, clientX: box.left + 0.4 * box.width, clientY: box.top + 0.5 * box.height}));
  }
  heard.surface = await seconds(".muse-surface-view");
  heard.rings = [...document.querySelectorAll(".muse-mark")].map(one => Number(one.dataset.weight));
  heard.wide = document.documentElement.scrollWidth > innerWidth;
  return JSON.stringify(heard);
})()""".replace("PATIENCE", str(round(ui.PATIENCE)))


@pytest.mark.long
@pytest.mark.skipif(FIREFOX is None, reason="Firefox is missing: on Debian, apt-get install firefox-esr")
def test_the_page_is_heard_and_seen_in_firefox(smoke_weights, tmp_path):
    profile, port = tmp_path / "profile", free_ports(1)[0]
    profile.mkdir()
    lines = (f'user_pref("{name}", {json.dumps(value)});' for name, value in PREFERENCES.items())
    (profile / "user.js").write_text("\n".join(lines))
    command = [FIREFOX, "--headless", "--no-remote", "--profile", str(profile), f"--remote-debugging-port={port}"]

    app = [sys.executable, str(ui.ROOT / "scripts" / "app.py"), "--no-browser"]
    with served(tmp_path, smoke_weights, lambda asked: [*app, *asked]) as (url, _):
        environment = ui.surroundings(tmp_path) | {"HOME": str(tmp_path), "MOZ_HEADLESS": "1"}
        with open(tmp_path / "firefox.log", "wb") as log:
            firefox = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            ui.until("Firefox", lambda: "WebDriver BiDi listening" in (tmp_path / "firefox.log").read_text())
            found = asyncio.run(visit(url, port, tmp_path / "firefox.png"))
        finally:
            firefox.terminate()
            firefox.wait(20)
    assert 0.9 < found["studio"] < 1.1 and 5.9 < found["surface"] < 6.1 and not found["wide"], found
    assert found["points"] >= 300 and sum(found["rings"]) == pytest.approx(1), found
