"""Music4All (Santana et al. 2020): 109,269 clips of 30 s with tags, genres and Spotify's features.

Captions are written from these, without titles and names. Tables are tab-separated under .csv names; copies that are
comma-separated or have no header are read too. An artist is a family, because albums sound alike.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from musekit.corpus.families import split_of
from musekit.corpus.recordings import Item
from musekit.corpus.tables import clean, delimited, mode, number, tonic, words

COLUMNS = {
    "id_information.csv": ("id", "artist", "song", "album_name"),
    "id_metadata.csv": (
        "id spotify_id popularity release danceability energy key mode valence tempo duration_ms".split()
    ),
    "id_tags.csv": ("id", "tags"),
    "id_genres.csv": ("id", "genres"),
    "id_lang.csv": ("id", "lang"),
}
LOOKED_FOR = "id_metadata.csv, id_tags.csv, id_genres.csv (id_information.csv, id_lang.csv), and audios/<id>.mp3"
MOODS = {  # feature: (word when low, word when high)
    "energy": ("calm", "energetic"),
    "valence": ("melancholic", "cheerful"),
    "danceability": (None, "danceable"),
}
LOW, HIGH = 0.33, 0.67  # of Spotify's features, which run from 0 to 1
TEMPO_WORDS = {"slow": "slow", "medium": "mid-tempo", "fast": "fast"}


def found(folder: Path) -> bool:
    """Whether this looks like Music4All."""
    return (folder / "id_metadata.csv").is_file() or (folder / "id_tags.csv").is_file()


def items(folder: Path, lacks: Counter, keep_apart: bool = True) -> list[Item]:
    """One item for every id in any of the tables."""
    tables = {}
    for name, columns in COLUMNS.items():
        if (folder / name).is_file():
            tables[name] = {row["id"]: row for row in delimited(folder / name, columns) if row.get("id")}
        else:
            lacks[f"{name} is not there"] += 1
    identities = sorted(set().union(*tables.values()))
    return [item(i, {k: v for table in tables.values() for k, v in table.get(i, {}).items()}) for i in identities]


def item(identity: str, row: dict[str, str]) -> Item:
    """One track from its rows of all tables."""
    family = clean(row.get("artist")).lower() or identity
    known = attributes(row)
    places = tuple(f"{above}{identity}{suffix}" for above in ("audios/", "") for suffix in (".mp3", ".wav", ".flac"))
    return Item(identity, captions(identity, known), family, split_of(family), places, known=known)


def attributes(row: dict[str, str]) -> dict:
    """The attributes that captions may claim; a tag is the attribute "tag:<tag>" with the value True."""
    known: dict = {"tags": words(row.get("tags")), "genres": words(row.get("genres"))}
    known |= {f"tag:{tag}": True for tag in known["tags"]} | {f"genre:{genre}": True for genre in known["genres"]}
    if tonic(row.get("key")) and mode(row.get("mode")):
        known |= {"key": tonic(row["key"]), "mode": mode(row["mode"])}
    if (bpm := number(row.get("tempo"))) and bpm > 0:
        known |= {"bpm": bpm, "tempo": "slow" if bpm < 80 else "medium" if bpm < 130 else "fast"}
    for name in MOODS:
        if (x := number(row.get(name))) is not None and 0 <= x <= 1:
            known[name] = "low" if x < LOW else "high" if x > HIGH else "medium"
    if lang := clean(row.get("lang")):
        known["language"] = lang
    return known


def captions(identity: str, known: dict) -> list[dict]:
    """Up to three captions {"text", "asks"}, from vague to specific; none where nothing is known."""
    rng = np.random.default_rng([4, *identity.encode()])
    genres = [(genre, {f"genre:{genre}": True}) for genre in rng.permutation(known["genres"]).tolist()]
    tags = [(tag, {f"tag:{tag}": True}) for tag in rng.permutation(known["tags"]).tolist()]
    tags = [tag for tag in tags if tag[0] not in known["genres"]]
    moods = [(pair[known[m] == "high"], {m: known[m]}) for m, pair in MOODS.items() if known.get(m) in ("low", "high")]
    moods = [mood for mood in moods if mood[0]]
    tempo = [(TEMPO_WORDS[known["tempo"]], {"tempo": known["tempo"]})] if "tempo" in known else []
    exact = [(f"{known['bpm']:.0f} bpm", {"bpm": known["bpm"]})] if "bpm" in known else []
    if "key" in known:
        exact.append((f"in {known['key']} {known['mode']}", {"key": known["key"], "mode": known["mode"]}))
    noun = genres[:1] or [("", {})]
    captions = [
        sentence(moods[:1] + noun) if moods or genres else sentence(tags[:1] + noun),
        sentence(moods + tempo + noun, tags[:3]),
        sentence(tempo + moods[:1] + noun, [*genres[1:2], *tags[:5], *exact]),
    ]
    return list({c["text"]: c for c in captions if c["asks"]}.values())


def sentence(front: list[tuple[str, dict]], behind: list[tuple[str, dict]] = ()) -> dict:
    """A caption of words before "music" and words after it, with all their claims."""
    text = " ".join([*(word for word, _ in front if word), "music"])
    asks = {k: v for _, asserts in [*front, *behind] for k, v in asserts.items()}
    return {"text": ", ".join([text, *(word for word, _ in behind)]), "asks": asks}
