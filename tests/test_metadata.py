"""FLAC's metadata blocks against the RFC's own example, and against libsndfile, which reads what is written here."""

import io

import numpy as np
import pytest
import soundfile

from musekit.config import MuseError
from musekit.library import metadata
from musekit.library.entry import Entry
from musekit.library.vorbis import PADDING, flac, read_flac, tagged

# RFC 9639, appendix D.2: the second example's Vorbis comments
RFC = bytes.fromhex(
    "20000000 7265666572656e6365206c6962464c414320312e332e332032303139303830 34"
    "01000000 0e000000 5449544c453dd7a9d79cd795d79d"
)
SAID = (b"reference libFLAC 1.3.3 20190804", [("TITLE", "שלום")])
ENTRY = Entry(id="one", name="A — sad Über-melody", notes="two\nlines", tags=("a", "b"), similarity=0.25)


def sound(seconds: float = 1.5, rate: int = 44100) -> np.ndarray:
    return (0.5 * np.sin(np.arange(round(seconds * rate)) / 20) * np.ones((2, 1))).astype(np.float32)


def test_the_example_of_the_rfc():
    assert metadata.read_comments(RFC) == SAID
    assert metadata.write_comments(*SAID) == RFC


def test_libsndfile_reads_the_title_and_the_same_samples():
    x = sound()
    with soundfile.SoundFile(io.BytesIO(flac(x, 44100, ENTRY))) as file:
        assert (file.title, file.samplerate, file.channels, file.frames) == (ENTRY.name, 44100, 2, x.shape[1])
        assert np.abs(file.read(dtype="float32").T - x).max() <= 2**-15


@pytest.mark.parametrize("rate, channels, bits", [(44100, 2, "PCM_16"), (8000, 1, "PCM_24"), (96000, 6, "PCM_16")])
def test_what_libsndfile_writes_is_told_and_taken_apart_and_together_again(rate, channels, bits):
    file = io.BytesIO()
    soundfile.write(file, np.zeros((rate // 2 + 1, channels)), rate, format="FLAC", subtype=bits)
    blocks, frames = metadata.read_blocks(file.getvalue())
    assert metadata.info(blocks) == metadata.Info(rate, channels, rate // 2 + 1)
    assert metadata.write_blocks(blocks, frames) == file.getvalue()


def test_writing_again_changes_nothing_and_keeps_what_others_have_written(tmp_path):
    mine = flac(sound(), 44100, ENTRY)
    assert tagged(mine, ENTRY) == mine
    blocks, frames = metadata.read_blocks(mine)
    picture = (6, b"a picture")
    theirs = metadata.write_comments(b"someone", [("ARTIST", "me"), ("TITLE", "another"), ("ARTIST", "you")])
    foreign = metadata.write_blocks([blocks[0], picture, (4, theirs), (1, bytes(9))], frames)
    again, _ = metadata.read_blocks(tagged(b"ID3\x03\x00\x00\x00\x00\x01\x02" + bytes(130) + foreign, ENTRY))
    assert [kind for kind, _ in again] == [0, 4, 6, 1] and again[2] == picture and again[3] == (1, bytes(PADDING))
    vendor, said = metadata.read_comments(again[1][1])
    assert vendor == b"someone" and [text for name, text in said if name == "ARTIST"] == ["me", "you"]
    assert [text for name, text in said if name == "TITLE"] == [ENTRY.name]
    (tmp_path / "x.flac").write_bytes(tagged(foreign, ENTRY))
    found = read_flac(tmp_path / "x.flac")
    assert (found.name, found.notes, found.tags, found.similarity) == (ENTRY.name, ENTRY.notes, ("a", "b"), 0.25)
    assert found.seconds == 1.5 and (found.sample_rate, found.channels) == (44100, 2)


def test_names_are_read_in_any_case_and_broken_text_is_no_obstacle():
    content = metadata.write_comments(b"", [("title", "x"), ("b", "y")]).replace(b"b=y", b"b=\xff")
    content = content.replace(b"title=x", b"title_x")  # no "=": no comment
    assert metadata.read_comments(content)[1] == [("B", "\ufffd")]


def test_damage_is_one_mistake_or_none(tmp_path):
    """Any byte of the metadata changed, and any cut: read, or refused in a MuseError."""
    whole, path = flac(sound(0.2), 44100, ENTRY), tmp_path / "x.flac"
    end, refused = len(whole) - len(metadata.read_blocks(whole)[1]), 0
    for at in range(end):
        for data in (whole[:at], whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :]):
            path.write_bytes(data)
            for job in (lambda: read_flac(path), lambda data=data: tagged(data, ENTRY)):
                try:
                    job()
                except MuseError as error:
                    refused += 1
                    assert "\n" not in str(error)
    assert refused > end  # every cut, at least
    with pytest.raises(MuseError, match="metadata block of 16,777,"):
        tagged(metadata.write_blocks([*metadata.read_blocks(whole)[0]], b""), Entry(id="x", name="y" * 2**24))
