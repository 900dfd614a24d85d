"""codec: how much of a sound survives encoding and decoding, beside Opus and MP3 at 32 kbit/s?

Each codec (of each folder of weights that is named) hears the same sounds of several worlds: held-out clips, notes of
held-out clips through each SoundFont, and recordings of game music that two Debian packages hold, which nothing was
trained on. `decode_cost` times the decoder in a process of its own.
"""

from __future__ import annotations

import io
import json
import lzma
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from musekit.codec import latent_frames, spectra_of, synthesise
from musekit.config import CodecConfig, MuseError, home
from musekit.corpus.datasets import Item
from musekit.corpus.fonts import FONTS
from musekit.corpus.listing import Listing
from musekit.corpus.readers import look, records_of
from musekit.corpus.render import render, write_flac
from musekit.corpus.sound import BadAudio
from musekit.evaluate.distances import LIBROSA, compare
from musekit.evaluate.features import standardised
from musekit.evaluate.judge import ATTRIBUTES, ceiling_rows, ratio
from musekit.evaluate.study import Sound, Study, progress, target
from musekit.evaluate.transcribe import note_f1, notes_of

CLIPS = 64
SCORES = 24  # held-out clips whose notes are known, through each SoundFont
SECONDS, EACH = 12.0, 3  # stretches of a recording: their length, and how many of each
LONG = 1024  # latent frames, 47.55 s
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
    x = torch.from_numpy(audio)[None]
    return synthesise(config, spectra_of(config, x)[0])[0, :, : audio.shape[1]].numpy()


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


@dataclass
class World:
    """Sounds of one kind, and their notes (n, 3) [onset s, offset s, pitch] where they are known."""

    name: str
    sounds: Sequence[Sound]
    scores: Sequence[np.ndarray] = ()


def planned(study: Study) -> Iterator[tuple[dict, list, dict]]:
    """(record, note rows, arguments of `render`) of held-out clips in the order of the plan; none without a plan."""
    usable, path = {clip["id"] for clip in study.split(study.on)}, study.cache / "plan.jsonl.xz"
    if path.exists():
        with lzma.open(path, "rt", encoding="utf-8") as file:
            next(file)  # what the plan depends on
            yield from (clip for clip in map(json.loads, file) if clip[0]["id"] in usable)


def through_fonts(study: Study, n: int) -> list[World]:
    """The notes of n held-out clips through each SoundFont that is installed, the drums' notes left out of scores."""
    found = {font: World(f"SoundFont {font}", [], []) for font in FONTS}
    clips = [clip for clip, _ in zip(planned(study), range(n))]
    for record, notes, how in progress(clips, "through each SoundFont"):
        pitched = [row for row in notes if how["players"][int(row[4])] != "drums" and row[0] < how["seconds"]]
        score = np.array([[onset, onset + length, pitch] for onset, length, pitch, *_ in pitched]).reshape(-1, 3)
        for font, world in found.items():
            path = home() / "eval" / f"fonts-{study.data}" / f"{record['id']}-{font}.flac"
            try:
                if not path.exists():
                    write_flac(path, render(notes, **how | {"font": font}))
            except BadAudio:  # the font lacks an instrument
                continue
            except MuseError as error:
                print(f"without the {world.name}: {error}")
                continue
            world.sounds.append(path)
            world.scores.append(score)
    return [*found.values()]


def outside(n: int) -> World:
    """Up to n stretches of each recording of the packages `OUTSIDE`, as the reader of folders cuts them."""
    records = []
    if missing := [package for package, (folder, *_) in OUTSIDE.items() if not Path(folder).is_dir()]:
        print(f"without some recordings: sudo apt-get install {' '.join(missing)}")
    for package, (folder, author, licence) in OUTSIDE.items():
        listing = Listing(Path(folder))
        items = [Item(path, path, [{"text": "music", "asks": {}}], path, "test") for path in listing.audio]
        for item, place in zip(items, look(listing, "", items)):
            if not isinstance(place, str) and place[2] - place[1] >= 2 * SECONDS:  # music, not an effect
                cut = records_of(item, *place, SECONDS, f"{package}: {item.path} by {author}")[1 : n + 1]
                records += [record | {"path": f"{folder}/{item.path}", "licence": licence} for record in cut]
    return World("recordings", records)


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


