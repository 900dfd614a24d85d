"""The Studio as a person plays it in a real browser: hum, steer, repaint, compare, and find it all again.

Random smoke weights: noise. The browser's microphone hears a file.
"""

import browser as ui
import nbformat
import pytest
from test_studio import hummed

pytestmark = pytest.mark.system("chromium")
CODE = """from musekit.lab.studio import StudioView
StudioView({!r}, n=1, seconds=2.0, steps=2)"""
GAP = (
    """([heard, other]) => { heard.onplay = () => { heard.gap = Math.abs(heard.currentTime - other.currentTime); }; }"""
)
PAUSED = "(audio) => audio.paused"


@pytest.fixture(scope="module")
def page(tmp_path_factory, smoke_weights):
    """A notebook with a Studio and nothing else."""
    folder = tmp_path_factory.mktemp("instrument")
    (folder / "root").mkdir()
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CODE.format(str(smoke_weights)))])
    notebook.metadata = nbformat.read(ui.NOTEBOOK, as_version=4).metadata
    nbformat.write(notebook, folder / "root" / "studio.ipynb")
    (folder / "hum.wav").write_bytes(hummed([60, 64, 67, 72, 67, 64]))
    device = ["--use-fake-device-for-media-stream", f"--use-file-for-fake-audio-capture={folder / 'hum.wav'}"]
    with ui.jupyterlab(folder, folder / "root", folder / "home") as address, ui.chromium(*device) as browser:
        page = ui.new_page(browser)
        page.goto(address("studio.ipynb"))
        ui.run_all(page)
        yield page
        page.screenshot(path=folder / "page.png")
        own = [error for error in page.errors if "Canceled future for" not in error]  # at a restart
        assert ui.strangers(page) == [] and own == []


def press(page, button: str):
    """The card that comes by this button."""
    return ui.new_card(page, page.locator(f"button.muse-{button}").click)


def test_a_person_hums_and_steers(page):
    page.locator(".muse-chords").wait_for(state="hidden")
    page.get_by_role("checkbox", name="steer tempo").press("Space")
    hum = page.locator(".muse-hum")
    page.evaluate("Object.defineProperty(navigator, 'mediaDevices', {value: undefined, configurable: true})")
    for why in ("no microphone here: ", "the browser may not use the microphone"):
        hum.get_by_role("button").click()
        hum.get_by_text(why).wait_for()
        page.evaluate("delete navigator.mediaDevices")
    page.context.grant_permissions(["microphone"])
    hum.get_by_role("button").click()
    hum.get_by_role("button", name="Stop (3 s)").click()
    page.locator(".muse-tune", has_text="C4 E4 G4 C5 G4 E4").wait_for()
    page.get_by_role("textbox", name="tempo").fill("100")
    page.get_by_role("combobox", name="key").select_option("D minor")
    chords = page.get_by_role("textbox", name="chords")
    chords.fill("Am F C G")
    assert "asked: 100 BPM, D minor, Am F C G, a melody of" in ui.generate(page, "a waltz", 1).inner_text()
    first = ui.heard(page, ".muse-card audio")
    for _ in range(15):  # the click overtakes the text nowhere on its way
        chords.fill("Am H")
        page.locator("button.muse-use").click()
        ui.until("settings of the card", lambda: chords.input_value() == "Am F C G")
    assert page.get_by_role("combobox", name="metre").input_value() == "any"
    assert press(page, "generate").locator("audio").evaluate(ui.HEARD) == first


