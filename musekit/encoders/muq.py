"""MuQ-MuLan (Zhu et al. 2025, arXiv 2501.01108): the paper preset's joint text-audio embedding, 512-d."""

import threading
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from musekit import gpu
from musekit.config import EmbedderConfig, MuseError
from musekit.encoders import hub
from musekit.encoders.mini import mono
from musekit.files import read_json

# The library tells its backbones by their folders' names; other names make it run code that the folder brings.
BACKBONES = {"audio_model": "muq", "text_model": "xlm-roberta"}


class MuQ:
    """A frozen `muq.MuQMuLan` with `JointEmbedder`'s calls; its two backbones are located like the model itself.

    Runs on a GPU if there is one; embeddings come back to the CPU. Raises MuseError when it or a backbone is missing
    or has another size than the config says.
    """

    def __init__(self, config: EmbedderConfig):
        self.config, where = config, hub.folder(config.name, "embedder.name")
        with hub.loading(config.name, "embedder.name"):
            about = read_json(where / "config.json", dict)
            for tower, kind in BACKBONES.items():
                backbone = hub.folder(about[tower]["name"], f"{tower}.name in {where / 'config.json'}", near=where)
                if kind not in (str(backbone).lower() if kind == "muq" else str(backbone)):  # as the library asks
                    raise MuseError(f"{where}/config.json names {backbone.name} as {tower}; only a {kind} is loaded")
                about[tower]["name"] = str(backbone)
            self.network = self._loaded(where, about)
        if self.network.mulan.dim_latent != config.dim:
            raise MuseError(f"{config.name} embeds in {self.network.mulan.dim_latent} dimensions, not {config.dim}")
        self.network.eval().requires_grad_(False).to(gpu.device())
        self.sample_rate = self.network.sr
        self._lock = threading.Lock()  # a fast tokenizer keeps its padding settings: one thread at a time

    @staticmethod
    def _loaded(where: Path, config: dict) -> nn.Module:
        """The network, published as pytorch_model.bin, while the library reads only safetensors from folders."""
        from muq import MuQMuLan

        if (where / "model.safetensors").exists():
            return MuQMuLan.from_pretrained(where, config=config)
        network = MuQMuLan(config)
        network.load_state_dict(torch.load(where / "pytorch_model.bin", weights_only=True), strict=False)  # as it does
        return network

    @torch.no_grad()
    def embed_text(self, texts: Sequence[str]) -> Tensor:
        """(B, 512), unit length; one text at a time: in a batch the mean would include the padding of shorter texts."""
        with self._lock:
            embeddings = [self.network(texts=[self._shortened(text)]) for text in texts]
        return F.normalize(torch.cat(embeddings).float(), dim=-1).cpu()

    @torch.no_grad()
    def embed_audio(self, audio: Tensor, sample_rate: int) -> Tensor:
        """(B, 512), unit length, of audio (B, 1 or 2, N) at `sample_rate` Hz.

        The network takes 24 kHz mono in windows of 10 s; shorter audio is repeated. As published, longer audio is cut
        into windows, the last of which wraps around to the start: of 12 s it reads 0 to 10 s, then 10 to 12 s spliced
        to 0 to 8 s. The mean over several windows is normalised to unit length again.
        """
        x = mono(audio, sample_rate, self.sample_rate)
        length = int(self.network.clip_secs * self.sample_rate)
        if x.shape[1] < length:
            x = x.repeat(1, -(-length // x.shape[1]))[:, :length]
        embeddings = [self.network(wavs=clip[None].to(self.network.device)).mean(0, keepdim=True) for clip in x]
        return F.normalize(torch.cat(embeddings).float(), dim=-1).cpu()

    def _shortened(self, text: str) -> str:
        """The beginning of the text that fits the text tower's positions; the library fails on longer text."""
        tower = self.network.mulan_module.text
        most = tower.model.config.max_position_embeddings - 2  # two are taken by its padding's convention
        text = text[: 32 * most]
        while text and (tokens := len(tower.tokenizer(text)["input_ids"])) > most:
            text = text[: len(text) * most // tokens]
        return text
