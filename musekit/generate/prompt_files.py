"""Files of prompts: JSON Lines, one object a line, or plain text, one prompt a line.

    {"prompt": "a sad piano melody"}
    {"prompt": "an organ chorale", "negative_prompt": "slow", "seed": 7, "n": 4, "seconds": 6, "name": "chorale"}

What a line leaves out is what the command line says. All lines are read and checked before any work; what is odd is
told by its number.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from musekit import prompts
from musekit.config import MuseError, suggest

SHOWN = 5  # odd lines that a message names
OWN = {"prompt": str, "negative_prompt": str, "seed": int, "n": int, "name": str}


@dataclass(frozen=True)
class Request:
    """Pieces for one prompt: piece i has the seed `seed + i`."""

    prompt: str
    negative_prompt: str | None = None
    seed: int = 0
    n: int = 1
    name: str | None = None  # of the files; None: the prompt's own
    settings: dict = field(default_factory=dict)  # of `recipe.Settings`
    line: int = 0  # of the file; 0: the command line

    @property
    def stem(self) -> str:
        """What its files' names start with."""
        return prompts.file_stem(self.name or self.prompt)


def read(path: Path, default: Request, notice: Callable[[str], None] = lambda text: None) -> list[Request]:
    """The requests of a file. Raises MuseError that names the odd lines."""
    if (kind := Path(path).suffix.lower()) not in (".jsonl", ".ndjson", ".txt"):
        raise MuseError(f"{path} is neither .jsonl (one JSON object a line) nor .txt (one prompt a line)")
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise MuseError(f"cannot read {path}: {error.strerror or error}; give a file to --prompts") from error
    except UnicodeDecodeError as error:
        raise MuseError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    found, wrong = [], {}
    for number, line in enumerate(text.split("\n"), 1):  # not splitlines: JSON strings may hold other separators
        if not line.strip():
            continue
        try:
            values = {"prompt": line} if kind == ".txt" else json.loads(line)
            found.append(request(values, default, number, lambda said, k=number: notice(f"line {k}: {said}")))
        except MuseError as error:
            wrong[number] = str(error)
        except (ValueError, RecursionError) as error:
            wrong[number] = f"this is no JSON ({getattr(error, 'msg', 'nested too deeply')})"
    refuse(path, wrong)
    if not found:
        raise MuseError(f"{path} holds no prompt")
    return found


def refuse(path: Path, wrong: dict[int, str]) -> None:
    """Raise MuseError that names odd lines and what is wrong with each, if there are any."""
    if wrong:
        told = "; ".join(f"line {number}: {why}" for number, why in list(wrong.items())[:SHOWN])
        more = f"; and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise MuseError(f"{path}, {told}{more}. Nothing was made; mend these lines or take them out")


def request(values, default: Request, line: int, notice: Callable[[str], None]) -> Request:
    """One line's object, cleaned and completed. Raises MuseError for a field that cannot be."""
    from musekit.recipe import Settings, count

    if not isinstance(values, dict):
        raise MuseError('a line must be an object such as {"prompt": "a sad piano melody"}')
    kinds = {f.name: kind(f.type) for f in dataclasses.fields(Settings)}
    for key, value in values.items():
        if key not in OWN and key not in kinds:
            raise suggest(key, [*OWN, *kinds], "field")
        wanted = OWN.get(key) or kinds[key]
        fits = isinstance(value, (int, float) if wanted is float else wanted) and not isinstance(value, bool)
        if wanted is not object and value is not None and not fits:
            raise MuseError(f"{key} must be {NAMES[wanted]}, not {str(value)[:40]!r}")
    given = {k: v for k, v in values.items() if v is not None}
    if "prompt" not in given:
        raise MuseError('it has no "prompt"')
    negative = given.get("negative_prompt", default.negative_prompt)
    return Request(
        prompt=prompts.clean(given["prompt"], notice=notice),
        negative_prompt=None if negative is None else prompts.clean(negative, "negative prompt", notice),
        seed=given.get("seed", default.seed),
        n=count(given.get("n", default.n)),
        name=given.get("name", default.name),
        settings={**default.settings, **{k: v for k, v in given.items() if k in kinds}},
        line=line,
    )


NAMES = {str: "text", int: "a whole number", float: "a number"}


def kind(annotation: str) -> type:
    """The type that a setting's annotation names first; object where it is none of these."""
    return {"float": float, "int": int, "str": str}.get(str(annotation).split(" ")[0], object)
