"""How large a preset's parts are, counted without memory for them (torch's meta device)."""

from __future__ import annotations

import torch
from torch import nn

from musekit.config import MuseConfig
from musekit.encoders import hub
from musekit.oobleck import Oobleck
from musekit.pretrained import BASELINE, PARTS, build, public


def count(network: nn.Module) -> str:
    """Millions of parameters; of those that are carried but idle, how many, too."""
    total = sum(p.numel() for p in network.parameters()) / 1e6
    idle = sum(p.numel() for p in network.parameters() if not p.requires_grad) / 1e6
    told = f", {idle:.1f} M of them idle: over one token attention needs no query and key" if idle else ""
    return f"{total:9.3f} M parameters{told}"


def sizes(config: MuseConfig) -> dict[str, str]:
    """{part: what to tell of it} for every part of a preset."""
    told = {}
    with torch.device("meta"):
        for part in ("text", *PARTS, BASELINE):
            if found := public(part, config):
                licence = hub.LICENCES.get(found[0], "its own licence")
                size = count(Oobleck(config.codec)) if part == "codec" else "          not counted here"
                told[part] = f"{size}, frozen: {found[0]} ({licence})"
            elif part != "text":
                told[part] = count(build(part, config))
    return told
