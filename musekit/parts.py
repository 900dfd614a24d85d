"""What is to be told about each part of a system: one frozen dataclass a part, `MuseConfig` of them all."""

from __future__ import annotations

from dataclasses import dataclass, field


def later(default):
    """A field that came after weights, caches and runs were first made: at its default it changes no name or hash."""
    return field(default=default, repr=False)


@dataclass(frozen=True)
class CodecConfig:
    """Magnitude-spectrogram VAE (`codec.SpectralVAE`): `frames` STFT frames make one latent frame."""

    kind: str = "spectral"  # "spectral": the mini VAE, trained here. "oobleck": Stable Audio Open's
    sample_rate: int = 44100  # Hz
    latent_dim: int = 64  # channels C
    n_fft: int = 4096  # samples; a long window keeps partials of a chord apart, so magnitudes do not beat
    stft_hop: int = 1024  # samples
    frames: int = 2  # STFT frames in a latent frame; hop = frames * stft_hop = 2048 samples (46 ms)
    linear_bins: int = 1024  # STFT bins kept one by one (0 to 11.0 kHz)
    high_bands: int = 64  # bands of 8 bins above them (11.0 to 16.5 kHz); nothing above is kept
    power: float = 0.3  # magnitudes are compressed as m**power before the network sees them
    width: int = 384
    encoder_depth: int = 2
    decoder_depth: int = 2
    kl_weight: float = 4e-4  # of the KL divergence summed over a latent frame's channels
    phase_iterations: int = 16  # fast Griffin-Lim steps after the single-pass phase guess
    name: str = later("")  # "oobleck": hub name or folder of a diffusers pipeline or of its vae/

    @property
    def hop(self) -> int:
        """Samples of audio in one latent frame."""
        return self.stft_hop * self.frames


@dataclass(frozen=True)
class TextConfig:
    """The frozen text encoder whose token states condition Stage 1."""

    name: str = "all-MiniLM-L6-v2"  # "t5": hub name or folder
    dim: int = 384
    max_tokens: int = 32  # longer prompts are cut with a notice; every prompt is padded to this length
    kind: str = later("minilm")  # "minilm": from its PyPI package. "t5": the encoder of a T5


@dataclass(frozen=True)
class EmbedderConfig:
    """The joint text-audio embedding (`encoders`), 512-d, unit length."""

    kind: str = "mini"  # "mini": two towers trained here. "muq": MuQ-MuLan-large
    dim: int = 512
    sample_rate: int = 44100  # Hz, what the audio tower hears
    width: int = 256
    depth: int = 3
    bands: int = 192  # log-frequency bands, 24 an octave from 55 Hz
    onset_bands: int = 40  # mel bands of the short window that hears attacks
    text_width: int = 128
    head_width: int = 256
    name: str = later("")  # "muq": hub name or folder


@dataclass(frozen=True)
class Stage1Config:
    """`stage1.Text2MuQFlow`: the velocity of a 512-d embedding given text tokens."""

    dim: int = 512
    text_dim: int = 384
    width: int = 192
    depth: int = 3
    heads: int = 4
    ff_mult: int = 2
    gaussian_rank: int = 128  # principal directions whose Gaussian velocity is exact; 0: the network learns all
    condition_dropout: float = 0.1
    idle_weights: bool = later(False)  # carry self-attention's query and key, which change nothing over one token


@dataclass(frozen=True)
class Stage2Config:
    """`stage2.StableAudioMuQ`: the velocity of codec latents given one 512-d embedding."""

    latent_dim: int = 64
    embedding_dim: int = 512
    condition_dim: int = 192  # embedding -> condition_dim -> condition_dim: the one conditioning token
    width: int = 320
    depth: int = 7
    head_dim: int = 64
    kv_heads: int = 1  # of the cross-attention
    ff_mult: float = 2.0
    patch: int = 2  # latent frames in a token
    modulation: bool = True  # adaLN-single beside the tokens; False is Stable Audio Open's own design
    max_frames: int = 259  # latent frames of the window
    condition_dropout: float = 0.3
    embedding_noise: float = 0.0  # standard deviation of Gaussian noise on the training embeddings
    stable_audio: bool = later(False)  # Stable Audio Open's own transformer, weight for weight (`stable_audio`)
    time_dim: int = later(256)  # its Fourier features of time
    number_dim: int = later(256)  # its Fourier features of start and total seconds
    max_seconds: float = later(512.0)  # the largest number of seconds that its timing token tells apart


@dataclass(frozen=True)
class SampleConfig:
    """Defaults of sampling; every field can be overridden in a call."""

    stage1_steps: int = 50
    stage2_steps: int = 50
    stage1_solver: str = "euler"
    stage2_solver: str = "euler"
    guidance_scale: float = 3.0
    stage1_guidance_scale: float = 1.0
    stage1_autoguidance: float = 1.0  # guidance by the exact Gaussian (`stage1.Text2MuQFlow.forward`)
    seconds: float = 12.0
    micro_batch: int = 4  # rows sampled together; part of the recipe, work is padded to it


@dataclass(frozen=True)
class MuseConfig:
    """One complete system."""

    name: str
    codec: CodecConfig = field(default_factory=CodecConfig)
    text: TextConfig = field(default_factory=TextConfig)
    embedder: EmbedderConfig = field(default_factory=EmbedderConfig)
    stage1: Stage1Config = field(default_factory=Stage1Config)
    stage2: Stage2Config = field(default_factory=Stage2Config)
    sample: SampleConfig = field(default_factory=SampleConfig)

    @property
    def window_seconds(self) -> float:
        """The longest piece that Stage 2 samples at once."""
        return self.stage2.max_frames * self.codec.hop / self.codec.sample_rate
