"""Lexicon: words with the claims that they make, and the sentences that they go into.

A word is (text, asks): a caption may use it only where all of its claims are true of the clip. Held-out words and
sentences are for the valid and test splits and for the evaluation's prompts only.
"""

from __future__ import annotations

from musekit.corpus.instruments import SINGLE

CLAIMS = {
    **{name: {"instrument": name} for name in SINGLE},
    **{name: {"speed": name} for name in ("slow", "fast")},
    **{name: {"mode": name} for name in ("minor", "major")},
    **{name: {"dynamic": name} for name in ("soft", "loud")},
    **{"solo": {"texture": "solo"}, "chorale": {"form": "chorale"}},
}


def claims(text: str) -> dict:
    """The claims of "minor + slow + era=folk", as {"mode": "minor", "speed": "slow", "era": "folk"}."""
    asks = {}
    for claim in text.split(" + "):
        asks.update(CLAIMS.get(claim) or dict([claim.split("=")]))
    return asks


def _words(text: str) -> list[tuple[str, dict]]:
    """[(word, asks)] of lines "claims: word, word, ..."."""
    lines = (line.strip().split(": ") for line in text.strip().splitlines())
    return [(word, claims(asks)) for asks, said in lines for word in said.split(", ")]


def _sentences(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for line in text.strip().splitlines() for part in line.split("|") if part.strip())


