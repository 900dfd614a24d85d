"""Studio, Lab and Library without a browser: set `.value`, press, assert what is shown. Smoke weights: noise."""

import datetime
import io
import re
import threading
import time

import numpy as np
import pretty_midi
import pytest
import soundfile
import torch
from fixtures import sinusoids
from ipywidgets.widgets.widget import _instances
from test_library import piece

from musekit.config import MuseError
from musekit.lab.lab_view import LabView
from musekit.lab.library_view import LibraryView
from musekit.lab.studio import StudioView
from musekit.library import Library
from musekit.recipe import Settings
from musekit.show.players import waveform

PATIENCE = 120  # seconds; a busy machine is slow


@pytest.fixture
def studio(muse, tmp_path):
    return StudioView(muse, n=2, library=Library(tmp_path / "library"), seconds=0.5, steps=2)


def press(view, button, status: str = "done") -> None:
    """Press a button and wait for the end of its job."""
    button.click()
    assert view.job.wait(PATIENCE) == status, view.job.message


def made(studio, n: int = 1) -> list[str]:
    """Generate n pieces; the cards as HTML."""
    studio.n.value = n
    press(studio, studio.generate)
    return shown(studio)


def shown(studio) -> list[str]:
    """The cards as a person sees them, the newest first."""
    return [card.value for card in sorted(studio.cards.children, key=lambda card: int(card.layout.order))]


# -- the Studio


def test_generate_shows_a_card_for_each_piece(studio):
    studio.prompt.value, studio.seed.value = '<img src=x onerror=alert(1)>"&', 7
    cards = made(studio, 3)
    assert len(cards) == 3 and studio.bar.value == 1.0 and studio.bar.bar_style == "success"
    assert re.findall(r"seed (\d+) &middot;", "".join(cards)) == ["9", "8", "7"]  # the newest first
    for text in cards:
        assert 'src="data:audio/ogg;base64,' in text and "<svg" in text
        assert "<img" not in text and "&lt;img src=x onerror=alert(1)&gt;&quot;&amp;" in text
        assert re.search(r"similarity [+-][01]\.\d\d", text)
    assert f"0.5 s, 2 steps of euler, guidance {studio.guidance.value:g}" in cards[0]
    assert not studio.generate.disabled and studio.cancel.disabled and "onerror" not in studio.label.value
    recipe = studio.state.results[1].piece.recipe
    assert (recipe.seed, recipe.seconds, recipe.stage2_steps) == (8, 0.5, 2)
    assert not studio.fresh.value  # a seed that somebody wrote is held
    studio.fresh.value = True
    assert studio._options()["seed"] != studio._options()["seed"] == studio.seed.value and studio.fresh.value


def test_the_caller_stays_free_and_cancel_stops_at_the_next_step(studio):
    studio.steps.value = 200
    studio.generate.click()  # returns at once
    assert studio.job.running and studio.generate.disabled and not studio.cancel.disabled
    with pytest.raises(MuseError, match="still at work"):
        studio.state.generate("another")
    deadline = time.monotonic() + PATIENCE
    while studio.bar.value < 0.1 and time.monotonic() < deadline:
        time.sleep(0.01)
    press(studio, studio.cancel, "cancelled")
    assert 0 < studio.bar.value < 0.9 and studio.bar.bar_style == "warning" and shown(studio) == []
    assert not studio.generate.disabled and studio.cancel.disabled and "muse-busy" not in studio.view._dom_classes


def test_errors_stand_in_the_line(studio, monkeypatch):
    def broken(*args, **kwargs):
        raise ValueError("<b>odd</b>")

    monkeypatch.setattr(studio.state.muse, "embed_batch", broken)
    press(studio, studio.generate, "failed")
    assert "ValueError: &lt;b&gt;odd&lt;/b&gt;" in studio.label.value
    assert studio.bar.bar_style == "danger" and not studio.generate.disabled
    studio.keep.click()
    assert "generate a piece first" in studio.label.value


def test_a_waveform_is_the_outline_of_the_sound():
    ramp = np.linspace(0, 1, 26_000, dtype=np.float32)
    points = re.search(r'points="([^"]+)"', waveform(np.stack([ramp, ramp]))).group(1).split()
    heights = [float(point.split(",")[1]) for point in points[:260]]
    assert len(points) == 520 and heights == sorted(heights, reverse=True) and min(heights) > 0


