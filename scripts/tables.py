"""Write the tables of the README and the model card from the result files; `--check` says whether they are up to date.

A block `<!-- table:NAME -->` ... `<!-- end -->` is filled by the function of that name below. Nothing is typed by hand.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

import ablated
import answers
import beside
import cluster
import distant
import few_step as fewer
import findings

ROOT = Path(__file__).resolve().parent.parent
WEIGHTS = ROOT / "musekit" / "weights" / "mini"
PAGES = [ROOT / "README.md", ROOT / "slurm" / "README.md", WEIGHTS / "MODEL_CARD.md"]
MEASUREMENTS = ("codec", "embedder", "prompts", "diversity", "memorisation", "path")  # those that have a bar to reach
FEW = "`musekit eval few-step`"
MADE = {  # what makes a block's results
    "samples": "`make samples`",
    "few_step": FEW,
    "learned_solvers": FEW,
    "room": "`musekit cache --preset paper --estimate`",
    "ranks": '`make test-long ARGS="-k curves"`',
    "kills": '`make test-long ARGS="-k twenty_kills"`',
}
BLOCK = re.compile(r"(<!-- table:(\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def read(name: str) -> dict:
    """results/<name>.json."""
    return json.loads((ROOT / "results" / f"{name}.json").read_text())


def result(name: str) -> list[dict]:
    """Its rows."""
    return read(name)["rows"]


def grid(rows: list[dict]) -> str:
    """A Markdown table; the keys of the first row are its columns."""
    columns = list(rows[0])
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return "\n".join(lines + ["| " + " | ".join(show(row.get(c, "")) for c in columns) + " |" for row in rows]) + "\n"


def show(value) -> str:
    """A value as a reader wants it."""
    if isinstance(value, bool):
        return "yes" if value else "**no**"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, list):
        return " to ".join(map(show, value))
    return "" if value is None else str(value).replace("|", "/")


def summary() -> str:
    """Every bar of the evaluation that was measured, and whether it is met."""
    rows = []
    for name in MEASUREMENTS:
        if (ROOT / "results" / f"{name}.json").exists():
            bars = [r for r in result(name) if r.get("measure") == "bar"]
            rows += [
                {"result": name, "what": r["name"], "value": r["value"], "bar": r["bar"], "met": r["met"]} for r in bars
            ]
        else:
            rows.append({"result": name, "what": f"not measured yet: `musekit eval {name}`"})
    return grid(rows)


def distances() -> str:
    """How far what is generated lies from held-out clips."""
    return grid(distant.table(result("distances"))) + distant.caption(result("distances"))


def one_to_many() -> str:
    """Where samples lie among right answers, and how regression's answer sounds."""
    return answers.text(result("one-to-many"))


def found() -> str:
    """What was found, in sentences that their results support."""
    return findings.text(result)


def corpus() -> str:
    """The size of the corpus and of its splits."""
    rows = [r for r in result("corpus") if r["measure"] == "size"]
    return grid([{"": r["what"], **{k: r[k] for k in ("train", "valid", "test", "all")}} for r in rows])


def room() -> str:
    """What full-size caches of the published data sets need."""
    return grid(cluster.room(result("cache-estimate-paper")))


def ranks() -> str:
    """Several ranks train like one, in a sentence."""
    return cluster.ranks(read("ddp"))


def kills() -> str:
    """A killed run goes on to the same bits, in a sentence."""
    return cluster.kills(result("resume"))


def bench() -> str:
    """The speed of generation, and the bars it had to reach."""
    columns, about = ("what", "value", "unit", "bar", "met"), read("bench")["provenance"]
    where = f"\nMeasured on {about['hardware']['cpu']}, {about['threads']} threads, {about['time'][:10]}.\n"
    return grid([{k: r[k] for k in columns} for r in result("bench")]) + where


def original() -> str:
    """Our results beside the original's; where a bench has not been run, the command that would."""
    notes = [f"\nNot measured yet: {command}.\n" for command in beside.missing(ROOT / "results")]
    return grid(beside.compared(ROOT / "results", WEIGHTS)) + beside.gpu(ROOT / "results") + "".join(notes)


def systems() -> str:
    """What public systems state."""
    return grid(list(beside.SYSTEMS))


def samples() -> str:
    """The pieces to listen to; their links are relative to the README."""
    rows = [r for r in result("samples") if r["measure"] == "sample"]
    return grid(
        [
            {
                "prompt": r["prompt"],
                "seed": r["seed"],
                "listen": f"[{r['file']}](samples/{r['file']}) ({r['bytes'] / 1000:.0f} kB)",
                "similarity of sound and prompt": r["similarity"],
            }
            for r in rows
        ]
    )


def training() -> str:
    """How each part was trained."""
    rows = []
    for path in sorted(WEIGHTS.glob("*.train.json")):
        t = json.loads(path.read_text())
        row = {
            "part": t["part"],
            "runs": 1 + len(t.get("before", [])),
            "samples": f"{t['samples']:,}",
            "minutes": t["minutes"],
            "clips": t["clips"],
        }
        row |= {"training loss": t["last"]["loss"], "held-out loss": t["last"].get("valid_loss")}
        rows.append(
            row | {"command": f"`{t['provenance']['command']}`", "hardware": t["provenance"]["hardware"]["cpu"]}
        )
    return grid(rows)


def files() -> str:
    """The weight files."""
    paths = sorted(WEIGHTS.glob("*.safetensors"))
    return grid([{"file": p.name, "MB": p.stat().st_size / 1e6} for p in paths])


def few_step() -> str:
    """What fewer evaluations of Stage 2 cost."""
    bar = read("few-step")["provenance"]["bar"]
    return grid(fewer.compared(result("few-step"))) + fewer.caption(result("few-step"), bar)


def learned_solvers() -> str:
    """The same of the weights' own solvers, in a line."""
    return fewer.sentence(result("few-step"), read("few-step")["provenance"]["bar"])


def ablations() -> str:
    """What each design decision is worth; where one was not measured, the command that would."""
    rows, missing = ablated.table(result)
    told = f"Not measured yet: {', '.join(f'`musekit eval {name}`' for name in missing)}.\n" if missing else ""
    return "\n".join(part for part in (grid(rows) if rows else "", told) if part)


def fill(name: str) -> str:
    """The table of that name, or a line that says what would make it."""
    try:
        return globals()[name]()
    except FileNotFoundError as error:
        made = MADE.get(name, "`musekit eval all` or `musekit bench`")
        return f"Not measured yet: {Path(error.filename).name} is made by {made}.\n"


def main() -> int:
    """Fill the blocks of every page; with --check, only compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 when a page is out of date")
    check, stale = parser.parse_args().check, []
    for page in PAGES:
        text = page.read_text()
        new = BLOCK.sub(lambda m: m[1] + fill(m[2]) + m[3], text)
        if new != text:
            stale.append(str(page.relative_to(ROOT)))
            if not check:
                page.write_text(new)
    if stale:
        print(("out of date, run `python scripts/tables.py`: " if check else "written: ") + ", ".join(stale))
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
