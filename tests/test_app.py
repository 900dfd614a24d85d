"""`make app`: notebook 05 as a web page of a real Voila, in a real browser that reaches this machine only."""

import shutil
import socket
import sys
from pathlib import Path

import browser as ui
import pytest

from app import page as page_of

MAKE = shutil.which("make")


def test_the_page_leaves_out_what_takes_minutes():
    cells = page_of({}).cells
    code = [cell.source for cell in cells if cell.cell_type == "code"]
    assert len(code) == 4 and "parameters" in [c for c in cells if c.cell_type == "code"][0].metadata["tags"]
    for made in ("StudioView(", "LabView(", "LibraryView("):
        assert sum(made in source for source in code) == 1
    assert all("muse.generate" not in source for source in code) and not any(c.get("outputs") for c in cells)


@pytest.fixture(scope="module")
def address(tmp_path_factory, smoke_weights):
    """`make app` as it stands, on a port of its own."""
    folder = tmp_path_factory.mktemp("app")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    asked = f"--weights={smoke_weights} --seconds=1.0 --steps=3 --n=1 --no-browser --port={port}"
    # the folder of the Python that runs the tests, and nothing to install
    made = ["-o", ".venv/.musekit-installed", f"BIN={Path(sys.executable).parent}", f"ARGS={asked}"]

    def ready() -> str:
        socket.create_connection(("127.0.0.1", port), 5).close()
        return f"http://127.0.0.1:{port}/"

    environment = ui.surroundings(folder) | {"MUSEKIT_HOME": str(folder / "home")}
    with ui.serving([MAKE, *made, "app"], environment, folder / "server.log", ready, cwd=ui.ROOT) as url:
        yield url


@pytest.mark.system("chromium")
@pytest.mark.skipif(MAKE is None, reason="GNU make is missing: install the package `make`")
def test_a_visitor_hears_an_answer_and_finds_it_again(address, tmp_path):
    with ui.chromium() as browser:
        page = ui.new_page(browser)
        try:
            page.goto(address)
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
        finally:
            page.screenshot(path=tmp_path / "page.png", full_page=True)