def test_what_was_heard_is_chosen_and_its_settings_make_it_again(studio):
    studio.negative.value, studio.solver.value, studio.guidance.value = "<b>drums", "heun", 2.0
    assert "not: &lt;b&gt;drums" in made(studio)[0] and "2 steps of heun, guidance 2" in shown(studio)[0]
    studio.negative.value, studio.solver.value, studio.guidance.value = "", "euler", 3.0
    studio.examples.children[1].click()
    assert studio.job.wait(PATIENCE) == "done" and studio.state.results[1].piece.recipe.prompt == "a happy flute tune"
    studio.player._handle_custom_msg({"heard": 1}, [])
    studio.use.click()
    assert (studio.piece.value, studio.negative.value, studio.solver.value) == (1, "<b>drums", "heun")
    made(studio)
    first, _, again = (result.piece for result in studio.state.results)
    assert again.recipe == first.recipe and torch.equal(again.audio, first.audio)
    studio.clear.click()
    assert shown(studio) == [] and studio.piece.options == ()
    assert len(made(studio)) == 1 and studio.piece.value == 4


def test_keep_variations_and_download(studio, monkeypatch):
    made(studio)
    studio.tags.value = " slow , <i>odd</i>,, "
    studio.keep.click()
    [entry] = studio.state.library.search()
    assert entry.tags == ("slow", "<i>odd</i>") and "<i>" not in studio.label.value
    studio.degrees.value = 30.0
    press(studio, studio.more)
    assert len(shown(studio)) == 2 and "30\N{DEGREE SIGN} from no. 1" in shown(studio)[0]
    studio.degrees.value = 0.0
    studio.more.click()
    assert "degrees go from above 0" in studio.label.value
    sent = []
    monkeypatch.setattr(studio.player, "send", lambda content, buffers: sent.append((content, buffers[0][:4])))
    assert studio.piece.value == 2  # the newest
    studio.piece.value = 1
    studio.save.click()
    assert sent[0][0]["name"].startswith("a-sad-piano-melody-") and sent[0][1] == b"fLaC"


def test_steering_is_on_the_card_and_comes_back_into_the_form(studio):
    studio.prompt.value, studio.chords.value = "a waltz at 120 BPM", "X"
    assert "read in the prompt: 120 BPM" in made(studio)[0]  # nothing is asked for while the box is not ticked
    midi, data = pretty_midi.PrettyMIDI(initial_tempo=90.0), io.BytesIO()
    midi.instruments = [pretty_midi.Instrument(0)]
    midi.instruments[0].notes = [pretty_midi.Note(90, 60, 0.0, 0.5), pretty_midi.Note(90, 67, 0.5, 1.0)]
    midi.write(data)
    file = {"name": "<i>t</i>.mid", "type": "", "size": 9, "content": data.getvalue()}
    studio.melody.set_trait("value", (file | {"last_modified": datetime.datetime.now()},))
    assert studio.job.wait(PATIENCE) == "done" and "2 notes" in studio.label.value and "<i>" not in studio.label.value
    assert studio.steer.value and studio.tune.value == "2 notes at 90 BPM: C4 G4"
    studio.chords.value = ""
    made(studio)
    assert studio.state.results[1].piece.recipe.controls.melody[1] == (0.375, 0.375, 67)  # as fast as the prompt says
    studio.chords.value = "X"
    for tempo, why in (
        ("90", "the prompt says bpm = 120.0, and the option 90.0"), ("fast", "is no number of beats"),
        ("1e9", "the prompt says bpm = 120.0"), ("120", "the chord &#x27;X&#x27; cannot be read"),
    ):  # fmt: skip
        studio.bpm.value = tempo
        studio.generate.click()
        studio.job.wait(PATIENCE)
        assert why in studio.label.value and len(shown(studio)) == 2
    studio.bpm.value, studio.chords.value, studio.key.value, studio.metre.value = "60", "Am F", "D minor", 3
    studio.prompt.value, studio.closer.value = "a waltz", 1.0
    assert "asked: 60 BPM, D minor, 3 beats a bar, Am F, a melody of 2 notes" in made(studio)[0]
    first = studio.state.results[2].piece.recipe
    assert first.controls.melody == ((0.0, 0.75, 60), (0.75, 0.75, 67)) and first.control_guidance == 1  # at 60 BPM
    studio.bpm.value, studio.key.value, studio.steer.value, studio.closer.value = "", "", False, 0.0
    studio.forget.click()
    assert studio.tune_notes is None and studio.tune.value == ""
    studio.use.click()
    made(studio)
    assert studio.state.results[3].piece.recipe == first and studio.bpm.value == "60"
    studio.piece.value = 1
    studio.use.click()
    assert not studio.steer.value and studio.bpm.value == "" and studio.metre.label == studio.key.label == "any"


