"""Chords: what harmony a score's notes sound, by bar or half bar.

Two scores of the corpus alone have chord symbols, so chords are analysed (of those two, seven in ten roots agree). Each
unit of time has the durations of its sounding pitch classes. A template (major, minor, dominant seventh, diminished on
twelve roots) earns the share that lies in its tones and loses the share that does not. The best sequence is found by
the Viterbi algorithm, with a price for each change.
"""

import numpy as np

from musekit.config import TONICS
from musekit.corpus.arrange import TABLES

QUALITIES = tuple(TABLES["chord_tones"])
CHORDS = [(root, quality) for quality in QUALITIES for root in range(12)]
TONES = {name: tuple(step for step, _ in row["tones"]) for name, row in TABLES["chord_tones"].items()}


def _template(root: int, quality: str) -> np.ndarray:
    row = np.full(12, -0.8)
    for step, weight in TABLES["chord_tones"][quality]["tones"]:
        row[(root + step) % 12] = weight
    return row


TEMPLATES = np.array([_template(*chord) for chord in CHORDS])  # (48, 12)
MEMBERS = (TEMPLATES > 0) / (TEMPLATES > 0).sum(1, keepdims=True)
COSTS = np.array([TABLES["chord_tones"][quality]["cost"] for _, quality in CHORDS])


def sounding(rows: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """(units, 12): how long each pitch class of rows [onset, duration, pitch] sounds between the edges, as a share."""
    left, right = edges[:-1, None], edges[1:, None]
    overlap = np.clip(np.minimum(right, rows[:, 0] + rows[:, 1]) - np.maximum(left, rows[:, 0]), 0, None)
    return overlap @ np.eye(12)[rows[:, 2].astype(int) % 12] / (right - left)


def chords_of(
    parts: list[np.ndarray], edges: np.ndarray, strong: np.ndarray, key: str, mode: str | None
) -> list[tuple[int, str]]:
    """(root pitch class, quality) of each unit between the edges; "none" where nothing sounds.

    parts: rows [onset, duration, pitch], highest part first; strong: whether each unit begins a bar; key, mode: the
    piece's, whose common triads are preferred.
    """
    rows = np.concatenate(parts)
    heard = sounding(rows, edges)
    if len(parts) > 1:  # the bass says which tone is the root
        heard = heard / np.maximum(1.0, heard.sum(1, keepdims=True))
    scores = heard @ TEMPLATES.T
    if len(parts) > 1:
        scores += 0.4 * sounding(parts[-1], edges)[:, [root for root, _ in CHORDS]]
    usual = heard.sum(0) / max(heard.sum(), 1e-9)
    prior = 0.2 * MEMBERS @ np.log(usual + 0.01) - COSTS
    tonic = TONICS.index(key)
    for rank, (root, third) in enumerate(TABLES["triads"].get(mode, ())):
        prior[CHORDS.index(((tonic + root) % 12, "maj" if third == 4 else "min"))] += 0.15 - 0.04 * rank
    if mode:
        prior[CHORDS.index(((tonic + 7) % 12, "7"))] += 0.1
    scores += prior
    change = np.where(strong, 0.08, 0.4)
    total, back = scores[0], []
    for unit, price in zip(scores[1:], change[1:]):
        best = int(total.argmax())
        moved = total < total[best] - price
        back.append(np.where(moved, best, np.arange(len(CHORDS))))
        total = np.maximum(total, total[best] - price) + unit
    path = [int(total.argmax())]
    for previous in reversed(back):
        path.append(int(previous[path[-1]]))
    return [CHORDS[c] if any(h) else (0, "none") for c, h in zip(reversed(path), heard)]
