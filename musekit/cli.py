"""The command line: tyro parses the options of `commands`; every error is one line with exit code 2."""

import contextlib
import io
import os
import re
import sys
from collections.abc import Sequence
from typing import NoReturn, Union

import tyro

from musekit import __version__
from musekit.commands import COMMANDS, SUBCOMMANDS, App
from musekit.config import MuseError, suggest

ABOUT = """Text to many different pieces of music. For example:

    musekit generate "a sad piano melody"
    musekit generate --help
"""
MAX_ERROR_CHARS = 300
# Optional modules, by the extra that brings them: pip install 'musekit[EXTRA]' (see pyproject.toml)
EXTRAS = {
    "corpus": ("music21", "scipy", "pretty_midi", "midirenderer", "soxr"),
    "lab": (
        "jupyterlab", "ipywidgets", "anywidget", "traitlets", "ipykernel", "IPython", "nbformat", "nbclient", "voila",
        "plotly", "umap", "sklearn", "scipy", "pandas", "librosa",
    ),
    "judge": ("onnxruntime", "mir_eval", "resampy"),
    "paper": ("transformers", "diffusers", "muq", "torchvision", "huggingface_hub"),
}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the arguments and run the command. A MuseError becomes one line on standard error and exit code 2."""
    for stream in (sys.stdout, sys.stderr):  # a prompt may contain characters that the terminal cannot show
        with contextlib.suppress(AttributeError, ValueError):
            stream.reconfigure(errors="replace")
    try:
        parse(sys.argv[1:] if argv is None else argv).run()
    except BrokenPipeError:  # `musekit ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (MuseError, OSError) as error:  # such as a full disk
        fail(str(error))
    except ModuleNotFoundError as error:
        if not (line := advice(error)):
            raise
        fail(line)
    except KeyboardInterrupt:
        fail("stopped; run the same command again to continue", 130)


def fail(text: str, code: int = 2) -> NoReturn:
    """Print one line on standard error and exit."""
    text = f"musekit: {' '.join(text.split())}"
    if len(text) > MAX_ERROR_CHARS:  # the end says what to do
        text = f"{text[: MAX_ERROR_CHARS - 105]} ... {text[-100:]}"
    sys.stderr.write(text + "\n")  # one write: ranks share the log, and `print` writes its end apart
    sys.exit(code)


def advice(error: ModuleNotFoundError) -> str | None:
    """One line for an optional module that is not installed; None for any other module."""
    name = (error.name or "").partition(".")[0]
    extra = next((extra for extra, modules in EXTRAS.items() if name in modules), None)
    return f"this needs the package {name}: pip install 'musekit[{extra}]'" if extra else None


def parse(words: Sequence[str]):
    """The command of `commands` with its options. Raises MuseError; exits with 0 after a help text or the version."""
    if not words:
        raise MuseError(f"a command is required: musekit {' | '.join(COMMANDS)} (see musekit --help)")
    name, *rest = words
    if name == "--version":
        print(f"musekit {__version__}")
        sys.exit(0)
    if name == "app" and not {"-h", "--help"} & set(rest):  # its options are Voila's
        return App(tuple(rest))
    if name in COMMANDS:
        return parse_command(COMMANDS[name], f"musekit {name}", rest)
    if name.startswith("-"):
        return call_tyro(Union[SUBCOMMANDS], "musekit", words, description=ABOUT)  # noqa: UP007 (a tuple of types)
    raise suggest(name, COMMANDS, "command")


def parse_command(command: type, prog: str, words: Sequence[str]):
    """One command with its options; those of `train` have defaults that depend on the part and the preset."""
    if not hasattr(command, "with_own_defaults"):
        return call_tyro(command, prog, words)
    try:
        default = call_tyro(command, prog, [w for w in words if w not in ("-h", "--help")]).with_own_defaults()
    except MuseError:
        default = None  # the second parse shows the help text, or raises the same error
    return call_tyro(command, prog, words, **({} if default is None else {"default": default}))


def call_tyro(command, prog: str, words: Sequence[str], **options):
    """`tyro.cli`, whose error becomes a MuseError of one line."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            return tyro.cli(command, prog=prog, args=list(words), **options)
    except SystemExit as end:
        if not end.code:
            raise
        raise MuseError(one_line(printed.getvalue(), prog)) from None


def one_line(box: str, prog: str) -> str:
    """An error of tyro, which is a box of several lines, as one line."""
    lines = [line.strip(" │╭╮╰╯─") for line in re.sub(r"\x1b\[[0-9;]*m", "", box).splitlines()[1:]]
    text = " ".join(line for line in lines if line.strip("-")).partition("For full helptext")[0].strip()
    optional = r"Error parsing (--\S+): no type matching {None}\|(\w+) could be instantiated from \['(.*?)'\].*"
    text = re.sub(optional, r"\1 must be of type \2, not '\3'", text)
    if prog == "musekit generate" and re.match(r"Unrecognized options: (?!--)", text):
        text = f'{text:.{MAX_ERROR_CHARS}}; a prompt goes in quotes, and after "--" if it starts with a dash'
    return f"{text:.{MAX_ERROR_CHARS}} (see {prog} --help)"
