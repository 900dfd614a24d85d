"""Studio, Lab and Library without a browser: set `.value`, press, assert what is shown. Smoke weights: noise."""

import datetime
import re
import threading
import time
from dataclasses import replace

import pytest
import torch
from fixtures import sinusoids
from plotly.callbacks import Points
from test_library import piece

from musekit.config import MuseError
from musekit.library import Library as Kept
from musekit.muse import Muse
from musekit.recipe import Settings
from musekit.show.players import waveform
from musekit.view import MOST_CARDS, Lab, Library, Studio
from musekit.view.line import Line

PATIENCE = 120  # seconds; a busy machine is slow
QUICK = {"seconds": 0.5, "steps": 2, "stage1_steps": 2, "micro_batch": 2}


@pytest.fixture(scope="module")
def muse(smoke_weights):
    muse = Muse.from_pretrained(smoke_weights)
    muse.generate("warm up", n=1, **QUICK)
    return muse


@pytest.fixture
def studio(muse, tmp_path):
    studio = Studio(muse, library=Kept(tmp_path / "library"))
    studio.seconds.value, studio.steps.value, studio.n.value = 0.5, 2, 2
    return studio


def finish(studio, status: str = "done") -> None:
    assert studio.job.wait(PATIENCE) == status, studio.job.message


def shown(studio) -> list[str]:
    return [box.children[0].value for box in studio.cards.children]


def test_generate_shows_a_card_for_each_piece(studio, muse):
    studio.prompt.value, studio.seed.value, studio.n.value = "a calm organ piece", 7, 3
    studio.generate.click()
    finish(studio)
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
    studio.state.knobs = replace(studio.state.knobs, quality="good")
    studio.job.on_change = lambda: (show(), seen.append((studio.bar.value, studio.label.value)))
    studio.n.value, studio.steps.value = 6, 4
    studio.generate.click()
    finish(studio)
    fractions = [fraction for fraction, _ in seen]
    assert fractions == sorted(fractions) and fractions[0] == 0 and fractions[-1] == 1
    for stage in ("text to embedding", "embedding to latents", "latents to sound"):
        for batch in (1, 2):
            part = {f for f, text in seen if stage in text and f"micro-batch {batch} of 2" in text}
            assert len(part) >= 2, (stage, batch, seen)


def test_the_caller_stays_free_and_cancel_stops_at_the_next_step(studio):
    studio.steps.value = 200
    studio.generate.click()  # returns at once
    assert studio.job.running and studio.generate.disabled and not studio.cancel.disabled
    with pytest.raises(MuseError, match="still at work"):
        studio.state.generate("another")
    deadline = time.monotonic() + PATIENCE
    while studio.bar.value < 0.1 and time.monotonic() < deadline:
        time.sleep(0.01)
    studio.cancel.click()
    finish(studio, "cancelled")
    assert 0 < studio.bar.value < 0.9 and studio.bar.bar_style == "warning"
    assert "cancelled; 0 of 2" in studio.label.value and shown(studio) == []
    assert not studio.generate.disabled and studio.cancel.disabled
    studio.steps.value = 2
    studio.generate.click()
    finish(studio)
    assert len(shown(studio)) == 2


def test_what_a_person_types_is_escaped_everywhere(studio):
    studio.prompt.value, studio.n.value = '<img src=x onerror=alert(1)>"&', 1
    studio.generate.click()
    finish(studio)
    [text] = shown(studio)
    assert "<img" not in text and "&lt;img src=x onerror=alert(1)&gt;&quot;&amp;" in text
    assert "onerror" not in studio.label.value


@pytest.mark.parametrize(
    "change, told",
    [
        ({"prompt": "  \t "}, "the prompt is empty"),
        ({"prompt": "x", "n": 1, "fail": ValueError("<b>odd</b>")}, "ValueError: &lt;b&gt;odd&lt;/b&gt;"),
    ],
)
def test_errors_stand_in_the_label(studio, monkeypatch, change, told):
    if fail := change.pop("fail", None):

        def broken(*args, **kwargs):
            raise fail

        monkeypatch.setattr(studio.state.muse, "embed_rows", broken)
    for name, value in change.items():
        getattr(studio, name).value = value
    studio.generate.click()
    finish(studio, "failed")
    assert told in studio.label.value and studio.bar.bar_style == "danger" and not studio.generate.disabled


