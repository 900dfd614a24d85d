"""What fewer evaluations of Stage 2 cost, for README and model card: rows of results/few-step.json as a table."""

from __future__ import annotations

LOSSES = ("kernel", "similarity", "heard")
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
            "kernel distance, above the teacher's": ranged(r, "kernel_gap", digits=2),
            "similarity to the prompt, loss %": ranged(r, "similarity_loss"),
            "prompt heard, loss %": ranged(r, "heard_loss"),
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
        f" most {bar:g} %; *worse*: the lower end of one is above; all else is *unresolved*."
        f" {distance(teacher['kernel_distance'])}\n"
    )


def distance(teachers: float) -> str:
    """What the kernel distance of the teacher's own pieces means for the verdicts."""
    told = f"The teacher's kernel distance to held-out clips is {teachers:.2f}"
    if teachers > 0:
        return f"{told}; losses are in % of it."
    return f"{told}, not above 0: a loss in % of it means nothing, so the difference is given and left unresolved."


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


def ranged(row: dict, name: str, times: float = 1.0, digits: int = 1) -> str:
    """A value and its interval."""
    value, low, high = (times * row[key] for key in (name, f"{name}_low", f"{name}_high"))
    return f"{value:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"
