"""What a prompt says in numbers and names: tempo, key, metre, and instruments that must not sound.

The words and the expressions that find them are in `prompts.toml`.
"""

import re
import tomllib
from pathlib import Path

from musekit.config import TONICS, MuseError

BPM_RANGE = (30, 300)
_TABLES = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
FAMILIES: dict[str, list[str]] = _TABLES["families"]  # {"bass": ["acoustic bass", "electric bass"]}
_NAMES, _METRES = ({w: name for name, words in _TABLES[t].items() for w in words} for t in ("instruments", "metres"))


def _compiled(pattern: str) -> re.Pattern:
    parts = {"names": _NAMES, "metres": _METRES}
    said = {name: "|".join(map(re.escape, sorted(words, key=len, reverse=True))) for name, words in parts.items()}
    for name, part in [*_TABLES["parts"].items(), *said.items()]:
        pattern = pattern.replace(f"<{name}>", part)
    return re.compile(pattern, re.VERBOSE)


_TEMPO, _METRE, _ABSENT, _NAME, _TONIC = (
    _compiled(_TABLES["patterns"][name]) for name in ("tempo", "metre", "absent", "name", "tonic")
)
_KEYS = [_compiled(pattern) for pattern in _TABLES["patterns"]["keys"]]


def read_prompt(text: str) -> dict:
    """{"bpm", "key" and "mode", "metre", "without": [instruments], "text": the prompt without its negations}.

    What the prompt does not say is absent, and so are a key or a metre of which it names two. "key of A" is A major
    unless the prompt speaks of minor. Raises MuseError for two tempi, or one outside 30 to 300 BPM.
    """
    bpm, keys, metres = _tempo(text), keys_of(text), {_METRES[m[1].lower()] for m in _METRE.finditer(text)}
    without, left = _split(text)
    found = {"bpm": bpm} if bpm is not None else {}
    found |= dict(zip(("key", "mode"), *keys, strict=True)) if len(keys) == 1 else {}
    found |= {"metre": metres.pop()} if len(metres) == 1 else {}
    return {**found, **({"without": without} if without else {}), "text": left}


def _tempo(text: str) -> float | None:
    tempi: dict[float, None] = {}
    for match in _TEMPO.finditer(text):
        low, *high = [float(number) for number in match.groups() if number]
        near = high and low < high[0] <= 1.25 * low  # a narrow range stands for its middle
        tempi |= dict.fromkeys([(low + high[0]) / 2] if near else [low, *high])
    for bpm in tempi:
        if not BPM_RANGE[0] <= bpm <= BPM_RANGE[1]:
            raise MuseError(f"the prompt asks for {bpm:g} BPM; a tempo is from {BPM_RANGE[0]} to {BPM_RANGE[1]} BPM")
    if len(tempi) > 1:
        named = ", ".join(f"{bpm:g}" for bpm in list(tempi)[:4])
        raise MuseError(f"the prompt names more than one tempo ({named} BPM); name one")
    return next(iter(tempi), None)


def keys_of(text: str) -> set[tuple[str, str]]:
    """The keys that a text names, as {("Bb", "minor")}, in the spelling of `config.TONICS`."""
    found = [match for pattern in _KEYS for match in pattern.finditer(text)] or [*_TONIC.finditer(text)]
    words = set(re.findall(r"minor|major", text.lower())) if found else ()
    unsaid = "min" if words == {"minor"} else "maj"
    modes = ["major" if (m[3] or unsaid).lower() == "maj" else "minor" for m in found]
    return {(tonic_of(m[1], m[2] or ""), mode) for m, mode in zip(found, modes)}


def tonic_of(letter: str, accidental: str) -> str:
    """The tonic in the spelling of `config.TONICS`, from a letter and "", "#", " sharp", "b" or "-flat"."""
    sign = {"#": 1, "♯": 1, "sharp": 1, "b": -1, "♭": -1, "flat": -1}.get(accidental.strip(" -").lower(), 0)
    return TONICS[(TONICS.index(letter.upper()) + sign) % 12]


def _split(text: str) -> tuple[list[str], str]:
    """The instruments that the prompt excludes, and what is left of it: "music" where nothing is."""
    names: dict[str, None] = {}

    def take(match: re.Match) -> str:
        names.update(dict.fromkeys(_NAMES[m[1].lower()] for m in _NAME.finditer(match[0])))
        return " "

    left = _ABSENT.sub(take, text)
    if not names:
        return [], text
    left = " ".join(re.sub(r"\(\s?\)", " ", left).split())
    left = re.sub(r"\s?([,;.!?])(?:\s?[,;.!?])*", r"\1", left).strip(" ,;&-:").removeprefix("but ")
    return list(names), left if re.search(r"\w", left) else "music"
