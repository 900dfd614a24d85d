"""Lexicon: words with what they assert, and the sentences that they go into.

A word is (text, asks): it may be said of a clip only when every asked attribute is true of that clip.
Held-out words and sentences are kept for the valid and test splits and for the evaluation's prompts.
"""

from __future__ import annotations

SLOW, MEDIUM, FAST = {"speed": "slow"}, {"speed": "medium"}, {"speed": "fast"}
MINOR, MAJOR = {"mode": "minor"}, {"mode": "major"}
SOFT, LOUD, MODERATE = {"dynamic": "soft"}, {"dynamic": "loud"}, {"dynamic": "medium"}


def _say(asks: dict, text: str) -> list[tuple[str, dict]]:
    return [(word.strip(), asks) for word in text.split(",")]


MOODS = [
    *_say({**MINOR, **SLOW}, "sad, melancholy, mournful, sorrowful, melancholic, grieving, lonely, heartbroken"),
    *_say(MINOR, "dark, gloomy, sombre, minor-key, shadowy"),
    *_say({**MINOR, **FAST}, "agitated, stormy, restless, anxious, urgent, turbulent, fiery"),
    *_say({**MAJOR, **FAST}, "cheerful, happy, joyful, merry, jolly, upbeat, playful, festive"),
    *_say(MAJOR, "bright, sunny, major-key, warm"),
    *_say({**MAJOR, **SLOW}, "serene, tender, peaceful, sweet, blissful"),
    *_say(SLOW, "calm, relaxed, unhurried, meditative, restful, slow and calm"),
    *_say(FAST, "lively, energetic, busy, spirited, fast and lively"),
    *_say({**SLOW, **SOFT}, "gentle, soothing, dreamy, lullaby-like"),
    *_say({**SLOW, **LOUD}, "solemn, stately, majestic, grand"),
    *_say({**FAST, **LOUD}, "exciting, vigorous, virtuosic, boisterous"),
    *_say({**FAST, **SOFT}, "light-footed, feathery, nimble"),
]
SPEEDS = [
    *_say(SLOW, "slow, very slow, slow-moving, adagio, largo, lento"),
    *_say(FAST, "fast, quick, rapid, brisk, allegro, presto"),
    *_say(MEDIUM, "moderate, mid-tempo, medium-tempo, andante, moderately paced"),
]
PACES = [  # said after a comma
    *_say(SLOW, "slow, slowly, at a slow tempo, taken slowly, with long notes"),
    *_say(FAST, "fast, quick, at a fast tempo, played fast, at high speed"),
    *_say(MEDIUM, "at a moderate tempo, mid-tempo, not too fast, at a medium pace"),
]
HELD_OUT_WORDS = {
    "mood": [
        *_say({**MINOR, **SLOW}, "plaintive, doleful, grief-stricken"),
        *_say(MINOR, "bleak"),
        *_say({**MINOR, **FAST}, "frantic, tempestuous"),
        *_say({**MAJOR, **FAST}, "joyous, gleeful, bubbly"),
        *_say({**MAJOR, **SLOW}, "contented, sweetly tranquil"),
        *_say(SLOW, "leisurely, slow-paced"),
        *_say(FAST, "bustling, high-speed"),
    ],
    "speed": [*_say(SLOW, "slow-tempo"), *_say(FAST, "fast-paced, speedy"), *_say(MEDIUM, "walking-pace")],
    "pace": [
        *_say(SLOW, "at an easy crawl, without any hurry"),
        *_say(MEDIUM, "at walking pace"),
        *_say(FAST, "at breakneck speed, with quick notes"),
    ],
}
MODES = [
    *_say(MINOR, "in a minor key, in minor, in the minor mode"),
    *_say(MAJOR, "in a major key, in major, in the major mode"),
]
DYNAMICS = [
    *_say(SOFT, "soft, quiet, hushed, delicate"),
    *_say(LOUD, "loud, powerful, forceful, bold"),
    *_say(MODERATE, "medium-loud, mezzo forte"),
]
LOUDNESSES = [
    *_say(SOFT, "played softly, quietly, very quiet, at a low volume"),
    *_say(LOUD, "played loudly, loud, with force, at full volume"),
    *_say(MODERATE, "at a medium volume, neither loud nor soft"),
]
ERAS = [
    *_say({"era": "baroque"}, "baroque, baroque-era"),
    *_say({"era": "renaissance"}, "renaissance"),
    *_say({"era": "medieval"}, "medieval"),
    *_say({"era": "folk"}, "folk, traditional"),
    *_say({"era": "romantic"}, "romantic-era"),
    *_say({"era": "classical"}, "classical-era"),
    *_say({"era": "ragtime"}, "ragtime"),
]
TEXTURES = [
    *_say({"texture": "solo"}, "single-line, unaccompanied"),
    *_say({"texture": "chordal"}, "chordal"),
    *_say({"texture": "chordal", "form": "chorale"}, "hymn-like"),
    *_say({"texture": "polyphonic"}, "contrapuntal, polyphonic"),
]
FORMS = [*_say({"form": "chorale"}, "chorale, hymn, church hymn"), *_say({"form": "clog"}, "clog dance")]
for _form in (
    "jig",
    "reel",
    "hornpipe",
    "strathspey",
    "waltz",
    "march",
    "polka",
    "slip jig",
    "minuet",
    "madrigal",
    "rag",
    "lament",
    "quadrille",
):
    FORMS += _say({"form": _form}, _form)
