"""The self-check of a notebook's exercise: the reader replaces `...` by an answer, and the cell below compares."""

import math
from collections.abc import Callable

UNANSWERED = "not answered yet"


def check(answer, right: object | Callable, hint: str, measured: float | None = None, unit: str = "") -> None:
    """Print whether `answer` is right. Raises ValueError with the hint when it is wrong.

    right: a number, met within 2 %; a function of the answer that gives a bool; or what the answer must equal. A
    `measured` value, beside which a prediction is to be read, is printed in any case.
    """
    beside = "" if measured is None else f"; measured: {measured:.3g} {unit}".rstrip()
    if answer is ...:
        print(UNANSWERED + beside)
        return
    try:
        close = isinstance(right, float) and math.isclose(answer, right, rel_tol=0.02, abs_tol=1e-9)
        fine = right(answer) if callable(right) else close or answer == right
    except Exception as error:  # whatever a reader's function does
        raise ValueError(f"{hint} (your answer ends in {type(error).__name__}: {error})") from error
    if not fine:
        raise ValueError(f"not yet: {hint}")
    print("right" + (f": {answer:.3g} {unit}".rstrip() + beside if measured is not None else ""))