def test_a_part_that_is_chosen_is_repainted_and_the_piece_goes_on(studio):
    studio.seconds.value = 1.0
    made(studio)
    studio.repaint.click()
    assert "choose a part first" in studio.label.value and studio.desk.outline.count(",") > 1000
    studio.desk.part = [0.25, 0.5]
    made(studio)
    assert studio.piece.value == 1 and studio.desk.part == [0.25, 0.5]  # who chose a part stays there
    press(studio, studio.repaint)
    assert studio.desk.piece == 3 and studio.desk.part == [] and "repainted" in shown(studio)[0]
    one, _, three = (result.piece.audio for result in studio.state.results)
    assert torch.equal(one[:, 26460:], three[:, 26460:]) and not torch.equal(one, three)
    studio.longer.value, studio.anew.value, studio.prompt.value = 0.5, True, "a jig"
    press(studio, studio.go_on)
    assert studio.desk.seconds == 1.5 and studio.state.results[3].piece.recipe.prompt == "a jig"


def test_a_card_is_at_most_3_models_and_old_ones_leave(studio, monkeypatch):
    monkeypatch.setattr("musekit.lab.studio.MAX_CARDS", 6)
    made(studio)
    before = len(_instances)
    made(studio)
    assert len(_instances) - before <= 3 and studio.desk.pieces == [r.text for r in studio.state.results]
    made(studio, 5)
    assert len(shown(studio)) == 5 and "no. 7" in shown(studio)[0] and "no. 3" in shown(studio)[4]  # 1 and 2 left
    assert len(studio.desk.pieces) == 6 and len(_instances) - before <= 3 * 4
    studio.clear.click()
    texts = [result.text for result in studio.state.results[:2]]
    studio.desk._handle_custom_msg({"past": texts}, [])
    assert studio.job.wait(PATIENCE) == "done" and len(shown(studio)) == 2 and studio.desk.pieces == texts
    studio.desk._handle_custom_msg({"past": ["<b>"]}, [])
    studio.job.wait(PATIENCE)
    assert "cannot be read" in studio.label.value and "<b>" not in studio.label.value


# -- the Library


@pytest.fixture
def shelf(tmp_path):
    """A view of a library with 5 pieces, made without a network."""
    library = Library(tmp_path / "kept")
    for i in range(5):
        library.add(piece(i, f"piece {i}"), tags=["even" if i % 2 == 0 else "odd"])
    shelf = LibraryView(library)
    shelf.sort.value = "name"
    return shelf


def names(shelf) -> list[str]:
    return [shelf.state.get(identity).name for _, identity in shelf.list.options]


def choose(shelf, *which) -> None:
    shelf.list.value = [i for _, i in shelf.list.options if shelf.state.get(i).name in which]


def test_search_filter_and_sort(shelf):
    assert names(shelf) == [f"piece {i}" for i in range(5)]
    assert "seed 0, similarity +0.25, #even" in shelf.list.options[0][0]
    shelf.query.value = "ODD piece"
    assert names(shelf) == ["piece 1", "piece 3"]
    choose(shelf, "piece 3")
    shelf.star.click()
    assert shelf.list.options[1][0].startswith("\N{BLACK STAR} piece 3") and len(shelf.list.value) == 1
    shelf.query.value, shelf.starred.value = "", True
    assert names(shelf) == ["piece 3"]
    shelf.star.click()
    assert names(shelf) == []


def test_tag_rename_note_delete_undo_purge(shelf):
    shelf.delete.click()
    assert "choose some pieces first" in shelf.label.value
    choose(shelf, "piece 0", "piece 1")
    shelf.text.value = "new, <b>bold</b>"
    shelf.tag.click()
    assert len(shelf.state.search(tags=["new", "<b>bold</b>"])) == 2
    shelf.text.value = "new"
    shelf.untag.click()
    assert shelf.state.search(tags=["new"]) == []
    choose(shelf, "piece 2")
    assert shelf.text.value == "piece 2"
    shelf.text.value = "a note"
    shelf.note.click()
    assert [e.name for e in shelf.state.search("note")] == ["piece 2"] and "notes: a note" in shelf.facts.value
    assert "5 pieces, 0:02 min; chosen: 1 piece," in shelf.facts.value
    shelf.text.value = '<img src=x onerror=alert(1)>"'
    shelf.rename.click()
    assert '<img src=x onerror=alert(1)>"' in names(shelf) and "<img" not in shelf.label.value
    choose(shelf, "piece 3", "piece 4")
    shelf.delete.click()
    assert len(shelf.state) == 3 and "Undo" in shelf.label.value
    shelf.undo.click()
    assert len(shelf.state) == 5 and "2 are as before" in shelf.label.value
    choose(shelf, "piece 4")
    shelf.delete.click()
    shelf.purge.click()
    assert len(shelf.state.search(deleted=True)) == 1 and "press again" in shelf.label.value
    shelf.purge.click()
    assert shelf.state.search(deleted=True) == [] and "1 were removed" in shelf.label.value


