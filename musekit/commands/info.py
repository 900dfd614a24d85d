"""`musekit info`: what a preset is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from musekit.config import preset, to_json


@dataclass
class Info:
    """Print a preset's configuration and parameter counts; public models are named with their licence.

    For example:

        musekit info mini
        musekit info paper
    """

    preset: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="[PRESET]")] = "mini"
    """mini, smoke or paper."""

    def run(self) -> None:
        from musekit.sizes import sizes

        config = preset(self.preset)
        print(to_json(config), end="")
        for part, told in sizes(config).items():
            print(f"{part:10s} {told}")