def test_missing_weights_are_told_and_generate_is_off(tmp_path):
    studio = Studio(tmp_path / "nothing")
    assert studio.generate.disabled and "no weights at" in studio.label.value


def test_a_misspelt_setting_is_told(muse):
    with pytest.raises(MuseError, match="did you mean 'steps'"):
        Studio(muse, step=4)


def test_a_long_prompt_is_cut_with_a_notice(studio):
    studio.prompt.value, studio.n.value = "slow " * 3000, 1
    studio.generate.click()
    finish(studio)
    assert "only the first 2,000" in studio.label.value and "tokens" in studio.label.value


def test_knobs_cannot_leave_what_can_be_sampled(studio):
    studio.seconds.value = 1e9
    studio.n.value = -3
    studio.seed.value = -1
    assert studio.seconds.value <= studio.state.muse.config.window_seconds
    assert (studio.n.value, studio.seed.value) == (1, 0)


def test_new_cards_come_first_and_old_ones_leave(studio):
    studio.n.value = 1
    for seed in (1, 2):
        studio.seed.value = seed
        studio.generate.click()
        finish(studio)
    cards = shown(studio)
    assert "seed 2 " in cards[0] and "seed 1 " in cards[1]
    first = studio.cards.children[-1]
    studio.state.results = studio.state.results * MOST_CARDS
    studio._show()
    assert len(shown(studio)) == MOST_CARDS and first not in studio.cards.children
    assert first.comm is None and first.children[0].comm is None  # closed with all in it


def test_cards_that_left_are_kept_nowhere(studio, monkeypatch):
    from ipywidgets.widgets.widget import _instances

    monkeypatch.setattr("musekit.view.studio.MOST_CARDS", 1)
    seen = []
    for _ in range(3):
        made(studio)
        seen.append(len(_instances))
    assert seen[0] == seen[1] == seen[2]


def test_the_systems_own_notices_stay_its_owners(studio, monkeypatch):
    told = []
    monkeypatch.setattr(studio.state.muse, "notice", told.append)
    studio.prompt.value = "a waltz \N{CYRILLIC SMALL LETTER VE}"
    made(studio)
    assert "other scripts" in studio.label.value and studio.state.muse.notice == told.append


def test_a_waveform_is_the_outline_of_the_sound():
    import numpy as np

    ramp = np.linspace(0, 1, 26_000, dtype=np.float32)
    points = re.search(r'points="([^"]+)"', waveform(np.stack([ramp, ramp]))).group(1).split()
    heights = [float(point.split(",")[1]) for point in points[:260]]
    assert len(points) == 520 and heights == sorted(heights, reverse=True) and min(heights) > 0
    assert "nan" not in waveform(np.zeros((2, 10), np.float32))


# -- what can be done with a card


def press(box, name: str):
    """The button of that name in a card, pressed; a toggle is switched."""
    found = [b for line in box.children[1:] for b in line.children if f"muse-card-{name}" in b._dom_classes]
    if hasattr(found[0], "click"):
        found[0].click()
    else:
        found[0].value = not found[0].value
    return found[0]


def made(studio, n: int = 1):
    studio.n.value = n
    studio.generate.click()
    finish(studio)
    return studio.cards.children


def test_keep_star_and_tag(studio):
    [box] = made(studio)
    studio.tags.value = " slow , <i>odd</i>,, "
    assert press(box, "keep").description == "Kept"
    [entry] = studio.state.library.search()
    assert entry.tags == ("slow", "<i>odd</i>") and "<i>" not in studio.label.value
    press(box, "star")
    assert [e.id for e in studio.state.library.search(starred=True)] == [entry.id]
    press(box, "star")
    assert studio.state.library.search(starred=True) == [] and len(studio.state.library) == 1


def test_more_like_this_adds_variations(studio):
    [box] = made(studio)
    studio.n.value, studio.degrees.value = 3, 30.0
    press(box, "more")
    finish(studio)
    assert len(shown(studio)) == 4 and "30\N{DEGREE SIGN} from no. 1" in shown(studio)[0]
    studio.degrees.value = studio.noise.value = 0.0
    press(box, "more")
    assert "one of them must be above 0" in studio.label.value


