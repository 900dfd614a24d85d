"""Studio, Lab and Library without a browser: set `.value`, press, assert what is shown. Smoke weights: noise."""

import datetime
import inspect
import io
import re
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from fixtures import sinusoids
from plotly.callbacks import Points
from test_library import piece

from musekit.config import MuseError
from musekit.lab.chart import NAME_HEIGHT, Chart, named_hills
from musekit.lab.lab_view import LabView
from musekit.lab.landscape import Landscape, Peak
from musekit.lab.library_view import LibraryView, Line
from musekit.lab.player import Player
from musekit.lab.studio_view import MAX_CARDS, StudioView
from musekit.library import Library
from musekit.muse import Muse
from musekit.recipe import Settings
from musekit.show.players import waveform

PATIENCE = 120  # seconds; a busy machine is slow
QUICK = {"seconds": 0.5, "steps": 2, "stage1_steps": 2, "micro_batch": 2}
LAMPS = {"muse-busy", "muse-done", "muse-failed"}


@pytest.fixture(scope="module")
def muse(smoke_weights):
    return Muse.from_pretrained(smoke_weights)


@pytest.fixture
def studio(muse, tmp_path):
    studio = StudioView(muse, library=Library(tmp_path / "library"))
    studio.seconds.value, studio.steps.value, studio.n.value = 0.5, 2, 2
    return studio


def finish(view, status: str = "done") -> None:
    assert view.job.wait(PATIENCE) == status, view.job.message


def press(view, button, status: str = "done") -> None:
    """Press a button and wait for the end of its job."""
    button.click()
    finish(view, status)


def made(studio, n: int = 1):
    studio.n.value = n
    press(studio, studio.generate)
    return studio.cards.children


def shown(studio) -> list[str]:
    return [box.children[0].value for box in studio.cards.children]


def on_card(box, name: str):
    """The button of that name in a card, pressed; a toggle is switched."""
    [found] = [one for one in box.children[1].children if f"muse-card-{name}" in one._dom_classes]
    if hasattr(found, "click"):
        found.click()
    else:
        found.value = not found.value
    return found


# -- the Studio


def test_generate_shows_a_card_for_each_piece(studio):
    studio.prompt.value, studio.seed.value = "a calm organ piece", 7
    made(studio, 3)
    cards = shown(studio)
    assert len(cards) == 3 and studio.bar.value == 1.0 and studio.bar.bar_style == "success"
    assert sorted(re.findall(r"seed (\d+) &middot;", "".join(cards))) == ["7", "8", "9"]
    for text in cards:
        assert 'src="data:audio/ogg;base64,' in text and "<svg" in text and "a calm organ piece" in text
        assert re.search(r"similarity [+-][01]\.\d\d", text)
    assert f"0.5 s, 2 steps, guidance {studio.guidance.value:g}" in cards[0]
    assert not studio.generate.disabled and studio.cancel.disabled
    recipe = studio.state.results[1].piece.recipe
    assert (recipe.seed, recipe.seconds, recipe.stage2_steps) == (8, 0.5, 2)


def test_the_bar_moves_in_both_stages_and_never_back(studio):
    seen, show = [], studio._show
    studio.job.on_change = lambda: (show(), seen.append((studio.bar.value, studio.label.value)))
    studio.steps.value = 4
    made(studio, 6)
    fractions = [fraction for fraction, _ in seen]
    assert fractions == sorted(fractions) and fractions[0] == 0 and fractions[-1] == 1
    for stage in ("text to embedding", "embedding to latents", "latents to sound"):
        for batch in (1, 2):
            part = {f for f, text in seen if stage in text and f"micro-batch {batch} of 2" in text}
            assert len(part) >= 2, (stage, batch, seen)