def test_views_of_one_kernel_refresh_each_other(studio):
    shelf = LibraryView(studio.state.library)
    made(studio)
    studio.keep.click()
    assert names(shelf) == ["a sad piano melody"]
    Library(shelf.state.folder).add(piece(78, "from elsewhere"))  # another process
    shelf.look.click()
    assert names(shelf) == ["from elsewhere", "a sad piano melody"]


def test_play_export_and_import(shelf, tmp_path):
    choose(shelf, "piece 2")
    shelf.play.click()
    assert shelf.player.turn == 1 and shelf.player.label == "piece 2" and shelf.player.sound[:4] == b"fLaC"
    sent = []
    shelf.player.send = lambda content, buffers: sent.append(content["name"])
    shelf.save.click()
    choose(shelf, "piece 1", "piece 2")
    shelf.save.click()
    assert sent[0].endswith(f"{shelf.list.value[-1]}.flac") and sent[1].startswith("muse-2-pieces-")
    choose(shelf, "piece 2")
    shelf.state.file(shelf.state.get(shelf.list.value[0])).unlink()
    shelf.play.click()
    assert "cannot be read as sound" in shelf.label.value
    shelf.list.value = ()
    shelf.path.value = str(tmp_path / "out")
    press(shelf, shelf.export)
    assert "missing or broken" in shelf.label.value and len(list((tmp_path / "out").iterdir())) == 4
    other = LibraryView(Library(tmp_path / "other"))
    other.path.value = str(tmp_path / "out")
    press(other, other.bring)
    assert "4 added" in other.label.value and len(names(other)) == 4
    for place in (str(tmp_path / "nowhere"), "~nobody-of-that-name/x", "a\0b"):
        other.path.value = place
        press(other, other.bring, "failed")
    (other.state.sounds / "odd.flac").write_bytes(b"no music")
    assert "cannot be read: odd" in LibraryView(Library(other.state.folder)).label.value


def test_a_long_list_has_pages(shelf, monkeypatch):
    monkeypatch.setattr("musekit.lab.library_view.PAGE", 2)
    shelf.refresh()
    assert names(shelf) == ["piece 0", "piece 1"] and "page 1 of 3" in shelf.facts.value
    shelf.page.value = 3
    assert names(shelf) == ["piece 4"]
    shelf.query.value = "odd"  # fewer pages
    assert shelf.page.value == 1 and names(shelf) == ["piece 1", "piece 3"]


def test_a_visitor_has_no_folders_of_the_machine(shelf, monkeypatch, tmp_path):
    monkeypatch.setenv("MUSEKIT_VISITOR", "1")
    view = LibraryView(shelf.state)
    assert {one.layout.display for one in (view.path, view.export, view.bring)} == {"none"}
    view.path.value = str(tmp_path)
    for button in (view.export, view.bring):
        button.click()
        assert "a visitor has no folders" in view.label.value and not view.job.running


def test_make_this_again(muse, shelf):
    settings = Settings(seconds=0.5, steps=2, stage1_steps=2, micro_batch=2)
    [one] = muse.stream([muse.recipe("a waltz", 3, settings)])
    shelf.state.add(one)
    shelf = LibraryView(shelf.state, muse)
    choose(shelf, "a waltz")
    press(shelf, shelf.again)
    assert "the same bits" in shelf.label.value and shelf.player.label == "again: a waltz"
    choose(shelf, "piece 4")
    press(shelf, shelf.again, "failed")
    assert "made by the weights wwwwwwwwwwww" in shelf.label.value


# -- the Lab


@pytest.fixture
def lab(muse, tmp_path):
    lab = LabView(muse, ("a waltz",), n=10, library=Library(tmp_path / "library"), seconds=0.5)
    yield lab
    lab.job.wait(PATIENCE)


