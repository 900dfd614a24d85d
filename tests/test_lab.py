"""The lab as a person meets it: JupyterLab, a browser, notebook 05, sound. Random smoke weights: noise.

One server, one browser and one page with all cells run serve the module; each test brings what it needs.
"""

import re

import browser as ui
import pytest

pytestmark = pytest.mark.system("chromium")
# anywidget waits 2 s for a widget's script. Here it never waits: every script comes too late, as on a busy machine.
NO_PATIENCE = """() => {
  const patient = AbortSignal.timeout.bind(AbortSignal);
  AbortSignal.timeout = (ms) => ms !== 2000 ? patient(ms) : { addEventListener: (name, call) => {
    window.museLate = (window.museLate || 0) + 1;
    call();
  } };
}"""
# The value of an expression in the notebook's kernel
KERNEL = """async (code) => {
  const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
  const value_of = {value: `__import__("json").dumps(${code})`};
  const future = kernel.requestExecute({code: '', silent: true, user_expressions: value_of});
  const {value} = (await future.done).content.user_expressions;
  if (value.status !== 'ok') throw new Error(value.evalue);
  return JSON.parse(value.data['text/plain'].slice(1, -1));
}"""
TINY = {"n": 1, "seconds": 1.0, "steps": 3, "points": 12, "stops": 3}


@pytest.fixture(scope="module")
def site(tmp_path_factory, smoke_weights):
    """A server on notebook 05: f(name) -> address."""
    folder = tmp_path_factory.mktemp("lab")
    root, home, values = folder / "root", folder / "home", {"weights": str(smoke_weights), **TINY}
    root.mkdir()
    ui.write_notebook(root / "lab.ipynb", **values)
    with ui.jupyterlab(folder, root, home) as address:
        yield address


@pytest.fixture(scope="module")
def page(site, tmp_path_factory):
    """The page of notebook 05, all cells run; nothing may be requested from the network."""
    with ui.chromium() as browser:
        page = ui.new_page(browser)
        page.add_init_script(f"({NO_PATIENCE})()")
        page.goto(site("lab.ipynb"))
        ui.run_all(page)
        yield page
        page.screenshot(path=tmp_path_factory.mktemp("page") / "page.png")
        assert page.evaluate("window.museLate") >= 6  # four players, a map and a plane
        assert ui.strangers(page) == [] and [e for e in page.errors if "Failed to initialize model" not in e] == []


def test_a_person_runs_notebook_05_hears_pieces_walks_the_map_and_keeps_a_piece(page):
    cells = [cell for cell in page.evaluate(ui.CELLS) if cell["type"] == "code"]
    assert sorted(cell["count"] for cell in cells) == list(range(1, len(cells) + 1))
    silent = 2 + 3  # the parameters, the ways, three unanswered exercises
    assert sum(cell["outputs"] > 0 for cell in cells) == len(cells) - silent
    assert page.locator(".muse-view").count() == 4

    card = ui.generate(page, "<b>a waltz</b> & more", seed=3)
    assert card.locator("figcaption").inner_text() == "<b>a waltz</b> & more"
    assert "similarity" in card.inner_text() and "seed 3" in card.inner_text()
    first = ui.heard(page, ".muse-card audio")
    assert 0.9 < first["duration"] < 1.1, first
    ui.says(page, ui.STUDIO, "seed 3")
    ui.generate(page, "<b>a waltz</b> & more", seed=4)
    assert ui.heard(page, ".muse-cards > :last-child audio")["digest"] != first["digest"]  # the newest

    ui.mapped(page)
    one = ui.new_sound(page, ui.LAB, lambda: ui.click_point(page, 0))
    assert page.evaluate("document.querySelector('.js-plotly-plot')._fullData[1].selectedpoints") == [0]  # drawn larger
    label = page.locator(f".{ui.LAB} .muse-player-label").inner_text()
    other = ui.new_sound(page, ui.LAB, lambda: ui.click_point(page, 5))
    assert 0.9 < one["duration"] < 6.5 and one["digest"] != other["digest"]
    assert "(seed " in label and label != page.locator(f".{ui.LAB} .muse-player-label").inner_text()
    assert ui.new_sound(page, ui.LAB, lambda: ui.click_point(page, 0))["digest"] == one["digest"]

    shown = "document.querySelector('.js-plotly-plot')._fullLayout.xaxis.range"
    before, at = page.evaluate(shown), page.locator(".js-plotly-plot .nsewdrag").bounding_box()
    page.mouse.move(at["x"] + 5, at["y"] + 5)  # no point there
    page.mouse.down()
    page.mouse.move(at["x"] + 150, at["y"] + 5, steps=5)
    page.mouse.up()
    ui.until("map that moves", lambda: page.evaluate(shown) != before)
    moved = page.evaluate(shown)
    page.locator("button.muse-lab-clear").click()
    page.locator(".muse-lab-map", has_text="Press Sample").wait_for()
    assert page.locator(".js-plotly-plot").count() == 0
    ui.mapped(page)
    assert page.evaluate(shown) != moved  # a new map shows all of itself

    for name in ("a lonely gigue", "a merry air"):
        ui.kept(page, name)
    page.locator(".muse-library-query input").fill("gigue")
    ui.until("one piece found by its name", lambda: page.locator(ui.LINES).count() == 1)
    ui.choose(page, "a lonely gigue")
    sound = ui.new_sound(page, ui.LIBRARY, lambda: page.locator("button.muse-library-play").click())
    assert 0.9 < sound["duration"] < 1.1