def test_the_caller_stays_free_and_cancel_stops_at_the_next_step(studio):
    def lamps() -> set[str]:
        return LAMPS & set(studio.view._dom_classes)

    studio.steps.value = 200
    studio.generate.click()  # returns at once
    assert studio.job.running and studio.generate.disabled and not studio.cancel.disabled and lamps() == {"muse-busy"}
    with pytest.raises(MuseError, match="still at work"):
        studio.state.generate("another")
    deadline = time.monotonic() + PATIENCE
    while studio.bar.value < 0.1 and time.monotonic() < deadline:
        time.sleep(0.01)
    press(studio, studio.cancel, "cancelled")
    assert 0 < studio.bar.value < 0.9 and studio.bar.bar_style == "warning" and not lamps()
    assert "cancelled; 0 of 2" in studio.label.value and shown(studio) == []
    assert not studio.generate.disabled and studio.cancel.disabled
    studio.say("this cannot be", bad=True)
    assert lamps() == {"muse-failed"}
    studio.steps.value = 2
    assert len(made(studio, 2)) == 2 and lamps() == {"muse-done"}


def test_what_a_person_types_is_escaped_everywhere(studio):
    studio.prompt.value = '<img src=x onerror=alert(1)>"&'
    made(studio)
    [text] = shown(studio)
    assert "<img" not in text and "&lt;img src=x onerror=alert(1)&gt;&quot;&amp;" in text
    assert "onerror" not in studio.label.value


@pytest.mark.parametrize("prompt, error, message", [
    ("  \t ", None, "the prompt is empty"), ("x", ValueError("<b>odd</b>"), "ValueError: &lt;b&gt;odd&lt;/b&gt;"),
])  # fmt: skip
def test_errors_stand_in_the_line(studio, monkeypatch, prompt, error, message):
    def broken(*args, **kwargs):
        raise error

    if error is not None:
        monkeypatch.setattr(studio.state.muse, "embed_batch", broken)
    studio.prompt.value = prompt
    press(studio, studio.generate, "failed")
    assert message in studio.label.value and studio.bar.bar_style == "danger" and not studio.generate.disabled


def test_missing_weights_and_a_misspelt_setting_are_reported(muse, tmp_path):
    studio = StudioView(tmp_path / "nothing")
    assert studio.generate.disabled and "no weights at" in studio.label.value
    with pytest.raises(MuseError, match="did you mean 'steps'"):
        StudioView(muse, step=4)


def test_notices_of_a_prompt_stand_in_the_line_and_not_elsewhere(studio, monkeypatch):
    elsewhere = []
    monkeypatch.setattr(studio.state.muse, "notice", elsewhere.append)
    studio.prompt.value = "slow " * 3000 + "\N{CYRILLIC SMALL LETTER VE}"
    made(studio)
    assert "only the first 2,000" in studio.label.value and "tokens" in studio.label.value
    assert studio.state.muse.notice == elsewhere.append


def test_knobs_stay_in_their_range(studio):
    studio.seconds.value, studio.n.value, studio.seed.value = 1e9, -3, -1
    assert studio.seconds.value <= studio.state.muse.config.window_seconds
    assert (studio.n.value, studio.seed.value) == (1, 0)
    studio.fresh.value = True
    assert studio._knobs()["seed"] is None


def test_new_cards_come_first_and_old_ones_are_closed(studio, monkeypatch):
    from ipywidgets.widgets.widget import _instances

    for seed in (1, 2):
        studio.seed.value = seed
        made(studio)
    assert "seed 2 " in shown(studio)[0] and "seed 1 " in shown(studio)[1]
    first = studio.cards.children[-1]
    studio.state.results = studio.state.results * MAX_CARDS
    studio._show()
    assert len(shown(studio)) == MAX_CARDS and first not in studio.cards.children
    assert first.comm is None and first.children[0].comm is None  # closed with all its children
    monkeypatch.setattr("musekit.lab.studio_view.MAX_CARDS", 1)
    seen = []
    for _ in range(3):
        made(studio)
        seen.append(len(_instances))
    assert seen[0] == seen[1] == seen[2]


