"""Players: the sound is inside the page, small, and what it was; texts cannot break out of their places."""

import base64
import io
import re

import numpy as np
import pytest
import torch

from musekit.config import MuseError
from musekit.show.players import Player, compressed, player, players

RATE = 44100


def tone(seconds: float = 1.0, hz: float = 440.0, channels: int = 2) -> np.ndarray:
    t = np.arange(round(seconds * RATE)) / RATE
    return np.tile(0.3 * np.sin(2 * np.pi * hz * t), (channels, 1)).astype(np.float32)


def sound_in(markup: str) -> list[tuple[np.ndarray, int]]:
    import soundfile

    found = re.findall(r'src="data:audio/ogg;base64,([A-Za-z0-9+/=]+)"', markup)
    return [soundfile.read(io.BytesIO(base64.b64decode(data)), always_2d=True) for data in found]


@pytest.mark.parametrize("channels", [1, 2])
def test_the_sound_comes_back(channels):
    [(back, rate)] = sound_in(player(torch.from_numpy(tone(channels=channels)), RATE, "a tone")._repr_html_())
    assert rate == 32000 and back.shape == (32000, channels)
    spectrum = np.abs(np.fft.rfft(back[:, 0]))
    assert abs(np.argmax(spectrum) * rate / len(back) - 440) < 2
    assert np.sqrt((back**2).mean()) == pytest.approx(0.3 / 2**0.5, rel=0.05)


def test_only_the_first_seconds_are_kept_and_they_are_small():
    rng = np.random.default_rng(0)
    music = sum(tone(12, hz) for hz in (220, 331, 440, 661, 1323)) / 5 + 0.01 * rng.standard_normal((2, 12 * RATE))
    page = player(music, RATE, "twelve seconds").html
    [(back, rate)] = sound_in(page)
    assert len(back) == 6 * rate and len(page) < 75_000  # white noise is the hardest; music is two thirds of this
    assert abs(back[-20:]).max() < 0.02  # faded, not cut
    [(mono, rate)] = sound_in(player(music, RATE, "mono", mono=True, seconds=2.0, rate=22_050).html)
    assert rate == 22_050 and mono.shape == (2 * 22_050, 1)


def test_loud_and_broken_numbers_become_playable_sound():
    x = 30 * tone()
    x[:, :100] = np.nan
    [(back, _)] = sound_in(player(x, RATE, "loud").html)
    assert np.isfinite(back).all() and abs(back).max() < 1.0


def test_rates_beyond_what_vorbis_takes_are_lowered():
    data = compressed(np.tile(tone(0.1), 9), 384_000, seconds=None, rate=384_000)  # which would end the process
    assert sound_in(f'src="data:audio/ogg;base64,{base64.b64encode(data).decode()}"')[0][1] == 96_000


def test_texts_are_escaped_in_captions_and_attributes():
    bad = '"><script>alert(1)</script>&'
    page = players([tone(), tone()], RATE, [bad, "b"], [bad, ""], title=bad, seconds=0.5).html
    assert "<script" not in page and page.count("&lt;script&gt;") >= 4
    assert re.findall(r'aria-label="([^"]*)"', page)[0].startswith("audio: &quot;&gt;&lt;script&gt;")
    assert len(sound_in(page)) == 2


def test_what_cannot_be_played_is_told():
    with pytest.raises(MuseError, match="shape"):
        player(np.zeros((3, 100)), RATE, "three channels")
    with pytest.raises(MuseError, match="shape"):
        player(np.zeros((2, 0)), RATE, "nothing")
    with pytest.raises(MuseError, match="go together"):
        players([tone()], RATE, [])


def test_a_player_shows_itself_and_prints_short():
    shown = player(tone(), RATE, "a tone")
    assert isinstance(shown, Player) and len(repr(shown)) < 80 and "a tone" in repr(shown)
    assert compressed(tone(), RATE)[:4] == b"OggS"
    [(back, rate)] = sound_in(player(tone(), 16_000, "kept as it is").html)
    assert rate == 16_000 and len(back) == len(tone()[0])


def test_opus_has_the_size_that_is_asked_for():
    [(back, rate)] = sound_in(player(tone(3.0), RATE, "a tone", mono=True, seconds=None, kbps=20).html)
    assert rate in (24_000, 48_000) and len(back) == pytest.approx(3 * rate, abs=0.05 * rate) and back.shape[1] == 1
    spectrum = np.abs(np.fft.rfft(back[:, 0]))
    assert abs(np.argmax(spectrum) * rate / len(back) - 440) < 2
    sizes = [len(compressed(tone(3.0), RATE, mono=True, kbps=kbps)) for kbps in (12, 20, 40)]
    assert sizes[0] < sizes[1] < sizes[2] and sizes[1] == pytest.approx(3 * 20_000 / 8, rel=0.25)
