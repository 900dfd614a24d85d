"""What was measured for those who train on a cluster: how much room a cache takes, what kills and ranks change.

Sentences take their numbers from results, and one that they deny is refused.
"""

from __future__ import annotations

from findings import claim

RANKS = """\
- **Any number of ranks follows the curve of one.** Stage 2 of the tiny {preset} preset, {steps} steps of AdamW in
  bf16 on {worlds}: the loss of a step
  differs by {mean} on average and {largest} at most, and ends at {last}.
"""
KILLS = """\
- **A kill costs time, and no bit.** {runs} runs on {worlds} ranks were killed (SIGKILL) {kills} times at random
  moments, {writes} of these while a checkpoint was being written, and each time the same command was run again:
  weights, moving average, optimizer and loss curve of every run ended as those of one that nothing stopped, to the bit.
"""
COLUMNS = {"data": "data set", "kind": "what", "rows": "rows", "gigabytes": "GB", "files": "files"}


def room(rows: list[dict]) -> list[dict]:
    """Rows, GB and files of each kind of each published data set; these, unlike hours, are the same on any machine."""
    told = [r for r in rows if r["measure"] == "estimate"]
    return [{title: size(r[key]) for key, title in COLUMNS.items()} for r in told]


def size(value) -> str:
    """Thousands apart; a fraction to a tenth."""
    return value if isinstance(value, str) else f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"


def ranks(result: dict) -> str:
    """How far the curves of several ranks part from that of one. Raises ValueError where they do not follow it."""
    one, *others = result["rows"]
    mean, largest = (max(r[f"{name}_difference"] for r in others) for name in ("mean", "largest"))
    ends = [r["last_loss"] for r in result["rows"]]
    claim(max(abs(end - one["last_loss"]) for end in ends) < 0.02 * one["last_loss"], "ranks follow the curve of one")
    same = f"{min(ends):.3f}" if f"{min(ends):.3f}" == f"{max(ends):.3f}" else f"{min(ends):.3f} to {max(ends):.3f}"
    numbers = {"mean": f"{mean:.1g}", "largest": f"{largest:.1g}", "last": same}
    worlds = listed([r["case"].replace(" x ", " accumulating over ") for r in others])
    return RANKS.format(preset=result["provenance"]["preset"], steps=one["steps"], worlds=worlds, **numbers)


def kills(rows: list[dict]) -> str:
    """What kills changed. Raises ValueError where one changed anything."""
    claim(all(r["same_bits"] and r["same_curve"] for r in rows), "killed runs end with the same bits")
    writes = sum(r["during_a_checkpoint_write"] for r in rows)
    worlds = listed([str(n) for n in sorted({r["world"] for r in rows})])
    return KILLS.format(runs=len({r["run"] for r in rows}), kills=len(rows), writes=writes, worlds=worlds)


def listed(words: list[str]) -> str:
    """a, b and c."""
    return " and ".join([*([", ".join(words[:-1])] if words[1:] else []), *words[-1:]])