#: The words of each slot.
WORDS = {
    "mood": _words("""
        minor + slow: sad, melancholy, mournful, sorrowful, melancholic, grieving, lonely, heartbroken
        minor: dark, gloomy, sombre, minor-key, shadowy
        minor + fast: agitated, stormy, restless, anxious, urgent, turbulent, fiery
        major + fast: cheerful, happy, joyful, merry, jolly, upbeat, playful, festive
        major: bright, sunny, major-key, warm
        major + slow: serene, tender, peaceful, sweet, blissful
        slow: calm, relaxed, unhurried, meditative, restful, slow and calm
        fast: lively, energetic, busy, spirited, fast and lively
        slow + soft: gentle, soothing, dreamy, lullaby-like
        slow + loud: solemn, stately, majestic, grand
        fast + loud: exciting, vigorous, virtuosic, boisterous
        fast + soft: light-footed, feathery, nimble"""),
    "speed": _words("""
        slow: slow, very slow, slow-moving, adagio, largo, lento
        fast: fast, quick, rapid, brisk, allegro, presto
        speed=medium: moderate, mid-tempo, medium-tempo, andante, moderately paced"""),
    "pace": _words("""
        slow: slow, slowly, at a slow tempo, taken slowly, with long notes
        fast: fast, quick, at a fast tempo, played fast, at high speed
        speed=medium: at a moderate tempo, mid-tempo, not too fast, at a medium pace"""),
    "mode": _words("""
        minor: in a minor key, in minor, in the minor mode
        major: in a major key, in major, in the major mode"""),
    "dynamic": _words("""
        soft: soft, quiet, hushed, delicate
        loud: loud, powerful, forceful, bold
        dynamic=medium: medium-loud, mezzo forte"""),
    "loudness": _words("""
        soft: played softly, quietly, very quiet, at a low volume
        loud: played loudly, loud, with force, at full volume
        dynamic=medium: at a medium volume, neither loud nor soft"""),
    "era": _words("""
        era=baroque: baroque, baroque-era
        era=renaissance: renaissance
        era=medieval: medieval
        era=folk: folk, traditional
        era=romantic: romantic-era
        era=classical: classical-era
        era=ragtime: ragtime"""),
    "texture": _words("""
        solo: single-line, unaccompanied
        texture=chordal: chordal
        texture=chordal + chorale: hymn-like
        texture=polyphonic: contrapuntal, polyphonic"""),
    "form": [
        *_words("""
        chorale: chorale, hymn, church hymn
        form=clog: clog dance"""),
        *((form, {"form": form}) for form in ("jig", "reel", "hornpipe", "strathspey", "waltz", "march", "polka")),
        *((form, {"form": form}) for form in ("slip jig", "minuet", "madrigal", "rag", "lament", "quadrille")),
    ],
    "composer": _words("""
        composer=J. S. Bach: Bach, J. S. Bach, Johann Sebastian Bach
        composer=Claudio Monteverdi: Monteverdi
        composer=W. A. Mozart: Mozart
        composer=Ludwig van Beethoven: Beethoven
        composer=Joseph Haydn: Haydn
        composer=Scott Joplin: Joplin, Scott Joplin
        composer=Josquin des Prez: Josquin
        composer=Robert Schumann: Robert Schumann
        composer=Clara Schumann: Clara Schumann
        composer=Arcangelo Corelli: Corelli"""),
    "metre": [
        (text, {"metre": metre})
        for metre, name in zip(
            ("3/4", "4/4", "2/4", "6/8", "9/8", "2/2", "3/8", "12/8", "3/2"),
            "three-four four-four two-four six-eight nine-eight cut three-eight twelve-eight three-two".split(),
        )
        for text in (f"in {name} time", f"in {metre}")
    ],
}
HELD_OUT_WORDS = {
    "mood": _words("""
        minor + slow: plaintive, doleful, grief-stricken
        minor: bleak
        minor + fast: frantic, tempestuous
        major + fast: joyous, gleeful, bubbly
        major + slow: contented, sweetly tranquil
        slow: leisurely, slow-paced
        fast: bustling, high-speed"""),
    "speed": _words("""
        slow: slow-tempo
        fast: fast-paced, speedy
        speed=medium: walking-pace"""),
    "pace": _words("""
        slow: at an easy crawl, without any hurry
        speed=medium: at walking pace
        fast: at breakneck speed, with quick notes"""),
}
DANCES = ("jig", "reel", "hornpipe", "strathspey", "waltz", "polka", "slip jig", "quadrille", "clog")
#: Names of an instrumentation, as in "for X" and "X music"; the others have only their own.
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
#: Sentences by how much they claim. One applies when each of its slots has a word that is true of the clip.
TEMPLATES = {
    "vague": _sentences("""
        something {mood} | {mood} music | a {mood} piece | {instrument} music | a piece of music for {instrument}
        {instrument} | something for {instrument} | something {speed} | {speed} music | music {mode} | a {mood} {noun}
        play something {mood} | {era} music | a {form} | something {mood} and {dynamic} | {dynamic} music
        a {noun} {mode} | some {mood} music | i want to hear something {mood} | {solo} | {mood} {instrument}
        something {era} | {mood} {dynamic} music | a {dance}"""),
    "plain": _sentences("""
        a {mood} {instrument} {noun} | {mood} {instrument} music | a {mood} {noun} for {instrument}
        {speed} {instrument} music | a {speed} {noun} {mode} | {instrument} music, {pace}
        a {speed} {instrument} {noun} | {mood} {era} music | {era} {instrument} | a {era} {form} for {instrument}
        {mood} {noun} {played} | {dynamic} {instrument} music {mode} | a {noun} {mode} for {instrument} | {mood} {form}
        a {dance} {played} | a {form} for {instrument}, {pace} | {mood} music for {instrument}, {loudness}
        {solo}, {pace}, {mode} | {instrument} playing a {mood} {noun} | a {mood} {noun} in the style of {composer}
        {speed} {noun} for {solo} | a {texture} {noun} for {instrument} | {mood} {fiddle} | a {speed} {fiddle}
        {instrument} music {mode}, {pace} | {mood} {solo} | {instrument}, {mood} and {dynamic}"""),
    "specific": _sentences("""
        a {speed} {mood} {noun} for {solo} {key} | a {mood} {noun} for {instrument} {key}
        a {speed} {noun} for {instrument} {key}, {metre} | a {speed}, {dynamic} {instrument} {noun} {key}
        a {mood} {form} {played} {key} | {mood} {era} {noun} for {instrument}, {pace}, {mode}
        a {speed} {form} for {instrument} {key} | a {dynamic} {mood} {noun} {played}, {pace}
        a {noun} {key} for {instrument}, {pace}, {loudness} | a {speed} {era} {noun} for {instrument} {mode}
        {instrument}, {key}, {pace}, {loudness} | a {mood} {noun} {metre} for {instrument}
        a {speed} {texture} {noun} {played}, {mode} | a {mood} {form} in the style of {composer}, {played}
        {composer} {form} {played}, {pace} | a {speed} {noun} {mode}, {played}, {metre} | a {mood} {fiddle} {key}
        {speed} {era} {noun}, {played}, {mode}, {loudness} | {solo}: a {mood} {noun}, {pace}, {key}
        a {mood}, {dynamic} {noun} for {instrument} {mode} | {speed} {instrument} music {mode}, {loudness}"""),
}
HELD_OUT = {
    "vague": _sentences("""
        could you play a {mood} {noun} | a bit of {mood} music | i feel like listening to {instrument} music
        background music that is {mood} | give me {instrument} | how about something {mood} | music that sounds {mood}
        a {speed} one {mode} | anything {era} and {mood} | anything {era}, please | surprise me with {dynamic} music
        {dynamic} sounds"""),
    "plain": _sentences("""
        music for {instrument} that sounds {mood} | i would like a {mood} {noun}, {played}
        {instrument} with a {mood} feeling | a {noun} for {instrument} that is {mood} | {speed} and {mood}: {instrument}
        please make a {mood} {instrument} {noun} | {played}: something {mood} | {noun} {played}, {mode}, {pace}
        the sound of {instrument}, {mood} | let me hear {instrument}, {loudness}
        what does {era} {instrument} music sound like"""),
    "specific": _sentences("""
        write a {mood} {noun} for {instrument}, {key} | imagine {instrument} music: {speed}, {mode}, {loudness}
        {key}, {pace}: a {noun} {played} | a {noun} that is {mood}, {played}, {mode}, {pace}
        {instrument} {noun}, {mood}, {key}, {metre} | i need {speed} {instrument} music {mode}
        {mode}, {pace}, {played} | a {speed} and {mood} {noun} for {instrument}, {mode}
        an example of {mood} {instrument} music, {pace}, {mode}"""),
}
