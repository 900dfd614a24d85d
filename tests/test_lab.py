"""The lab as a person meets it: JupyterLab, a browser, notebook 05, sound. Random smoke weights: noise.

One server, one browser and one page with all cells run serve the module; each test brings what it needs.
"""

import io
from pathlib import Path

import nbformat
import pytest
import soundfile
from browser import (
    CELLS,
    chromium,
    command,
    heard,
    jupyterlab,
    new_page,
    new_sound,
    picture,
    reload,
    run_all,
    strangers,
    until,
    write_notebook,
)
from fixtures import sinusoids
from legible import faint, outside
from visitor import LAB, LIBRARY, LINES, STUDIO, choose, click_point, generate, kept, mapped, says, slide, upload

from app import page as page_of

pytestmark = pytest.mark.system("chromium")
TINY = {"n": 1, "seconds": 1.0, "steps": 3, "points": 12, "stops": 3}


@pytest.fixture(scope="module")
def site(tmp_path_factory, smoke_weights):
    """A server on two notebooks that share one library: (f(name, workspace) -> address, library's folder)."""
    folder = tmp_path_factory.mktemp("lab")
    root, home, values = folder / "root", folder / "home", {"weights": str(smoke_weights), **TINY}
    root.mkdir()
    write_notebook(root / "lab.ipynb", **values)
    nbformat.write(page_of(values), root / "other.ipynb")  # only the instruments
    with jupyterlab(folder, root, home) as address:
        yield address, home / "library"


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def lab(site, browser):
    """The page of notebook 05, all cells run."""
    page = new_page(browser)
    page.goto(site[0]("lab.ipynb"))
    run_all(page)
    return page


@pytest.fixture
def page(lab, request, tmp_path):
    """The same; a picture of it is kept where a test fails, and nothing may have been asked of the network."""
    yield lab
    lab.screenshot(path=tmp_path / "page.png")
    assert strangers(lab) == [] and lab.errors == []


def test_all_cells_of_notebook_05_run(page):
    cells = [cell for cell in page.evaluate(CELLS) if cell["type"] == "code"]
    assert [error for cell in cells for error in cell["errors"]] == []
    assert sorted(cell["count"] for cell in cells) == list(range(1, len(cells) + 1))
    assert sum(cell["outputs"] > 0 for cell in cells) == len(cells) - 1  # all but the parameters
    assert page.locator(".muse-view").count() == 3


def test_generate_and_hear(page):
    card = generate(page, "<b>a waltz</b> & more", seed=3)
    assert card.locator("figcaption").inner_text() == "<b>a waltz</b> & more"
    assert "similarity" in card.inner_text() and "seed 3" in card.inner_text()
    first = heard(page, ".muse-card audio")
    assert 0.9 < first["duration"] < 1.1, first
    says(page, STUDIO, "seed 3")
    generate(page, "<b>a waltz</b> & more", seed=4)
    assert heard(page, ".muse-card audio")["digest"] != first["digest"]


def test_only_one_sound_plays(page):
    generate(page, "one"), generate(page, "two", 1)
    playing = page.evaluate(
        """async () => {
          const [a, b] = document.querySelectorAll('.muse-card audio');
          a.loop = b.loop = true;
          await a.play(); await b.play();
          await new Promise(done => { if (a.paused) done(); else a.onpause = done; setTimeout(done, 5000); });
          const found = [a.paused, b.paused]; b.pause(); return found;
        }"""
    )
    assert playing == [True, False]


def test_a_click_on_the_map_is_heard(page):
    mapped(page)
    one = new_sound(page, LAB, lambda: click_point(page, 0))
    label = page.locator(f".{LAB} .muse-desk-label").inner_text()
    other = new_sound(page, LAB, lambda: click_point(page, 5))
    assert 0.9 < one["duration"] < 6.5 and one["digest"] != other["digest"]
    assert "(seed " in label and label != page.locator(f".{LAB} .muse-desk-label").inner_text()
    assert new_sound(page, LAB, lambda: click_point(page, 0))["digest"] == one["digest"]


def test_the_slider_walks_from_one_end_to_the_other(page):
    mapped(page)
    page.locator(f".{LAB} .lm-TabBar-tab", has_text="Ways").click()
    page.locator(".muse-way-clear").click()
    ends = []
    for i, n in ((1, 1), (7, 2)):
        ends.append(new_sound(page, LAB, lambda i=i: click_point(page, i))["digest"])
        page.locator(".muse-way-add").click()
        until(lambda n=n: page.locator(".muse-way-stops-list").inner_text().count("seed") == n, f"stop {n}")
    slide(page, ".muse-way-places", "Home", "ArrowRight")  # three places
    page.locator(".muse-way-make").click()
    says(page, LAB, "3 places; move the slider")
    handle = page.locator(".muse-way-place .noUi-handle")
    handle.scroll_into_view_if_needed()
    at, track = handle.bounding_box(), page.locator(".muse-way-place .noUi-target").bounding_box()

    def drag() -> None:
        page.mouse.move(at["x"] + at["width"] / 2, at["y"] + at["height"] / 2)
        page.mouse.down()
        page.mouse.move(track["x"] + track["width"], at["y"] + at["height"] / 2, steps=6)
        page.mouse.up()

    last = new_sound(page, LAB, drag)["digest"]
    middle = new_sound(page, LAB, lambda: slide(page, ".muse-way-place", "ArrowLeft"))["digest"]
    first = new_sound(page, LAB, lambda: slide(page, ".muse-way-place", "Home"))["digest"]
    assert (first, last) == tuple(ends) and middle not in ends
    whole = new_sound(page, LAB, lambda: page.locator(".muse-way-play").click())
    assert whole["duration"] > 2 and whole["digest"] not in (*ends, middle)


