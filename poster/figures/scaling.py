"""Data-parallel training on more ranks: samples a second, measured."""

from musekit.show.style import INK, MUTED, PALETTE
from poster.sheet import rows

INPUTS = ("results/bench-ddp.json",)
SIZE = (268, 62)
ALT = "Samples a second of one and two training processes, with the parallel efficiency; GPUs where they were measured."
GPUS = "2 and 4 GPUs: not measured"


def draw(read, figure):
    """A bar a number of ranks, with its efficiency; on CPU ranks, a word that GPUs were not measured."""
    told = rows(read("results/bench-ddp.json"))
    axes = figure.add_subplot()
    most = max(r["throughput"] for r in told)
    for k, r in enumerate(told):
        axes.barh(-k, r["throughput"], 0.72, color=PALETTE[0])
        text = f"{r['throughput']:.0f} samples/s" + (f", {100 * r['efficiency']:.0f} % efficient" if k else "")
        inside = r["throughput"] > 0.6 * most
        axes.annotate(
            text, (r["throughput"], -k), (-10 if inside else 10, 0), textcoords="offset points", va="center",
            ha="right" if inside else "left", color="white" if inside else INK, fontsize=26,
        )  # fmt: skip
    names = [f"{r['ranks']} {'CPU' if r['backend'] == 'cpu' else 'GPU'} rank" + "s" * (r["ranks"] > 1) for r in told]
    axes.set_yticks([-k for k in range(len(told))], names, color=INK)
    if all(r["backend"] == "cpu" for r in told):
        axes.set_xlabel(GPUS, loc="left", color=MUTED)
    axes.set(xlim=(0, most), xticks=[])
    axes.grid(False)
    axes.spines[:].set_visible(False)