def test_a_and_b(studio):
    studio.what.value, studio.value.value, studio.n.value = "guidance_scale", "1.5", 1
    studio.versus.click()
    finish(studio)
    b, a = shown(studio)  # the newest comes first
    assert "no. 1 \N{MIDDLE DOT} A" in a and "B: guidance_scale = 1.5" in b and "guidance 1.5" in b
    studio.value.value = "<b>much</b>"
    studio.versus.click()
    assert "must be a number" in studio.label.value and "<b>" not in studio.label.value


def test_downloads_go_to_the_browser_as_bytes(studio, monkeypatch):
    [box] = made(studio)
    sent = []
    monkeypatch.setattr(studio.desk, "send", lambda content, buffers: sent.append((content, buffers)))
    press(box, "flac")
    press(box, "wav")
    assert [content["mime"] for content, _ in sent] == ["audio/flac", "audio/wav"]
    assert [buffers[0][:4] for _, buffers in sent] == [b"fLaC", b"RIFF"] and sent[0][0]["name"].endswith("-0.flac")


def test_a_quality_turns_the_steps(studio):
    studio.quality.value = "best"
    assert studio.steps.value == 2 * studio.state.muse.config.sample.stage2_steps
    studio.fresh.value = True
    assert studio._knobs()["seed"] is None


def test_the_desk_holds_playable_bytes():
    import io

    import numpy as np
    import soundfile

    from musekit.view.desk import Desk

    desk = Desk()
    desk.play(np.sin(np.arange(44100) / 20)[None].astype(np.float32) * 0.5, 44100, "<b>a tone</b>")
    x, rate = soundfile.read(io.BytesIO(desk.sound))
    assert (rate, len(x), desk.turn, desk.mime) == (44100, 44100, 1, "audio/ogg") and desk.label == "<b>a tone</b>"
    assert "innerHTML" not in desk._esm  # labels are text


def test_the_lamp_tells_how_the_work_stands(studio):
    lamps = {"muse-busy", "muse-done", "muse-failed"}
    assert not lamps & set(studio.view._dom_classes)
    studio.steps.value = 200
    studio.generate.click()
    assert lamps & set(studio.view._dom_classes) == {"muse-busy"}
    studio.cancel.click()
    finish(studio, "cancelled")
    assert not lamps & set(studio.view._dom_classes)
    studio.prompt.value = " "
    studio.generate.click()
    finish(studio, "failed")
    assert lamps & set(studio.view._dom_classes) == {"muse-failed"}
    studio.say("all is well")
    assert not lamps & set(studio.view._dom_classes)
    studio.say("this cannot be", bad=True)
    assert lamps & set(studio.view._dom_classes) == {"muse-failed"}


def test_every_colour_of_a_page_has_one_to_fall_back_on():
    from musekit.view.sheet import SHEET

    used = re.findall(r"var\((--jp-[\w-]+)([,)])", SHEET)
    assert len(used) > 5 and all(end == "," for _, end in used)
    assert SHEET.count("{") == SHEET.count("}") and "url(" not in SHEET  # nothing is fetched


def test_a_map_drawn_while_the_page_speaks_reaches_it(monkeypatch):
    """plotly sets a trait to its message and back; traitlets keeps only the last of both while it takes one in."""
    import numpy as np

    from musekit.view.chart import Chart

    chart, inside, go, sent = Chart(), threading.Event(), threading.Event(), []
    figure = chart.figure
    monkeypatch.setattr(figure, "set_trait", lambda *_: inside.set() or go.wait(PATIENCE))
    monkeypatch.setattr(figure, "send_state", lambda key: sent.append(getattr(figure, key)))
    page = threading.Thread(target=lambda: figure.set_state({"_view_count": 1}))
    page.start()
    inside.wait(PATIENCE)
    job = threading.Thread(target=lambda: chart.mark(np.zeros((3, 2))))
    job.start()
    job.join(0.5)
    go.set()
    page.join()
    job.join()
    assert sum(isinstance(message, dict) and "style_data" in message for message in sent) == 1


def test_names_of_hills_do_not_lie_on_each_other():
    import numpy as np

    from musekit.explore.landscape import Landscape, Peak
    from musekit.view.chart import NAME_HEIGHT, placed

    grid = np.linspace(0, 10, 72)
    tops = [Peak(5.0, 5.0, 1.0 - i / 10, (i,), f"name {i}") for i in range(5)] + [Peak(5.0, 9.0, 0.1, (9,), "far")]
    x, y, names = placed(Landscape(np.zeros((1, 2)), np.zeros((1, 2)), grid, grid, np.zeros((72, 72)), tuple(tops)))
    assert names == ["name 0", "name 1", "name 2", "far"] and x == [5.0] * 4  # there is room for three in one place
    assert min(abs(a - b) for i, a in enumerate(y) for b in y[:i]) >= NAME_HEIGHT * 10 * 0.999