def test_a_sound_is_uploaded_and_what_is_none_is_refused(page):
    page.locator(f".{LAB} .lm-TabBar-tab", has_text="Map").click()
    sound = io.BytesIO()
    soundfile.write(sound, sinusoids([440], 1.0).T, 48000, format="WAV")
    tune = {"name": "my <i>tune</i>.wav", "mimeType": "audio/wav", "buffer": sound.getvalue()}
    upload(page, tune)
    says(page, LAB, "my <i>tune</i>.wav: resampled from 48")
    upload(page, {"name": "page.wav", "mimeType": "audio/wav", "buffer": b"<script>alert(1)</script>" * 99})
    says(page, LAB, "no sound that can be read")
    assert "muse-trouble" in page.locator(f".{LAB} .muse-say").inner_html()


def test_keep_tag_search_delete_and_undo(page):
    for name in ("a lonely gigue", "a merry air"):
        kept(page, name)
    choose(page, "a lonely gigue")
    page.locator(".muse-library-tags input").fill("blue, <u>odd</u>")
    page.locator(".muse-library-give").click()
    page.locator(LINES, has_text="a lonely gigue").locator(".muse-tag", has_text="<u>odd</u>").wait_for()
    page.locator(".muse-library-query input").fill("blue")
    until(lambda: page.locator(LINES).count() == 1, "one piece found by its tag")
    sound = new_sound(page, LIBRARY, lambda: page.locator(LINES).locator(".muse-line-play").click())
    assert 0.9 < sound["duration"] < 1.1
    choose(page, "a lonely gigue")
    page.locator(".muse-library-delete").click()
    until(lambda: page.locator(LINES).count() == 0, "empty list")
    page.locator(".muse-library-undo").click()
    page.locator(LINES, has_text="a lonely gigue").wait_for()
    page.locator(".muse-library-query input").fill("")
    page.locator(LINES, has_text="a merry air").wait_for()


def test_two_notebooks_share_one_library(page, site, browser):
    other = new_page(browser)
    other.goto(site[0]("other.ipynb", "b"))
    run_all(other)
    kept(other, "from the other notebook")
    page.locator(".muse-library-look").click()
    page.locator(LINES, has_text="from the other notebook").wait_for()
    choose(page, "from the other notebook")
    page.locator(".muse-library-delete").click()
    until(lambda: page.locator(LINES, has_text="from the other notebook").count() == 0, "delete")
    other.locator(".muse-library-look").click()
    until(lambda: other.locator(LINES, has_text="from the other notebook").count() == 0, "delete seen by the other")
    kept(other, "still at work")
    kept(page, "here too")
    assert strangers(other) == [] and other.errors == []
    other.close()


def test_the_questions_of_legibility_see_faults(browser):
    page = browser.new_page()
    page.set_content(
        '<body style="background:#fff"><div id="panel" style="width:300px"><p style="color:#999">pale</p>'
        '<p style="color:#000;opacity:.4">thin</p><p>good</p><button style="margin-left:290px">wide</button></div>'
    )
    assert [text.split(": ")[1] for text in page.evaluate(faint, "#panel")] == ["pale", "thin"]
    assert "BUTTON" in page.evaluate(outside, "#panel")[0]
    page.close()


@pytest.mark.parametrize("look", ["light", "dark", "narrow", "narrow-dark"])
def test_every_view_is_legible(page, look):
    mapped(page)
    kept(page, f"the {look} look has a long name" + ", and longer" * 6)
    if not page.evaluate("() => window.jupyterapp.shell.leftCollapsed"):
        command(page, "application:toggle-left-area")
    command(page, "apputils:change-theme", theme="JupyterLab Dark" if "dark" in look else "JupyterLab Light")
    dark = "false" if "dark" in look else "true"
    page.wait_for_function(f"() => document.body.dataset.jpThemeLight === '{dark}'")
    page.set_viewport_size({"width": 700 if "narrow" in look else 1400, "height": 1000})
    try:
        # once it is seen, the chart takes the width of its place
        page.locator(".muse-lab-map").scroll_into_view_if_needed()
        page.wait_for_function(
            """() => { const place = document.querySelector('.muse-lab-map'), plot = place.querySelector('.main-svg');
                       return Math.abs(plot.clientWidth - place.clientWidth) < 4; }"""
        )
        for name, views in (("studio", STUDIO), ("lab", LAB), ("library", LIBRARY)):
            picture(page, views, f"{name}-{look}")
            assert page.evaluate(outside, f".{views}") == []
            assert page.evaluate(faint, f".{views}") == []
    finally:
        page.set_viewport_size({"width": 1400, "height": 1000})


def test_a_reload_loses_nothing(page, site):
    kept(page, "kept before the reload")
    command(page, "docmanager:save")
    reload(page)
    page.locator(LINES, has_text="kept before the reload").wait_for()  # the widgets live on in their kernel
    sound = new_sound(
        page,
        LIBRARY,
        lambda: page.locator(LINES, has_text="kept before the reload").locator(".muse-line-play").click(),
    )
    assert 0.9 < sound["duration"] < 1.1
    kept(page, "and kept after it")
    files = [path for path in Path(site[1]).rglob("*.flac")]
    assert len(files) >= 2
