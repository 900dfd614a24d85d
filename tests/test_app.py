"""`make app`: notebook 05 as a web page of a real Voila, in a real browser that reaches this machine only."""

import asyncio
import contextlib
import re
import shutil
import socket
import sys
import urllib.error
import urllib.request
from pathlib import Path

import browser as ui
import pytest
from ranks import free_ports
from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.websocket import websocket_connect

from app import page as page_of
from voila_server import PROTOCOL

MAKE = shutil.which("make")


def test_the_page_leaves_out_what_takes_minutes():
    cells = page_of({}).cells
    code = [cell.source for cell in cells if cell.cell_type == "code"]
    assert len(code) == 5 and "parameters" in [c for c in cells if c.cell_type == "code"][0].metadata["tags"]
    for made in ("StudioView(", "LabView(", "SurfaceView(", "LibraryView("):
        assert sum(made in source for source in code) == 1
    assert all("muse.generate" not in source for source in code) and not any(c.get("outputs") for c in cells)


@contextlib.contextmanager
def served(folder: Path, weights: Path, start, *options: str):
    """The page on a port of its own, as `start(options)` starts it: the address that is printed, and its log."""
    port = free_ports(1)[0]
    asked = [f"--weights={weights}", "--seconds=1.0", "--steps=3", "--n=1", f"--port={port}", *options]

    def ready() -> str | None:
        socket.create_connection(("127.0.0.1", port), 5).close()
        found = re.search(r"http://localhost:\d+/(\?token=\w{32,})", (folder / "server.log").read_text())
        return found and f"http://127.0.0.1:{port}/{found[1]}"

    environment = ui.surroundings(folder) | {"MUSEKIT_HOME": str(folder / "home"), "BROWSER": "echo opened %s"}
    with ui.serving(start(asked), environment, folder / "server.log", ready, cwd=ui.ROOT) as url:
        yield url, folder / "server.log"


@pytest.fixture(scope="module")
def server(tmp_path_factory, smoke_weights):
    """`make app` as it stands, for one visitor."""
    # the folder of the Python that runs the tests, and nothing to install
    made = ["-o", ".venv/.musekit-installed", f"BIN={Path(sys.executable).parent}"]
    folder = tmp_path_factory.mktemp("app")
    with served(
        folder, smoke_weights, lambda asked: [MAKE, *made, f"ARGS={' '.join(asked)}", "app"], "--Kernels.limit=1"
    ) as found:
        yield found


def answer(url: str, method: str = "GET", **headers) -> tuple[int, str]:
    """Status and text of a page."""
    try:
        request = urllib.request.Request(url, headers=headers, method=method)
        with urllib.request.urlopen(request, timeout=ui.PATIENCE) as page:
            return page.status, page.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


needs_make = pytest.mark.skipif(MAKE is None, reason="GNU make is missing: install the package `make`")


@needs_make
def test_strangers_more_visitors_and_odd_sockets_are_refused(server):
    (bare, token), log = server[0].split("?token="), server[1]
    key = {"Authorization": f"token {token}"}
    for url in (bare, f"{bare}?token=0123"):
        status, text = answer(url)
        assert "Token" in text and "muse" not in text  # the form that asks for one
    assert answer(bare, Host="music.example", **key)[0] == 403
    opened = Path(re.search(r"opened file://(\S+)", log.read_text())[1])
    assert f"/?token={token}" in opened.read_text() and opened.parent.stat().st_mode & 0o077 == 0
    status, text = answer(f"{bare}?theme=<b>odd&template=<b>odd", **key)
    kernel = re.search(r'"kernelId": ?"([\w-]+)"', text)[1]
    assert status == 200 and "The latent lab" in text and "<b>odd" not in text
    status, text = answer(bare, **key)
    assert status == 503 and "1 visitors are here, the limit" in text

    async def sockets() -> None:
        url = f"{bare.replace('http', 'ws', 1)}api/kernels/{kernel}/channels"
        for headers, protocols, code in (({}, [PROTOCOL], 403), (key, ["odd"], 400), (key, None, 400)):
            with pytest.raises(HTTPClientError) as refused:
                await websocket_connect(HTTPRequest(url, headers=headers), subprotocols=protocols)
            assert refused.value.code == code
        socket = await websocket_connect(HTTPRequest(url, headers=key), subprotocols=[PROTOCOL])
        await socket.write_message((1).to_bytes(8, "little"), binary=True)  # no header follows
        while await asyncio.wait_for(socket.read_message(), ui.PATIENCE) is not None:
            pass
        assert socket.close_code == 1003

    asyncio.run(sockets())
    assert answer(f"{bare}api/kernels/{kernel}", "DELETE", **key)[0] == 204  # room for the next visitor


def test_visitors_have_libraries_of_their_own_where_they_share_the_machine(smoke_weights, tmp_path):
    command = [sys.executable, "-m", "musekit", "app"]
    private = ("--Kernels.private=True", "--no-browser", "--Kernels.limit=3")
    with served(tmp_path, smoke_weights, lambda asked: [*command, *asked], *private) as (url, _):
        visitors = tmp_path / "home" / "visitors"
        for browser in range(2):
            jar = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
            for visit in (url, url.partition("?")[0])[: 2 - browser]:  # the first comes back, by its cookie alone
                with jar.open(visit, timeout=ui.PATIENCE) as page:
                    assert "The latent lab" in page.read().decode()
                assert len([one for one in visitors.iterdir() if (one / "library").is_dir()]) == browser + 1
        assert not (tmp_path / "home" / "library").exists()


@pytest.mark.system("chromium")
@needs_make
def test_a_visitor_hears_an_answer_and_finds_it_again(server, tmp_path):
    with ui.chromium() as browser:
        page = ui.new_page(browser)
        try:
            page.goto(server[0])
            page.locator("button.muse-generate").click()
            assert 0.9 < ui.heard(page, ".muse-card audio")["duration"] < 1.1
            page.locator("button.muse-keep").click()
            page.locator(ui.LINES).first.wait_for(state="attached")
            page.locator(".muse-library-list select").select_option(index=0)
            ui.new_sound(page, ui.LIBRARY, lambda: page.locator("button.muse-library-play").click())
            page.locator("button.muse-lab-sample").click()
            page.wait_for_selector(".muse-lab-map .scatterlayer .point", state="attached")
            # the letters that buttons are drawn with came along
            icons = "() => document.fonts.check('900 14px FontAwesome') || document.fonts.size > 0"
            assert page.evaluate(icons) and ui.strangers(page) == [] and page.errors == []
            assert "StudioView(" not in page.content()  # a page, not a program
            sound = ui.heard(page, ".muse-card audio")["digest"]
            page.reload()  # its kernel makes room for the next one, which makes the visitor's piece again
            page.get_by_role("button", name="Bring back my last piece").click()
            assert ui.heard(page, ".muse-card audio")["digest"] == sound
        finally:
            page.screenshot(path=tmp_path / "page.png", full_page=True)
