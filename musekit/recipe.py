"""A recipe names everything that decides a piece's bits; every kept file carries its own.

The same recipe on the same kind of machine gives the same bits, alone or beside other prompts: work is padded to
the recipe's micro-batch, and a row does not depend on its position or its mates.
"""

from __future__ import annotations

import dataclasses
import json
import platform
from dataclasses import dataclass

from musekit.config import MuseError, from_dict


@dataclass(frozen=True)
class Recipe:
    """One piece."""

    prompt: str
    negative_prompt: str | None
    seed: int
    seconds: float
    preset: str
    weights: str  # hash
    stage1_solver: str
    stage1_steps: int
    stage1_guidance_scale: float
    stage2_solver: str
    stage2_steps: int
    guidance_scale: float
    micro_batch: int
    max_tokens: int
    dtype: str
    device: str
    threads: int
    versions: str

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Recipe:
        """Inverse of `to_json`. Raises MuseError when the text is no recipe."""
        try:
            return from_dict(cls, json.loads(text), "recipe")
        except (ValueError, TypeError, AttributeError) as error:
            raise MuseError(f"this is not a MUSE recipe ({error})") from error


def software() -> str:
    """Versions and instruction set that bits depend on."""
    import torch

    return f"musekit-0.1 torch-{torch.__version__} {platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