def fidelity(study: Study, world: World, trips: Sequence[Path], name: str) -> dict:
    """A row: what is left of a world's sounds after a codec, whose round trips are the files `trips`."""
    found = {k: [] for k in ("chroma", "log_mel", "onsets", "onsets_before", "width")}
    for sound, trip in zip(world.sounds, progress(trips, f"{name} on {world.name:.24}")):
        (x, rate), y = study.read(sound), study.read(trip)[0]
        n = min(x.shape[1], y.shape[1])
        x, y = x[:, :n], y[:, :n]
        before, at = onset_strength(x, rate)
        found["onsets_before"].append(before)
        found["onsets"].append(onset_strength(y, rate, at)[0])
        found["chroma"].append(chroma_correlation(y, x, rate))
        found["log_mel"].append(log_mel_l1(y, x, rate))
        found["width"].append(width(y) - width(x))
    original, heard = notes_of(study, world.sounds), notes_of(study, trips)
    found["note_f1"] = [note_f1(b, a) for a, b in zip(original, heard)]
    if len(world.scores):
        found["note_f1_to_score"] = [note_f1(b, s) for s, b in zip(world.scores, heard)]
        found["note_f1_before_to_score"] = [note_f1(a, s) for s, a in zip(world.scores, original)]
    values = {name: np.array(x, float) for name, x in found.items()}
    row = {"measure": "fidelity", "codec": name, "world": world.name, "n": len(trips)}
    row["chroma_p10"] = float(np.percentile(values["chroma"], 10))
    means = {name: float(x.mean()) for name, x in values.items() if name.startswith("note")}
    return row | {k: float(np.nanmedian(x)) for k, x in values.items() if not k.startswith("note")} | means


def decode_cost(folder: Path) -> dict:
    """Seconds of decoding 4 x 12 s, the best of three, and MiB that 47.55 s need beside what is there before."""
    from musekit.muse import Muse

    muse = Muse.from_pretrained(folder)
    codec, config, times = muse.codec, muse.config.codec, []
    codec.decode(torch.randn(1, config.latent_dim, 16))
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")  # Linux's peak of resident memory
    if reset.exists():
        reset.write_text("5")
    peaks = []
    for frames in (16, LONG):
        codec.decode(torch.randn(1, config.latent_dim, frames))
        peaks += re.findall(r"VmHWM:\s+(\d+)", status.read_text()) if status.exists() else []
    for _ in range(4):
        began = time.perf_counter()
        codec.decode(torch.randn(4, config.latent_dim, latent_frames(config, 12 * config.sample_rate)))
        times.append(time.perf_counter() - began)
    row = {"seconds_of_4_x_12_s": min(times[1:]), "threads": torch.get_num_threads()}
    return row | ({"mib_of_47_s": (int(peaks[1]) - int(peaks[0])) / 1024} if peaks else {})


def measure_codec(study: Study) -> None:
    """Writes results/codec.json: fidelity in each world by codec, decoding's cost, and the judge on round trips."""
    few = 4 if study.quick else 2 * CLIPS
    clips = study.split(study.on)[:few]
    half = len(clips) // 2
    worlds = [World("held-out clips", clips[:half])]
    if not study.quick:
        worlds += [world for world in (*through_fonts(study, SCORES), outside(EACH)) if world.sounds]
    real, rows, costs = study.features(clips), [], []
    others = [Study(folder, study.cache, study.results, study.n, study.quick) for folder in study.codecs]
    systems = {f"{s.muse.folder.name} {s.hashes['codec'][:8]}": s for s in (study, *others)}
    for name, system in systems.items():
        call = [sys.executable, "-m", "musekit.evaluate.codec", str(system.muse.folder.resolve())]
        told = subprocess.run(call, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1]
        costs.append({"measure": "decoding", "codec": name, **json.loads(told)})
    for name in (*systems, *CODED):
        for world in worlds:
            rate = {}
            if name in CODED:
                trips, rate["kbit_per_s"] = coded(study, world.sounds, name)
            else:
                trips = systems[name].round_trips(world.sounds)
            rows.append(fidelity(study, world, trips, name) | rate)
            if world is worlds[0]:
                x = standardised(study.features(trips), real)
                rows += compare(x, standardised(real[half:], real), embedding=LIBROSA, source=name)
    x = standardised(real, real)
    rows += compare(x[:half], x[half:], embedding=LIBROSA, source="ruler: the originals of the round trips")
    first = rows[0]
    bars = [
        target("codec: chroma correlation, median", first["chroma"], at_least=0.92),
        target("codec: chroma correlation, 10th percentile", first["chroma_p10"], at_least=0.75),
    ]
    ceiling = ceiling_rows(study)
    for attribute in ATTRIBUTES:
        value = ratio(ceiling, attribute, "held-out round trips", of="held-out originals")
        bars.append(target(f"codec keeps {attribute}: round trips / originals", value, at_least=0.95))
    recordings = {s["source"]: s["licence"] for w in worlds if w.name == "recordings" for s in w.sounds}
    sources = [{"measure": "recording", "source": source, "licence": recordings[source]} for source in recordings]
    study.write("codec", rows + costs + ceiling + bars + sources)


if __name__ == "__main__":
    print(json.dumps(decode_cost(Path(sys.argv[1]))))
