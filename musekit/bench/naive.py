"""The naive design of the original system, with our weights: the baseline of our inference code's times.

`nn.MultiheadAttention` for self- and cross-attention, recomputed in every evaluation: queries and keys of a sequence of
one token, the text's keys and values, the time's network. Guidance takes two passes, one after the other.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from musekit import flow
from musekit.stage1 import MAX_TIME_TURNS, Text2MuQFlow, modulate


class NaiveBlock(nn.Module):
    """One `Stage1Block` as textbooks write a transformer block."""

    def __init__(self, block, width: int, text_dim: int, heads: int):
        super().__init__()
        place = {"device": block.scale_shift_table.device, "dtype": block.scale_shift_table.dtype}
        self.own = nn.MultiheadAttention(width, heads, batch_first=True, **place)
        self.cross = nn.MultiheadAttention(width, heads, kdim=text_dim, vdim=text_dim, batch_first=True, **place)
        with torch.no_grad():  # one token attends to itself whatever its query and key are, so these stay random
            self.own.in_proj_weight[2 * width :] = block.self_value.weight
            self.own.in_proj_bias[2 * width :] = block.self_value.bias
            self.own.out_proj.load_state_dict(block.self_out.state_dict())
            self.cross.q_proj_weight.copy_(block.query.weight)
            self.cross.k_proj_weight.copy_(block.key_value.weight[:width])
            self.cross.v_proj_weight.copy_(block.key_value.weight[width:])
            self.cross.in_proj_bias.copy_(torch.cat([block.query.bias, block.key_value.bias]))
            self.cross.out_proj.load_state_dict(block.cross_out.state_dict())
        self.ff, self.table = block.ff, block.scale_shift_table

    def forward(self, x: Tensor, modulation: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """x (B, 1, D), modulation (B, 9, D), tokens (B, L, text_dim), mask (B, L)."""
        a1, b1, g1, a2, b2, g2, a3, b3, g3 = (modulation + self.table)[:, :, None].unbind(1)
        y = modulate(x, a1, b1)
        x = x + g1 * self.own(y, y, y, need_weights=False)[0]
        y = modulate(x, a2, b2)
        x = x + g2 * self.cross(y, tokens, tokens, key_padding_mask=~mask, need_weights=False)[0]
        return x + g3 * self.ff(modulate(x, a3, b3))


class Naive1(nn.Module):
    """v(x_t, t, tokens), and `guided` of two passes; without the Gaussian part."""

    def __init__(self, network: Text2MuQFlow):
        super().__init__()
        config = network.config
        self.network = network
        self.blocks = nn.ModuleList(
            NaiveBlock(block, config.width, config.text_dim, config.heads) for block in network.blocks
        )
        self.eval().requires_grad_(False)

    def forward(self, x: Tensor, t: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """Velocity (B, 512) at x (B, 512), t (B,)."""
        network = self.network
        features = flow.time_features(t, network.config.width, MAX_TIME_TURNS).to(x.dtype)
        modulation = network.time(features).unflatten(-1, (9, -1))
        h = network.proj_in(x)[:, None]
        for block in self.blocks:
            h = block(h, modulation, tokens, mask)
        return network.proj_out(F.layer_norm(h, h.shape[-1:]))[:, 0]

    def guided(self, tokens: Tensor, mask: Tensor, scale: float):
        """`velocity(t, x)` for a solver."""
        null = self.network.null_token.expand(len(tokens), 1, -1)
        alone = torch.ones(len(tokens), 1, dtype=torch.bool, device=tokens.device)

        def velocity(t: Tensor, x: Tensor) -> Tensor:
            v_cond = self(x, t, tokens, mask)
            return flow.guided(v_cond, self(x, t, null, alone), scale)

        return velocity
