"""Build the poster and its figures: python -m poster [FIGURE ...]

Without a name: every figure, the sheet as PDF and PNG, and manifest.json with the hash of every input. With names:
these figures alone. `--check` builds nothing and says what is out of date.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import sys
from pathlib import Path

from musekit.config import MuseError, suggest
from poster.facts import INPUTS as FACTS
from poster.facts import facts
from poster.sheet import EPOCH, ROOT, Inputs, command_for, figure_files

FOLDER = Path(__file__).resolve().parent
#: Every figure that the sheet has a place for, in reading order.
FIGURES = (
    "problem", "architecture", "prompts", "map", "pieces", "regression", "diversity", "batching", "roofline", "ddp",
    "scaling", "training",
)  # fmt: skip
#: Left out until their result exists. To switch a figure on, remove its line and run `make poster`.
OFF: dict[str, str] = {}
ON = tuple(name for name in FIGURES if name not in OFF)
PPI = 72  # of poster.png: 3370 x 2384 pixels


def module(name: str):
    """The figure's module. Raises MuseError with a suggestion."""
    if name not in ON:
        if name in OFF:
            raise MuseError(f"the figure {name} is off until {OFF[name]} exists ({command_for(OFF[name])}): poster.OFF")
        raise suggest(name, ON, "figure")
    return importlib.import_module(f"poster.figures.{name}")


def sources() -> list[str]:
    """Files of the checkout, besides results, that decide what the sheet looks like."""
    own = [
        *FOLDER.glob("*.py"),
        *FOLDER.glob("*.typ"),
        *(FOLDER / "figures").glob("*.py"),
        ROOT / "musekit/show/style.py",
    ]
    return sorted(str(path.relative_to(ROOT)) for path in own)


def versions() -> dict[str, str]:
    """Of what draws: another version may draw other bytes."""
    from importlib.metadata import version

    return {name: version(name) for name in ("matplotlib", "numpy", "pillow", "typst")}


def build(inputs: Inputs, out: Path, names: tuple[str, ...] = ON) -> list[Path]:
    """Write the figures and, when all of them are built, the sheet and its manifest; returns the files."""
    made: dict[str, bytes] = {}
    for name in names:
        for kind, data in figure_files(name, module(name), inputs).items():
            made[f"figures/{name}.{kind}"] = data
    write(out, made)
    if names == ON:
        told = facts(inputs.read, names)
        sheet = {f"poster.{kind}": typeset(out, kind, told) for kind in ("pdf", "png")}
        write(out, sheet)
        record = {
            "command": "python -m poster",
            "versions": versions(),
            "off": OFF,
            "inputs": dict(sorted(inputs.used.items())),
            "sources": {path: digest((ROOT / path).read_bytes()) for path in sources()},
            "outputs": {path: digest(data) for path, data in sorted((made | sheet).items())},
        }
        made |= sheet | {"manifest.json": (json.dumps(record, indent=1) + "\n").encode()}
        write(out, {"manifest.json": made["manifest.json"]})
    return [out / path for path in made]


def typeset(out: Path, kind: str, told: dict[str, str]) -> bytes:
    """The sheet as PDF or PNG, in the letters that come with matplotlib and Typst."""
    import typst
    from matplotlib import get_data_path

    alts = {name: importlib.import_module(f"poster.figures.{name}").ALT for name in ON}
    try:
        data = typst.compile(
            (FOLDER / "poster.typ").read_bytes(),
            root=str(out),  # /figures/... in the source is there
            font_paths=[str(Path(get_data_path()) / "fonts" / "ttf")],
            ignore_system_fonts=True,
            format=kind,
            ppi=PPI if kind == "png" else None,
            timestamp=EPOCH,
            sys_inputs={"facts": json.dumps(told), "figures": json.dumps(alts), "off": json.dumps(OFF)},
        )
    except typst.TypstError as error:
        raise MuseError(f"poster/poster.typ cannot be set: {error}; change what it says or how large it is") from error
    return data if isinstance(data, bytes) else data[0]


def write(out: Path, files: dict[str, bytes]) -> None:
    """Each file whole or not at all, and only where its bytes change."""
    from musekit.files import write_atomic

    for path, data in files.items():
        place = out / path
        if not place.exists() or place.read_bytes() != data:
            write_atomic(place, data)


def digest(data: bytes) -> str:
    """Hex digest."""
    return hashlib.sha256(data).hexdigest()


def stale(out: Path = FOLDER) -> list[str]:
    """What is out of date, a line each: inputs, sources and files that are not those of the manifest."""
    path = out / "manifest.json"
    if not path.exists():
        return [f"{path.name} is missing"]
    told, found = json.loads(path.read_text()), []
    for kind, root in (("inputs", ROOT), ("sources", ROOT), ("outputs", out)):
        for name, promised in told[kind].items():
            place = root / name
            if not place.exists():
                found.append(f"{name} is missing: {command_for(name) if kind == 'inputs' else 'make poster'}")
            elif digest(place.read_bytes()) != promised:
                found.append(f"{name} has changed since the poster was built")
    wanted = {path for name in ON for path in importlib.import_module(f"poster.figures.{name}").INPUTS} | set(FACTS)
    found += [f"{name} is an input, and was not read" for name in sorted(wanted - set(told["inputs"]))]
    found += [f"{name} is new" for name in sources() if name not in told["sources"]]
    return found


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m poster", description=__doc__.split("\n")[0])
    parser.add_argument("figures", nargs="*", metavar="FIGURE", help="build these figures alone")
    parser.add_argument("--results", type=Path, help="read results from this folder (default: the checkout's)")
    parser.add_argument("--out", type=Path, default=FOLDER, help="where the files go (default: poster)")
    parser.add_argument("--check", action="store_true", help="build nothing; exit with 1 when something is out of date")
    args = parser.parse_args(argv)
    try:
        if args.check:
            found = stale(args.out)
            print("\n".join(found or ["the poster is up to date"]) + ("\nrun: make poster" if found else ""))
            return int(bool(found))
        made = build(Inputs(args.results), args.out.resolve(), tuple(args.figures) or ON)
    except MuseError as error:
        print(f"poster: {error}", file=sys.stderr)
        return 2
    print(f"written: {len(made)} files in {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