DANCES = ("jig", "reel", "hornpipe", "strathspey", "waltz", "polka", "slip jig", "quadrille", "clog")
COMPOSERS = [
    *_say({"composer": "J. S. Bach"}, "Bach, J. S. Bach, Johann Sebastian Bach"),
    *_say({"composer": "Claudio Monteverdi"}, "Monteverdi"),
    *_say({"composer": "W. A. Mozart"}, "Mozart"),
    *_say({"composer": "Ludwig van Beethoven"}, "Beethoven"),
    *_say({"composer": "Joseph Haydn"}, "Haydn"),
    *_say({"composer": "Scott Joplin"}, "Joplin, Scott Joplin"),
    *_say({"composer": "Josquin des Prez"}, "Josquin"),
    *_say({"composer": "Robert Schumann"}, "Robert Schumann"),
    *_say({"composer": "Clara Schumann"}, "Clara Schumann"),
    *_say({"composer": "Arcangelo Corelli"}, "Corelli"),
]
METRES = [
    (f"in {said}", {"metre": metre})
    for metre, name in {
        "3/4": "three-four time",
        "4/4": "four-four time",
        "2/4": "two-four time",
        "6/8": "six-eight time",
        "9/8": "nine-eight time",
        "2/2": "cut time",
        "3/8": "three-eight time",
        "12/8": "twelve-eight time",
        "3/2": "three-two time",
    }.items()
    for said in (name, metre)
]
#: How an instrumentation is called, as in "for X" and "X music"; others by their own name.
CALLED = {
    "organ": ("organ", "church organ", "pipe organ"),
    "vibraphone": ("vibraphone", "vibes"),
    "guitar": ("guitar", "acoustic guitar", "nylon-string guitar"),
    "saxophone": ("saxophone", "sax"),
    "string orchestra": ("string orchestra", "string ensemble"),
    "brass quartet": ("brass quartet", "brass ensemble"),
    "woodwind quartet": ("woodwind quartet", "wind quartet"),
}
GROUPS = ("string quartet", "brass quartet", "woodwind quartet", "string orchestra")
#: "melody" and "tune" are said of single lines only.
NOUNS = {"solo": ("piece", "melody", "tune"), None: ("piece", "piece of music")}


def _lines(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for line in text.strip().splitlines() for part in line.split("|") if part.strip())