def test_a_finger_on_the_surface_is_heard_and_kept(page):
    plane, marks = page.locator(".muse-plane"), page.locator(".muse-mark")
    plane.scroll_into_view_if_needed()

    def at(x: float, y: float) -> tuple[float, float]:
        box = plane.bounding_box()
        return box["x"] + x * box["width"], box["y"] + y * box["height"]

    def value(expression: str):
        return page.evaluate(KERNEL, f"(lambda s: {expression})(surface)")

    one = ui.new_sound(page, ui.SURFACE, lambda: page.mouse.click(*at(0.4, 0.5)))
    rings = [float(mark.get_attribute("data-weight")) for mark in marks.all()]
    assert rings == pytest.approx(value("list(s.weights(*s.plane.finger).values())")) and sum(rings) == pytest.approx(1)
    assert 0.3 < value("s.plane.finger[0]") < 0.5 and len(rings) == 3
    page.mouse.dblclick(*at(0.6, 0.5))
    page.keyboard.type("<b>a jig</b>")
    page.keyboard.press("Enter")
    ui.until("a mark where one clicked twice", lambda: marks.count() == 4)
    assert marks.last.inner_text() == "<b>a jig</b>" and value("s.plane.marks[3]['x']") == pytest.approx(0.6, abs=0.01)
    page.mouse.move(*at(0.6, 0.53))  # on its ring, beside the finger
    page.mouse.down()
    page.mouse.move(*at(0.5, 0.2), steps=5)
    ui.new_sound(page, ui.SURFACE, page.mouse.up)  # the finger hears the new blend
    assert value("[s.plane.marks[3][k] for k in 'xy']") == pytest.approx((0.5, 0.2), abs=0.01)

    finger = page.get_by_role("button", name="finger at")
    finger.focus()
    before = value("s.plane.finger")
    ui.new_sound(page, ui.SURFACE, lambda: [page.keyboard.press("Shift+ArrowLeft") for _ in range(2)])
    assert value("s.plane.finger") == pytest.approx([before[0] - 0.2, before[1]])
    page.get_by_role("button", name="<b>a jig</b>: ").focus()
    page.keyboard.press("ArrowDown")
    ui.until("mark moved by a key", lambda: value("s.plane.marks[3]['y']") > 0.21)
    alone = ui.new_sound(page, ui.SURFACE, lambda: page.keyboard.press("Enter"))
    assert alone["digest"] != one["digest"] and marks.last.get_attribute("data-weight") == "1"
    label = page.locator(f".{ui.SURFACE} .muse-player-label").inner_text()
    assert label == "<b>a jig</b> (seed 3)"
    page.locator(".muse-library-query input").fill("")
    page.locator("button.muse-surface-keep").click()
    page.locator(ui.LINES, has_text=label).wait_for(state="attached")
    page.locator("button.muse-surface-bring").click()
    ui.until("the kept piece on the plane", lambda: marks.count() == 5)
    assert marks.last.inner_text() == label
    marks.last.focus()
    page.keyboard.press("Delete")
    ui.until("fewer marks", lambda: marks.count() == 4)


@pytest.mark.long
def test_only_one_sound_plays(page):
    ui.generate(page, "one"), ui.generate(page, "two", 1)
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


