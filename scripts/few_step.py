"""What fewer evaluations of Stage 2 cost, for README and model card: rows of results/few-step.json as a table."""

from __future__ import annotations

LOSSES = {
    "kernel": "kernel distance, loss %",
    "similarity": "similarity to the prompt, loss %",
    "heard": "prompt heard, loss %",
}
LEARNED = "bespoke"
SAID = {"kept": "sure", "worse": "wrong", "unresolved": "unresolved"}  # of the claim that little is lost


def measured(rows: list[dict]) -> list[dict]:
    """The settings that were heard, the teacher first."""
    return [r for r in rows if r["measure"] == "few-step"]


def verdict(row: dict) -> str:
    """Of all losses together: kept only where each is, worse where one is."""
    said = {row[f"{name}_verdict"] for name in LOSSES}
    return "worse" if "worse" in said else "kept" if said == {"kept"} else "unresolved"


def compared(rows: list[dict]) -> list[dict]:
    """A row of the table for each setting but the teacher."""
    teacher, *others = measured(rows)
    return [
        {
            "solver": r["name"],
            "evaluations": r["nfe"],
            "work of the network, % of the teacher's": share(r, teacher),
            "latents off the teacher's, %": ranged(r, "relative_error", 100),
            **{title: ranged(r, f"{name}_loss") for name, title in LOSSES.items()},
            "verdict": verdict(r),
        }
        for r in others
    ]


def caption(rows: list[dict], bar: float) -> str:
    """What was compared with what, and what a verdict means."""
    teacher = measured(rows)[0]
    return (
        f"\n{teacher['n']} held-out prompts, pieces of {teacher['seconds']:g} s; the teacher is Euler with"
        f" {teacher['nfe']} equal steps. In brackets: paired 95 % intervals. *Kept*: the upper end of every loss is at"
        f" most {bar:g} %; *worse*: the lower end of one is above; all else is *unresolved*.\n"
    )


def sentence(rows: list[dict], bar: float) -> str:
    """One line on the learned solvers."""
    teacher = measured(rows)[0]
    told = [
        f"`bespoke-{r['nfe']}` does {share(r, teacher)} % of the network's work in {teacher['nfe']} Euler steps, its"
        f" latents are {100 * r['relative_error']:.0f} % off, and that sound and prompts lose at most {bar:g} % is"
        f" {SAID[verdict(r)]}"
        for r in measured(rows)
        if r["kind"] == LEARNED
    ]
    return "Few-step solvers that come with the weights (`solver.json`): " + "; ".join(told) + ".\n"


def share(row: dict, teacher: dict) -> str:
    """Of the teacher's work, %, in rows through the network: a guided evaluation is two, one without guidance one."""
    return f"{100 * row['rows'] / teacher['rows']:.0f}"


def ranged(row: dict, name: str, times: float = 1.0) -> str:
    """A value and its interval."""
    if row[name] is None:
        return "not known"
    value, low, high = (times * row[key] for key in (name, f"{name}_low", f"{name}_high"))
    return f"{value:.1f} ({low:.1f} to {high:.1f})"