def test_a_waveform_is_the_outline_of_the_sound():
    ramp = np.linspace(0, 1, 26_000, dtype=np.float32)
    points = re.search(r'points="([^"]+)"', waveform(np.stack([ramp, ramp]))).group(1).split()
    heights = [float(point.split(",")[1]) for point in points[:260]]
    assert len(points) == 520 and heights == sorted(heights, reverse=True) and min(heights) > 0
    assert "nan" not in waveform(np.zeros((2, 10), np.float32))


def test_keep_star_and_tag(studio):
    [box] = made(studio)
    studio.tags.value = " slow , <i>odd</i>,, "
    assert on_card(box, "keep").description == "Kept"
    [entry] = studio.state.library.search()
    assert entry.tags == ("slow", "<i>odd</i>") and "<i>" not in studio.label.value
    on_card(box, "star")
    assert [e.id for e in studio.state.library.search(starred=True)] == [entry.id]
    on_card(box, "star")
    assert studio.state.library.search(starred=True) == [] and len(studio.state.library) == 1


def test_variations_comparison_and_download(studio, monkeypatch):
    [box] = made(studio)
    studio.degrees.value = 30.0
    on_card(box, "more")
    finish(studio)
    assert len(shown(studio)) == 2 and "30\N{DEGREE SIGN} from no. 1" in shown(studio)[0]
    studio.degrees.value = studio.noise.value = 0.0
    on_card(box, "more")
    assert "one of them must be above 0" in studio.label.value
    studio.what.value, studio.value.value = "guidance_scale", "1.5"
    press(studio, studio.compare)
    b, a = shown(studio)[:2]
    assert "no. 3 \N{MIDDLE DOT} A" in a and "B: guidance_scale = 1.5" in b and "guidance 1.5" in b
    studio.value.value = "<b>much</b>"
    studio.compare.click()
    assert "must be a number" in studio.label.value and "<b>" not in studio.label.value
    sent = []
    monkeypatch.setattr(studio.player, "send", lambda content, buffers: sent.append((content, buffers[0][:4])))
    on_card(box, "save")
    assert sent[0][0]["name"].endswith("-0.flac") and sent[0][1] == b"fLaC"


# -- player, style, chart


def test_the_player_has_playable_bytes():
    player = Player()
    player.play(np.sin(np.arange(44100) / 20)[None].astype(np.float32) * 0.5, 44100, "<b>a tone</b>")
    x, rate = soundfile.read(io.BytesIO(player.sound))
    assert (rate, len(x), player.turn, player.mime) == (
        44100,
        44100,
        1,
        "audio/ogg",
    ) and player.label == "<b>a tone</b>"
    assert "innerHTML" not in str(player._esm) and "textContent" in str(player._esm)  # labels are text


def test_every_colour_of_a_page_has_a_fallback():
    style = Path(inspect.getfile(Player)).with_name("muse.css").read_text()
    used = re.findall(r"var\((--jp-[\w-]+)([,)])", style)
    assert len(used) > 5 and all(end == "," for _, end in used)
    assert style.count("{") == style.count("}") and "url(" not in style  # nothing is fetched


def test_a_map_drawn_while_the_page_sends_a_message_reaches_it(monkeypatch):
    """plotly sets a trait to its message and back; traitlets keeps only the last of both while it handles another."""
    chart, inside, go, sent = Chart(), threading.Event(), threading.Event(), []
    chart.land = Landscape(np.eye(3), np.eye(3)[:, :2], *[np.zeros(1)] * 3, ())
    figure = chart.figure
    monkeypatch.setattr(figure, "set_trait", lambda *_: inside.set() or go.wait(PATIENCE))
    monkeypatch.setattr(figure, "send_state", lambda key: sent.append(getattr(figure, key)))
    page = threading.Thread(target=lambda: figure.set_state({"_view_count": 1}))
    page.start()
    inside.wait(PATIENCE)
    job = threading.Thread(target=lambda: chart.mark(np.eye(3)))
    job.start()
    job.join(0.5)
    go.set()
    page.join()
    job.join()
    assert sum(isinstance(message, dict) and "style_data" in message for message in sent) == 1


