"""The pictures of the four views in notebook 05, taken of the web page with the packaged weights.

`make pictures` (MUSE_PICTURES=notebooks/pictures) writes them anew; else they are only taken.
"""

import io
import os
import sys
from pathlib import Path

import browser as ui
import pytest
from test_app import served

MAX_BYTES = 120_000


@pytest.mark.long
@pytest.mark.system("chromium")
def test_pictures_of_the_views_are_taken(tmp_path):
    from PIL import Image

    folder = Path(os.environ.get("MUSE_PICTURES") or tmp_path / "pictures")
    folder.mkdir(exist_ok=True)
    app = [sys.executable, "-m", "musekit", "app", "--no-browser", "--n=2"]

    def without(asked: list[str]) -> list[str]:
        return [*app, *(word for word in asked if word.startswith(("--port", "--weights")))]

    with served(tmp_path, "mini", without) as (url, _), ui.chromium() as browser:
        page = ui.new_page(browser, 1100, 1000)
        page.goto(url)
        page.locator("button.muse-generate").click()
        ui.until("cards", lambda: page.locator(".muse-card").count() == 2)
        page.wait_for_selector(f".{ui.STUDIO}:not(.muse-busy)")
        page.locator("button.muse-keep").click()
        ui.mapped(page)
        ui.new_sound(page, ui.LAB, lambda: ui.click_point(page, 20))
        page.locator("button.muse-lab-keep").click()
        page.locator(".muse-plane").scroll_into_view_if_needed()
        box = page.locator(".muse-plane").bounding_box()
        place = box["x"] + 0.45 * box["width"], box["y"] + 0.55 * box["height"]
        ui.new_sound(page, ui.SURFACE, lambda: page.mouse.click(*place))
        page.locator("button.muse-surface-keep").click()
        page.locator(ui.LINES).nth(2).wait_for(state="attached")
        for name in ("studio", "lab", "surface", "library"):
            shot = Image.open(io.BytesIO(page.locator(f".muse-{name}-view").screenshot())).convert("RGB")
            shot.save(folder / f"{name}.webp", quality=82, method=6)
            assert shot.width > 900 and (folder / f"{name}.webp").stat().st_size < MAX_BYTES