def click(lab, point: int) -> None:
    """Click a point of the map."""
    lab.map._handle_custom_msg({"point": point}, [])
    assert lab.job.wait(PATIENCE) == "done", lab.job.message


def test_sample_lays_out_a_map_and_a_click_is_played_and_kept(lab):
    lab.keep.click()
    assert "click a point first" in lab.label.value
    lab.prompts.value = '<b onmouseover="alert(1)">waltz</b>'
    for _ in range(2):
        press(lab, lab.sample)
    assert [p.seed for p in lab.state.points] == list(range(20))  # sampled again: other seeds
    [group], peaks = lab.map.land["groups"], lab.map.land["peaks"]
    assert group["index"] == list(range(20)) and len(group["x"]) == len(group["y"]) == 20
    assert "(seed 3)" in group["text"][3] and "20 points" in lab.label.value and len(peaks["x"]) == len(peaks["text"])
    assert peaks["text"] and "<b" not in group["name"] + "".join(group["text"]) and lab.map.plotly
    click(lab, 4)
    assert lab.player.turn == 1 and lab.player.label.endswith("(seed 4)") and "similarity" in lab.label.value
    lab.tags.value = "nice"
    lab.keep.click()
    [entry] = lab.library.search("seed")
    assert entry.name.endswith("(seed 4)") and entry.tags == ("nice",) and "<b" not in lab.label.value
    lab.clear.click()
    assert lab.map.land == {} and lab.state.points == []
    lab.prompts.value = " ; "
    press(lab, lab.sample, "failed")
    assert "write a prompt" in lab.label.value


def test_of_two_clicks_the_latest_is_heard(lab):
    press(lab, lab.sample)
    lab.state.steps = 40
    for point in (1, 2, 3):
        lab.map._handle_custom_msg({"point": point}, [])
    assert lab.job.wait(PATIENCE) == "done" and lab.player.label.endswith("(seed 3)")
    assert lab.player.turn == 1 and lab.heard[2].seed == 3


def test_uploads_become_points_or_are_refused(lab):
    data = io.BytesIO()
    soundfile.write(data, sinusoids([440], 1.0).T, 48000, format="WAV")
    file = {"name": "../<i>x</i>.wav", "type": "audio/wav", "size": 9, "content": data.getvalue()}
    file["last_modified"] = datetime.datetime.now()
    for change, status, message in (
        ({}, "done", "added ../"), ({"content": b"<script>", "name": "bad.wav"}, "failed", "cannot be read as sound"),
    ):  # fmt: skip
        lab.upload.set_trait("value", (file | change,))
        assert lab.job.wait(PATIENCE) == status and len(lab.state.points) == 1
        assert message in lab.label.value and "<i>" not in lab.label.value
    end = threading.Event()
    lab.job.start(lambda: str(end.wait(PATIENCE)))
    lab.upload.set_trait("value", (file,))
    assert len(lab.state.points) == 1 and "still at work" in lab.label.value and lab.clear.disabled
    end.set()
    lab.job.wait(PATIENCE)
    lab.state.sample("a waltz", 3)
    lab.upload.set_trait("value", (file,))
    assert lab.job.wait(PATIENCE) == "done" and "added" in lab.label.value
    assert len(lab.map.land["groups"][0]["x"]) == 2  # the group of the sound


def test_a_path_and_a_mix_are_played(lab):
    lab.walk.click()
    assert "a path needs 2 or more places" in lab.label.value
    lab.add.click()
    assert "click a point first" in lab.label.value
    lab.prompts.value = "<u>a jig</u>"
    press(lab, lab.sample)
    for i in (3, 5, 7):
        click(lab, i)
        lab.add.click()
    assert [p.seed for p in lab.places] == [3, 5, 7] and "<u>" not in lab.places_list.value
    lab.steps.value = 3
    press(lab, lab.walk)
    assert lab.player.turn == 4 and "3 sounds" in lab.label.value
    lab.keep.click()
    [entry] = lab.library.search()
    assert len(entry.origin.recipes) == 3 and entry.name == lab.player.label  # what was heard, not the last place
    lab.add.click()
    assert "is a path" in lab.label.value
    press(lab, lab.mix)
    assert lab.player.label.startswith("mix of <u>a jig</u> (seed 3), ")
    lab.forget.click()
    lab.mix.click()
    assert "a mix needs a place" in lab.label.value
