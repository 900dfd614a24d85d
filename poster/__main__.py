"""Build the poster and its figures: python -m poster [FIGURE ...]

Without a name: every figure, the sheet as PDF and PNG, and manifest.json with the hash of every input. With names:
these figures only. `--check` builds nothing and says what is out of date.
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path

from musekit.config import MuseError, suggest
from musekit.files import write_atomic
from poster import answers, idea, parallel, sheet
from poster.facts import INPUTS, facts

FOLDER = Path(__file__).resolve().parent
FIGURES = {
    draw.__name__: draw
    for draw in (
        idea.problem, idea.architecture, idea.prompts, answers.nearest, answers.pieces, parallel.waterfall,
        answers.diversity, parallel.prediction, parallel.ddp, parallel.scaling,
    )
}  # fmt: skip
PPI = 72  # of poster.png: 3370 x 2384 pixels
EPOCH = 946_684_800  # 1 January 2000: the date of every file, so that a rebuild has the same bytes


def inputs() -> dict[str, str]:
    """{file of the checkout: its SHA-256} of everything whose numbers the sheet shows."""
    paths = sorted({*INPUTS, *(path for draw in FIGURES.values() for path in draw.inputs)})
    return {path: hashlib.sha256((sheet.ROOT / path).read_bytes()).hexdigest() for path in paths}


def build(out: Path, names: tuple[str, ...] = ()) -> list[Path]:
    """Write the figures and, unless only some are named, the sheet and its manifest; returns the files."""
    for name in names:
        if name not in FIGURES:
            raise suggest(name, list(FIGURES), "figure")
    made = {out / "figures" / f"{name}.svg": sheet.svg(FIGURES[name]) for name in names or FIGURES}
    text = None if names else facts()
    for path, data in made.items():
        write_atomic(path, data)
    if text:
        sheets = {out / f"poster.{kind}": typeset(out, kind, text) for kind in ("pdf", "png")}
        made |= sheets | {out / "manifest.json": (json.dumps(inputs(), indent=1) + "\n").encode()}
        for path, data in made.items():
            write_atomic(path, data)
    return list(made)


def typeset(out: Path, kind: str, text: dict[str, str]) -> bytes:
    """The sheet as PDF or PNG, in the fonts that come with matplotlib and Typst."""
    import typst
    from matplotlib import get_data_path

    alts = {name: draw.alt for name, draw in FIGURES.items()}
    try:
        data = typst.compile(
            (FOLDER / "poster.typ").read_bytes(),
            root=str(out),  # /figures/... in the source is there
            font_paths=[str(Path(get_data_path()) / "fonts" / "ttf")],
            ignore_system_fonts=True,
            format=kind,
            ppi=PPI if kind == "png" else None,
            timestamp=EPOCH,
            sys_inputs={"facts": json.dumps(text), "figures": json.dumps(alts)},
        )
    except typst.TypstError as error:
        raise MuseError(f"poster/poster.typ cannot be set: {error}") from error
    return data if isinstance(data, bytes) else data[0]


def stale(out: Path = FOLDER) -> list[str]:
    """Inputs that have changed since the poster was built."""
    built = json.loads((out / "manifest.json").read_text())
    return [path for path, digest in inputs().items() if built.get(path) != digest]


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m poster", description=__doc__.split("\n")[0])
    parser.add_argument("figures", nargs="*", metavar="FIGURE", help="build these figures only")
    parser.add_argument("--out", type=Path, default=FOLDER, help="where the files go (default: poster)")
    parser.add_argument("--check", action="store_true", help="build nothing; exit with 1 when something is out of date")
    args = parser.parse_args(argv)
    try:
        if args.check:
            changed = stale(args.out)
            print(
                f"changed since the poster was built, run `make poster`: {', '.join(changed)}" if changed else "current"
            )
            return int(bool(changed))
        made = build(args.out.resolve(), tuple(args.figures))
    except MuseError as error:
        print(f"poster: {error}", file=sys.stderr)
        return 2
    print(f"written: {len(made)} files in {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