# -- the Library


@pytest.fixture
def kept(tmp_path):
    """A library with 15 pieces, made without a network."""
    library = Kept(tmp_path / "kept")
    for i in range(15):
        library.add(piece(i, f"piece {i:02d}"), tags=["even" if i % 2 == 0 else "odd"])
    return library


@pytest.fixture
def shelf(kept):
    return Library(kept)


def names(shelf) -> list[str]:
    return [line.entry.name for line in shelf.lines if line.entry is not None]


def choose(shelf, *which) -> None:
    for line in shelf.lines:
        if line.entry is not None:
            line.chosen.value = line.entry.name in which


def test_a_page_of_the_library_search_filter_and_sort(shelf):
    assert len(names(shelf)) == 12 and shelf.before.disabled and not shelf.after.disabled
    shelf.sort.value = "name"
    assert names(shelf) == [f"piece {i:02d}" for i in range(12)]
    shelf.after.click()
    assert names(shelf) == ["piece 12", "piece 13", "piece 14"] and shelf.where.value == "13 to 15"
    shelf.query.value = '07 "'
    assert names(shelf) == ["piece 07"] and shelf.before.disabled
    shelf.query.value = ""
    shelf.tag.value = "odd"
    assert names(shelf) == [f"piece {i:02d}" for i in range(1, 15, 2)]
    shelf.lines[0].star.value = True
    shelf.starred.value = True
    assert names(shelf) == ["piece 01"] and shelf.lines[1].box.layout.display == "none"


def test_one_thread_at_a_time_fills_a_page(shelf, monkeypatch):
    """An import's end or another view's bell refreshes it while a person turns it: else stars go to other pieces."""
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


def test_tag_rename_delete_undo_purge(shelf):
    shelf.sort.value = "name"
    shelf.delete.click()
    assert "choose some pieces first" in shelf.label.value
    choose(shelf, "piece 00", "piece 01")
    shelf.tags.value = "new, <b>bold</b>"
    shelf.give.click()
    assert {t: n for t, n in shelf.state.tags().items() if n == 2} == {"new": 2, "<b>bold</b>": 2}
    assert "<b>bold</b>" in shelf.tag.options and "<b>bold" not in shelf.lines[0].text.value
    choose(shelf, "piece 03")
    assert shelf.text.value == "piece 03"
    shelf.text.value = '<img src=x onerror=alert(1)>"'
    shelf.rename.click()
    shown = [line.text.value for line in shelf.lines if line.entry is not None and "img" in line.text.value]
    assert len(shown) == 1 and "<img" not in shown[0] and "&lt;img" in shown[0]
    choose(shelf, "piece 04", "piece 05")
    shelf.delete.click()
    assert len(shelf.state) == 13 and "Undo" in shelf.label.value
    shelf.undo.click()
    assert len(shelf.state) == 15 and "2 came back" in shelf.label.value
    choose(shelf, "piece 04")
    shelf.delete.click()
    shelf.bin.value = True
    assert names(shelf) == ["piece 04"]
    shelf.purge.click()
    assert len(shelf.state.bin()) == 1 and "press again" in shelf.label.value
    shelf.purge.click()
    assert shelf.state.bin() == [] and "1 were removed" in shelf.label.value


def test_another_notebooks_pieces_are_there_after_a_refresh(shelf, kept):
    Kept(kept.folder).add(piece(77, "from elsewhere"))
    shelf.query.value = "elsewhere"
    assert names(shelf) == ["from elsewhere"]


def test_views_of_one_kernel_hear_of_each_other(studio):
    library = studio.state.library
    shelf, lab = Library(library), Lab(studio.state.muse, library=library)
    [box] = made(studio)
    press(box, "keep")
    assert names(shelf) == ["a sad piano melody"] and len(lab.kept.options) == 1
    choose(shelf, "a sad piano melody")
    shelf.delete.click()
    assert names(shelf) == [] and lab.kept.options == ()
    Kept(library.folder).add(piece(78, "from elsewhere"))  # another process: Refresh asks for it
    shelf.look.click()
    assert names(shelf) == ["from elsewhere"]


