"""How far what is generated lies from held-out clips, as a table: two embeddings, beside the ruler of real clips."""

from __future__ import annotations

from findings import claim

MEASURES = {"kernel distance": "kernel distance (KAD)", "precision": "precision", "recall": "recall"}


def table(rows: list[dict]) -> list[dict]:
    """A row an embedding and source; a column a measure, with its 95 % interval. Of `musekit eval distances`."""
    found = {}
    for r in rows:
        found.setdefault((r["embedding"], r["source"], r["n"]), {})[r["name"]] = r
    return [
        {"heard by": embedding, "what is compared": source, "clips": n}
        | {short: cell(measured.get(name)) for short, name in MEASURES.items()}
        for (embedding, source, n), measured in found.items()
    ]


def cell(row: dict | None) -> str:
    """A value and its 95 % interval; a dash where there is none."""
    return "–" if not row or row["value"] is None else f"{row['value']:.2f} ({row['low']:.2f} to {row['high']:.2f})"


TEXT = """
Against {reference}, of {seconds:g} s; 95 % intervals. Precision: the share of what is compared that lies
among the reference; recall: the reverse. By the joint embedding, for which Stage 1 generates, the music lies as near
and as varied as real clips to each other. By features that nobody learned it lies far (real clips after the codec's
round trip {codec:.0f} % as far), and its variety covers {recall:.0f} % of the reference, where real clips
cover {ruler:.0f} %.
"""


def caption(rows: list[dict]) -> str:
    """What the table says. Raises ValueError where a result no longer says so."""

    def told(embedding: str, source: str, name: str) -> dict:
        """The one row whose embedding and source begin so."""
        return next(
            r for r in rows if r["embedding"].startswith(embedding) and r["source"].startswith(source)
            and r["name"] == MEASURES[name]
        )  # fmt: skip

    made, ruler = (told("librosa", source, "recall") for source in ("generated", "ruler"))
    far, codec = (told("librosa", source, "kernel distance") for source in ("generated", "codec"))
    near, recall = (told("mini", "generated", name) for name in ("kernel distance", "recall"))
    claim(near["low"] <= 0 and recall["high"] >= told("mini", "ruler", "recall")["low"], "near by the joint embedding")
    claim(far["low"] > 0 and made["high"] < ruler["low"], "far, and less varied, by features that nobody learned")
    share = 100 * codec["value"] / far["value"]
    shares = {"codec": share, "recall": 100 * made["value"], "ruler": 100 * ruler["value"]}
    return TEXT.format(reference=made["reference"], seconds=made["seconds"], **shares)
