"""codec: how much of a sound survives encoding and decoding, beside Opus and MP3 at 32 kbit/s?

Each codec (of each folder of weights that is named) hears the same held-out clips, and recordings of game music that
two Debian packages hold, which nothing was trained on.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from musekit.codec import angles, audio_from_magnitudes, compress, magnitudes
from musekit.config import CodecConfig, home
from musekit.corpus.datasets import Item
from musekit.corpus.listing import Listing
from musekit.corpus.readers import look, records_of
from musekit.corpus.render import write_flac
from musekit.evaluate.distances import LIBROSA, compare
from musekit.evaluate.features import standardised
from musekit.evaluate.judge import ATTRIBUTES, ceiling_rows, ratio
from musekit.evaluate.study import Sound, Study, progress, target
from musekit.evaluate.transcribe import note_f1, notes_of

CLIPS = 64
SECONDS, EACH = 12.0, 3  # stretches of a recording: their length, and how many of each
LEAST_SIDE = 1e-4  # of the energy: below it (-40 dB) a sound counts as mono, and has no width
OUTSIDE = {  # Debian package: where its music is, whose it is, its licence
    "amoebax-data": ("/usr/share/games/amoebax/music", "Alex Almarza", "Free Art License 1.2"),
    "hex-a-hop-data": ("/usr/share/games/hex-a-hop/hex-a-hop", "remaxim", "CC BY-SA 3.0"),
}
# soundfile's arguments for about 32 kbit/s of stereo, the sample rate, and samples that the codec adds in front
CODED = {
    "Opus": (dict(format="OGG", subtype="OPUS", compression_level=0.964), 48000, 0),
    "MP3": (dict(format="MP3", subtype="MPEG_LAYER_III", bitrate_mode="CONSTANT", compression_level=0.99), 44100, 1105),
}


def chroma_correlation(decoded: np.ndarray, original: np.ndarray, sample_rate: int) -> float:
    """Pearson's correlation of two sounds' CQT chroma (12 x T values, a frame every 2048 samples), mono."""
    import librosa

    x, y = (librosa.feature.chroma_cqt(y=a.mean(0), sr=sample_rate, hop_length=2048) for a in (decoded, original))
    frames = min(x.shape[1], y.shape[1])
    x, y = x[:, :frames].ravel(), y[:, :frames].ravel()
    return 0.0 if min(x.std(), y.std()) < 1e-9 else float(np.corrcoef(x, y)[0, 1])


def log_mel_l1(decoded: np.ndarray, original: np.ndarray, sample_rate: int) -> float:
    """Mean absolute difference (dB) of mono 128-band mel power, floored 80 dB below the original's peak."""
    import librosa

    def mel(x: np.ndarray) -> np.ndarray:
        return librosa.feature.melspectrogram(y=x.mean(0), sr=sample_rate, n_fft=2048, hop_length=512, n_mels=128)

    x, y = mel(decoded), mel(original)
    floor, frames = max(y.max() * 1e-8, 1e-12), min(x.shape[1], y.shape[1])
    x, y = (10 * np.log10(np.maximum(m[:, :frames], floor)) for m in (x, y))
    return float(np.abs(x - y).mean())


def phase_alone(config: CodecConfig, audio: np.ndarray) -> np.ndarray:
    """(2, N) -> the audio recovered from its true magnitudes and angles: the loss due to phase only."""
    c = compress(config, torch.from_numpy(audio)[None])
    shape = config.n_fft, config.stft_hop, config.phase_iterations
    return audio_from_magnitudes(magnitudes(config, c), angles(config, c), *shape)[0, :, : audio.shape[1]].numpy()


def onset_strength(audio: np.ndarray, rate: int, at: np.ndarray | None = None) -> tuple[float, np.ndarray]:
    """librosa's onset strength, mean over the onsets `at` (frames; None: its own), and these."""
    import librosa

    strength = librosa.onset.onset_strength(y=audio.mean(0), sr=rate)
    if at is None:
        at = librosa.onset.onset_detect(onset_envelope=strength, sr=rate)
    around = [strength[max(0, k - 2) : k + 3].max(initial=0) for k in at]  # an attack may move by 23 ms
    return float(np.mean(around)) if len(around) else float("nan"), at


def width(audio: np.ndarray) -> float:
    """Energy of the side signal (left - right) against that of the middle (left + right), in dB; NaN for mono."""
    middle, side = (float((x**2).sum()) for x in (audio.sum(0), audio[0] - audio[1]))
    return 10 * np.log10(side / middle) if side > LEAST_SIDE * middle else float("nan")


