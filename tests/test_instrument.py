"""The Studio as a person plays it in a real browser: hum, steer, repaint, compare, and find it all again.

Random smoke weights: noise. The browser's microphone hears a file.
"""

import json

import browser as ui
import nbformat
import pytest
from test_studio import hummed

pytestmark = pytest.mark.system("chromium")
CODE = """from musekit.lab.studio import StudioView
from musekit.library import Library
studio = StudioView({!r}, n=1, seconds=2.0, steps=2, library=Library())
studio"""
ASK = """async (code) => {
  const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
  const reply = await kernel.requestExecute({code: '', user_expressions: {found: code}}).done;
  return reply.content.user_expressions.found;
}"""
GAP = """([heard, other]) => {
  const gap = {};
  const note = () => { gap.seconds = Math.abs(heard.currentTime - other.currentTime); };
  heard.addEventListener('play', note, {once: true});
  return gap;
}"""
CARD = '.muse-cards [data-piece="{}"]'


@pytest.fixture(scope="module")
def site(tmp_path_factory, smoke_weights):
    folder = tmp_path_factory.mktemp("instrument")
    (folder / "root").mkdir()
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CODE.format(str(smoke_weights)))])
    notebook.metadata = nbformat.read(ui.NOTEBOOK, as_version=4).metadata
    nbformat.write(notebook, folder / "root" / "studio.ipynb")
    (folder / "hum.wav").write_bytes(hummed([60, 64, 67, 72, 67, 64]))
    with ui.jupyterlab(folder, folder / "root", folder / "home") as address:
        yield address("studio.ipynb"), folder / "hum.wav"


@pytest.fixture(scope="module")
def page(site, tmp_path_factory):
    url, hum = site
    device = ["--use-fake-device-for-media-stream", f"--use-file-for-fake-audio-capture={hum}"]
    with ui.chromium(*device) as browser:
        page = ui.new_page(browser)
        page.goto(url)
        ui.run_all(page)
        yield page
        page.screenshot(path=tmp_path_factory.mktemp("page") / "page.png")
        assert ui.strangers(page) == [] and page.errors == []


def ask(page, expression: str) -> str:
    """The value of an expression in the page's kernel."""
    found = page.evaluate(ASK, expression)
    assert found["status"] == "ok", found
    return found["data"]["text/plain"]


def new_card(page, button: str):
    """Press a button and wait for the new card."""
    before = page.locator(".muse-card").count()
    page.locator(f"button.{button}").click()
    ui.until(lambda: page.locator(".muse-card").count() > before, "card")
    page.wait_for_selector(f".{ui.STUDIO}:not(.muse-busy)")
    return page.locator(".muse-card").last


def part(page) -> list[float]:
    return [float(mark.get_attribute("aria-valuenow")) for mark in page.get_by_role("slider", name="the part").all()]


def test_a_person_hums_and_steers(page):
    page.locator(".muse-chords").wait_for(state="hidden")
    page.locator(".muse-steer input").focus()
    page.keyboard.press("Space")
    page.locator(".muse-chords").wait_for()
    hum = page.locator(".muse-hum")
    page.context.clear_permissions()
    hum.get_by_role("button").click()
    hum.get_by_text("the browser may not use the microphone").wait_for()
    page.context.grant_permissions(["microphone"])
    hum.get_by_role("button", name="Hum it").click()
    hum.get_by_role("button", name="Stop (3 s)").click()
    page.locator(".muse-tune", has_text="C4 E4 G4 C5 G4 E4").wait_for()
    page.locator(".muse-bpm input").fill("100")
    page.get_by_role("combobox", name="key").select_option("D minor")
    page.locator(".muse-chords input").fill("Am F C G")
    card = ui.generate(page, "a waltz", 1)
    for text in ("asked: 100 BPM, D minor, Am F C G, a melody of", "no. 1"):
        assert text in card.inner_text()
    page.locator(".muse-chords input").fill("Am H")
    page.keyboard.press("Enter")
    page.locator("button.muse-generate").click()
    ui.says(page, ui.STUDIO, "the chord 'H' cannot be read")
    page.locator("button.muse-use").click()
    ui.says(page, ui.STUDIO, "the settings of no. 1")
    assert page.locator(".muse-chords input").input_value() == "Am F C G"
    again = new_card(page, "muse-generate")
    assert ui.heard(page, CARD.format(2) + " audio")["digest"] == ui.heard(page, CARD.format(1) + " audio")["digest"]
    assert "asked: 100 BPM, D minor" in again.inner_text()


