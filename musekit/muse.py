"""`Muse`: text -> embeddings -> audio, with the components of one folder of weights.

    muse = Muse.from_pretrained("mini")
    result = muse.generate("a sad piano melody", n=4, seed=0, seconds=12.0)

Pieces are sampled in micro-batches of a fixed size, the last one padded, so that the bits of a piece depend on its
recipe only. Each component is loaded when it is first used.
"""

import contextlib
import dataclasses
import hashlib
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from musekit import distil, edit, flow, gpu, harmony, inference, lora, pretrained
from musekit.config import MuseConfig, MuseError
from musekit.controls import LONGEST, Controls, agreed
from musekit.encoders.mini import JointEmbedder
from musekit.encoders.muq import MuQ
from musekit.encoders.text import text_encoder
from musekit.files import sha256
from musekit.inference import OnStep, micro_batches, padded
from musekit.pretrained import load_part
from musekit.prompts import read_prompt
from musekit.recipe import CONTROLS, Edit, Recipe, Settings, check, clean_prompt, count, software
from musekit.stage1 import Stage1Inference
from musekit.stage2 import Stage2Inference

AVOIDING = 2.0  # Stage 1's guidance at least where a negative prompt says what the music should not be
ENDING = 0.5  # s of silence that Stage 2 is given behind a piece that ends, so that it comes to its end
GOES_ON = 6.0  # s: by how much longer than its sound a piece is said to be that does not end
__all__ = ["Controls", "Generation", "Muse", "Piece", "Settings", "micro_batches", "count"]


@dataclass
class Piece:
    """One generated piece."""

    audio: Tensor  # (2, N) float32
    sample_rate: int  # Hz
    embedding: Tensor  # (512,) unit length: sampled by Stage 1, the condition of Stage 2
    recipe: Recipe
    similarity: float  # cosine of the embeddings of the prompt and of the generated audio
    nfe: dict[str, int]  # {"stage1": ..., "stage2": ...}: network evaluations
    controls: Controls = Controls()  # the recipe's, with the tempo and the metre that were drawn


@dataclass
class Generation:
    """All pieces of one call, stacked."""

    audio: Tensor  # (n, 2, N) float32
    sample_rate: int  # Hz
    embeddings: Tensor  # (n, 512) unit length
    seeds: list[int]
    recipes: list[Recipe]
    similarity: list[float]
    nfe: dict[str, list[int]]  # {"stage1": [...], "stage2": [...]}: network evaluations of each piece


def precision(name: str) -> torch.dtype:
    """The dtype of that name. Raises MuseError for one that is not supported."""
    if name not in ("float32", "bfloat16"):
        raise MuseError(f"unknown dtype {name!r} (known: auto, float32, bfloat16)")
    return getattr(torch, name)


def settings_of(options: dict) -> Settings:
    """`Settings` of keyword arguments, among which `controls` may be a `Controls` that stands for its fields."""
    controls = options.pop("controls", None) or Controls()
    told = {name: getattr(controls, name) for name in CONTROLS if getattr(controls, name) is not None}
    if controls.key is not None:
        told["key"] = f"{controls.key} {controls.mode}"
    return Settings(**options, **told)