def test_a_part_of_the_waveform_is_repainted_and_the_piece_goes_on(page):
    source = ui.generate(page, "a jig", 3).get_attribute("data-piece")
    page.locator(".muse-wave-words", has_text=f"no. {source}, 2.0 s").wait_for()
    box = page.locator(".muse-wave-box").bounding_box()
    begins, ends = page.get_by_role("slider", name="the part").all()

    def part() -> list[float]:
        return [float(mark.get_attribute("aria-valuenow")) for mark in (begins, ends)]

    page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 50)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.25 * box["width"], box["y"] + 20, steps=4)
    page.mouse.up()
    assert part() == pytest.approx([0.5, 1.0], abs=0.02)
    for mark, key in ((ends, "ArrowRight"), (ends, "Shift+ArrowLeft"), (begins, "Home"), (begins, "ArrowRight")):
        mark.press(key)
    assert part() == pytest.approx([0.1, 0.7], abs=0.02)  # 0.2 s at the least
    page.get_by_role("button", name="Hear the part").click()
    sound = page.locator(f"[data-piece='{source}'] audio")
    ui.until("end of the part", lambda: sound.evaluate("(audio) => audio.paused && audio.currentTime > 0.6"))
    assert f"0.1 to 0.7 s of no. {source} repainted" in press(page, "repaint").inner_text()
    assert part() == [0.0, 2.0] and page.get_by_role("button", name="Hear the part").is_disabled()
    page.locator(".muse-longer .noUi-handle").press("Home")
    assert 2.4 < press(page, "go-on").locator("audio").evaluate(ui.HEARD)["duration"] < 2.6


def test_a_and_b_are_heard_at_the_same_place_and_a_new_card_stops_nothing(page):
    ui.generate(page, "one"), ui.generate(page, "two", 1)
    numbers = [one.get_attribute("data-piece") for one in page.locator("[data-piece]").all()[-2:]]
    first, second = (page.locator(f"[data-piece='{number}']") for number in numbers)
    first.get_by_role("button", name="is A").click()
    second.get_by_role("button", name="is B").click()
    ui.generate(page, "three", 2)
    left, right, newest = (card.bounding_box() for card in (first, second, page.locator(".muse-card").last))
    assert left["y"] == right["y"] <= newest["y"] and left["x"] < right["x"]
    sounds = {"A": first.locator("audio"), "B": second.locator("audio")}
    for sound in sounds.values():
        sound.evaluate("(audio) => { audio.loop = true; }")
    sounds["A"].evaluate("(audio) => audio.play()")
    page.locator("button.muse-pair-switch").focus()
    for here, there in ("BA", "AB"):
        page.evaluate(GAP, [sounds[here].element_handle(), sounds[there].element_handle()])
        page.keyboard.press("x")
        page.locator(".muse-pair", has_text=f"playing {here}").wait_for()
        assert sounds[here].evaluate("(audio) => audio.gap") < 0.3 and sounds[there].evaluate(PAUSED)
    press(page, "generate")
    assert first.get_attribute("data-side") == "A" and not sounds["A"].evaluate(PAUSED)
    sounds["A"].evaluate("(audio) => audio.pause()")


def test_all_cards_outlive_the_page_and_their_kernel(page):
    def cards() -> list[tuple[str, str]]:
        found = page.locator(".muse-cards > *").all()
        return [(c.locator("figcaption").inner_text(), c.locator("audio").evaluate(ui.HEARD)["digest"]) for c in found]

    page.locator("button.muse-clear").click()
    ui.until("page without cards", lambda: not page.locator(".muse-card").count())  # else they are counted, too
    ui.generate(page, "<b>a gigue</b>", 5), ui.generate(page, "an air", 6)
    page.locator(".muse-wave-mark").first.press("ArrowRight")
    press(page, "repaint"), press(page, "more")
    page.get_by_role("button", name="Forget them").click()  # what was cleared
    page.locator(".muse-past").wait_for(state="hidden")
    before = cards()
    page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
    page.reload()
    page.wait_for_function(ui.IDLE)
    ui.until("cards after a reload", lambda: page.locator(".muse-card").count() == 4)
    assert cards() == before and page.locator(".muse-past").is_hidden()
    page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()")
    page.wait_for_function(ui.IDLE)
    page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells'); }")
    page.get_by_role("button", name="Bring back my last 4 pieces").click()
    ui.says(page, ui.STUDIO, "4 of 4 pieces are back")
    assert cards() == before and "from before" in page.locator(".muse-card").first.inner_text()
    page.locator(".muse-past").wait_for(state="hidden")
