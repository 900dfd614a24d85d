"""The command line: every option is a typed dataclass field, built by tyro; a misspelt one is told with a suggestion.

A mistake of the user's (`MuseError`) is one line on standard error and exit code 2. The sub-commands are in `commands`.
"""

from __future__ import annotations

import contextlib
import os
import sys

from musekit import arguments
from musekit.commands import Bench, Cache, Evaluate, Generate, Info, Lab, Train
from musekit.config import MuseError
from musekit.extras import advice

COMMANDS = {
    "generate": Generate,
    "cache": Cache,
    "train": Train,
    "eval": Evaluate,
    "bench": Bench,
    "info": Info,
    "lab": Lab,
}

ABOUT = """A sentence becomes many different pieces of music. For example:

    musekit generate "a sad piano melody"
    musekit generate --help
"""


def main(argv: list[str] | None = None) -> None:
    """Parse, run, and turn a MuseError into one line and exit code 2."""
    for stream in (sys.stdout, sys.stderr):  # a prompt may hold what the terminal cannot show
        with contextlib.suppress(AttributeError, ValueError):
            stream.reconfigure(errors="replace")
    try:
        arguments.parse(COMMANDS, "musekit", ABOUT, sys.argv[1:] if argv is None else argv).run()
    except MuseError as error:
        print(f"musekit: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except ModuleNotFoundError as error:
        if not (line := advice(error)):
            raise
        print(f"musekit: {line}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("musekit: stopped; run the same command again to go on", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # `musekit ... | head`: the reader has seen enough, and no more can be said to it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:  # the machine said no: a full disk, a folder that may not be read
        print(f"musekit: {error}", file=sys.stderr)
        sys.exit(2)