def test_names_of_hills_do_not_overlap():
    grid = np.linspace(0, 10, 72)
    tops = [Peak(5.0, 5.0, 1.0 - i / 10, (i,), f"name {i}") for i in range(5)] + [Peak(5.0, 9.0, 0.1, (9,), "far")]
    land = Landscape(np.zeros((1, 2)), np.zeros((1, 2)), grid, grid, np.zeros((72, 72)), tuple(tops))
    x, y, names = named_hills(land)
    assert names == ["name 0", "name 1", "name 2", "far"] and x == [5.0] * 4  # one place has room for three
    assert min(abs(a - b) for i, a in enumerate(y) for b in y[:i]) >= NAME_HEIGHT * 10 * 0.999


# -- the Library


@pytest.fixture
def kept(tmp_path):
    """A library with 15 pieces, made without a network."""
    library = Library(tmp_path / "kept")
    for i in range(15):
        library.add(piece(i, f"piece {i:02d}"), tags=["even" if i % 2 == 0 else "odd"])
    return library


@pytest.fixture
def shelf(kept):
    shelf = LibraryView(kept)
    shelf.sort.value = "name"
    return shelf


def names(shelf) -> list[str]:
    return [line.entry.name for line in shelf.lines if line.entry is not None]


def choose(shelf, *which) -> None:
    for line in shelf.lines:
        line.chosen.value = line.entry is not None and line.entry.name in which


def test_a_page_of_the_library_search_filter_and_sort(shelf):
    assert names(shelf) == [f"piece {i:02d}" for i in range(12)] and shelf.before.disabled
    shelf.after.click()
    assert names(shelf) == ["piece 12", "piece 13", "piece 14"] and shelf.where.value == "13 to 15"
    shelf.query.value = '07 "'
    assert names(shelf) == ["piece 07"] and shelf.before.disabled
    shelf.query.value, shelf.tag.value = "", "odd"
    assert names(shelf) == [f"piece {i:02d}" for i in range(1, 15, 2)]
    shelf.lines[0].star.value = True
    shelf.starred.value = True
    assert names(shelf) == ["piece 01"] and shelf.lines[1].box.layout.display == "none"


def test_one_thread_at_a_time_fills_a_page(shelf, monkeypatch):
    """Else a star that a person gives while an import ends goes to another piece."""
    busy, most, fill = [], [], Line.fill

    def slowly(line, entry):
        busy.append(line)
        most.append(len(busy))
        time.sleep(0.005)
        fill(line, entry)
        busy.pop()

    monkeypatch.setattr(Line, "fill", slowly)
    other = threading.Thread(target=shelf.refresh)
    other.start()
    shelf.after.click()
    other.join()
    assert max(most) == 1 and len(most) == 24


def test_tag_rename_note_delete_undo_purge(shelf):
    shelf.delete.click()
    assert "choose some pieces first" in shelf.label.value and shelf.bin_tools.layout.display == "none"
    choose(shelf, "piece 00", "piece 01")
    shelf.tags.value = "new, <b>bold</b>"
    shelf.give.click()
    assert {t: n for t, n in shelf.state.tags().items() if n == 2} == {"new": 2, "<b>bold</b>": 2}
    assert "<b>bold</b>" in shelf.tag.options and "<b>bold" not in shelf.lines[0].text.value
    choose(shelf, "piece 02")
    shelf.text.value = "a note"
    shelf.note.click()
    assert [e.name for e in shelf.state.search("note")] == ["piece 02"]
    choose(shelf, "piece 03")
    assert shelf.text.value == "piece 03"
    shelf.text.value = '<img src=x onerror=alert(1)>"'
    shelf.rename.click()
    found = [line.text.value for line in shelf.lines if line.entry is not None and "img" in line.text.value]
    assert len(found) == 1 and "<img" not in found[0] and "&lt;img" in found[0]
    choose(shelf, "piece 04", "piece 05")
    shelf.delete.click()
    assert len(shelf.state) == 13 and "Undo" in shelf.label.value
    shelf.undo.click()
    assert len(shelf.state) == 15 and "2 came back" in shelf.label.value
    choose(shelf, "piece 04")
    shelf.delete.click()
    shelf.bin.value = True
    assert names(shelf) == ["piece 04"] and shelf.bin_tools.layout.display is None
    shelf.purge.click()
    assert len(shelf.state.bin()) == 1 and "press again" in shelf.label.value
    shelf.purge.click()
    assert shelf.state.bin() == [] and "1 were removed" in shelf.label.value