def test_what_empties_the_bin_stands_beside_the_bin(shelf):
    assert shelf.waste.layout.display == "none"
    shelf.bin.value = True
    assert shelf.waste.layout.display is None


def test_play_check_export_and_import(shelf, kept, tmp_path):
    shelf.sort.value = "name"
    shelf.lines[2].play.click()
    assert shelf.desk.turn == 1 and shelf.desk.label == "piece 02" and shelf.desk.sound[:4] == b"OggS"
    shelf.lines[0].entry.path.unlink()
    shelf.lines[0].play.click()
    assert "missing or broken" in shelf.label.value
    shelf.check.click()
    shelf.job.wait(PATIENCE)
    assert "1 problems; the sound of" in shelf.label.value
    shelf.path.value = str(tmp_path / "out.zip")
    shelf.export.click()
    shelf.job.wait(PATIENCE)
    assert "out.zip" in shelf.label.value and (tmp_path / "out.zip").exists()
    shelf.path.value = str(tmp_path / "nowhere")
    shelf.bring.click()
    shelf.job.wait(PATIENCE)
    assert "is no folder" in shelf.label.value


def test_make_this_again(muse, kept):
    [made] = muse.stream([muse.recipe("a waltz", 3, Settings(**QUICK))])
    kept.add(made)
    shelf = Library(kept, weights=muse)
    choose(shelf, "a waltz")
    shelf.again.click()
    assert shelf.job.wait(PATIENCE) == "done" and "the same bits" in shelf.label.value
    assert torch.equal(shelf.again_piece.audio, made.audio) and shelf.desk.label == "again: a waltz"
    choose(shelf, "piece 14")
    shelf.again.click()
    shelf.job.wait(PATIENCE)
    assert "load the weights that made it" in shelf.label.value


# -- the Lab


@pytest.fixture
def lab(muse, tmp_path):
    lab = Lab(muse, ("a waltz",), n=10, library=Kept(tmp_path / "library"), seconds=0.5)
    yield lab
    lab.job.wait(PATIENCE)


def done(lab, button=None, status: str = "done") -> None:
    if button is not None:
        button.click()
    assert lab.job.wait(PATIENCE) == status, lab.job.message


def test_sample_lays_out_a_map_and_a_click_is_heard(lab):
    done(lab, lab.sample)
    trace = lab.chart.figure.data[1]
    assert len(trace.x) == 10 and "a waltz (seed 3)" in trace.text[3] and "10 points" in lab.label.value
    assert lab.chart.figure.data[2].text and "a waltz" in lab.legend.value
    lab.chart.figure.data[1]._dispatch_on_click(Points(point_inds=[4]), None)
    done(lab)
    assert lab.desk.turn == 1 and lab.desk.label == "a waltz (seed 4)" and "similarity" in lab.label.value
    lab.chart.figure.data[1]._dispatch_on_click(Points(point_inds=[]), None)  # another trace was clicked
    lab.hear(lab.state.points[4])
    assert lab.desk.turn == 2 and not lab.job.running  # it was at hand
    lab.tags.value = "nice"
    lab.keep.click()
    assert [e.tags for e in lab.state.library.search("seed")] == [("nice",)] and len(lab.kept.options) == 1
    done(lab, lab.put)
    assert "added" in lab.label.value, lab.label.value
    assert len(lab.state.points) == 11 and len(lab.chart.figure.data[1].x) == 11


def test_colours_and_errors_of_the_map(lab):
    lab.prompts.value = " ; "
    done(lab, lab.sample, "failed")
    assert "write a prompt" in lab.label.value
    lab.keep.click()
    assert "nothing was heard yet" in lab.label.value
    lab.prompts.value = '<b onmouseover="alert(1)">waltz</b>'
    done(lab, lab.sample)
    assert "<b" not in lab.legend.value and all("<b" not in text for text in lab.chart.figure.data[1].text)
    lab.colour.value = "similarity"
    done(lab)
    assert lab.chart.figure.data[1].marker.showscale and lab.legend.value == ""
    lab.clear.click()
    assert len(lab.chart.figure.data[1].x) == 0 and lab.state.points == []