def outside() -> list[Sound]:
    """Up to EACH stretches of each recording of the packages `OUTSIDE`, as the reader of folders cuts them."""
    records = []
    if missing := [package for package, (folder, *_) in OUTSIDE.items() if not Path(folder).is_dir()]:
        print(f"without some recordings: sudo apt-get install {' '.join(missing)}")
    for package, (folder, author, _) in OUTSIDE.items():
        listing = Listing(Path(folder))
        items = [Item(path, path, [{"text": "music", "asks": {}}], path, "test") for path in listing.audio]
        for item, place in zip(items, look(listing, "", items)):
            if not isinstance(place, str) and place[2] - place[1] >= 2 * SECONDS:  # music, not an effect
                cut = records_of(item, *place, SECONDS, f"{package}: {item.path} by {author}")[1 : EACH + 1]
                records += [record | {"path": f"{folder}/{item.path}"} for record in cut]
    return records


def through(audio: np.ndarray, rate: int, name: str) -> tuple[np.ndarray, float]:
    """Audio (2, N) after Opus or MP3, and the rate in kbit/s."""
    import soundfile
    import soxr

    (how, coded_rate, delay), buffer = CODED[name], io.BytesIO()
    soundfile.write(buffer, soxr.resample(audio.T, rate, coded_rate), coded_rate, **how)
    kbit = 8e-3 * len(buffer.getbuffer()) * rate / audio.shape[1]
    decoded = soundfile.read(io.BytesIO(buffer.getvalue()), dtype="float32", always_2d=True)[0]
    return soxr.resample(decoded[delay:], coded_rate, rate).T[:, : audio.shape[1]], kbit


def coded(study: Study, sounds: Sequence[Sound], name: str) -> tuple[list[Path], float]:
    """Files of sounds after Opus or MP3, and the rate of the first one in kbit/s."""
    folder = home() / "eval" / f"{name.lower()}-{CODED[name][0]['compression_level']}"
    paths = [folder / f"{study.key(sound)}.flac" for sound in sounds]
    for sound, path in progress(list(zip(sounds, paths)), f"through {name} and back"):
        if not path.exists():
            audio, rate = study.read(sound)
            write_flac(path, through(audio, rate, name)[0], rate)
    return paths, through(*study.read(sounds[0]), name)[1]


def fidelity(study: Study, sounds: Sequence[Sound], trips: Sequence[Path]) -> dict:
    """What is left of sounds after a codec, whose round trips are the files `trips`: medians; F1 of notes: a mean."""
    found: dict[str, list] = {k: [] for k in ("chroma", "log_mel", "onsets", "onsets_before", "width")}
    for sound, trip in zip(sounds, progress(trips, "comparing")):
        (x, rate), y = study.read(sound), study.read(trip)[0]
        n = min(x.shape[1], y.shape[1])
        x, y = x[:, :n], y[:, :n]
        before, at = onset_strength(x, rate)
        found["onsets_before"].append(before)
        found["onsets"].append(onset_strength(y, rate, at)[0])
        found["chroma"].append(chroma_correlation(y, x, rate))
        found["log_mel"].append(log_mel_l1(y, x, rate))
        found["width"].append(width(y) - width(x))
    row = {name: float(np.nanmedian(x)) for name, x in found.items()}
    row["chroma_p10"] = float(np.percentile(found["chroma"], 10))
    return row | {"note_f1": float(np.mean(list(map(note_f1, notes_of(study, trips), notes_of(study, sounds)))))}


def measure_codec(study: Study) -> None:
    """Writes results/codec.json: fidelity in each world by codec, and the judge on round trips."""
    clips, rows = study.split(study.on)[: 4 if study.quick else 2 * CLIPS], []
    half, real = len(clips) // 2, study.features(clips)
    worlds = {"held-out clips": clips[:half]}
    if not study.quick and (recordings := outside()):
        worlds["recordings"] = recordings
    others = [Study(folder, study.cache, study.results, study.n, study.quick) for folder in study.codecs]
    systems = {f"{s.muse.folder.name} {s.hashes['codec'][:8]}": s for s in (study, *others)}
    for name in (*systems, *CODED):
        for world, sounds in worlds.items():
            about = {"measure": "fidelity", "codec": name, "world": world, "n": len(sounds)}
            if name in CODED:
                trips, about["kbit_per_s"] = coded(study, sounds, name)
            else:
                trips = systems[name].round_trips(sounds)
            rows.append(about | fidelity(study, sounds, trips))
            if sounds is worlds["held-out clips"]:
                x = standardised(study.features(trips), real)
                rows += compare(x, standardised(real[half:], real), embedding=LIBROSA, source=name)
    x = standardised(real, real)
    rows += compare(x[:half], x[half:], embedding=LIBROSA, source="ruler: the originals of the round trips")
    rows += ceiling_rows(study)
    bars = [
        target("codec: chroma correlation, median", rows[0]["chroma"], at_least=0.92),
        target("codec: chroma correlation, 10th percentile", rows[0]["chroma_p10"], at_least=0.75),
    ]
    for attribute in ATTRIBUTES:
        value = ratio(rows, attribute, "held-out round trips", of="held-out originals")
        bars.append(target(f"codec keeps {attribute}: round trips / originals", value, at_least=0.95))
    study.write("codec", rows + bars)
