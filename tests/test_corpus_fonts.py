"""SoundFonts: a subset sounds the same, compressed ones do too, damaged and missing ones are one line."""

import io
import json
from pathlib import Path

import numpy as np
import pretty_midi
import pytest
import soundfile

from musekit.config import MuseError
from musekit.corpus import fonts
from musekit.corpus.instruments import INSTRUMENTS
from musekit.corpus.render import render

FLUTE, VIOLIN = (0, 73), (0, 40)
RESULT = Path(__file__).parents[1] / "results" / "fonts.json"
TIMGM = Path(pretty_midi.__file__).with_name("TimGM6mb.sf2")
ROWS = [(0, 480, 64, 80), (480, 960, 76, 100), (500, 1000, 67, 60)]


def with_vorbis(font: bytes) -> bytes:
    """An SF2 of `fonts.subset` as an SF3, whose tables come last."""
    found = fonts.chunks(np.frombuffer(font, np.uint8))
    rows, waves, sounds = found["shdr"].view(fonts.RECORDS["shdr"]).copy(), found["smpl"].view("<i2"), b""
    for row in rows[:-1]:
        data, wave = io.BytesIO(), waves[row["start"] : row["end"]]
        with soundfile.SoundFile(data, "w", 44100, 1, "VORBIS", format="OGG", compression_level=0.4) as file:
            for at in range(0, len(wave), 4096):  # libsndfile overflows its stack on long blocks
                file.write(wave[at : at + 4096])
        row["loop"], row["loop_end"] = row["loop"] - row["start"], row["loop_end"] - row["start"]
        row["start"], sounds = len(sounds), sounds + data.getvalue()
        row["end"], row["type"] = len(sounds), row["type"] | fonts.COMPRESSED
    tables = font[font.index(b"pdta") - 8 :].replace(found["shdr"].tobytes(), rows.tobytes())
    sound = fonts.chunk("LIST", b"sdta" + fonts.chunk("smpl", sounds))
    return fonts.chunk("RIFF", b"sfbk" + sound + tables)


@pytest.fixture
def compressed(tmp_path, monkeypatch):
    """A folder with a compressed TimGM of two presets, which `ready` finds first."""
    (tmp_path / "timgm.sf3").write_bytes(with_vorbis(fonts.subset(fonts.located("timgm"), [FLUTE, VIOLIN])))
    monkeypatch.setenv("MUSEKIT_FONTS", str(tmp_path))
    monkeypatch.setenv("MUSEKIT_HOME", str(tmp_path / "home"))
    two = {"flute": [*FLUTE, -30.0, 60, 96, 1], "violin": [*VIOLIN, -30.0, 55, 98, 1]}
    monkeypatch.setitem(fonts.FONTS["timgm"], "presets", two)
    fonts.ready.cache_clear()
    yield tmp_path / "timgm.sf3"
    fonts.ready.cache_clear()


def play(font: bytes) -> np.ndarray:
    """The rows played by midirenderer through the first preset of a font."""
    import midirenderer

    midi, player = pretty_midi.PrettyMIDI(resolution=960, initial_tempo=60), pretty_midi.Instrument(FLUTE[1])
    player.notes = [pretty_midi.Note(v, key, on / 960, off / 960) for on, off, key, v in ROWS]
    midi.instruments.append(player)
    buffer = io.BytesIO()
    midi.write(buffer)
    return soundfile.read(io.BytesIO(midirenderer.render_wave_from(font, buffer.getvalue())), dtype="int16")[0]


@pytest.mark.parametrize("font", ["timgm", "fluid"])
def test_a_subset_sounds_like_the_whole_font(font, installed):
    path = installed(font)
    whole, few = path.read_bytes(), fonts.subset(path, [FLUTE], notes={FLUTE: {row[2:] for row in ROWS}})
    assert len(few) < len(whole) / 10
    assert np.array_equal(play(few), play(whole)) and np.abs(play(few)).max() > 1000


def test_a_compressed_font_is_found_decoded_once_and_sounds_alike(compressed):
    plain = fonts.ready("timgm")
    assert plain.parent.name == "fonts" and compressed.stat().st_size < 0.6 * plain.stat().st_size
    exact = fonts.subset(TIMGM, [FLUTE, VIOLIN])
    a, b = play(plain.read_bytes()).astype(float).ravel(), play(exact).astype(float).ravel()
    assert np.corrcoef(a, b)[0, 1] > 0.98 and np.std(a) == pytest.approx(np.std(b), rel=0.03)
    before = plain.stat().st_mtime_ns
    fonts.ready.cache_clear()
    assert fonts.ready("timgm") == plain and plain.stat().st_mtime_ns == before