def test_views_of_one_kernel_notify_each_other_and_refresh_reads_the_rest(studio):
    library = studio.state.library
    shelf = LibraryView(library)
    [box] = made(studio)
    on_card(box, "keep")
    assert names(shelf) == ["a sad piano melody"]
    Library(library.folder).add(piece(78, "from elsewhere"))  # another process
    shelf.look.click()
    assert names(shelf) == ["from elsewhere", "a sad piano melody"]


def test_play_export_and_import(shelf, tmp_path):
    shelf.lines[2].play.click()
    assert shelf.player.turn == 1 and shelf.player.label == "piece 02" and shelf.player.sound[:4] == b"OggS"
    shelf.state.file(shelf.lines[0].entry).unlink()
    shelf.lines[0].play.click()
    assert "missing or broken" in shelf.label.value
    shelf.path.value = str(tmp_path / "out.zip")
    press(shelf, shelf.export)
    assert "out.zip" in shelf.label.value and "not exported" in shelf.label.value
    shelf.path.value = str(shelf.state.sounds)
    press(shelf, shelf.bring)
    assert "0 added, 14 were there" in shelf.label.value
    for place in (str(tmp_path / "nowhere"), "~nobody-of-that-name/x", "a\0b"):
        shelf.path.value = place
        press(shelf, shelf.bring, "failed")
    shelf.path.value = str(tmp_path / "nowhere")
    press(shelf, shelf.bring, "failed")
    assert "is not a folder" in shelf.label.value


def test_make_this_again(muse, kept):
    [made] = muse.stream([muse.recipe("a waltz", 3, Settings(**QUICK))])
    kept.add(made)
    shelf = LibraryView(kept, weights=muse)
    choose(shelf, "a waltz")
    press(shelf, shelf.again)
    assert "the same bits" in shelf.label.value and shelf.player.label == "again: a waltz"
    choose(shelf, "piece 14")
    press(shelf, shelf.again, "failed")
    assert "load the weights that made it" in shelf.label.value


# -- the Lab


@pytest.fixture
def lab(muse, tmp_path):
    lab = LabView(muse, ("a waltz",), n=10, library=Library(tmp_path / "library"), seconds=0.5)
    yield lab
    lab.job.wait(PATIENCE)


def test_sample_lays_out_a_map_a_click_is_played_and_kept(lab):
    press(lab, lab.sample)
    trace = lab.chart.figure.data[1]
    assert len(trace.x) == 10 and "a waltz (seed 3)" in trace.text[3] and "10 points" in lab.label.value
    assert lab.chart.figure.data[2].text and "a waltz" in lab.legend.value
    trace._dispatch_on_click(Points(point_inds=[4]), None)
    finish(lab)
    assert lab.player.turn == 1 and lab.player.label == "a waltz (seed 4)" and "similarity" in lab.label.value
    trace._dispatch_on_click(Points(point_inds=[]), None)  # another trace was clicked
    lab.play(lab.state.points[4])
    assert lab.player.turn == 2 and not lab.job.running  # from the cache
    lab.tags.value = "nice"
    lab.keep.click()
    assert [(e.name, e.tags) for e in lab.state.library.search("seed")] == [("a waltz (seed 4)", ("nice",))]
    press(lab, lab.pick)
    assert lab.player.turn == 3 and lab.player.label.endswith("hills") and len(lab.chart.figure.data[4].x) >= 1
    press(lab, lab.redraw)
    lab.clear.click()
    assert len(lab.chart.figure.data[1].x) == 0 and lab.state.points == []


