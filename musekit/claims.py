"""Claims: what a caption says of a clip, as {"instrument": "cello", "mode": "minor", ...}.

One caption is true of many clips, and the claims say of which. Records of clips hold the same fields.
"""

from __future__ import annotations


def matches(claims: dict, record: dict) -> bool:
    """Whether every claim is true of the clip. An attribute that is unknown (None) satisfies no claim.

    `instrument` is compared with the record's `instrumentation`, every other claim with the field of its name.
    """
    for name, wanted in claims.items():
        if wanted is None or record.get("instrumentation" if name == "instrument" else name) != wanted:
            return False
    return True


def attribute_of(record: dict, name: str) -> str | None:
    """An attribute in a clip's record or a caption's claims; "scale" is tonic and mode, if both are known."""
    return f"{record.get('key')} {record.get('mode')}" if name == "scale" else record.get(name)
