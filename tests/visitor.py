"""What a person does with the three views in a browser: ask, keep, choose, click the map, move a slider, upload."""

from browser import until

STUDIO, LAB, LIBRARY = "muse-studio-view", "muse-lab-view", "muse-library-view"
LINES = f".{LIBRARY} .muse-line:visible"
# Where point i of the map is on the screen
PLACE = """(i) => {
  const plot = document.querySelector('.muse-lab-map .js-plotly-plot, .muse-lab-map.js-plotly-plot');
  const {xaxis, yaxis} = plot._fullLayout, {x, y} = plot._fullData[1], at = plot.getBoundingClientRect();
  return [at.left + xaxis._offset + xaxis.d2p(x[i]), at.top + yaxis._offset + yaxis.d2p(y[i])];
}"""


def says(page, name: str, text: str) -> None:
    """Wait until the line of a view holds a text."""
    page.locator(f".{name} .muse-say", has_text=text).wait_for()


def generate(page, prompt: str, seed: int = 0):
    """Press Generate and wait for the new card: that card."""
    page.locator(".muse-prompt input").fill(prompt)
    page.locator(".muse-seed input").fill(str(seed))
    page.keyboard.press("Tab")
    before = page.locator(".muse-card").count()
    page.locator("button.muse-generate").click()
    until(lambda: page.locator(".muse-card").count() > before, "card")
    page.wait_for_function("() => !document.querySelector('button.muse-generate').disabled")
    return page.locator(".muse-card-box").first


def kept(page, name: str) -> None:
    """Generate a piece of that name, keep it, and see it in the Library."""
    generate(page, name).locator(".muse-card-keep").click()
    page.locator(LINES, has_text=name).wait_for()


def choose(page, name: str) -> None:
    """Tick a piece of the Library."""
    page.locator(LINES, has_text=name).locator("input[type=checkbox]").check()


def mapped(page) -> None:
    """A map, sampled anew where there is none."""
    page.locator("button.muse-lab-sample").scroll_into_view_if_needed()
    if not page.evaluate("() => !!document.querySelector('.muse-lab-map .scatterlayer .point')"):
        page.locator("button.muse-lab-sample").click()
        says(page, LAB, "click a point to hear it")
    page.wait_for_selector(".muse-lab-map .scatterlayer .point", state="attached")


def click_point(page, i: int) -> None:
    """Click point i of the map."""
    page.locator(".muse-lab-map").scroll_into_view_if_needed()
    x, y = page.evaluate(PLACE, i)
    page.mouse.move(x, y)
    page.mouse.click(x, y)


def slide(page, slider: str, *keys: str) -> None:
    """Move a slider by keys."""
    page.locator(f"{slider} .noUi-handle").focus()
    for key in keys:
        page.keyboard.press(key)


def upload(page, file: dict) -> None:
    """Through the widget's own button, as a person does, over the kernel's connection."""
    with page.expect_file_chooser() as chooser:
        page.locator(".muse-lab-upload").click()
    chooser.value.set_files(file)