def test_errors_and_foreign_text_of_the_map(lab):
    lab.prompts.value = " ; "
    press(lab, lab.sample, "failed")
    assert "write a prompt" in lab.label.value
    lab.keep.click()
    assert "click a point first" in lab.label.value
    lab.prompts.value = '<b onmouseover="alert(1)">waltz</b>'
    press(lab, lab.sample)
    assert "<b" not in lab.legend.value and all("<b" not in text for text in lab.chart.figure.data[1].text)


def test_uploads_become_points_or_are_refused(lab):
    data = io.BytesIO()
    soundfile.write(data, sinusoids([440], 1.0).T, 48000, format="WAV")
    file = {"name": "../<i>x</i>.wav", "type": "audio/wav", "size": 9, "content": data.getvalue()}
    file["last_modified"] = datetime.datetime.now()
    lab._upload()  # nothing chosen: nothing happens
    lab.upload.set_trait("value", (file,))
    assert len(lab.state.points) == 1 and "resampled from 48" in lab.label.value and "<i>" not in lab.label.value
    lab.upload.set_trait("value", (file | {"content": b"<script>", "name": "bad.wav"},))
    assert len(lab.state.points) == 1 and "&#x27;bad.wav&#x27; cannot be read as sound" in lab.label.value
    end = threading.Event()
    lab.job.start(lambda: str(end.wait(PATIENCE)))
    for change in (lambda: lab.upload.set_trait("value", (file,)), lab.clear.click):
        change()
        assert len(lab.state.points) == 1 and "still at work" in lab.label.value
    end.set()
    finish(lab)
    lab.state.sample("a waltz", 3)
    lab.upload.set_trait("value", (file,))
    finish(lab)
    assert len(lab.chart.figure.data[1].x) == 5 and "added" in lab.label.value


def test_sampling_a_prompt_again_draws_other_seeds(lab, monkeypatch):
    monkeypatch.setattr(lab, "_map", lambda refit: "no map")
    lab.prompts.value = "a  waltz"  # the recipe has one space
    for _ in range(2):
        press(lab, lab.sample)
    assert [p.seed for p in lab.state.points] == list(range(20))


def test_a_path_is_made_walked_and_played(lab):
    path = lab.path_tool
    path.make.click()
    assert "add two stops" in lab.label.value
    path.add.click()
    assert "write a prompt" in lab.label.value
    for text in ("a waltz", "<u>a jig</u>"):
        path.stop.value = text
        path.add.click()
    assert "<u>" not in path.stops_list.value and "a waltz" in path.stops_list.value
    path.places.value = 3
    assert path.place.disabled
    press(lab, path.make)
    assert path.place.max == 2 and not path.place.disabled and lab.player.turn == 0
    path.place.value = 1
    path.place.value = 2
    assert lab.player.turn == 2 and lab.player.label.endswith("100%")
    before = lab.player.sound
    press(lab, path.play)
    assert lab.player.turn == 3 and lab.player.sound != before


def test_a_mix_of_a_point_and_a_prompt_is_played(lab):
    lab.state.sample("a waltz", 4)
    mix = lab.mix_tool
    mix.hear.click()
    assert "a mix needs a part" in lab.label.value
    mix.parts[0][0].value, mix.parts[1][0].value = "#3", "a jig"
    press(lab, mix.hear)
    assert lab.player.label == "50% a waltz (seed 3), 50% a jig (seed 0)"
    mix.parts[0][0].value = "#99"
    mix.hear.click()
    assert "no point 99" in lab.label.value
    mix.add.click()
    assert len(mix.parts) == 3 and len(mix.box.children) == 3
