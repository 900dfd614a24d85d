"""Arguments of the command line: tyro parses them, and every mistake in them is one line that says what to do.

tyro shows mistakes in boxes, and a misspelt option before a positional argument as a missing argument. Options
are therefore looked up here first, where the nearest known one can be offered.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import io
import itertools
import re
from collections.abc import Sequence
from typing import Annotated, Union

import tyro

from musekit.config import MuseError, suggest

LONGEST = 300  # characters of a mistake that are repeated to the user


def optional(kind: str, default: str):
    """tyro's help of an option that may be left out: what kind of value it takes, and what is taken instead."""
    return tyro.conf.arg(metavar=kind, help_behavior_hint=f"(default: {default})")


PRESETS_INT = optional("INT", "the preset's")
PRESETS_FLOAT = optional("FLOAT", "the preset's")
PRESETS_NAME = optional("NAME", "the preset's")
CACHES = optional("PATH", "caches/scores under MUSEKIT_HOME")


def parse(commands: dict[str, type], prog: str, description: str, arguments: Sequence[str]):
    """The filled dataclass of the command named by the first argument. Raises MuseError; exits 0 after a help text."""
    arguments = list(arguments)
    if arguments and arguments[0] in commands:
        name, rest = arguments[0], arguments[1:]
        command, prog = commands[name], f"{prog} {name}"
        check_options(command, prog, rest)
        return _tyro(command, prog, rest, **own_defaults(command, prog, rest))
    if arguments and not arguments[0].startswith("-"):
        raise suggest(arguments[0], commands, "command")
    if not arguments:
        raise MuseError(f"say what to do: {prog} {' | '.join(commands)} ({prog} --help tells more)")
    known = tuple(
        Annotated[command, tyro.conf.subcommand(name, description=command.__doc__.split("\n\n")[0])]
        for name, command in commands.items()
    )
    return _tyro(Union[known], prog, arguments, description=description)  # noqa: UP007 (a tuple of types)


def own_defaults(command: type, prog: str, rest: Sequence[str]) -> dict:
    """tyro's `default` for a command whose defaults depend on its other arguments, which a first parse finds."""
    if not hasattr(command, "with_own_defaults"):
        return {}
    try:
        first = _tyro(command, prog, [word for word in rest if word not in ("-h", "--help")])
    except MuseError:
        return {}  # the second parse shows the help text or raises the same error
    return {"default": first.with_own_defaults()}


def option_names(command: type, prefix: str = "--") -> list[str]:
    """All long options of a command, those of nested dataclasses as --outer.inner."""
    names = []
    for field in dataclasses.fields(command):
        if "Positional" in str(field.type):
            continue
        default = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
        name = field.name.replace("_", "-")
        if dataclasses.is_dataclass(default):
            names += option_names(type(default), f"{prefix}{name}.")
        elif isinstance(default, bool):
            names += [prefix + name, f"{prefix}no-{name}"]
        else:
            names.append(prefix + name)
    return names


def check_options(command: type, prog: str, arguments: Sequence[str]) -> None:
    """Raise MuseError for the first option that the command does not have; what follows "--" is no option."""
    known = None
    for argument in arguments:
        if argument == "--":
            return
        name = argument.split("=", 1)[0].replace("_", "-")
        if not argument.startswith("-") or argument in ("-h", "--help") or _is_number(argument):
            continue
        if name.startswith("--tyro-"):
            continue
        known = known or option_names(command)
        if name in known:
            continue
        near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.6)
        near = near or [k for k in known if len(name) > 3 and name[2:] in k][:1]
        hint = f"did you mean {near[0]}?" if near else f"{prog} --help lists the options"
        dash = any(
            "Positional" in str(f.type) and f.type.startswith("Annotated[str") for f in dataclasses.fields(command)
        )
        more = ' (text that starts with a dash goes last, after "--")' if dash else ""
        raise MuseError(f"unknown option {_short(name)}; {hint}{more}")


def one_line(box: str) -> str:
    """tyro's box, drawn or plain, as one line: without colours, frame, title, and what is below its first ruler."""
    lines = [line.strip(" │╭╮╰╯") for line in re.sub(r"\x1b\[[0-9;]*m", "", box).splitlines()]
    lines = [line for line in lines if line]
    if len(lines) > 1 and not lines[1].strip("─-"):
        del lines[1]  # a plain box has a ruler under its title
    said = list(itertools.takewhile(lambda line: line.strip("─-"), lines[1:]))
    return _short(" ".join(" ".join(said).split()))


def _tyro(command, prog: str, arguments: Sequence[str], **options):
    """`tyro.cli`, with its complaint as a MuseError."""
    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told):
            return tyro.cli(command, prog=prog, args=arguments, **options)
    except SystemExit as end:
        if not end.code:
            raise
        mistake = one_line(told.getvalue()) or "the arguments make no sense"
        if mistake.startswith("Unrecognized options") and _takes_text(command):
            mistake += '; put words that belong together in quotes: "a sad piano melody"'
        raise MuseError(f"{mistake} ({prog} --help tells more)") from None


def _takes_text(command) -> bool:
    """Whether a person's own words are an argument of the command."""
    return any(f.name == "prompt" for f in dataclasses.fields(command)) if dataclasses.is_dataclass(command) else False


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