@pytest.mark.long
def test_the_page_is_played_by_keys_and_read_aloud(page):
    cards, cells = page.locator(".muse-card"), len(page.evaluate(ui.CELLS))
    ui.generate(page, "one"), ui.generate(page, "two", 1)

    def title(act) -> str:
        return ui.new_card(page, act).locator("figcaption").inner_text()

    page.locator(".muse-prompt input").fill("three")
    assert title(lambda: page.keyboard.press("Enter")) == "three"
    chosen = page.locator(".muse-piece select option:checked")
    for i in (cards.count() - 1 - back for back in (2, 0, 1)):
        number = cards.nth(i).locator("xpath=..").get_attribute("data-piece")
        cards.nth(i).locator("audio").evaluate("async (audio) => { await audio.play(); audio.pause(); }")
        ui.until("choice of what was played", lambda n=number: chosen.inner_text() == f"no.\N{NO-BREAK SPACE}{n}")
    page.locator("button.muse-use").click()
    ui.until("settings of the card", lambda: page.locator(".muse-prompt input").input_value() == "two")
    assert page.locator(".muse-seed input").input_value() == "1"
    with page.expect_download() as file:
        page.keyboard.press("d")
    assert re.fullmatch(r"two-[0-9a-f]{8}\.flac", file.value.suggested_filename)
    assert title(lambda: page.keyboard.press("g")) == "two"
    page.keyboard.press("?")
    page.get_by_role("dialog", name="keys").get_by_text("More like this").wait_for()
    page.keyboard.press("Escape")
    page.get_by_role("dialog", name="keys").wait_for(state="detached")
    assert (
        title(lambda: page.get_by_role("button", name="a happy flute tune", exact=True).click()) == "a happy flute tune"
    )

    ui.mapped(page)
    chart = page.get_by_role("application", name="answers to")
    chart.focus()
    page.keyboard.press("ArrowRight")
    ui.new_sound(page, ui.LAB, lambda: page.keyboard.press("Enter"))
    assert chart.get_attribute("aria-description") == page.locator(f".{ui.LAB} .muse-player-label").inner_text()
    for role, name in (("slider", "pieces"), ("slider", "of each"), ("checkbox", "starred only"), ("listbox", "list")):
        page.get_by_role(role, name=name).first.wait_for()
    tree = "\n".join(view.aria_snapshot() for view in page.locator(".muse-view").all())
    kinds = "slider|textbox|combobox|listbox|spinbutton|checkbox|button"
    assert re.findall(rf"^.*- (?:{kinds})(?: \[.*| ?:.*)?$", tree, re.MULTILINE) == []
    assert len(page.evaluate(ui.CELLS)) == cells  # no key reached the notebook
    page.locator("button.muse-clear").click()
    ui.until("empty list of cards", lambda: cards.count() == 0)


@pytest.mark.long
def test_map_and_players_live_after_a_reload(page):
    ui.mapped(page)
    ui.generate(page, "before the reload")
    page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
    page.reload()
    page.wait_for_function(ui.IDLE)
    page.locator(f".{ui.LAB}").scroll_into_view_if_needed()
    page.locator(".muse-lab-map .scatterlayer .point").first.wait_for(state="attached")
    ui.new_sound(page, ui.LAB, lambda: ui.click_point(page, 3))
    assert page.locator(".muse-card figcaption").last.text_content() == "before the reload"  # it may be out of sight
    page.locator(".muse-mark").first.scroll_into_view_if_needed()
    page.locator(".muse-mark").first.focus()
    ui.new_sound(page, ui.SURFACE, lambda: page.keyboard.press("Enter"))


# What of the views sticks out, is cut, or has scroll bars; what cuts by design is left out
CUT = """() => [...document.querySelectorAll('.muse-view')].flatMap(view => {
  const frame = view.getBoundingClientRect();
  return [...view.querySelectorAll('*')].filter(one => {
    const box = one.getBoundingClientRect(), style = getComputedStyle(one);
    const meant = '.muse-lab-map, .muse-plane, svg, select, input, .noUi-base, .muse-say, figcaption';
    if (!box.width || !box.height || one.closest(meant)) return false;
    const clips = kind => style[kind] !== 'visible' && style[kind] !== 'clip';
    return box.right > frame.right + 1 || box.left < frame.left - 1
      || (clips('overflowX') && one.scrollWidth > one.clientWidth + 1)
      || (clips('overflowY') && one.scrollHeight > one.clientHeight + 1);
  }).map(one => `${one.tagName} ${one.className}: ${one.textContent.trim().slice(0, 40)}`);
})"""


@pytest.mark.long
def test_nothing_is_cut_in_a_narrow_or_zoomed_window_light_or_dark(page, tmp_path):
    ui.mapped(page)
    ui.generate(page, "a prompt that is longer than what usually stands on a card, with UnbrokenWords" + "x" * 60)
    ui.new_sound(page, ui.LAB, lambda: ui.click_point(page, 0))
    try:
        for theme in ("JupyterLab Dark", "JupyterLab Light"):
            page.evaluate("name => window.jupyterapp.commands.execute('apputils:change-theme', {theme: name})", theme)
            for width in (1400, 900, 700):  # the last is 1400 at a zoom of 200 %
                page.set_viewport_size({"width": width, "height": 1000})
                page.wait_for_timeout(1500)
                for name in (ui.STUDIO, ui.LAB, ui.SURFACE, ui.LIBRARY):
                    page.locator(f".{name}").screenshot(path=tmp_path / f"{theme[11:]}-{width}-{name}.png")
                assert page.evaluate(CUT) == [], (theme, width)
    finally:
        page.set_viewport_size({"width": 1400, "height": 1000})