#: Sentences by how much they say. One applies when each of its slots has a word that is true of the clip.
TEMPLATES = {
    "vague": _lines("""
        something {mood} | {mood} music | a {mood} piece | {instrument} music
        a piece of music for {instrument}
        {instrument} | something for {instrument} | something {speed} | {speed} music | music {mode}
        a {mood} {noun}
        play something {mood} | {era} music | a {form} | something {mood} and {dynamic} | {dynamic} music
        a {noun} {mode} | some {mood} music | i want to hear something {mood} | {solo} | {mood} {instrument}
        something {era} | {mood} {dynamic} music | a {dance}"""),
    "plain": _lines("""
        a {mood} {instrument} {noun} | {mood} {instrument} music | a {mood} {noun} for {instrument}
        {speed} {instrument} music | a {speed} {noun} {mode} | {instrument} music, {pace}
        a {speed} {instrument} {noun}
        {mood} {era} music | {era} {instrument} | a {era} {form} for {instrument} | {mood} {noun} {played}
        {dynamic} {instrument} music {mode} | a {noun} {mode} for {instrument} | {mood} {form}
        a {dance} {played}
        a {form} for {instrument}, {pace} | {mood} music for {instrument}, {loudness} | {solo}, {pace}, {mode}
        {instrument} playing a {mood} {noun} | a {mood} {noun} in the style of {composer}
        {speed} {noun} for {solo}
        a {texture} {noun} for {instrument} | {mood} {fiddle} | a {speed} {fiddle}
        {instrument} music {mode}, {pace}
        {mood} {solo} | {instrument}, {mood} and {dynamic}"""),
    "specific": _lines("""
        a {speed} {mood} {noun} for {solo} {key} | a {mood} {noun} for {instrument} {key}
        a {speed} {noun} for {instrument} {key}, {metre} | a {speed}, {dynamic} {instrument} {noun} {key}
        a {mood} {form} {played} {key} | {mood} {era} {noun} for {instrument}, {pace}, {mode}
        a {speed} {form} for {instrument} {key} | a {dynamic} {mood} {noun} {played}, {pace}
        a {noun} {key} for {instrument}, {pace}, {loudness} | a {speed} {era} {noun} for {instrument} {mode}
        {instrument}, {key}, {pace}, {loudness} | a {mood} {noun} {metre} for {instrument}
        a {speed} {texture} {noun} {played}, {mode} | a {mood} {form} in the style of {composer}, {played}
        {composer} {form} {played}, {pace} | a {speed} {noun} {mode}, {played}, {metre}
        a {mood} {fiddle} {key}
        {speed} {era} {noun}, {played}, {mode}, {loudness} | {solo}: a {mood} {noun}, {pace}, {key}
        a {mood}, {dynamic} {noun} for {instrument} {mode}
        {speed} {instrument} music {mode}, {loudness}"""),
}
HELD_OUT = {
    "vague": _lines("""
        could you play a {mood} {noun} | a bit of {mood} music | i feel like listening to {instrument} music
        background music that is {mood} | give me {instrument} | how about something {mood}
        music that sounds {mood}
        a {speed} one {mode} | anything {era} and {mood} | anything {era}, please
        surprise me with {dynamic} music | {dynamic} sounds"""),
    "plain": _lines("""
        music for {instrument} that sounds {mood} | i would like a {mood} {noun}, {played}
        {instrument} with a {mood} feeling | a {noun} for {instrument} that is {mood}
        {speed} and {mood}: {instrument}
        please make a {mood} {instrument} {noun} | {played}: something {mood}
        {noun} {played}, {mode}, {pace}
        the sound of {instrument}, {mood} | let me hear {instrument}, {loudness}
        what does {era} {instrument} music sound like"""),
    "specific": _lines("""
        write a {mood} {noun} for {instrument}, {key}
        imagine {instrument} music: {speed}, {mode}, {loudness}
        {key}, {pace}: a {noun} {played} | a {noun} that is {mood}, {played}, {mode}, {pace}
        {instrument} {noun}, {mood}, {key}, {metre} | i need {speed} {instrument} music {mode}
        {mode}, {pace}, {played} | a {speed} and {mood} {noun} for {instrument}, {mode}
        an example of {mood} {instrument} music, {pace}, {mode}"""),
}