def test_a_part_of_the_waveform_is_repainted_and_the_piece_goes_on(page):
    ui.generate(page, "a jig", 3)
    source = int(ask(page, "studio.piece.value"))
    page.locator(".muse-wave-words", has_text=f"no. {source}, 2.0 s").wait_for()
    box = page.locator(".muse-wave-box").bounding_box()
    page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 50)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.25 * box["width"], box["y"] + 20, steps=4)
    page.mouse.up()
    assert part(page) == pytest.approx([0.5, 1.0], abs=0.02)
    begins, ends = page.get_by_role("slider", name="the part").all()
    ends.press("ArrowRight"), ends.press("Shift+ArrowLeft"), begins.press("ArrowLeft")
    begins.press("Home"), begins.press("ArrowRight"), ends.press("ArrowRight")
    start, stop = part(page)
    assert (start, stop) == pytest.approx((0.1, 0.8), abs=0.02)
    page.get_by_role("button", name="Hear the part").click()
    sound = page.locator(CARD.format(source) + " audio")
    ui.until(lambda: sound.evaluate("(a) => a.paused && a.currentTime > 0.3"), "end of the part")
    assert "repainted" in new_card(page, "muse-repaint").inner_text()
    assert part(page) == [0.0, 2.0] and page.get_by_role("button", name="Hear the part").is_disabled()
    results = f"[r.piece.audio for r in studio.state.results[{source - 1}:]]"
    kept = f"(lambda a, b: (bool((a == b)[:, 40000:].all()), bool((a == b).all())))(*{results})"
    assert ask(page, kept) == "(True, False)"
    page.locator(".muse-longer .noUi-handle").press("Home")
    longer = new_card(page, "muse-go-on")
    assert f"no. {source + 1} and 0.5 s more" in longer.inner_text()
    assert 2.4 < ui.heard(page, CARD.format(source + 2) + " audio")["duration"] < 2.6
    with page.expect_download() as file:
        page.locator("button.muse-save").click()
    assert file.value.suggested_filename.startswith("a-jig-")


def test_a_and_b_are_heard_at_the_same_place_and_a_new_card_stops_nothing(page):
    while page.locator(".muse-card").count() < 3:
        ui.generate(page, "a reel", page.locator(".muse-card").count())
    first, second = json.loads(ask(page, "[-int(card.layout.order) for card in studio.cards.children][:2]"))
    one, two = page.locator(CARD.format(first)), page.locator(CARD.format(second))
    one.get_by_role("button", name="is A").click()
    two.get_by_role("button", name="is B").click()
    page.locator(".muse-pair", has_text=f"A: no. {first}, B: no. {second}").wait_for()
    left, right, newest = (card.bounding_box() for card in (one, two, page.locator(".muse-card").last))
    assert left["y"] == right["y"] <= newest["y"] and left["x"] < right["x"]
    for card in (one, two):
        card.locator("audio").evaluate("(audio) => { audio.loop = true; }")
    one.locator("audio").evaluate("(audio) => audio.play()")
    page.locator("button.muse-pair-switch").focus()
    for heard, other, name in ((two, one, "B"), (one, two, "A")):
        gap = page.evaluate_handle(
            GAP, [heard.locator("audio").element_handle(), other.locator("audio").element_handle()]
        )
        page.keyboard.press("x")
        page.locator(".muse-pair", has_text=f"playing {name}").wait_for()
        assert gap.evaluate("(gap) => gap.seconds") < 0.3 and other.locator("audio").evaluate("(audio) => audio.paused")
    new_card(page, "muse-generate")
    assert one.get_attribute("data-side") == "A" and not one.locator("audio").evaluate("(audio) => audio.paused")
    one.locator("audio").evaluate("(audio) => audio.pause()")


def cards(page) -> list[tuple[str, str]]:
    """The title and the sound of every card."""
    found = page.locator(".muse-cards > *").all()
    return [(c.locator("figcaption").inner_text(), c.locator("audio").evaluate(ui.HEARD)["digest"]) for c in found]


def test_all_cards_outlive_the_page_and_their_kernel(page):
    page.locator("button.muse-clear").click()
    ui.generate(page, "<b>a gigue</b>", 5), ui.generate(page, "an air", 6)
    page.locator(".muse-wave-mark").first.press("ArrowRight")
    new_card(page, "muse-repaint")
    new_card(page, "muse-more")
    page.get_by_role("button", name="Forget them").click()  # what was cleared
    page.locator(".muse-past").wait_for(state="hidden")
    before = cards(page)
    page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
    page.reload()
    page.wait_for_function(ui.IDLE)
    ui.until(lambda: page.locator(".muse-card").count() == 4, "cards after a reload")
    assert cards(page) == before and page.locator(".muse-past").is_hidden()
    page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()")
    page.wait_for_function(ui.IDLE)
    page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells'); }")
    bring = page.get_by_role("button", name="Bring back my last 4 pieces")
    bring.click()
    ui.says(page, ui.STUDIO, "4 of 4 pieces are back")
    bring.wait_for(state="hidden")
    assert cards(page) == before and "from before" in page.locator(".muse-card").first.inner_text()