def test_modulators_become_generators():
    """Velocity to cutoff (8), linear: 4096 cents at velocity 128; what the synthesiser does itself is left out."""
    modulators = np.array([(0x2, 8, 4096, 0, 0), (0x502, fonts.ATTENUATION, 960, 0, 0)], fonts.MODULATOR)
    rows = np.array([(fonts.KEYS, 60 | 67 << 8), (8, 100), (fonts.INSTRUMENT, 0)], fonts.GENERATOR)
    zones = [zone.tolist() for zone in fonts.modulated([(rows, modulators)])]
    assert len(zones) == 2 * 8 and zones[6] == [
        (fonts.KEYS, 60 | 63 << 8), (fonts.VELOCITIES, 96 | 111 << 8), (8, 100 + round(4096 * 103.5 / 128)), (41, 0),
    ]  # fmt: skip


def test_a_damaged_font_is_one_line(compressed):
    """Cut anywhere, or with any byte changed: a font or a MuseError, no crash, no huge allocation."""
    whole, rng, refused = compressed.read_bytes(), np.random.default_rng(0), 0
    for i in range(150):
        data = bytearray(whole)
        if i % 3 == 0:
            del data[int(rng.integers(len(data))) :]
        else:  # the tables lie at the end
            for at in rng.integers(*((len(data) - 3000, len(data)) if i % 3 == 1 else (0, len(data))), 3):
                data[at] = int(rng.integers(256))
        compressed.write_bytes(data)
        try:
            assert len(fonts.subset(compressed, [FLUTE, VIOLIN])) < 1 << 27
        except MuseError as error:
            refused += 1
            assert "timgm.sf3 cannot be used as a SoundFont (" in str(error) and "\n" not in str(error)
    assert refused > 60


def test_a_missing_font_names_its_package(monkeypatch):
    monkeypatch.setitem(fonts.FONTS["fluid"], "file", "/nowhere/Fluid.sf2")
    monkeypatch.delenv("MUSEKIT_FONTS")
    with pytest.raises(MuseError, match="sudo apt-get install fluid-soundfont-gm"):
        fonts.located("fluid")
    monkeypatch.setitem(fonts.FONTS["musescore"], "file", "/nowhere/MuseScore.sf3")
    with pytest.raises(MuseError, match="install musescore-general-soundfont-small fluid-soundfont-gm$"):
        fonts.require_all()
    with pytest.raises(MuseError, match="has no program 3 in bank 99"):
        fonts.subset(TIMGM, [(99, 3)])
    with pytest.raises(MuseError, match="unknown instrument of timgm 'flut'; did you mean 'flute'"):
        fonts.preset("timgm", "flut")


def test_the_table_of_presets_is_what_was_measured():
    """Levels, voices and ranges of `fonts.toml` are those of the result, and every written range lies inside them."""
    measured = {(row["font"], row["instrument"]): row for row in json.loads(RESULT.read_text())["rows"]}
    for font, about in fonts.FONTS.items():
        for name in about["presets"]:
            row = measured[font, name]
            assert fonts.preset(font, name) == fonts.Preset(*(row[field] for field in fonts.Preset._fields))
            assert row["low"] <= INSTRUMENTS[name].low and INSTRUMENTS[name].high <= row["high"]
    assert all(len(fonts.fonts_of([name])) >= 2 for name in INSTRUMENTS)


def test_timgm_stands_in_for_fonts_whose_packages_are_missing(monkeypatch, tmp_path):
    monkeypatch.delenv("MUSEKIT_FONTS")  # and comes back after the test
    others = [font for font in fonts.FONTS if font != "timgm"]
    for font in others:
        monkeypatch.setitem(fonts.FONTS[font], "file", f"/nowhere/{font}.sf2")
    assert fonts.stand_in(tmp_path) == others and fonts.located("fluid") == tmp_path / "fluid.sf2"
    fonts.ready.cache_clear()
    try:
        how = {"pans": [64], "seconds": 1.0, "dynamic": "loud", "font": "fluid"}
        audio = render([[0, 0.9, 69, 90, 0]], players=["mandolin"], **how)
    finally:
        fonts.ready.cache_clear()
    assert np.abs(audio).max() > 0.1