def test_uploads_are_points_or_are_refused(lab):
    import io

    import soundfile

    data = io.BytesIO()
    soundfile.write(data, sinusoids([440], 1.0).T, 48000, format="WAV")
    file = {"name": "../<i>x</i>.wav", "type": "audio/wav", "size": 9, "content": data.getvalue()}
    file["last_modified"] = datetime.datetime.now()
    lab.safely(lambda: lab._upload())()  # nothing chosen: nothing happens
    lab.upload.set_trait("value", (file,))
    assert len(lab.state.points) == 1 and "resampled from 48" in lab.label.value and "<i>" not in lab.label.value
    lab.upload.set_trait("value", (file | {"content": b"<script>"},))
    assert len(lab.state.points) == 1 and "no sound that can be read" in lab.label.value
    lab.upload.set_trait("value", (file | {"content": b"<script>", "name": "bad.wav"}, file))
    assert len(lab.state.points) == 2 and "but &#x27;bad.wav&#x27; is no sound" in lab.label.value
    end = threading.Event()
    lab.job.start(lambda: str(end.wait(PATIENCE)))
    for add in (lambda: lab.upload.set_trait("value", (file,)), lab.tools[1].put.click, lab.clear.click):
        add()
        assert len(lab.state.points) == 2 and "still at work" in lab.label.value
    end.set()


def test_tools_draw_the_map_that_a_cell_has_sampled(lab):
    lab.state.sample("a waltz", n=6)
    lab.state.map()
    _, _, flow, pick = lab.tools
    done(lab, pick.pick)
    trace, moving = lab.chart.figure.data[1], lab.chart.figure.data[5]
    assert len(trace.x) == 6 and len(lab.chart.figure.data[4].x) == 4
    flow.n.value = 2
    done(lab, flow.watch)
    assert len(moving.x) == 2
    done(lab, lab.redraw)
    flow.step.value = flow.step.max
    assert len(moving.x) == 0  # it ran on the map before


def test_sampling_a_prompt_again_draws_other_seeds(lab, monkeypatch):
    monkeypatch.setattr(lab, "_map", lambda refit: "no map")
    lab.prompts.value = "a  waltz"  # told apart by nothing but its spaces
    for _ in range(2):
        done(lab, lab.sample)
    assert [p.seed for p in lab.state.points] == list(range(20))


def test_a_way_is_made_walked_and_played(lab):
    way = lab.tools[0]
    way.make.click()
    assert "add two stops" in lab.label.value
    way.add.click()
    assert "write a prompt" in lab.label.value
    for text in ("a waltz", "<u>a jig</u>"):
        way.stop.value = text
        way.add.click()
    assert "<u>" not in way.stops_list.value and "a waltz" in way.stops_list.value
    way.places.value = 3
    assert way.place.disabled
    done(lab, way.make)
    assert way.place.max == 2 and not way.place.disabled and lab.desk.turn == 0
    way.place.value = 1
    way.place.value = 2
    assert lab.desk.turn == 2 and lab.desk.label.endswith("100%")
    before = lab.desk.sound
    done(lab, way.play)
    assert lab.desk.turn == 3 and lab.desk.sound != before
    done(lab, way.vary)
    assert len(way.way) == 3 and way.way[2].noise == ((1, 1.0),)


def test_the_mixer_the_flow_and_the_picks(lab):
    done(lab, lab.sample)
    _, mix, flow, pick = lab.tools
    mix.hear.click()
    assert "a mix needs a part" in lab.label.value
    mix.parts[0][0].value, mix.parts[1][0].value = "#3", "a jig"
    done(lab, mix.hear)
    assert lab.desk.label == "50% a waltz (seed 3), 50% a jig (seed 0)"
    mix.parts[0][0].value = "#99"
    mix.hear.click()
    assert "no point 99" in lab.label.value
    mix.add.click()
    assert len(mix.parts) == 3 and len(mix.box.children) == 3
    flow.n.value = 2
    done(lab, flow.watch)
    at = [tuple(lab.chart.figure.data[5].x)]
    flow.step.value = flow.step.max
    at.append(tuple(lab.chart.figure.data[5].x))
    assert flow.step.max == 24 and len(at[0]) == 2 and at[0] != at[1]
    pick.strategy.value, pick.k.value = "diverse", 3
    done(lab, pick.pick)
    assert len(lab.chart.figure.data[4].x) == 3 and pick.table.value.count("#") == 3
    done(lab, pick.hear)
    assert lab.desk.label == "3 picks by diverse"
    pick.measure.click()
    assert "<td>a waltz</td><td>10</td>" in pick.table.value