@dataclass
class Muse:
    """Both stages, the codec and the encoders of one folder of weights."""

    folder: Path
    config: MuseConfig
    dtype: str = "auto"  # of Stage 2's matrix products: "float32", "bfloat16", or the faster one on this machine
    stage1_dtype: str = ""  # of Stage 1's; "bfloat16" is faster and rounds the embedding. "": the preset's
    lora: Path | None = None  # small matrices that fine-tune a stage (`musekit.lora`)
    notice: Callable[[str], None] = lambda text: None  # called for what the user should know about a prompt
    timings: dict[str, float] = field(default_factory=dict)  # seconds spent in each stage, for benchmarks
    lock: threading.RLock = field(default_factory=threading.RLock, repr=False)  # see `turn`

    def __post_init__(self) -> None:
        self.stage1_dtype = self.stage1_dtype or self.config.sample.stage1_dtype
        if self.stage1_dtype == "auto":
            self.stage1_dtype = str(gpu.fast_precision(self.device)).removeprefix("torch.")
        self.is_draft = self.lora is not None and bool((small := lora.read(self.lora)).about)
        if self.is_draft:
            sample = distil.of_student(self.config.sample, small, self.folder)
            self.config = dataclasses.replace(self.config, sample=sample)

    @classmethod
    def from_pretrained(cls, name_or_folder: str | Path = "mini", **options) -> Self:
        """The system of a folder of weights, or of a packaged preset. Raises MuseError when there is none."""
        folder = pretrained.find(name_or_folder)
        return cls(folder, pretrained.read_config(folder), **options)

    @cached_property
    def draft(self) -> "Muse":
        """The same system with Stage 2's student (`distil`), which is quick; without one the system itself."""
        path = self.folder / pretrained.STUDENT
        if self.lora is not None or not path.exists():
            return self
        student, shared = dataclasses.replace(self, lora=path), ("text", "embedder", "codec", "stage1", "inference1")
        vars(student).update({name: vars(self)[name] for name in shared if name in vars(self)})  # what is loaded
        return student

    def of(self, recipe: Recipe) -> "Muse":
        """The one of this system and its draft that made a recipe; the system itself where neither did."""
        return self if recipe.weights == self.weights or recipe.weights != self.draft.weights else self.draft

    @cached_property
    def device(self) -> torch.device:
        """A GPU if there is one, else the CPU."""
        return gpu.device()

    @cached_property
    def autocast_dtype(self) -> torch.dtype:
        """The precision of Stage 2's matrix products."""
        return gpu.fast_precision(self.device) if self.dtype == "auto" else precision(self.dtype)

    @property
    def turn(self):
        """A context in which only one thread at a time uses a GPU: CUDA graphs (`musekit.gpu`) use fixed memory."""
        return self.lock if self.device.type == "cuda" else contextlib.nullcontext()

    @cached_property
    def text(self):
        """The frozen text encoder."""
        return text_encoder(self.config.text)

    @cached_property
    def embedder(self) -> JointEmbedder | MuQ:
        """The joint text-audio embedding."""
        network = load_part(self.folder, "embedder")[0]
        return network if isinstance(network, MuQ) else JointEmbedder(network, self.text)

    @cached_property
    def codec(self):
        """The codec: audio <-> latents."""
        return load_part(self.folder, "codec")[0].to(self.device)

    @cached_property
    def stage1(self):
        """Text -> embedding."""
        return self._stage("stage1")

    @cached_property
    def inference1(self) -> Stage1Inference:
        """Stage 1 prepared for sampling."""
        return Stage1Inference(self.stage1, precision(self.stage1_dtype))

    @cached_property
    def stage2(self):
        """Embedding -> latents."""
        return self._stage("stage2")

    def _stage(self, part: str):
        network = load_part(self.folder, part)[0]
        if self.lora is not None and (found := lora.read(self.lora)).part == part:
            lora.merge(network, found.small)
        return network.to(self.device)

    @cached_property
    def inference2(self) -> Stage2Inference:
        """Stage 2 prepared for sampling."""
        return Stage2Inference(self.stage2, self.autocast_dtype)

    @cached_property
    def regression(self):
        """The baseline that predicts a single embedding; generation does not need it."""
        return load_part(self.folder, pretrained.BASELINE)[0].to(self.device)

    @cached_property
    def weights(self) -> str:
        """Hash of the weights; part of every recipe."""
        own = pretrained.weights_hash(self.folder)
        if self.lora is None:
            return own
        return hashlib.sha256(f"{own} {sha256(self.lora)}".encode()).hexdigest()[:16]

    def recipe(
        self, prompt: str, seed: int, settings: Settings, negative_prompt: str | None = None, edited: Edit | None = None
    ) -> Recipe:
        """The complete recipe of one piece. Raises MuseError for a value that is out of range."""
        renamed = {"solver": "stage2_solver", "steps": "stage2_steps"}
        chosen = dataclasses.asdict(self.config.sample)
        given = {k: v for k, v in vars(settings).items() if v is not None}
        controls = {name: given.pop(name) for name in CONTROLS if name in given}
        chosen |= {renamed.get(k, k): v for k, v in given.items()}
        prompt = clean_prompt(prompt, notice=self.notice)
        said = read_prompt(prompt) if self.config.stage2.controls else {}
        if negative_prompt is None and "without" in said:
            negative_prompt = ", ".join(said["without"])
        if negative_prompt is not None:  # it acts by guidance
            negative_prompt = clean_prompt(negative_prompt, "negative prompt")
            if "stage1_guidance_scale" not in given:
                chosen["stage1_guidance_scale"] = max(AVOIDING, chosen["stage1_guidance_scale"])
        if self.is_draft:
            fixed = ("stage2_steps", "stage2_solver", "shift", "guidance_scale", "control_guidance")
            if other := [name for name in fixed if chosen[name] != getattr(self.config.sample, name)]:
                raise MuseError(f"drafts have their own {' and '.join(other)}: leave out these settings")
        asked = agreed(controls, said)
        if asked and (asked.chords or asked.melody):
            asked = harmony.keyed(asked)
        lengths = self.config.text.lengths  # without a choice the tokenizer need not be loaded yet
        recipe = Recipe.checked(
            prompt=prompt,
            negative_prompt=negative_prompt,
            seed=seed,
            preset=self.config.name,
            weights=self.weights,
            max_tokens=self.text.length([prompt, negative_prompt or ""]) if lengths else self.config.text.max_tokens,
            dtype=str(self.autocast_dtype).removeprefix("torch."),
            device=self.device.type,
            threads=torch.get_num_threads(),
            versions=software(),
            controls=asked,
            edit=edited,
            **chosen | {"stage1_dtype": str(precision(self.stage1_dtype)).removeprefix("torch.")},
        )
        check(recipe, self.config)
        return recipe

    def recipes(
        self, prompt: str, n: int, seed: int, settings: Settings, negative_prompt: str | None = None
    ) -> list[Recipe]:
        """The recipes of n pieces for one prompt; piece i has the seed `seed + i`."""
        return [self.recipe(prompt, seed + i, settings, negative_prompt) for i in range(count(n))]

    def frames(self, seconds: float) -> int:
        """The number of latent frames that cover a duration in seconds."""
        return math.ceil(round(seconds * self.config.codec.sample_rate) / self.config.codec.hop)

    def embed_batch(
        self, recipes: Sequence[Recipe], on_step: OnStep | None = None, cancel=None
    ) -> tuple[Tensor, Tensor]:
        """Stage 1 for at most one micro-batch of recipes: embeddings (n, 512) and network evaluations (n,)."""
        with self.turn, torch.inference_mode():
            batch, tools = padded(recipes), (self.inference1, self.text)
            if self.config.stage2.controls and any((r.controls or Controls()).key for r in recipes):
                embeddings, nfe = inference.sample_in_key(*tools, self.stage2, batch, on_step, cancel)
            else:
                embeddings, nfe = inference.sample_stage1(*tools, batch, on_step, cancel)
        return embeddings[: len(recipes)].cpu(), nfe[: len(recipes)]

    @torch.inference_mode()
    def render_batch(
        self, embeddings: Tensor, recipes: Sequence[Recipe], on_step: OnStep | None = None, cancel=None
    ) -> tuple[list[Tensor], Tensor]:
        """Stage 2 and the codec for at most one micro-batch: n audios (2, N) and network evaluations (n,).

        embeddings (n, 512).  Raises MuseError for NaN in the audio.
        """
        batch, n, codec = padded(recipes), len(recipes), self.config.codec
        frames = self.frames(batch[0].seconds)
        samples, covered = round(batch[0].seconds * codec.sample_rate), frames * codec.hop / codec.sample_rate
        index = [min(i, n - 1) for i in range(len(batch))]
        controls = [inference.filled(self.stage2, *pair) for pair in zip(batch, embeddings[index], strict=True)]
        embeddings = embeddings[index].to(self.device)
        seconds = [covered + (GOES_ON if c.ends is False else 0.0) for c in controls]
        audio, second = [], codec.hop / codec.sample_rate
        with self.turn:
            given = self._before_silence(frames, controls[0])
            if given is not None:
                frames, given = len(given[0]), given.expand(len(batch), -1, -1)
            latents, nfe = inference.sample_stage2(
                self.inference2, embeddings, self._negatives(batch), batch, frames, seconds, on_step, cancel,
                controls=inference.control_inputs(self.stage2, controls, 0, frames, second, given), given=given,
            )  # fmt: skip
            for i in range(n):  # one at a time: memory stays small, and the bits do not depend on the batch
                if on_step:
                    on_step("codec", i, n)
                decoded = self.codec.decode(latents[i : i + 1])[0, :, :samples].cpu()
                if not decoded.isfinite().all():
                    raise MuseError(f"the audio of seed {batch[i].seed} is NaN; check weights and guidance scales")
                audio.append(inference.finish(decoded))
        return audio, nfe[:n]

    @cached_property
    def _silence(self) -> Tensor:
        """A standardised latent frame (C, 1) of silence."""
        silent = self.codec.encode(torch.zeros(1, 2, 2 * self.config.codec.sample_rate, device=self.device))[0]
        return self.stage2.standardise(silent)[:, silent.shape[1] // 2, None]

    def _before_silence(self, frames: int, controls: Controls) -> Tensor | None:
        """Standardised latents (C, frames and those of ENDING) of a piece that ends, NaN but for the silence behind it.

        None where a piece goes on, or the network cannot be given frames.
        """
        if controls.ends is False or not self.config.stage2.controls:
            return None
        given = self._silence.repeat(1, frames + self.frames(ENDING))
        given[:, :frames] = torch.nan
        return given

    def _negatives(self, recipes: Sequence[Recipe]) -> Tensor | None:
        """Embeddings (B, 512) of the negative prompts, where the recipes have them."""
        texts = [r.negative_prompt for r in recipes if r.negative_prompt is not None]
        return self.embedder.embed_text(texts).to(self.device) if texts else None

    def embed(self, prompt: str, n: int = 1, seed: int = 0, negative_prompt: str | None = None, **settings) -> Tensor:
        """n samples of Stage 1, (n, 512); sample i has the seed `seed + i`."""
        recipes = self.recipes(prompt, n, seed, settings_of(settings), negative_prompt)
        return torch.cat([self.embed_batch(batch)[0] for batch in micro_batches(recipes)])

    def render(
        self, embeddings: Tensor, seed: int | Sequence[int] = 0, prompt: str = "an embedding", **settings
    ) -> Tensor:
        """Audio (n, 2, N) of embeddings (n, 512). seed: of the first one, with the next ones following, or a list."""
        seeds = [seed + i for i in range(len(embeddings))] if isinstance(seed, int) else list(seed)
        width, audio = self.config.stage2.embedding_dim, []
        if embeddings.shape != (len(seeds), width) or not seeds:
            raise MuseError(f"render wants embeddings (n, {width}) and n seeds, not {tuple(embeddings.shape)}, {seed}")
        for batch in micro_batches(self.recipe(prompt, s, settings_of(settings)) for s in seeds):
            audio += self.render_batch(embeddings[len(audio) : len(audio) + len(batch)], batch)[0]
        return torch.stack(audio)

    def stream(self, recipes: Iterable[Recipe], on_step: OnStep | None = None, cancel=None) -> Iterator[Piece]:
        """Yields the pieces of each micro-batch when it is finished. on_step(stage, i, n) is called before step i of n;
        cancel: a `threading.Event`.
        """
        sample_rate = self.config.codec.sample_rate
        for batch in micro_batches(recipes):
            with self._timed("stage1"):
                embeddings, nfe1 = self.embed_batch(batch, on_step, cancel)
            with self._timed("stage2 and codec"):
                audio, nfe2 = self.render_batch(embeddings, batch, on_step, cancel)
            for i, recipe in enumerate(batch):
                nfe = {"stage1": int(nfe1[i]), "stage2": int(nfe2[i])}
                controls = inference.filled(self.stage2, recipe, embeddings[i])
                similarity = self.similarity(recipe.prompt, audio[i])
                yield Piece(audio[i], sample_rate, embeddings[i], recipe, similarity, nfe, controls)

    def similarity(self, prompt: str, audio: Tensor) -> float:
        """Cosine of the embeddings of a prompt and of audio (2, N)."""
        with self._timed("similarity"):
            text = self.embedder.embed_text([prompt])[0]
            return float(text @ self.embedder.embed_audio(audio[None], self.config.codec.sample_rate)[0])

    def generate(
        self, prompt: str, n: int = 1, seed: int = 0, negative_prompt: str | None = None, on_step: OnStep | None = None,
        cancel=None, **settings,
    ) -> Generation:  # fmt: skip
        """n pieces for one prompt; piece i has the seed `seed + i`. settings: fields of `recipe.Settings`, or
        controls=Controls(...) instead of those that are controls. `stream` needs less memory for many pieces.
        """
        recipes = self.recipes(prompt, n, seed, settings_of(settings), negative_prompt)
        pieces = list(self.stream(recipes, on_step, cancel))
        return Generation(
            audio=torch.stack([p.audio for p in pieces]),
            sample_rate=self.config.codec.sample_rate,
            embeddings=torch.stack([p.embedding for p in pieces]),
            seeds=[r.seed for r in recipes],
            recipes=recipes,
            similarity=[p.similarity for p in pieces],
            nfe={stage: [p.nfe[stage] for p in pieces] for stage in ("stage1", "stage2")},
        )

    def repaint(
        self, source: Piece | Tensor, start: float, stop: float, prompt: str | None = None, seed: int = 0, **options
    ) -> Piece:
        """A piece, or audio (2, N), with new music from `start` to `stop` (s), rounded to latent frames.

        prompt: of the new music; None: it fits the source. options: those of `continue_`. The rest is kept bit for bit,
        outside of a cross-fade of 46 ms on each side. Raises MuseError for an impossible range.
        """
        seconds = self._source(source).shape[1] / self.config.codec.sample_rate
        if not 0 <= start < stop <= seconds + 0.005 or stop - start < 0.1:
            region = f"cannot repaint from {start:g} to {stop:g} s"
            raise MuseError(f"{region}: the sound lasts {seconds:.2f} s, and a region at least 0.1 s")
        return self._edit(source, start, stop, seconds, prompt, seed, **options)

    def continue_(
        self, source: Piece | Tensor, seconds: float, prompt: str | None = None, seed: int = 0, **options
    ) -> Piece:
        """A piece, or audio (2, N), that goes on for so many seconds, also beyond the window; kept bit for bit up to
        its last 0.14 s.

        options: fields of `recipe.Settings`, controls, on_step, cancel, and trained=False for the baseline (see
        `edit`). A piece's own controls are the default.
        """
        if not 0.1 <= seconds <= LONGEST:
            raise MuseError(f"cannot continue for {seconds:g} s: choose 0.1 to {LONGEST:g}")
        start = self._source(source).shape[1] / self.config.codec.sample_rate
        return self._edit(source, start, start + seconds, start + seconds, prompt, seed, **options)

    def piece(self, audio: Tensor, recipe: Recipe) -> Piece:
        """The piece of a file and its recipe, as a source of edits: with its embedding and the tempo that was drawn."""
        if recipe.edit or recipe.weights != self.of(recipe).weights:
            embedding = self.embedder.embed_audio(audio[None], self.config.codec.sample_rate)[0].cpu()
            controls = recipe.controls or Controls()
        else:
            embedding = self.embed_batch([recipe])[0][0]
            controls = inference.filled(self.stage2, recipe, embedding)
        return Piece(audio, self.config.codec.sample_rate, embedding, recipe, math.nan, {}, controls)

    def _source(self, source: Piece | Tensor) -> Tensor:
        audio = source.audio if isinstance(source, Piece) else source
        if audio.dim() != 2 or len(audio) not in (1, 2) or audio.shape[1] < 4 * self.config.codec.n_fft:
            raise MuseError(f"an edit wants sound (1 or 2, N) of 0.4 s or more, not {tuple(audio.shape)}")
        return audio.float().cpu().expand(2, -1)

    @torch.inference_mode()
    def _edit(
        self, source, start, stop, seconds, prompt, seed, trained=True, on_step=None, cancel=None, **settings
    ) -> Piece:
        audio, codec, network = self._source(source), self.config.codec, self.stage2
        settings = settings_of({"micro_batch": 1, **settings, "seconds": seconds})
        if isinstance(source, Piece):  # its own controls, where there are no others
            own = vars(settings_of({"controls": dataclasses.replace(source.controls, ends=None)}))
            said = read_prompt(prompt or "") if self.config.stage2.controls else {}
            own |= dict.fromkeys(said.keys() & own.keys())
            if "key" in said or settings.key or settings.chords or settings.melody:
                own |= {"key": None, "chords": None}
            settings = Settings(**{name: own[name] if v is None else v for name, v in vars(settings).items()})
        embedding = None
        if prompt is None:
            own = isinstance(source, Piece)
            embedding = source.embedding if own else self.embedder.embed_audio(audio[None], codec.sample_rate)[0].cpu()
            prompt = source.recipe.prompt if own else "music"
        parts = [part.contiguous().numpy().tobytes() for part in (audio, embedding) if part is not None]
        told = Edit(hashlib.sha256(b"".join(parts)).hexdigest()[:20], round(start, 6), round(stop, 6), trained)
        recipe = self.recipe(prompt, seed, settings, None, told)
        if embedding is None:
            embedding = self.embed_batch([recipe], on_step, cancel)[0][0]
        frames, samples, nfe = self.frames(seconds), round(seconds * codec.sample_rate), 0
        first, last = round(start * codec.sample_rate / codec.hop), round(stop * codec.sample_rate / codec.hop)
        if start * codec.sample_rate >= audio.shape[1] - 1:  # to be continued
            first, last = audio.shape[1] // codec.hop - 1, frames
        last = min(frames, max(last, first + 1))
        batch, controls = padded([recipe]), recipe.controls or Controls()
        if isinstance(source, Piece) and controls.bpm:  # of a recording, nobody knows where its beats are
            controls = inference.filled(network, recipe, embedding)
        noise = flow.noise(recipe.seed, 2, frames + self.frames(ENDING), codec.latent_dim).to(self.device)
        second = codec.hop / codec.sample_rate

        def sample(begin: int, latents: Tensor) -> Tensor:
            nonlocal nfe
            n, given = latents.shape[1], latents.expand(len(batch), *latents.shape)
            rest = (frames - begin) * second + (GOES_ON if controls.ends is False else 0.0)
            known = given if trained else None
            inputs = inference.control_inputs(network, [controls] * len(batch), begin, n, second, known)
            found, count = inference.sample_stage2(
                self.inference2, embedding.to(self.device).expand(len(batch), -1), self._negatives(batch), batch, n,
                min(rest, self.config.window_seconds + GOES_ON), on_step, cancel,
                noise[:, begin : begin + n].expand_as(given), controls=inputs, given=given,
            )  # fmt: skip
            nfe += int(count[0])
            return network.standardise(found[0])

        with self.turn:
            known = network.standardise(self.codec.encode(audio[None].to(self.device))[0])
            latents = self._before_silence(frames, controls) if last == frames else None
            if latents is None:
                latents = torch.full((codec.latent_dim, frames), torch.nan, device=self.device)
            latents[:, :first], latents[:, last:frames] = known[:, :first], known[:, last:frames]
            latents = network.latents(edit.fill(latents, self.config.stage2.max_frames, sample))
            low, high = max(0, first - edit.CONTEXT), min(frames, last + edit.CONTEXT)
            made = self.codec.decode(latents[None, :, low:high])[0].cpu()
        begin, end = max(0, first * codec.hop - edit.FADE), min(samples, last * codec.hop + edit.FADE)
        made = made[:, begin - low * codec.hop : end - low * codec.hop]
        if not made.isfinite().all():
            raise MuseError(f"the audio of seed {seed} is NaN; check the weights and the guidance scales")
        made = inference.finish(made, 441 if last == frames else 0)
        audio = edit.join(audio, made, first * codec.hop, samples)
        evaluations = {"stage1": 0, "stage2": nfe}
        similarity = self.similarity(recipe.prompt, audio)
        return Piece(audio, codec.sample_rate, embedding, recipe, similarity, evaluations, controls)

    @contextlib.contextmanager
    def _timed(self, name: str):
        began = time.perf_counter()
        yield
        self.timings[name] = self.timings.get(name, 0.0) + time.perf_counter() - began
